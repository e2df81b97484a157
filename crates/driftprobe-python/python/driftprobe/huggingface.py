"""The module tree of transformers' decoder-only models, and where in it each point is.

Each point is taken where it is consumed or where it leaves the function that made it, so that a fault inside a function lies
between a recorded input and a recorded output.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import Error
from .hooks import after, before, first, first_input, hooked, overridden, replaced
from .tap import Tap

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2")
ATTENTIONS = ("eager", "sdpa")
BEFORE = {
    "self_attn": "attn_norm_out",
    "self_attn.q_norm": "q_proj_out",
    "self_attn.k_norm": "k_proj_out",
    "self_attn.o_proj": "attn_out",
    "mlp": "ffn_norm_out",
    "mlp.down_proj": "mlp_act",
}
"""What enters a module of a layer."""
AFTER = {
    "self_attn.o_proj": "attn_proj_out",
    "mlp.gate_proj": "mlp_gate",
    "mlp.up_proj": "mlp_up",
    "mlp": "mlp_out",
}
"""What leaves a module of a layer."""
POST_NORMS = {"post_attention_layernorm": "attn_post_norm_out", "post_feedforward_layernorm": "mlp_post_norm_out"}
"""The same where norms follow attention and MLP."""
ROPE = ("q_pre_rope", "k_pre_rope", "q_post_rope", "k_post_rope")
ENDS = ("embed_out", "final_norm_in", "final_norm_out", "logits")


@dataclass(frozen=True)
class Tree:
    """A model's parts."""

    model: Any
    layers: list[Any]
    norm: Any
    head: Any
    attention: str
    """`eager` or `sdpa`."""

    @classmethod
    def of(cls, model: Any) -> Tree:
        """Finds the parts.

        Raises:
            Error: if the family or its attention is not known.
        """
        family = getattr(getattr(model, "config", None), "model_type", None)
        if family not in FAMILIES:
            raise Error(f"{type(model).__name__} ({family}) is no model that can be traced", f"one of {', '.join(FAMILIES)}")
        base = getattr(model, "model", None)
        layers, norm, head = getattr(base, "layers", None), getattr(base, "norm", None), getattr(model, "lm_head", None)
        if layers is None or norm is None or head is None:
            hint = "load it with AutoModelForCausalLM, without wrappers around it"
            raise Error(f"{type(model).__name__} has no model.layers, model.norm or lm_head", hint)
        attention = model.config._attn_implementation
        if attention not in ATTENTIONS:
            raise Error(f"attention {attention} cannot be traced", 'load the model with attn_implementation="eager" or "sdpa"')
        return cls(model, list(layers), norm, head, attention)

    def points(self) -> list[str]:
        """The points that this tree offers."""
        layer = self.layers[0]
        found = [*ENDS, "residual_pre_attn", "residual_post_attn", "residual_post_mlp", "v_proj", "k_cache", "v_cache"]
        found += [point for taps in (BEFORE, AFTER) for path, point in taps.items() if submodule(layer, path)]
        if "apply_rotary_pos_emb" in names(layer.self_attn):
            found += ROPE
        if hasattr(layer, "pre_feedforward_layernorm"):
            found += POST_NORMS.values()
        if self.attention == "eager":
            found += ["attn_scores", "attn_probs"]
        return found

    @contextmanager
    def tapped(self, tap: Tap) -> Iterator[None]:
        """Hooks and wrappers, around whatever is patched into the model already."""
        owners = {id(space): space for space in (names(layer.self_attn) for layer in self.layers)}
        with ExitStack() as stack:
            stack.enter_context(hooked(self._hooks(tap)))
            for space in owners.values():
                if "apply_rotary_pos_emb" in space:
                    stack.enter_context(replaced(space, "apply_rotary_pos_emb", functools.partial(around_rope, tap)))
                if self.attention == "eager":
                    stack.enter_context(replaced(space, "eager_attention_forward", functools.partial(around_eager, tap)))
            if self.attention != "eager":
                tables = {id(space[TABLE]): space[TABLE] for space in owners.values()}
                for table in tables.values():
                    stack.enter_context(overridden(table, self.attention, functools.partial(around_fused, tap)))
            yield

    def _hooks(self, tap: Tap) -> Iterator[Any]:
        for number, layer in enumerate(self.layers):
            yield layer.register_forward_pre_hook(functools.partial(enter, tap, number), with_kwargs=True)
            yield from layer_hooks(layer, tap)
        yield before(self.norm, tap, "final_norm_in")
        yield before(self.head, tap, "final_norm_out")


