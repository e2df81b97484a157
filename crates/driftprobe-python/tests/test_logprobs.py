"""Log-probabilities of whole generations: measured, judged, and led back to the first tensor that drifts."""

import json
import math
from pathlib import Path
from typing import Any

import driftprobe
import pytest
import torch
from conftest import PROMPTS, gated
from test_faults import CATALOGUE
from tracing.record import Gate


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("dtype", "attention", "k3"), [("f32", "eager", 1e-9), ("bf16", "sdpa", 2.5e-3)])
def test_a_sound_model_is_measured_and_its_worst_token_is_rounding(
    small: Any, tmp_path: Path, dtype: str, attention: str, k3: float
) -> None:
    model = small.load("llama", dtype, attention)
    found = driftprobe.logprobs(model, None, PROMPTS, 16, out=tmp_path / "a", trace_worst=1)
    assert (found.outcome, found.exit_code, found.findings) == ("MEASURED", 0, [])
    assert found.metrics.tokens == 32 and 0 < found.metrics.mean_abs_delta and found.metrics.k3 <= k3
    assert [one.sequence for one in found.sequences] == ["long", "short"]
    trace = found.worst[0].trace
    assert trace and (trace.verdict, trace.kind, trace.causes) == ("PASS", "STRUCTURAL", [])
    assert found.worst[1].trace is None
    # The fused kernel of sdpa treats a row otherwise where more tokens follow it: the run is one of the whole sequence.
    assert trace.reproduced and Path(trace.run).name == ("worst-1-whole" if attention == "sdpa" else "worst-1")
    assert (tmp_path / "a" / "report" / "logprobs.png").is_file()
    # Files are judged by the command line alike.
    files = [str(tmp_path / "a" / f"{phase}.jsonl") for phase in ("prefill", "decode")]
    from driftprobe import _native

    assert _native.main(["logprobs", *files, "--preset", "sglang-kl", "--out", str(tmp_path / "cli")]) == 0
    again = json.loads((tmp_path / "cli" / "logprobs.json").read_text())
    assert again["metrics"] == found.data["metrics"]


def test_a_model_whose_phases_round_alike_is_equal_to_the_bit_and_has_nothing_to_trace(small: Any, tmp_path: Path) -> None:
    """eager attention in bfloat16: sums of so few terms round to the same values in either order."""
    found = driftprobe.logprobs(small.load("qwen3"), None, PROMPTS, 4, out=tmp_path / "a", trace_worst=1, max_k3=0.0)
    assert (found.outcome, found.metrics.equal, found.metrics.tokens) == ("PASS", 8, 8)
    assert found.worst == [] and not (tmp_path / "a" / "worst-1").exists()


def test_scores_are_those_of_transformers_generate(small: Any, tmp_path: Path) -> None:
    """Tokens and log-probabilities against `generate`, which knows nothing of this package."""
    model = small.load("llama", "f32")
    found = driftprobe.logprobs(model, None, {"p": PROMPTS["short"]}, 12, out=tmp_path / "a")
    ids = torch.tensor([PROMPTS["short"]])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12, do_sample=False, output_logits=True,
        return_dict_in_generate=True, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    expected = made.sequences[0, len(PROMPTS["short"]) :].tolist()
    scores = [float(row[0].log_softmax(-1)[token]) for row, token in zip(made.logits, expected)]
    of_decode = lines(tmp_path / "a" / "decode.jsonl")
    assert [line["token_id"] for line in of_decode] == expected
    assert [line["index"] for line in of_decode] == list(range(5, 17))
    assert all(math.isclose(line["logprob"], score, abs_tol=1e-5) for line, score in zip(of_decode, scores))
    with torch.no_grad():
        whole = model(input_ids=made.sequences).logits[0, 4:-1].log_softmax(-1)
    for line, row in zip(lines(tmp_path / "a" / "prefill.jsonl"), whole):
        assert math.isclose(line["logprob"], float(row[line["token_id"]]), abs_tol=1e-5)
    assert found.metrics.max_abs_delta < 1e-5


def test_a_fault_in_decode_is_large_and_the_worst_token_names_it(small: Any, tmp_path: Path) -> None:
    fault = CATALOGUE["position-plus-one"]
    model = small.load(fault.family, fault.dtype)
    clean = driftprobe.logprobs(model, None, PROMPTS, 12, out=tmp_path / "clean")
    gate = Gate(phase=fault.phase, only_layer=fault.layer)
    with gated(model, gate), fault.install(model, gate):
        found = driftprobe.logprobs(model, None, PROMPTS, 12, out=tmp_path / "bad", trace_worst=1, max_k3=2.5e-3)
    assert found.metrics.mean_abs_delta > 3 * clean.metrics.mean_abs_delta
    trace = found.worst[0].trace
    assert trace and (found.outcome, trace.verdict, trace.kind, trace.phase) == ("FAIL", "FAIL", "FAULT", "decode")
    assert fault.id in trace.hypotheses and (trace.layer, trace.point) == (fault.layer or 0, fault.point)
    assert trace.reproduced, "decode's cache is that of the generation"
    assert math.isclose(trace.run_delta or 0, found.worst[0].delta, rel_tol=1e-3)


def test_draws_are_those_of_the_seed(small: Any, tmp_path: Path) -> None:
    model = small.load("llama")

    def drawn(name: str, seed: int) -> list[int]:
        driftprobe.logprobs(model, None, [1, 17, 99], 12, out=tmp_path / name, temperature=1.0, seed=seed)
        return [line["token_id"] for line in lines(tmp_path / name / "decode.jsonl")]

    first = drawn("a", 1)
    assert drawn("b", 1) == first and drawn("c", 2) != first


def test_what_makes_no_sense_is_refused_before_any_work(small: Any, tmp_path: Path) -> None:
    model = small.load("llama")
    for options, says in [
        (dict(tokens=0), "0 tokens"),
        (dict(tokens=99), "context is 64"),
        (dict(temperature=-1.0), "temperature -1"),
        (dict(preset="sglang"), "no preset 'sglang'"),
    ]:
        with pytest.raises(driftprobe.Error, match="hint: ") as raised:
            asked: Any = {"tokens": 4, **options}
            driftprobe.logprobs(model, None, PROMPTS, out=tmp_path / "a", **asked)
        assert says in raised.value.what
    with pytest.raises(driftprobe.Error, match="training mode"):
        driftprobe.logprobs(model.train(), None, PROMPTS, 2, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    driftprobe.logprobs(model.eval(), None, [1, 2, 3], 2, out=tmp_path / "a")
    with pytest.raises(driftprobe.Error, match="lies there already"):
        driftprobe.logprobs(model, None, [1, 2, 3], 2, out=tmp_path / "a")
