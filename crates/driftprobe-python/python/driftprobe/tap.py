"""Takes tensors while a forward pass runs, and gives them out as rows: one token's values of one point."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import _native
from .errors import Error

LAYERED = dict(_native.points())
"""Every point, and whether it exists once a layer."""
HEADS_FIRST = frozenset(["q_pre_rope", "k_pre_rope", "q_post_rope", "k_post_rope"])
"""Held as [batch, heads, tokens, head_dim] where they are taken; everything else but these as [batch, tokens, …]."""
BY_KEY = frozenset(["attn_scores", "attn_probs"])
"""[batch, heads, tokens, keys]."""
CACHES = frozenset(["k_cache", "v_cache"])
"""[batch, kv_heads, keys, head_dim]."""


@dataclass
class Tap:
    """Holds what the forward pass that ran last has shown of the points and layers that are wanted.

    Values are copied to the CPU where they are met: engines reuse their buffers, and add residuals in place.
    """

    points: frozenset[str]
    layers: frozenset[int]
    rows: range = range(0)
    """Tokens of the forward pass whose rows are wanted; empty: none."""
    layer: int = -1
    tokens: int = 0
    """Tokens of the forward pass, where a tree needs to know."""
    seen: dict[tuple[int, str], Any] = field(default_factory=dict)
    visible: dict[int, list[int]] = field(default_factory=dict)

    def open(self, rows: range) -> None:
        """A forward pass begins."""
        self.rows, self.layer = rows, -1
        self.seen.clear()
        self.visible.clear()

    def wants(self, point: str, layer: int) -> bool:
        """Whether the value is to be kept."""
        return bool(self.rows) and point in self.points and (not LAYERED[point] or layer in self.layers)

    def take(self, point: str, value: Any, layer: int | None = None) -> None:
        """Keeps a tensor of the current layer, or of another.

        Raises:
            Error: if the point was taken already, since then it is not known which of the two is meant.
        """
        layer = (self.layer if layer is None else layer) if LAYERED[point] else -1
        if not self.wants(point, layer):
            return
        if (layer, point) in self.seen:
            what = f"{point} of layer {layer} was computed twice in one forward pass"
            raise Error(what, "the model is not built as its family is; name the points that you want")
        if value.shape[0] != 1:
            raise Error(f"{point}: a batch of {value.shape[0]} sequences", "trace one sequence at a time")
        value = value.detach()[0]
        low, high = self.rows.start, self.rows.stop
        if point in HEADS_FIRST or point in BY_KEY:
            value = value[:, low:high].transpose(0, 1)
        elif point not in CACHES:
            value = value[low:high]
        self.seen[layer, point] = value.to(device="cpu", copy=True).contiguous()

    def see(self, mask: Any, lowest: float) -> None:
        """Learns from a mask (or masked scores) [batch, heads, tokens, keys] which key is the last that each row sees."""
        if not self.rows or self.layer not in self.layers:
            return
        open_keys = mask[0, :, self.rows.start : self.rows.stop].detach().float().gt(lowest).any(0)
        last = [int(row.nonzero().max()) + 1 if bool(row.any()) else 0 for row in open_keys]
        self.visible[self.layer] = last

    def row(self, layer: int, point: str, at: int, pos: int) -> Any:
        """The row of the `at`-th wanted token, which stands at position `pos`: a tensor on the CPU."""
        value = self.seen[layer, point]
        columns = max(pos + 1, self.visible.get(layer, [0] * (at + 1))[at])
        if point in CACHES:
            return value[:, :columns].contiguous()
        if point in BY_KEY:
            return value[at][:, :columns].contiguous()
        return value[at]
