"""The report: typed, as the command line has it, harmless in a notebook."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import driftprobe
import pytest
from conftest import PROMPTS, gated
from test_faults import CATALOGUE
from tracing.record import Gate


@pytest.fixture(scope="module")
def faulty(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a fault, whose prompt has a name that is markup."""
    fault = CATALOGUE["eps-small"]
    model = small.load(fault.family, fault.dtype)
    gate = Gate(phase=fault.phase, only_layer=fault.layer)
    with gated(model, gate), fault.install(model, gate):
        out = tmp_path_factory.mktemp("runs") / "faulty"
        return driftprobe.trace(model, None, {"<script>alert(1)</script>": PROMPTS["short"]}, out=out)


def cli(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "driftprobe", *words], capture_output=True, text=True)


def test_the_command_line_says_the_same(faulty: Path, tmp_path: Path) -> None:
    report = driftprobe.analyze(faulty)
    done = cli("analyze", str(faulty), "--format", "json", "--out", str(tmp_path / "cli"))
    assert done.returncode == report.exit_code == 1
    assert done.stdout == report.json
    report.write(tmp_path / "python")
    for name in ("drift.json", "drift.md", "drift.tsv", "drift.html"):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "cli" / name).read_bytes()


def test_the_command_line_is_whole() -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout.split()) == (0, ["driftprobe", driftprobe.__version__])
    done = cli("run", "--no-such-option")
    assert done.returncode == 2 and "--no-such-option" in done.stderr


def test_entries_are_those_of_the_json(faulty: Path) -> None:
    report = driftprobe.analyze(faulty)
    data = json.loads(report.json)
    assert report.data == data
    assert report.cause and report.cause.hypothesis == data["cause"]["hypothesis"] == "NORM_EPS"
    assert report.cause.candidates[0].noise_rms_after == data["cause"]["candidates"][0]["noise_rms_after"]
    assert report.pairs.total == len(report.rows) == data["pairs"]["total"]
    assert report.first_failure and report.rows[report.first_failure.row or 0].verdict == "FAULT"
    assert str(report) == "FAIL: NORM_EPS"
    with pytest.raises(AttributeError):
        report.verdict = "PASS"  # type: ignore[misc]


def test_numbers_that_json_cannot_hold_are_numbers() -> None:
    from driftprobe.entries import Numbers, made

    entry = made(Numbers, {"max_abs": "NaN", "rel_l2": "Infinity", "cosine": 0.5, "unknown": 1})
    assert entry.max_abs != entry.max_abs and entry.rel_l2 == float("inf") and entry.cosine == 0.5
    assert entry.nmse is None


def test_a_table_of_all_rows(faulty: Path) -> None:
    report = driftprobe.analyze(faulty)
    table = report.to_pandas()
    assert len(table) == report.pairs.total
    assert set(table[table.verdict == "FAULT"].point) == {"attn_norm_out", "ffn_norm_out"}
    assert table.rel_l2.dtype == float and table.rel_l2.max() > 0


def test_a_notebook_shows_text_as_text(faulty: Path) -> None:
    shown = driftprobe.analyze(faulty)._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert "NORM_EPS" in shown and "FAIL" in shown


def test_another_contract_is_another_judgement(small: Any, tmp_path: Path) -> None:
    """sdpa's exponentials are rounded to bfloat16 before they weight the values; a contract that denies it is found out."""
    model = small.load("llama", "bf16", "sdpa")
    run = driftprobe.trace(model, None, PROMPTS, out=tmp_path / "run", steps=4, layers="all")
    assert driftprobe.analyze(run).contract_findings == []
    manifest = json.loads((run / "manifest.json").read_text())
    denied = {**manifest["contract"], "probs": "f32"}
    findings = driftprobe.analyze(run, contract=denied).contract_findings
    assert {(finding.point, finding.id) for finding in findings} == {("attn_out", "probs=bf16")}


def test_without_a_model_nothing_is_judged(faulty: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(faulty, run)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["model"]["path"] = "/nowhere"
    (run / "manifest.json").write_text(json.dumps(manifest))
    report = driftprobe.analyze(run)
    assert report.verdict == "INCONCLUSIVE" and "cause" in report.not_judged
