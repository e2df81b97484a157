"""Sound transformers: no false alarm, and nothing that is missing passes."""

import json
import shutil
from pathlib import Path
from typing import Any

import driftprobe
import pytest
from conftest import PROMPTS

SOUND = [(family, attention) for family in ("llama", "mistral", "qwen2", "qwen3") for attention in ("eager", "sdpa")]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("family", "attention"), [*SOUND, ("gemma2", "eager")])
def test_a_sound_model_passes(small: Any, tmp_path: Path, family: str, dtype: str, attention: str) -> None:
    model = small.load(family, dtype, attention)
    run = driftprobe.trace(model, None, PROMPTS, out=tmp_path / "run", layers="all", steps=2, mode="both")
    report = driftprobe.analyze(run)
    assert report.verdict == "PASS", (report.reasons, report.cause)
    assert report.exit_code == 0 and report.passed
    assert report.contract_findings == [], "the contract says what transformers does"
    assert set(report.data["modes"]) == {"as_designed", "kv_aligned"}
    coverage = report.coverage
    # Two prompts, two steps, two layers.
    layered = {"llama": 20, "mistral": 20, "qwen2": 20, "qwen3": 22, "gemma2": 22}[family] - 2 * (attention == "sdpa")
    assert report.pairs.total == 2 * 2 * (2 * layered + 4) == coverage.paired
    assert coverage.expected == coverage.found == 2 * coverage.paired
    assert coverage.missing == coverage.unpaired == coverage.unexpected == 0
    assert all(repeat.equal == repeat.paired > 0 for repeat in report.repeats) and len(report.repeats) == 2
    for phase in report.data["run"]["observer"].values():
        assert phase == {"rows": 4, "equal": 4, "max_abs": 0.0}, "tracing changes nothing"


def test_a_run_of_both_modes_that_lost_one_is_no_pass(small: Any, tmp_path: Path) -> None:
    run = driftprobe.trace(small.load("llama", "f32"), None, PROMPTS, out=tmp_path / "run", mode="both")
    manifests = [json.loads(path.read_text()) for path in (run / "manifest.json", run / "kv_aligned" / "manifest.json")]
    # docs/trace-format.md: the modes that were recorded together; the other one lies inside.
    assert [manifest.get("modes") for manifest in manifests] == [["as_designed", "kv_aligned"], None]
    assert "modes" not in json.loads((run / "repeat-1" / "manifest.json").read_text())
    assert driftprobe.analyze(run).verdict == "PASS"
    shutil.rmtree(run / "kv_aligned")
    report = driftprobe.analyze(run)
    assert report.verdict == "INCONCLUSIVE"
    [reason] = [reason for reason in report.reasons if reason.code == "EXPECTED_MISSING"]
    assert "kv_aligned" in reason.examples[0]
    # One mode alone promises no other.
    run = driftprobe.trace(small.load("llama", "f32"), None, PROMPTS, out=tmp_path / "one")
    assert "modes" not in json.loads((run / "manifest.json").read_text())
    assert driftprobe.analyze(run).verdict == "PASS"


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_gemma2_under_sdpa_lacks_its_soft_cap(small: Any, tmp_path: Path, dtype: str) -> None:
    """A fact of transformers 4.57.3: `sdpa_attention_forward` takes `softcap` among its other arguments and drops it."""
    run = driftprobe.trace(small.load("gemma2", dtype, "sdpa"), None, PROMPTS, out=tmp_path / "run")
    report = driftprobe.analyze(run)
    assert report.verdict == "FAIL"
    assert report.cause and (report.cause.hypothesis, report.cause.point) == ("SOFTCAP_MISSING", "attn_out")
    assert {cause.phase for cause in report.causes} == {"prefill", "decode"}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_float16_passes(small: Any, tmp_path: Path, attention: str) -> None:
    run = driftprobe.trace(small.load("llama", "f16", attention), None, PROMPTS, out=tmp_path / "run", steps=2)
    report = driftprobe.analyze(run)
    assert report.verdict == "PASS" and report.contract_findings == []


def test_one_token_alone_reads_no_cache_and_so_proves_nothing(small: Any, tmp_path: Path) -> None:
    report = driftprobe.analyze(driftprobe.trace(small.load("llama"), None, [1], out=tmp_path / "run"))
    assert report.verdict == "INCONCLUSIVE"
    assert [reason.code for reason in report.reasons] == ["NO_CACHE_READ"]


def test_a_run_without_payloads_is_no_pass_and_no_alarm(small: Any, tmp_path: Path) -> None:
    run = driftprobe.trace(small.load("llama", "f32"), None, PROMPTS, out=tmp_path / "run", payloads=False)
    report = driftprobe.analyze(run)
    assert report.verdict == "INCONCLUSIVE" and report.exit_code == 3


def test_a_point_that_is_not_computed_is_missing(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was promised and never came must not look complete."""
    model = small.load("llama")
    mlp = model.model.layers[1].mlp

    def past_the_hook(x: Any) -> Any:
        return mlp.down_proj(mlp.act_fn(mlp.gate_proj.forward(x)) * mlp.up_proj(x))

    monkeypatch.setattr(mlp, "forward", past_the_hook)
    report = driftprobe.analyze(driftprobe.trace(model, None, PROMPTS, out=tmp_path / "run"))
    assert report.verdict == "INCONCLUSIVE"
    assert {(row["layer"], row["point"]) for row in report.data["missing"]} == {(1, "mlp_gate")}


def test_default_layers_are_those_that_there_are_and_explicit_ones_are_kept(small: Any, tmp_path: Path) -> None:
    model = small.load("llama")
    run = driftprobe.trace(model, None, PROMPTS["short"], out=tmp_path / "default")
    assert driftprobe.analyze(run).data["run"]["layers"] == [0, 1]
    run = driftprobe.trace(model, None, PROMPTS["short"], out=tmp_path / "one", layers=[1], points="attn_out,logits")
    report = driftprobe.analyze(run)
    assert {(row.layer, row.point) for row in report.rows} == {(1, "attn_out"), (-1, "logits")}
