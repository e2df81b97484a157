"""drift.html in a real browser. RUNS holds the runs that .ci/browser.sh made, CHROMIUM is the browser."""

import json
import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

RUNS = Path(os.environ["RUNS"])
NAMES = ["pass", "fail", "hostile", "greta"]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 400, "height": 800}


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        # CI runs as root, where Chromium has no sandbox.
        yield playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=["--no-sandbox"])


@pytest.fixture
def visit(browser):
    """Opens a report from disk; at the end nothing was said on the console, thrown, asked for or let through."""
    said, asked, contexts = [], [], []

    def go(name, **options):
        context = browser.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report(name, "html").as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith("file://") and url.endswith("/drift.html") for url in asked), asked


def report(name, kind):
    return RUNS / name / "report" / f"drift.{kind}"


def rows_of(name):
    return json.loads(report(name, "json").read_text())["rows"]


def count(page):
    """The number of pairs that the filters leave, as the page says it, and as its pages hold."""
    found, total = page.locator("#status").inner_text().split(" of ")[:2]
    return int(found), int(total.split()[0])


def pages(page):
    """All rows of the table, page by page."""
    rows = []
    while True:
        rows += page.locator("#list tbody tr").evaluate_all("all => all.map(tr => [...tr.cells].map(td => td.textContent))")
        if page.get_by_role("button", name="Next").is_disabled():
            return rows
        page.get_by_role("button", name="Next").click()


@pytest.mark.parametrize("name", NAMES)
def test_all_pairs_are_listed_with_every_digit_of_their_hashes(visit, name):
    page, expected = visit(name), rows_of(name)
    assert count(page) == (len(expected), len(expected))
    shown = [(row[10], row[11]) for row in pages(page)]
    hashes = [(row["prefill"]["hash"] or "–", row["decode"]["hash"] or "–") for row in expected]
    assert sorted(shown) == sorted(hashes)
    large = [hash for pair in hashes for hash in pair if hash != "–" and int(hash) > 2**53]
    assert len(large) > 10


@pytest.mark.parametrize(
    "label, value",
    [
        ("Prompt", lambda row: row["prompt_id"]),
        ("Position", lambda row: str(row["pos_id"])),
        ("Layer", lambda row: "none" if row["layer"] < 0 else str(row["layer"])),
        ("Point", lambda row: row["point"]),
        ("Verdict", lambda row: row["verdict"]),
    ],
)
def test_filters(visit, label, value):
    page, rows = visit("fail"), rows_of("fail")
    expected = {}
    for row in rows:
        expected[value(row)] = expected.get(value(row), 0) + 1
    select = page.get_by_label(label, exact=True)
    options = select.locator("option").all_inner_texts()
    assert set(options) == {"all", *expected}
    for option, wanted in expected.items():
        select.select_option(label=option)
        assert count(page) == (wanted, len(rows)), option
    page.get_by_role("button", name="Show all").click()
    assert count(page) == (len(rows), len(rows))


def test_filters_add_up_and_other_recordings_are_there(visit):
    page, rows = visit("fail"), rows_of("fail")
    page.get_by_label("Layer", exact=True).select_option(label="4")
    page.get_by_label("Verdict", exact=True).select_option(label="FAULT")
    wanted = [row for row in rows if row["layer"] == 4 and row["verdict"] == "FAULT"]
    assert wanted and count(page) == (len(wanted), len(rows))
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("Recording", exact=True).select_option(label="search 1: layers 3")
    assert 0 < count(page)[1] < len(rows)
    page.get_by_label("Recording", exact=True).select_option(label="kv_aligned")
    assert count(page)[1] == len(rows)


def test_a_cell_of_the_map_lists_its_pairs(visit):
    page, rows = visit("fail"), rows_of("fail")
    heat = page.locator("#heat table").first
    row = heat.locator('tr[data-p="attn_scores"]')
    head = heat.locator("thead th").evaluate_all("all => all.map(th => th.dataset.l)")
    row.locator("th, td").nth(head.index("4")).locator("a").click()
    wanted = [row for row in rows if row["layer"] == 4 and row["point"] == "attn_scores"]
    assert count(page) == (len(wanted), len(rows))
    # The layer that was recorded again is a column of the same map, and its pairs are those of that round.
    row.locator("th, td").nth(head.index("3")).locator("a").click()
    assert page.get_by_label("Recording", exact=True).evaluate("s => s.selectedOptions[0].text") == "search 1: layers 3"
    assert count(page)[0] == 1
    assert "FAULT" in page.locator("#list tbody tr").inner_text()


