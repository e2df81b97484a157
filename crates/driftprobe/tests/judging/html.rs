//! `drift.html`: its structure, that text from a trace stays text in it, that it stays small, and that nothing of the order
//! of events shows in it.

use crate::support::{Memory, event, manifest};
use driftprobe::report::{Plot, picture, to_html, to_markdown};
use driftprobe::{Analysis, Options, Verdict, analyze};
use driftprobe_trace::{Manifest, Mode, Phase, Point, Row};
use serde_json::Value;
use std::collections::BTreeSet;

/// Two megabytes.
const BYTES_MAX: usize = 2_000_000;

/// A run of these prompts and layers, three points each, in which decode differs everywhere, by more the deeper.
fn drifting(prompts: usize, layers: i32, points: &[Point]) -> Memory {
    let mut memory = Memory::default();
    let ids: Vec<String> = (0..prompts).map(|n| format!("prompt_{n:03}")).collect();
    let tokens: Vec<u32> = vec![3, 1, 4];
    let named: Vec<(&str, &[u32])> = ids.iter().map(|id| (id.as_str(), tokens.as_slice())).collect();
    let layers_recorded: Vec<i32> = (0..layers).collect();
    memory.run.manifest =
        Some(Manifest { mode: Some(Mode::AsDesigned), ..manifest(&named, &layers_recorded, points, 1) });
    for (number, id) in ids.iter().enumerate() {
        for point in points {
            for layer in 0..layers {
                for phase in Phase::ALL {
                    let off = if phase == Phase::Decode { 1e-6 * (layer + 1) as f32 } else { 0.0 };
                    let seed = number as f32 + *point as usize as f32 * 0.1;
                    let row: Vec<f32> = (0..4).map(|i| (seed + i as f32).sin() + off).collect();
                    memory.record(event(id, phase, *point, layer, 2, 4), Row::from_f32(&row));
                }
            }
        }
    }
    memory
}

fn judge(memory: &Memory) -> Analysis {
    analyze(&memory.run, memory, Options { title: None, date: Some("2026-02-07".to_owned()) })
}

/// The data that the page carries.
fn data(page: &str) -> Value {
    let rest = page.split("<script type=\"application/json\" id=\"data\">").nth(1).unwrap();
    serde_json::from_str(rest.split("</script>").next().unwrap()).unwrap()
}

/// Tags with their ids and classes, headings with their text: what the page is made of.
fn outline(page: &str) -> String {
    let body = page.split("<body>").nth(1).unwrap();
    let mut out = String::new();
    for tag in [
        "<header", "<nav", "<main", "<section", "<h1", "<h2", "<h3", "<table", "<svg", "<details", "<footer", "<script",
    ] {
        assert!(body.contains(tag) || tag == "<svg" || tag == "<details", "{tag}");
    }
    for part in body.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap_or((part, ""));
        let name = tag.split_whitespace().next().unwrap_or("");
        if ["header", "nav", "main", "section", "table", "svg", "footer", "script", "details"].contains(&name) {
            let tag = if name == "svg" { "svg" } else { tag };
            out.push_str(&format!("{tag}\n"));
        } else if ["h1", "h2", "h3", "summary", "caption"].contains(&name) {
            out.push_str(&format!("{name}: {}\n", text.trim()));
        }
    }
    out
}

#[test]
fn the_page_has_all_its_parts() {
    let page = to_html(&judge(&drifting(2, 3, &[Point::AttnOut, Point::MlpOut, Point::ResidualPostMlp])));
    insta::assert_snapshot!("html_outline", outline(&page));
    // Every link leads to an element of the page, and no id stands twice.
    let ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    for target in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(ids.contains(&target), "{target}");
    }
    for word in ["http:", "https:", "src=", "@import", "url(", "<link", "<iframe", "<object", "onerror"] {
        let markup = page.replace("http-equiv", "").replace("http://www.w3.org", "");
        assert!(!markup.contains(word), "{word}");
    }
}

#[test]
fn a_section_without_content_says_why() {
    let page = to_html(&judge(&crate::support::clean()));
    for sentence in [
        "There is none: no stage is at fault",
        "Not measured: no model was given",
        "what rounding makes of the prompts is drawn with the model",
        "Only one mode was recorded",
        "Nothing of attention was recorded",
    ] {
        assert!(page.contains(sentence), "{sentence}");
    }
    for section in page.split("<section ").skip(1) {
        let body = section.split("</h2>").nth(1).unwrap().split("</section>").next().unwrap();
        assert!(body.trim().len() > 20, "{section}");
    }
    // A run of nothing is a page too.
    let empty = Memory::default();
    let page = to_html(&judge(&empty));
    assert!(page.contains("INCONCLUSIVE") && page.contains("No pair of rows was compared."));
    assert_eq!(data(&page)["rows"], Value::Array(vec![]));
}

