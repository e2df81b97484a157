"""Faults patched into transformers' own modules: found, localised and named."""

from pathlib import Path
from typing import Any

import driftprobe
import pytest
from conftest import PROMPTS, gated
from tracing import faults
from tracing.record import Gate

EAGER = (
    "position-plus-one", "theta-small", "k-not-rotated", "misses-first", "window", "stale", "duplicated", "swapped",
    "gqa-repeat", "unscaled", "scale-small", "eps-small", "qk-norm-skipped", "no-q-bias", "down-of-layer-0",
    "residual-doubled", "embed-row", "head-row",
)  # fmt: skip
FUSED = ("position-plus-one", "stale", "eps-small", "down-of-layer-0", "k-not-rotated", "swapped", "o-transposed")
CATALOGUE = {fault.name: fault for fault in faults.catalogue()}


def traced(small: Any, out: Path, fault: faults.Fault, attention: str) -> driftprobe.Report:
    """The report on a model with this fault."""
    model = small.load(fault.family, fault.dtype, attention)
    gate = Gate(phase=fault.phase, only_layer=fault.layer)
    with gated(model, gate), fault.install(model, gate):
        run = driftprobe.trace(model, None, PROMPTS, out=out, steps=fault.steps)
    return driftprobe.analyze(run)


def check(report: driftprobe.Report, fault: faults.Fault) -> None:
    """Found, in the right place, under its name."""
    assert report.verdict == "FAIL", (report.reasons, report.causes)
    failure, cause = report.first_failure, report.cause
    assert failure and cause
    layer = -1 if fault.unlayered else fault.layer or 0
    assert (failure.layer, failure.point, failure.parting) == (layer, fault.point, "fault")
    assert fault.id in {candidate.hypothesis for candidate in cause.candidates}
    phases = {each.phase for each in report.causes}
    assert phases == ({"prefill", "decode"} if fault.phase == "both" else {fault.phase})


@pytest.mark.parametrize("name", EAGER)
def test_a_fault_under_eager_attention(small: Any, tmp_path: Path, name: str) -> None:
    fault = CATALOGUE[name]
    check(traced(small, tmp_path / "run", fault, "eager"), fault)


@pytest.mark.parametrize("name", FUSED)
def test_a_fault_under_sdpa(small: Any, tmp_path: Path, name: str) -> None:
    fault = CATALOGUE[name]
    check(traced(small, tmp_path / "run", fault, "sdpa"), fault)


def test_a_weight_that_was_loaded_wrongly_is_found_against_the_files(small: Any, tmp_path: Path) -> None:
    """No patch at all: the model in memory is not the one on disk."""
    import torch

    model = small.load("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.copy_(model.model.layers[0].mlp.up_proj.weight)
    report = driftprobe.analyze(driftprobe.trace(model, None, PROMPTS, out=tmp_path / "run"))
    assert report.verdict == "FAIL" and report.cause
    assert (report.cause.point, report.cause.layer, report.cause.hypothesis) == ("mlp_up", 1, "WEIGHT_OTHER_LAYER")


def test_alignment_takes_a_fault_of_the_cache_away(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that is overwritten when decode's cache has been filled; prefill's rows put it right again."""
    from driftprobe import record

    once = record.Recorder.forward

    def overwritten(self: Any, tokens: list[int], cache: Any, rows: range, tap: Any = None) -> Any:
        logits = once(self, tokens, cache, rows, tap)
        if len(rows) == 0:
            cache.layers[1].values[..., 2, :] = cache.layers[1].values[..., 1, :]
        return logits

    monkeypatch.setattr(record.Recorder, "forward", overwritten)
    model = small.load("llama")
    designed = driftprobe.analyze(driftprobe.trace(model, None, PROMPTS, out=tmp_path / "designed"))
    assert designed.verdict == "FAIL" and designed.first_failure and designed.cause
    assert (designed.first_failure.layer, designed.first_failure.point) == (1, "v_cache")
    assert designed.cause.phase == "decode"
    aligned = driftprobe.analyze(driftprobe.trace(model, None, PROMPTS, out=tmp_path / "aligned", mode="kv_aligned"))
    assert aligned.verdict == "PASS"
