"""What a matrix, or a list of command lines, is to record. Needs no cluster."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from driftprobe import Error
from driftprobe.cluster import probes
from driftprobe.cluster.judging import _prime

TOML = """
prompts = ["a", "b", "c"]
seeds = [1, 2]
kv_aligned = [0, 1]
dtype = "bf16"
engine = ["driftprobe-embedded"]
context = 40
steps = 4
"""


def test_every_combination_is_a_probe(tmp_path: Path) -> None:
    if sys.version_info < (3, 11):
        pytest.importorskip("tomli")
    path = tmp_path / "matrix.toml"
    path.write_text(TOML)
    made = probes(path, ["--layers", "0"])
    assert [(p.name, p.prompts) for p in made] == [
        ("1-a-seeds=1", ("a",)), ("2-a-seeds=2", ("a",)), ("3-b-seeds=1", ("b",)), ("4-b-seeds=2", ("b",)),
        ("5-c-seeds=1", ("c",)), ("6-c-seeds=2", ("c",)),
    ]  # fmt: skip
    # 40 tokens: 37 of the prompt, and 3 that the first steps have chosen.
    options = "--seed 2 --dtype bf16 --engine embedded --prompt-tokens 37 --steps 4 --mode both --only a --layers 0"
    assert sorted(made[1].args) == sorted(options.split())
    assert [p.prompts for p in probes(path, prompts_per_task=2)] == [("a", "b"), ("a", "b"), ("c",), ("c",)]


@pytest.mark.parametrize(("values", "mode"), [([0], "as_designed"), (1, "kv_aligned"), ([True, False], "both")])
def test_modes_are_one_run(values: Any, mode: str) -> None:
    assert [p.args for p in probes({"kv_aligned": values})] == [("--mode", mode)]


def test_gretas_config_is_a_matrix() -> None:
    config = {"kv_aligned": [0, 1], "seeds": [0, 1, 2], "dtype": "bf16", "prompt_len": 512, "gen_len": 128}
    made = probes(config)
    assert len(made) == 3 and {p.args[p.args.index("--prompt-tokens") + 1] for p in made} == {"385"}


def test_command_lines_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "lines.json"
    path.write_text(json.dumps([["--dtype", "bf16"], ["--prompts", "a/../b $(x)"], []]))
    made = probes(path, ["--seed", "3"])
    assert [p.args for p in made] == [
        ("--dtype", "bf16", "--seed", "3"), ("--prompts", "a/../b $(x)", "--seed", "3"), ("--seed", "3"),
    ]  # fmt: skip
    # Names are folders of one folder, whatever was asked for.
    assert [p.name for p in made] == ["1-dtype-bf16", "2-prompts-a-..-b-x", "3"]


@pytest.mark.parametrize(
    "wrong",
    [{}, [], {"seeds": []}, {"seeds": [1, 1]}, {"sedes": [1]}, {"seed": 1, "seeds": 2}, {"kv_aligned": 2}, {"seeds": ["x"]},
     {"engine": "vllm"}, {"steps": [1.5]}, {"seeds": list(range(400)), "context": list(range(1, 400))}, ["--dtype"], [[1]]],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(wrong: Any) -> None:
    with pytest.raises(Error) as refused:
        probes(wrong)
    assert refused.value.hint


def test_a_file_that_is_no_matrix_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for name in ("broken.json", "nothing.toml"):
        with pytest.raises(Error, match=name):
            probes(tmp_path / name)


def test_parts_are_a_prime_so_that_no_part_gets_every_longest_prompt() -> None:
    assert [_prime(n) for n in (1, 2, 4, 8, 9, 32)] == [2, 2, 5, 11, 11, 37]
