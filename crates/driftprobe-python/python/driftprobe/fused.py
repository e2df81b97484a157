"""The module tree of vLLM's and SGLang's decoder-only models, and where in it each point is.

What differs from transformers: Q, K and V are one matrix (`qkv_proj`), gate and up another (`gate_up_proj`); tensors are
[tokens, …]; and the residual is added inside the norms, which return (hidden, residual) and write in place. So a layer's
output is seen where the next layer's norm, or the last norm, has added it. Linear modules return (out, bias).

Tested on stand-ins of the same structure, not on a GPU and not inside of these engines. The paged KV cache and the attention
within the backend's kernel are not seen, nor are the logits, which these engines compute outside of the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import Error
from .hooks import first, hooked
from .tap import Tap

NEEDED = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj", "input_layernorm")
POINTS = (
    "embed_out", "residual_pre_attn", "attn_norm_out", "q_pre_rope", "k_pre_rope", "v_proj", "q_post_rope", "k_post_rope",
    "attn_out", "attn_proj_out", "residual_post_attn", "ffn_norm_out", "mlp_gate", "mlp_up", "mlp_act", "mlp_out",
    "residual_post_mlp", "final_norm_in", "final_norm_out",
)  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """A model's parts."""

    base: Any
    layers: list[Any]

    @classmethod
    def of(cls, model: Any) -> Tree:
        """Finds the parts.

        Raises:
            Error: if the model is built in another way.
        """
        base = getattr(model, "model", model)
        layers = list(getattr(base, "layers", []))
        if not layers:
            raise Error(f"{type(model).__name__} has no model.layers", "pass the model that the engine's worker holds")
        for path in NEEDED:
            if functools.reduce(lambda at, name: getattr(at, name, None), path.split("."), layers[0]) is None:
                raise Error(f"{type(layers[0]).__name__} has no {path}", "only llama-like models are mapped")
        if not hasattr(layers[0].self_attn, "head_dim"):
            raise Error(f"{type(layers[0].self_attn).__name__} does not say its head_dim", "set it: the width of a head")
        return cls(base, layers)

    def points(self) -> list[str]:
        """The points that this tree offers."""
        normed = ["q_proj_out", "k_proj_out"] if hasattr(self.layers[0].self_attn, "q_norm") else []
        return [*POINTS, *normed]

    @contextmanager
    def tapped(self, tap: Tap) -> Iterator[None]:
        """Hooks for a while."""
        with hooked(self._hooks(tap)):
            yield

    def _hooks(self, tap: Tap) -> Iterator[Any]:
        yield leaving(self.base.embed_tokens, lambda _, out: tap.take("embed_out", batch(first(out))))
        for number, layer in enumerate(self.layers):
            yield entering(layer.input_layernorm, functools.partial(enter, tap, number))
            yield leaving(layer.input_layernorm, functools.partial(attention_norm, tap, number))
            yield from attention_hooks(layer.self_attn, tap)
            yield leaving(layer.post_attention_layernorm, functools.partial(ffn_norm, tap))
            yield from mlp_hooks(layer.mlp, tap)
        yield leaving(self.base.norm, functools.partial(final_norm, tap, len(self.layers) - 1))


@contextmanager
def tapped(model: Any, rows: range, layers: Iterable[int] | None = None) -> Iterator[Tap]:
    """Takes the rows of one forward pass that runs inside of the `with`: those of these tokens, in these layers (or all)."""
    tree = Tree.of(model)
    chosen = range(len(tree.layers)) if layers is None else layers
    tap = Tap(frozenset(tree.points()), frozenset(chosen))
    tap.open(rows)
    with tree.tapped(tap):
        yield tap


def entering(module: Any, see: Any) -> Any:
    """Calls `see(inputs)` before a module runs: they may be overwritten by it."""
    return module.register_forward_pre_hook(lambda _, args, kwargs: see((*args, *kwargs.values())), with_kwargs=True)


def leaving(module: Any, see: Any) -> Any:
    """Calls `see(inputs, out)` when a module has run."""
    return module.register_forward_hook(lambda _, args, kwargs, out: see((*args, *kwargs.values()), out), with_kwargs=True)