def test_sorting(visit):
    page = visit("fail")
    head = page.locator("#list thead th", has_text="rel L2")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    sizes = [float(row[8]) for row in pages(page) if row[8] != "–"]
    assert len(sizes) > 100 and sizes == sorted(sizes, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.locator("#list thead th[aria-sort]").count() == 1
    # Worst first, to begin with.
    assert [row[5] for row in pages(visit("fail"))][:4] == ["↓ FAULT"] * 4


def test_keys_alone_lead_from_the_top_to_the_pairs_of_a_cell(visit):
    page = visit("fail")
    focused = "document.activeElement"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.textContent") == "Skip to the report"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate(f"!!{focused}.closest('.heat')"):
            break
    start = page.evaluate(f"{focused}.getAttribute('aria-label')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    there = page.evaluate(f"{focused}.getAttribute('aria-label')")
    assert there != start and "layer 1" in there
    assert page.locator("#readout").inner_text() == there
    assert page.locator(".heat").first.locator('a[tabindex="0"]').count() == 1
    page.keyboard.press("Enter")
    assert 0 < count(page)[0] < 10
    # The focus is on the list, and shows.
    assert page.evaluate(f"{focused}.getAttribute('aria-label')") == "List of pairs"
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"


def test_hostile_names_stay_text(visit):
    page = visit("hostile")
    ids = [entry["id"] for entry in json.loads((Path(__file__).parent / "hostile.json").read_text())]
    spelled = {id.replace("\u202e", "\\u{202e}").replace("\u2028", "\\u{2028}").replace("\0", "\\u{0}") for id in ids}
    assert {row[0] for row in pages(page)} == spelled
    assert set(page.get_by_label("Prompt", exact=True).locator("option").all_inner_texts()) == {"all", *spelled}
    assert page.evaluate("window.hit") is None
    assert page.locator("img, iframe, object, embed, link, base, form, [onerror], [onload], [onclick]").count() == 0
    assert page.locator("script").count() == 2


def test_no_other_script_runs(visit, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto(report("pass", "html").as_uri())
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hit = 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hit=2'>");
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", NAMES)
def test_accessibility(visit, name, size, scheme):
    page = visit(name, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    found = Axe().run(page).response["violations"]
    told = [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found]
    assert told == []


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_a_narrow_screen(visit, name):
    page = visit(name, viewport=NARROW)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_light_and_dark(visit):
    looks = {}
    for scheme in ["light", "dark"]:
        page = visit("fail", color_scheme=scheme)
        colour = "e => getComputedStyle(e).color"
        axis = page.locator("#growth svg text").first.evaluate("e => getComputedStyle(e).fill")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        looks[scheme] = (background, page.locator("h2").first.evaluate(colour), axis)
    light, dark = looks["light"], looks["dark"]
    assert all(a != b for a, b in zip(light, dark)), looks
    assert light[0] == "rgb(255, 255, 255)"


@pytest.mark.parametrize("name", NAMES)
def test_without_a_script_everything_but_the_filters_is_there(visit, name):
    page = visit(name, java_script_enabled=False)
    for id in "heat failure cause growth modes attention propagation contract hypotheses suspects power coverage pairs".split():
        section = page.locator(f"#{id}")
        assert section.is_visible() and len(section.inner_text().splitlines()) >= 2, id
    assert page.locator("#list tbody tr").count() == min(40, len(rows_of(name)))
    assert page.locator(".heat a").first.is_visible()
    assert not page.locator("#filters").is_visible() and not page.locator("#readout").is_visible()
    if name == "fail":
        assert page.locator("svg.plot").count() == 3
        heat = page.locator(".heat").first
        assert (heat.locator("td.k-fault").count(), heat.locator("td.k-gap").count()) == (2, 1)
        # Told by more than a colour.
        assert all(text.startswith("✗") for text in page.locator("td.k-fault").all_inner_texts() if text)
        assert "GQA_MAP" in page.locator("header").inner_text()


def test_print(visit):
    page = visit("fail", color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and not page.locator("#filters").is_visible()
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(27, 31, 36)", "dark pages print dark ink"
    assert len(page.pdf()) > 50_000


def test_a_report_without_a_model_says_what_is_missing(visit):
    page = visit("greta")
    assert "INCONCLUSIVE" in page.locator("h1").inner_text()
    for id in ["cause", "contract", "power", "growth"]:
        assert "with the model" in page.locator(f"#{id}").inner_text() or "no model was given" in page.locator(f"#{id}").inner_text()


@pytest.mark.skipif(not os.environ.get("SCREENSHOTS"), reason="not asked for")
def test_screenshots(visit):
    from PIL import Image

    folder = Path(os.environ["SCREENSHOTS"])

    def shoot(name, file, clip, **options):
        page = visit(name, **options)
        path = folder / file
        page.screenshot(path=path, clip=clip, full_page=True)
        with Image.open(path) as image:
            image.convert("RGB").quantize(224, dither=Image.Dither.NONE).save(path, optimize=True)
        assert path.stat().st_size < 200_000

    shoot("fail", "report-fail.png", {"x": 100, "y": 0, "width": 1080, "height": 2160})
    shoot("pass", "report-pass-dark.png", {"x": 100, "y": 0, "width": 1080, "height": 1500}, color_scheme="dark")
