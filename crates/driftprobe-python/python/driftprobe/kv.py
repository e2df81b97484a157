"""The KV cache of a run: made anew for each, and replaced by another's rows for `kv_aligned`."""

from __future__ import annotations

from typing import Any

from .errors import Error


def new_cache() -> Any:
    """A cache that keeps every position, also those that a sliding window has passed: only so does a row's cache begin at
    position 0."""
    from transformers import DynamicCache

    return DynamicCache()


def align(cache: Any, prefilled: Any, rows: range) -> None:
    """Puts prefill's rows of these positions in place of the cache's own, in every layer.

    Raises:
        Error: if the caches do not hold these positions.
    """
    import torch

    if not rows:
        return
    for number, (own, other) in enumerate(zip(cache.layers, prefilled.layers)):
        if own.keys.shape[-2] < rows.stop or other.keys.shape[-2] < rows.stop:
            held = min(own.keys.shape[-2], other.keys.shape[-2])
            raise Error(f"layer {number}: the cache holds {held} positions, not {rows.stop}", "trace mode as_designed only")
        for name in ("keys", "values"):
            kept = getattr(own, name)[..., rows.stop :, :]
            before = getattr(own, name)[..., : rows.start, :]
            taken = getattr(other, name)[..., rows.start : rows.stop, :]
            setattr(own, name, torch.cat((before, taken, kept), dim=-2))
