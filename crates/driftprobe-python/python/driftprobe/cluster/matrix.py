"""What is to be recorded: the gate's matrix, or a list of `run` command lines, as one probe a task."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any, Union

from ..errors import Error, needed

Matrix = Union[str, "PathLike[str]", Mapping[str, Any], Sequence[Sequence[str]]]
"""A file, or what it would hold."""

AXES = ("prompts", "seeds", "kv_aligned", "dtype", "engine", "context", "steps")
ALIASES = {"seed": "seeds", "prompt_len": "context", "gen_len": "steps", "span": "steps"}
"""The gate's matrix is read as the gate reads it; GRETA's config.json has these names."""

ENGINES = {"driftprobe-embedded": "embedded", "embedded": "embedded", "llama.cpp": "llama-cpp", "llama-cpp": "llama-cpp"}
"""Engines that `run` can start, by the name that a manifest has."""

PROBES_MAX = 100_000
NAME_CHARS_MAX = 60


@dataclass(frozen=True)
class Probe:
    """One run that is to be recorded."""

    name: str
    """Its folder's."""
    args: tuple[str, ...]
    """What `driftprobe run` is given for it."""
    prompts: tuple[str, ...] = ()
    """Ids of its prompts, as far as the matrix names them."""


def probes(matrix: Matrix, args: Sequence[str] = (), prompts_per_task: int = 1) -> list[Probe]:
    """Every probe of a matrix; `args` are given to each.

    Args:
        matrix: the gate's matrix (a TOML or JSON file, or a mapping), or a JSON file (or a list) of `run` argument lists.
        args: further arguments of `driftprobe run`, such as `--model`.
        prompts_per_task: how many of the matrix's prompts go into one run.

    Raises:
        Error: if it says nothing, something unknown, or something twice.
    """
    loaded = _load(Path(matrix)) if isinstance(matrix, (str, PathLike)) else matrix
    listed = _combinations(loaded, max(1, prompts_per_task)) if isinstance(loaded, Mapping) else _listed(loaded)
    if not 0 < len(listed) <= PROBES_MAX:
        raise Error(f"the matrix has {len(listed)} probes", f"expected 1 to {PROBES_MAX}")
    width = len(str(len(listed)))
    named = []
    for number, (label, own, prompts) in enumerate(listed, 1):
        readable = re.sub(r"[^A-Za-z0-9_.=-]+", "-", label)[:NAME_CHARS_MAX].strip("-.")
        name = f"{number:0{width}}" + (f"-{readable}" if readable else "")
        named.append(Probe(name, (*own, *args), prompts))
    return named


Listed = list[tuple[str, tuple[str, ...], tuple[str, ...]]]


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise Error(f"{path} cannot be read: {e}", "name a matrix in TOML or JSON, or a list of command lines in JSON") from e
    is_json = text.lstrip()[:1] == "{" or path.suffix == ".json"
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    parser: Any = importlib.import_module("json") if is_json else needed(name, "a matrix in TOML")
    try:
        return parser.loads(text)
    except ValueError as e:
        raise Error(f"{path}: {e}", "see docs/gate.md for a matrix, docs/cluster.md for a list of command lines") from e


def _listed(lines: Any) -> Listed:
    listed: Listed = []
    for number, line in enumerate(lines, 1):
        if not isinstance(line, (list, tuple)) or not all(isinstance(word, str) for word in line):
            hint = 'expected a list of command lines, such as [["--dtype", "bf16"], ["--dtype", "f16"]]'
            raise Error(f"probe {number} is no list of words: {json.dumps(line)[:200]}", hint)
        listed.append((" ".join(line).replace("--", ""), tuple(line), ()))
    return listed


def _combinations(matrix: Mapping[str, Any], prompts_per_task: int) -> Listed:
    axes: dict[str, list[Any]] = {}
    for key, named in matrix.items():
        axis = ALIASES.get(key, key)
        if axis not in AXES:
            raise Error(f"the matrix has no axis {key!r}", f"expected some of {', '.join(AXES)}")
        values = named if isinstance(named, list) else [named]
        if not values or axis in axes or any(value in values[:at] for at, value in enumerate(values)):
            raise Error(f"axis {key!r} is empty, or names something twice", "see docs/gate.md")
        axes[axis] = values
    if not axes:
        raise Error("the matrix names no axis", f"expected some of {', '.join(AXES)}")
    # A run holds many prompts, and both modes.
    ids = [str(value) for value in axes.pop("prompts", [])]
    groups = [tuple(ids[at : at + prompts_per_task]) for at in range(0, len(ids), prompts_per_task)] or [()]
    mode = _mode(axes.pop("kv_aligned", None))
    order = [axis for axis in AXES if axis in axes]
    listed: Listed = []
    for group, *values in product(groups, *(axes[axis] for axis in order)):
        chosen = dict(zip(order, values))
        label = "-".join([*group, *(f"{axis}={value}" for axis, value in chosen.items() if len(axes[axis]) > 1)])
        only = ("--only", *group) if group else ()
        listed.append((label, (*_options(chosen), *mode, *only), group))
    return listed


def _mode(values: list[Any] | None) -> tuple[str, ...]:
    if values is None:
        return ()
    if any(value not in (0, 1) for value in values):
        raise Error(f"kv_aligned is 0 or 1, not {values}", "see docs/gate.md")
    return ("--mode", "both" if len(values) == 2 else "kv_aligned" if values[0] else "as_designed")


def _options(chosen: Mapping[str, Any]) -> tuple[str, ...]:
    """What `run` must be told so that its manifest says what the cell does."""
    words: list[str] = []
    for axis, value in chosen.items():
        if axis == "engine":
            if value not in ENGINES:
                raise Error(f"`run` has no engine {value!r}", f"expected one of {', '.join(ENGINES)}; or list command lines")
            words += ["--engine", ENGINES[value]]
        elif axis == "context":
            # The prompt and its steps; the last step's own token is not fed any more.
            words += ["--prompt-tokens", str(_whole(axis, value) - _whole("steps", chosen.get("steps", 1)) + 1)]
        elif axis == "dtype":
            words += ["--dtype", str(value)]
        else:
            words += [{"seeds": "--seed", "steps": "--steps"}[axis], str(_whole(axis, value))]
    return tuple(words)


def _whole(axis: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Error(f"{axis}: {value!r} is no count", "expected a whole number")
    return value
