"""vLLM's and SGLang's module trees, on stand-ins of the same structure: [tokens, …], one matrix for Q, K and V, one for gate
and up, norms that add the residual and write in place, linear modules that return (out, bias)."""

from typing import Any, Optional

import driftprobe
import pytest
import torch
from conftest import PROMPTS
from driftprobe import fused
from driftprobe.huggingface import Tree
from driftprobe.tap import Tap
from torch import Tensor, nn


class Linear(nn.Module):
    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.weight = torch.cat([part.weight.detach() for part in parts])
        biases = [part.bias for part in parts]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return nn.functional.linear(x, self.weight, self.bias), None


class Norm(nn.Module):
    """Adds the residual in place, as these engines' kernels do."""

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Any:
        if residual is None:
            return self.of(x)
        residual.add_(x)
        x.copy_(self.of(residual))
        return x, residual


class Rotary(nn.Module):
    def __init__(self, model: Any, width: int) -> None:
        super().__init__()
        self.table, self.width = model.model.rotary_emb, width

    def forward(self, positions: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        cos, sin = self.table(q, positions[None])
        split = lambda x: x.unflatten(-1, (-1, self.width)).transpose(0, 1)[None]
        rotated = apply_rotary_pos_emb(split(q), split(k), cos, sin)
        for own, made in zip((q, k), rotated):
            own.copy_(made[0].transpose(0, 1).flatten(1))
        return q, k


class Attention(nn.Module):
    def __init__(self, model: Any, of: Any, by_head: bool) -> None:
        super().__init__()
        self.head_dim, self.scaling, self.by_head = of.head_dim, of.scaling, by_head
        self.q_size, self.kv_size = of.q_proj.out_features, of.k_proj.out_features
        self.qkv_proj, self.o_proj = Linear(of.q_proj, of.k_proj, of.v_proj), Linear(of.o_proj)
        self.rotary_emb = Rotary(model, of.head_dim)
        if hasattr(of, "q_norm"):
            self.q_norm, self.k_norm = Norm(of.q_norm), Norm(of.k_norm)

    def normed(self, x: Tensor, norm: Any) -> Tensor:
        heads = x.reshape(-1, self.head_dim) if self.by_head else x.unflatten(-1, (-1, self.head_dim))
        return norm(heads).reshape(x.shape)

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = (part.contiguous() for part in qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1))
        if hasattr(self, "q_norm"):
            q, k = self.normed(q, self.q_norm), self.normed(k, self.k_norm)
        q, k = self.rotary_emb(positions, q, k)
        split = lambda x: x.unflatten(-1, (-1, self.head_dim)).transpose(0, 1)[None]
        out = nn.functional.scaled_dot_product_attention(
            split(q), split(k), split(v), is_causal=True, scale=self.scaling, enable_gqa=True
        )
        return self.o_proj(out[0].transpose(0, 1).flatten(1))[0]


class Mlp(nn.Module):
    def __init__(self, of: Any) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = Linear(of.gate_proj, of.up_proj), Linear(of.down_proj)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x)[0].chunk(2, dim=-1)
        return self.down_proj(nn.functional.silu(gate) * up)[0]


class Layer(nn.Module):
    def __init__(self, model: Any, of: Any, sglang: bool) -> None:
        super().__init__()
        self.self_attn, self.mlp, self.sglang = Attention(model, of.self_attn, sglang), Mlp(of.mlp), sglang
        self.input_layernorm = Norm(of.input_layernorm)
        self.post_attention_layernorm = Norm(of.post_attention_layernorm)

    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Optional[Tensor]) -> tuple[Tensor, Tensor]:
        if residual is None:
            residual = hidden_states.clone()
            hidden_states = self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states), residual


class Inner(nn.Module):
    def __init__(self, of: Any, sglang: bool) -> None:
        super().__init__()
        self.embed_tokens, self.norm = of.model.embed_tokens, Norm(of.model.norm)
        self.layers = nn.ModuleList([Layer(of, layer, sglang) for layer in of.model.layers])

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        hidden, residual = self.embed_tokens(ids), None
        for layer in self.layers:
            hidden, residual = layer(positions, hidden, residual)
        return self.norm(hidden, residual)[0]


class Engine(nn.Module):
    def __init__(self, of: Any, sglang: bool) -> None:
        super().__init__()
        self.model = Inner(of, sglang)


@pytest.mark.parametrize("sglang", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_the_points_hold_what_those_of_transformers_hold(small: Any, family: str, sglang: bool) -> None:
    """The same weights in transformers' tree are the independent source of what each point must hold."""
    model = small.load(family, "f32", "sdpa")
    ids = torch.tensor(PROMPTS["long"])
    rows = range(30, 40)
    tree = Tree.of(model)
    expected = Tap(frozenset(tree.points()), frozenset(range(2)))
    expected.open(rows)
    with tree.tapped(expected):
        model(input_ids=ids[None])
    engine = Engine(model, sglang)
    with fused.tapped(engine, rows) as tap:
        engine.model(ids, torch.arange(len(ids)))
    lacking = {(layer, point) for layer, point in expected.seen if point in ("k_cache", "v_cache", "logits")}
    assert set(expected.seen) - set(tap.seen) == lacking
    assert set(tap.seen) <= set(expected.seen)
    for key, value in tap.seen.items():
        torch.testing.assert_close(value, expected.seen[key], rtol=1e-4, atol=1e-5, msg=str(key))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in engine.modules())


def test_only_what_was_asked_for_is_kept(small: Any) -> None:
    engine = Engine(small.load("llama", "f32", "sdpa"), sglang=False)
    ids = torch.tensor(PROMPTS["short"])
    with torch.no_grad(), fused.tapped(engine, range(4, 5), layers=[1]) as tap:
        engine.model(ids, torch.arange(5))
    assert {layer for layer, _ in tap.seen} == {-1, 1}
    assert all(len(value) == 1 for value in tap.seen.values())


def test_a_tree_of_another_kind_is_refused(small: Any) -> None:
    with pytest.raises(driftprobe.Error, match="has no self_attn.qkv_proj\nhint: "):
        fused.Tree.of(small.load("llama"))
    with pytest.raises(driftprobe.Error, match="no model.layers"):
        fused.Tree.of(nn.Linear(2, 2))
