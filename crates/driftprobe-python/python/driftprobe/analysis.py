"""Judging a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from . import _native
from .report import Report


def analyze(
    run: str | PathLike[str],
    model: str | PathLike[str] | None = None,
    contract: str | PathLike[str] | Mapping[str, Any] | None = None,
    simulate: float | None = None,
) -> Report:
    """Judges a run that lies on disk, whichever engine wrote it, as `driftprobe analyze` does. Writes nothing.

    Args:
        run: a run's folder, a folder of `*.jsonl` files, or one such file.
        model: the model that the run was made with: a Hugging Face folder, a GGUF file, or `DEMO`. Without it the one that
            the run's manifest names is taken, where it lies there; without any, rows are compared and not judged.
        contract: the arithmetic that the engine claims, in place of the manifest's: fields as in `manifest.contract`, a JSON
            file, or a preset by name.
        simulate: operations that simulating the prompts from their tokens may take.

    Raises:
        Error: if the run or the model cannot be read.
    """
    if isinstance(contract, Mapping):
        declared: str | None = json.dumps(dict(contract))
    else:
        declared = None if contract is None else fspath(contract)
    texts = _native.analyze(fspath(run), None if model is None else fspath(model), declared, simulate)
    return Report.parse(json.loads(texts[0]), texts)