def batch(value: Any) -> Any:
    """[tokens, …] as a batch of one."""
    return value[None]


def heads(value: Any, width: int) -> Any:
    """[tokens, heads · width] as [1, heads, tokens, width]."""
    return value.reshape(value.shape[0], -1, width).transpose(0, 1)[None]


def enter(tap: Tap, number: int, inputs: tuple[Any, ...]) -> None:
    """A layer begins with its norm. The first layer has no residual yet: what it is fed is the residual."""
    tap.layer, tap.tokens = number, inputs[0].shape[0]
    if len(inputs) < 2 or inputs[1] is None:
        tap.take("residual_pre_attn", batch(inputs[0]))


def attention_norm(tap: Tap, number: int, _: tuple[Any, ...], out: Any) -> None:
    """The attention norm gives (normed, residual); the residual is also what the layer before has given."""
    if isinstance(out, tuple):
        tap.take("residual_pre_attn", batch(out[1]))
        tap.take("residual_post_mlp", batch(out[1]), number - 1)
    tap.take("attn_norm_out", batch(first(out)))


def ffn_norm(tap: Tap, _: tuple[Any, ...], out: Any) -> None:
    """The FFN norm, likewise."""
    if isinstance(out, tuple):
        tap.take("residual_post_attn", batch(out[1]))
    tap.take("ffn_norm_out", batch(first(out)))


def final_norm(tap: Tap, last: int, _: tuple[Any, ...], out: Any) -> None:
    """The last norm, likewise."""
    if isinstance(out, tuple):
        tap.take("residual_post_mlp", batch(out[1]), last)
        tap.take("final_norm_in", batch(out[1]))
    tap.take("final_norm_out", batch(first(out)))


def attention_hooks(attention: Any, tap: Tap) -> Iterator[Any]:
    """The hooks of attention: `rotary_emb(positions, q, k)` gives (q, k)."""
    width = attention.head_dim

    def value(_: Any, out: Any) -> None:
        rows = first(out)[..., -attention.kv_size :]
        tap.take("v_proj", batch(rows.unflatten(-1, (-1, width))))

    def rotates(inputs: tuple[Any, ...]) -> None:
        tap.take("q_pre_rope", heads(inputs[1], width))
        tap.take("k_pre_rope", heads(inputs[2], width))

    def rotated(_: Any, out: Any) -> None:
        tap.take("q_post_rope", heads(out[0], width))
        tap.take("k_post_rope", heads(out[1], width))

    yield leaving(attention.qkv_proj, value)
    for name in ("q", "k"):
        if norm := getattr(attention, f"{name}_norm", None):
            yield entering(norm, functools.partial(before_norm, tap, f"{name}_proj_out", width))
    yield entering(attention.rotary_emb, rotates)
    yield leaving(attention.rotary_emb, rotated)
    yield entering(attention.o_proj, lambda inputs: tap.take("attn_out", batch(inputs[0])))
    yield leaving(attention.o_proj, lambda _, out: tap.take("attn_proj_out", batch(first(out))))


def before_norm(tap: Tap, point: str, width: int, inputs: tuple[Any, ...]) -> None:
    """What enters the norm of heads: [tokens, heads, width], or [tokens · heads, width] as SGLang has it."""
    tap.take(point, batch(inputs[0].reshape(tap.tokens, -1, width)))


def mlp_hooks(mlp: Any, tap: Tap) -> Iterator[Any]:
    """The hooks of the MLP: `gate_up_proj` gives gate and up side by side."""

    def both(_: Any, out: Any) -> None:
        gate, up = first(out).chunk(2, dim=-1)
        tap.take("mlp_gate", batch(gate))
        tap.take("mlp_up", batch(up))

    yield leaving(mlp.gate_up_proj, both)
    yield entering(mlp.down_proj, lambda inputs: tap.take("mlp_act", batch(inputs[0])))
    yield leaving(mlp, lambda _, out: tap.take("mlp_out", batch(first(out))))
