"""Errors say what is the matter, and what helps."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import driftprobe
import pytest
from conftest import PROMPTS

BAD = [
    (dict(prompts="a text"), "no tokenizer"),
    (dict(prompts=[]), "no prompt"),
    (dict(prompts=[[]]), "no tokens"),
    (dict(prompts=[[1, 500]]), "token 500 is not in the vocabulary of 128"),
    (dict(prompts=[[1] * 65]), "the model's context is 64"),
    (dict(layers="0,9"), "layer 9 does not exist"),
    # Those of the default, asked for: nothing of what was named is left out.
    (dict(layers="0,1,2,4,8"), "layer 2 does not exist"),
    (dict(layers=[0, 1, 2, 4, 8]), "layer 2 does not exist"),
    (dict(layers="first"), "are no numbers"),
    (dict(layers=[]), "no layer is selected"),
    (dict(points="attn_output"), "no point 'attn_output'"),
    (dict(steps=0), "0 decode steps"),
    (dict(mode="aligned"), "no mode 'aligned'"),
    (dict(model_path="/nowhere"), "/nowhere"),
]


@pytest.mark.parametrize(("options", "says"), BAD)
def test_bad_options_are_refused_before_anything_is_written(
    small: Any, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    options = {"prompts": PROMPTS, **options}
    with pytest.raises(driftprobe.Error, match="hint: ") as raised:
        driftprobe.trace(small.load("llama"), None, out=tmp_path / "run", **options)
    assert says in raised.value.what and raised.value.hint
    assert not (tmp_path / "run").exists()


def test_models_that_cannot_be_traced_are_refused(small: Any, tmp_path: Path) -> None:
    model = small.load("llama")
    for change, says in (("train", "training mode"), ("flex", "flex_attention"), ("family", "mamba")):
        other = small.load("llama")
        if change == "train":
            other.train()
        elif change == "flex":
            other.config._attn_implementation = "flex_attention"
        else:
            other.config.model_type = "mamba"
        with pytest.raises(driftprobe.Error, match=says):
            driftprobe.trace(other, None, PROMPTS, out=tmp_path / "run")
    with pytest.raises(driftprobe.Error, match="no model.layers"):
        driftprobe.trace(model.model, None, PROMPTS, out=tmp_path / "run")


def test_a_run_is_not_overwritten_unless_asked(small: Any, tmp_path: Path) -> None:
    model = small.load("llama")
    driftprobe.trace(model, None, PROMPTS, out=tmp_path / "run")
    with pytest.raises(driftprobe.Error, match="hint: "):
        driftprobe.trace(model, None, PROMPTS, out=tmp_path / "run")
    driftprobe.trace(model, None, PROMPTS["short"], out=tmp_path / "run", overwrite=True)
    assert {row.prompt_id for row in driftprobe.analyze(tmp_path / "run").rows} == {"p0"}


def test_what_cannot_be_analysed(small: Any, tmp_path: Path) -> None:
    with pytest.raises(driftprobe.Error, match="hint: "):
        driftprobe.analyze(tmp_path / "none")
    run = driftprobe.trace(small.load("llama"), None, PROMPTS, out=tmp_path / "run")
    with pytest.raises(driftprobe.Error, match="hint: "):
        driftprobe.analyze(run, model=tmp_path / "none")
    for contract in ("no-such-preset", {"weights": 3}, '{"weights"'):
        with pytest.raises(driftprobe.Error, match="hint: "):
            driftprobe.analyze(run, contract=contract)


def test_importing_brings_nothing_heavy() -> None:
    script = "import sys, driftprobe; print([m for m in ('torch', 'transformers', 'numpy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["torch", "transformers", "pandas"])
def test_a_package_that_is_not_there_is_named(missing: str) -> None:
    call = "driftprobe.trace(None, None, [[1]], out='x')"
    if missing == "pandas":
        call = "from driftprobe.errors import needed; needed('pandas', 'Report.to_pandas')"
    script = f"import sys; sys.modules['{missing}'] = None\nimport driftprobe\n{call}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and f"hint: pip install {missing}" in done.stderr


def test_texts_are_tokenised(small: Any, tmp_path: Path) -> None:
    def tokenizer(text: str) -> dict[str, list[int]]:
        return {"input_ids": [1, *text.encode()]}

    run = driftprobe.trace(small.load("llama"), tokenizer, {"hello": "Hi <b>"}, out=tmp_path / "run")
    prompts = driftprobe.analyze(run).data["run"]["prompts"]
    assert [prompt["id"] for prompt in prompts] == ["hello"]
