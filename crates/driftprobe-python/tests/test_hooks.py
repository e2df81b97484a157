"""Tracing leaves nothing behind, also when it fails in the middle."""

import inspect
import json
from pathlib import Path
from typing import Any

import driftprobe
import pytest
import torch
from conftest import PROMPTS


def state(model: Any) -> tuple[Any, ...]:
    """Everything that tracing touches."""
    module = inspect.getmodule(type(model))
    names = vars(module)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    functions = tuple(id(names[name]) for name in ("apply_rotary_pos_emb", "eager_attention_forward"))
    table = names["ALL_ATTENTION_FUNCTIONS"]
    return hooks, functions, id(table["sdpa"]), dict(table._local_mapping), id(torch.nn.functional.softmax)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([PROMPTS["long"]])).logits.clone()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_model_is_as_before(small: Any, tmp_path: Path, attention: str) -> None:
    model = small.load("llama", "f32", attention)
    before, expected = state(model), logits(model)
    driftprobe.trace(model, None, PROMPTS, out=tmp_path / "run", mode="both", steps=2)
    assert state(model) == before
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_error_in_the_middle_leaves_no_hook_and_an_incomplete_run(small: Any, tmp_path: Path, attention: str) -> None:
    model = small.load("llama", "bf16", attention)
    before, expected = state(model), logits(model)
    down = model.model.layers[1].mlp.down_proj
    calls = 0

    def fails(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("out of memory")
        return torch.nn.functional.linear(x, down.weight)

    down.forward = fails
    with pytest.raises(RuntimeError, match="out of memory"):
        driftprobe.trace(model, None, PROMPTS, out=tmp_path / "run")
    del down.forward
    assert state(model) == before
    assert torch.equal(logits(model), expected)
    report = driftprobe.analyze(tmp_path / "run")
    assert report.verdict == "INCONCLUSIVE"
    assert "INCOMPLETE" in {reason.code for reason in report.reasons}


def test_a_run_whose_inner_mode_breaks_off_is_incomplete(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outer run is whole by then, and must not look so."""
    complete = []

    def breaks(*_: Any) -> None:
        complete.append(json.loads((tmp_path / "run" / "manifest.json").read_text())["complete"])
        raise RuntimeError("out of memory")

    # Only decode on prefill's rows does this.
    monkeypatch.setattr("driftprobe.kv.align", breaks)
    with pytest.raises(RuntimeError, match="out of memory"):
        driftprobe.trace(small.load("llama"), None, PROMPTS, out=tmp_path / "run", mode="both")
    # Had the process been killed there, the run would say the same.
    assert complete == [False]
    assert not json.loads((tmp_path / "run" / "manifest.json").read_text())["complete"]
    report = driftprobe.analyze(tmp_path / "run")
    assert report.verdict == "INCONCLUSIVE" and "INCOMPLETE" in {reason.code for reason in report.reasons}


def test_what_tracing_changes_is_recorded(small: Any, tmp_path: Path) -> None:
    """A module that computes otherwise while somebody looks: the logits of the untraced passes differ."""
    model = small.load("llama", "f32")
    norm = model.model.norm

    def watched(x: torch.Tensor) -> torch.Tensor:
        scale = 1.25 if norm._forward_pre_hooks else 1.0
        return type(norm).forward(norm, x) * scale

    norm.forward = watched
    run = driftprobe.trace(model, None, PROMPTS, out=tmp_path / "run")
    observer = driftprobe.analyze(run).data["run"]["observer"]
    for phase in ("prefill", "decode"):
        assert observer[phase]["rows"] == 2 and observer[phase]["equal"] == 0
        assert observer[phase]["max_abs"] > 0.1
