"""What Python repeats of the program, because it is asked for before the program is, holds for the program."""

import json
import subprocess
import sys
from pathlib import Path

import driftprobe
from conftest import PROMPTS
from driftprobe import _native, generation, plan
from driftprobe.cluster import storage
from tracing import models
from transformers import AutoModelForCausalLM, LlamaConfig

GRETA = Path(__file__).parents[2] / "driftprobe-trace/tests/fixtures/greta/drift"
"""A run without a model, which is judged in no time."""


def test_default_layers_are_the_programs(tmp_path: Path) -> None:
    config = LlamaConfig(**{**models.BASE, "num_hidden_layers": 10}, head_dim=16, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.json").write_text(json.dumps([{"id": "short", "tokens": PROMPTS["short"]}]))
    short = ["--points", "logits", "--repeats", "0", "--mode", "as_designed", "--record-only"]
    given = ["--model", str(tmp_path / "model"), "--prompts", str(tmp_path / "prompts.json"), "--out", str(tmp_path / "program")]
    assert _native.main(["run", *given, *short]) == 0
    driftprobe.trace(model, None, PROMPTS["short"], out=tmp_path / "python", points="logits", repeats=0)
    of = {name: json.loads((tmp_path / name / "manifest.json").read_text())["layers"] for name in ("program", "python")}
    assert of["program"] == of["python"] == list(plan.DEFAULT_LAYERS)


def test_presets_are_the_programs() -> None:
    words = [sys.executable, "-m", "driftprobe", "logprobs", "--preset", "no-such-preset"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"[possible values: {', '.join(generation.PRESETS)}]" in done.stderr


def test_reports_and_plans_are_called_what_the_program_calls_them(tmp_path: Path) -> None:
    def made(*more: str) -> set[str]:
        before = {path.name for path in tmp_path.iterdir()}
        assert _native.main(["analyze", str(GRETA), "--by-prompt", "--out", str(tmp_path), *more]) in (0, 1, 3)
        return {path.name for path in tmp_path.iterdir() if path.is_file()} - before

    parts = made("--shard", "1/2") | made("--shard", "2/2")
    assert len(parts) == 2 and all(storage.is_plan(name) for name in parts)
    [whole] = made() - set(storage.REPORTS)
    assert storage.is_plan(whole) and all((tmp_path / name).is_file() for name in storage.REPORTS)
    assert (tmp_path / storage.UNITS_DIR).is_dir()