TABLE = "ALL_ATTENTION_FUNCTIONS"


def names(attention: Any) -> dict[str, Any]:
    """The module in which an attention's `forward` was written: that is where it looks its functions up."""
    space: dict[str, Any] = inspect.unwrap(type(attention).forward).__globals__
    return space


def submodule(layer: Any, path: str) -> Any:
    """A module inside a layer, or none."""
    return functools.reduce(lambda at, name: getattr(at, name, None), path.split("."), layer)


def enter(tap: Tap, number: int, _: Any, args: Any, kwargs: Any) -> None:
    """A layer begins."""
    tap.layer = number
    hidden = first_input(args, kwargs)
    if number == 0:
        tap.take("embed_out", hidden)
    tap.take("residual_pre_attn", hidden)


def leave(tap: Tap, _: Any, __: Any, out: Any) -> None:
    """A layer ends."""
    tap.take("residual_post_mlp", first(out))
    tap.layer = -1


def layer_hooks(layer: Any, tap: Tap) -> Iterator[Any]:
    """The hooks of one layer, but for the one with which it begins."""
    for path, point in BEFORE.items():
        if module := submodule(layer, path):
            yield before(module, tap, point)
    for path, point in AFTER.items():
        yield after(submodule(layer, path), tap, point)
    width = layer.self_attn.head_dim
    yield after(layer.self_attn.v_proj, tap, "v_proj", lambda out: out.unflatten(-1, (-1, width)))
    ffn_norm = layer.post_attention_layernorm
    if hasattr(layer, "pre_feedforward_layernorm"):
        ffn_norm = layer.pre_feedforward_layernorm
        for name, point in POST_NORMS.items():
            yield after(getattr(layer, name), tap, point)
    yield before(ffn_norm, tap, "residual_post_attn")
    yield layer.register_forward_hook(functools.partial(leave, tap))


def around_rope(tap: Tap, original: Any) -> Any:
    """`apply_rotary_pos_emb(q, k, cos, sin)`."""

    def wrapped(q: Any, k: Any, *args: Any, **kwargs: Any) -> Any:
        tap.take("q_pre_rope", q)
        tap.take("k_pre_rope", k)
        q, k = original(q, k, *args, **kwargs)
        tap.take("q_post_rope", q)
        tap.take("k_post_rope", k)
        return q, k

    return wrapped


def lowest(dtype: Any) -> float:
    """Scores below it are masked: half of the lowest number, which masks are filled with."""
    import torch

    return float(torch.finfo(dtype).min) / 2


def around_eager(tap: Tap, original: Any) -> Any:
    """`eager_attention_forward(module, query, key, value, …)` and the softmax in it."""
    from torch.nn import functional

    def seen(softmax: Any) -> Any:
        def wrapped(scores: Any, *args: Any, **kwargs: Any) -> Any:
            tap.take("attn_scores", scores)
            tap.see(scores, lowest(scores.dtype))
            return softmax(scores, *args, **kwargs)

        return wrapped

    def wrapped(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        tap.take("k_cache", key)
        tap.take("v_cache", value)
        with replaced(vars(functional), "softmax", seen):
            out, probs = original(module, query, key, value, *args, **kwargs)
        tap.take("attn_probs", probs)
        return out, probs

    return wrapped


def around_fused(tap: Tap, original: Any) -> Any:
    """An attention function of transformers' table, which shows neither scores nor probabilities."""

    def wrapped(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        tap.take("k_cache", key)
        tap.take("v_cache", value)
        if attention_mask is not None:
            tap.see(attention_mask, lowest(attention_mask.dtype) if attention_mask.is_floating_point() else 0.5)
        return original(module, query, key, value, attention_mask, *args, **kwargs)

    return wrapped
