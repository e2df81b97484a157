"""What a manifest says of the engine, the model and the machine."""

from __future__ import annotations

import json
import warnings
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from . import _native, contracts
from .errors import Error
from .huggingface import Tree
from .record import dtype_of

OF_A_FILE_ONLY = ("transformers_version", "dtype", "torch_dtype", "_name_or_path")


def windows_of(config: Any) -> list[int | None]:
    """Each layer's sliding window; none where a layer sees everything."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        sliding = window is not None and getattr(config, "use_sliding_window", True)
        return [window if sliding else None] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def folder_of(model: Any) -> Path | None:
    """Where the model's files are, if they are on this machine."""
    name = getattr(model.config, "_name_or_path", "") or ""
    if name and Path(name).exists():
        return Path(name)
    if not name:
        return None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(name, "config.json", local_files_only=True)
    except OSError:
        return None
    return Path(found).parent if found else None


def model_of(model: Any, path: str | PathLike[str] | None) -> dict[str, Any]:
    """`manifest.model`.

    Raises:
        Error: if `path` was given and holds no model that the probe can read.
    """
    architecture = {"architecture": model.config.model_type}
    found = folder_of(model) if path is None else Path(fspath(path))
    if found is None:
        return architecture
    try:
        described: dict[str, Any] = json.loads(_native.describe_model(found))
    except Error as e:
        if path is not None:
            raise
        warnings.warn(f"the run will name no model to judge it by: {e}", stacklevel=4)
        return architecture
    return described


def engine_of(tree: Tree) -> dict[str, Any]:
    """`manifest.engine`."""
    import torch
    import transformers

    device = tree.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "name": "transformers",
        "version": transformers.__version__,
        "backend": f"torch {torch.__version__}",
        "device": name,
        "threads": torch.get_num_threads(),
        "attention": {"prefill": tree.attention, "decode": tree.attention},
    }


def describe(tree: Tree, path: str | PathLike[str] | None) -> dict[str, Any]:
    """Everything of the manifest that does not depend on what is recorded."""
    import torch

    config = json.loads(tree.model.config.to_json_string())
    for key in OF_A_FILE_ONLY:
        config.pop(key, None)
    machine = json.loads(_native.describe_machine())
    machine["host"]["capability"] = torch.backends.cpu.get_cpu_capability()
    dtype = dtype_of(tree.model.dtype)
    return {
        "schema": 1,
        "engine": engine_of(tree),
        "model": model_of(tree.model, path),
        "config": {**config, "rope_layout": "half", "sliding_windows": windows_of(tree.model.config)},
        "contract": contracts.of(tree.model.config.model_type, dtype, tree.attention),
        **machine,
    }