#[test]
fn ten_thousand_pairs_fit_and_more_are_thinned() {
    let points = [
        Point::ResidualPreAttn,
        Point::AttnNormOut,
        Point::QPreRope,
        Point::KPreRope,
        Point::VProj,
        Point::AttnScores,
        Point::AttnProbs,
        Point::AttnOut,
        Point::MlpAct,
        Point::MlpOut,
    ];
    let whole = judge(&drifting(25, 40, &points));
    assert_eq!(whole.counts.total, 10_000);
    let page = to_html(&whole);
    assert!(page.len() < BYTES_MAX, "{} bytes", page.len());
    assert_eq!(data(&page)["rows"].as_array().unwrap().len(), 10_000);
    assert!(!page.contains("pairs are shown: the worst"));

    // The last prompt's last rows hold a NaN: it is kept, whatever else goes.
    let mut more = drifting(40, 40, &points);
    let last = more.run.events.iter().rposition(|event| event.phase == Phase::Decode).unwrap();
    more.change(last, Row::from_f32(&[f32::NAN, 0.0, 0.0, 0.0]));
    let more = judge(&more);
    assert_eq!((more.counts.total, more.verdict.verdict), (16_000, Verdict::Fail));
    let page = to_html(&more);
    assert!(page.len() < BYTES_MAX, "{} bytes", page.len());
    assert!(page.contains("10000 of 16000 pairs are shown"), "no word about it");
    assert!(page.contains("The verdict is over all of them"));
    let data = data(&page);
    let rows = data["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &data["totals"][0]), (10_000, &16_000.into()));
    let verdicts = data["verdicts"].as_array().unwrap();
    let shown = |row: &&Value| verdicts[row[6].as_u64().unwrap() as usize] == "NON_FINITE";
    assert_eq!(rows.iter().filter(shown).count(), 1);
    // Every cell of the map has a pair that is shown.
    let cells: BTreeSet<(i64, i64)> =
        rows.iter().map(|row| (row[4].as_i64().unwrap(), row[5].as_i64().unwrap())).collect();
    assert_eq!(cells.len(), 400);
}

#[test]
fn text_from_a_trace_stays_text() {
    let hostile = "</script><img src=x onerror=alert(1)><!--\"'`\u{202e}\u{2028}]]>&amp;|[a](http://b)";
    let mut memory = crate::support::clean();
    for event in &mut memory.run.events {
        if &*event.prompt_id == "p1" {
            event.prompt_id = hostile.into();
            event.point_spelling = hostile.into();
            event.source.file = hostile.into();
        }
    }
    let manifest = memory.run.manifest.as_mut().unwrap();
    manifest.prompts.as_mut().unwrap()[1].id = hostile.to_owned();
    manifest.git = Some(hostile.to_owned());
    manifest.model =
        Some(driftprobe_trace::ModelInfo { path: Some(hostile.to_owned()), ..driftprobe_trace::ModelInfo::default() });
    memory.run.events.remove(40);
    let analysis =
        analyze(&memory.run, &memory, Options { title: Some(hostile.to_owned()), date: Some(hostile.to_owned()) });
    let page = to_html(&analysis);
    assert!(!page.contains("<img") && !page.contains(['\u{202e}', '\u{2028}']), "{page}");
    assert!(!page.contains("<a href=\"http") && !page.contains("]]>"));
    assert_eq!((page.matches("<script").count(), page.matches("</script>").count()), (2, 2));
    assert_eq!(page.matches("<!--").count(), 0);
    // It is all there, as text and as data.
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;"));
    let prompts = data(&page)["prompts"].clone();
    let shown = hostile.replace('\u{202e}', "\\u{202e}").replace('\u{2028}', "\\u{2028}");
    assert!(prompts.as_array().unwrap().contains(&shown.into()), "{prompts}");
}

#[test]
fn hashes_keep_every_digit() {
    let mut memory = crate::support::clean();
    for (event, value) in memory.run.events.iter_mut().zip([u64::MAX, 9_007_199_254_740_993]) {
        event.payload = None;
        event.hash.as_mut().unwrap().value = value;
    }
    let page = to_html(&judge(&memory));
    let data = data(&page);
    let all: BTreeSet<String> = (data["rows"].as_array().unwrap().iter())
        .flat_map(|row| [&row[12], &row[13]])
        .filter_map(|hash| hash.as_str().map(str::to_owned))
        .collect();
    assert!(all.contains("18446744073709551615") && all.contains("9007199254740993"));
    let table = page.split("<table id=\"list\"").nth(1).unwrap();
    assert_eq!(table.matches("<td>18446744073709551615</td>").count(), 1, "not in the table itself");
}

#[test]
fn the_order_of_events_does_not_matter() {
    let memory = drifting(3, 3, &[Point::AttnOut, Point::ResidualPostMlp]);
    let expected = to_html(&judge(&memory));
    let mut shuffled = memory.clone();
    shuffled.run.events.reverse();
    assert_eq!(to_html(&judge(&shuffled)), expected);
    shuffled.run.events.rotate_left(11);
    assert_eq!(to_html(&judge(&shuffled)), expected);
}

#[test]
fn a_picture_that_cannot_be_drawn_says_why() {
    let analysis = judge(&crate::support::clean());
    for (plot, why) in [
        (Plot::Growth, "drawn with the model"),
        (Plot::Modes, "Only one mode"),
        (Plot::Attention, "record `attn_scores`"),
    ] {
        assert!(picture(&analysis, plot).unwrap_err().contains(why), "{}", plot.id());
    }
    let drawn = picture(&analysis, Plot::Heatmap).unwrap();
    let svg = drawn.to_svg("a <title> & more");
    let parsed = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<&str> =
        parsed.descendants().filter(|node| node.has_tag_name("text")).filter_map(|n| n.text()).map(str::trim).collect();
    for text in ["embed_out", "logits", "0", "1", "–", "=", "relative L2 distance"] {
        assert!(texts.iter().any(|found| found.contains(text)), "{text} in {texts:?}");
    }
    let title = parsed.descendants().find(|node| node.has_tag_name("title")).unwrap();
    assert_eq!(title.text(), Some("a <title> & more"));
    assert!(!to_markdown(&analysis).contains("<svg"));
}
