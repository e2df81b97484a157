"""The arithmetic of transformers on a CPU, in a manifest's words.

Read in transformers' `models/llama/modeling_llama.py` (mistral, qwen2 and qwen3 have the same functions),
`models/gemma2/modeling_gemma2.py`, and torch's `aten/src/ATen/native/cpu/FlashAttentionKernel.cpp`:

- linear: products and sums in float32, one rounding.
- norm: float32 up to x·rsqrt(…), which is rounded; then times the weight, rounded. gemma2: all in float32, one rounding.
- rope: the table is rounded to the model's dtype; q·cos and rotate_half(q)·sin are rounded, then their sum.
- eager attention: scores are rounded, and again after scaling (gemma2: three times more for the soft cap); softmax in float32,
  its result rounded; values weighted with the rounded probabilities.
- sdpa (torch's fused CPU kernel): scores, scaling and softmax in float32; the exponentials are rounded to the model's dtype
  where they multiply the values, their sum is not.
- MLP: act(gate) is rounded, then times up, rounded. gemma2: the scaled embedding is rounded, its capped logits thrice more.
"""

from __future__ import annotations

from typing import Any

FIELDS = ("weights", "activations", "accumulate", "residual", "kv_cache", "softmax", "scores", "probs", "rope_table")
TWICE = ("q_post_rope", "k_post_rope", "mlp_act")
NORMS = ("attn_norm_out", "ffn_norm_out", "final_norm_out")
HEAD_NORMS = ("q_pre_rope", "k_pre_rope")


def of(family: str, dtype: str, attention: str) -> dict[str, Any]:
    """The contract of a family (`config.model_type`) in a dtype (`f32`, `bf16` …) with `eager` or `sdpa` attention."""
    flat: dict[str, Any] = dict.fromkeys(FIELDS, dtype)
    flat.update(accumulate="f32", softmax="f32")
    if attention == "sdpa":
        flat["scores"] = "f32"
    if dtype == "f32":
        return flat
    roundings = dict.fromkeys(TWICE, 2)
    if attention == "eager":
        roundings["attn_scores"] = 5 if family == "gemma2" else 2
    if family == "gemma2":
        roundings.update(logits=4, embed_out=2)
    else:
        roundings.update(dict.fromkeys(NORMS, 2))
    if family == "qwen3":
        roundings.update(dict.fromkeys(HEAD_NORMS, 2))
    flat["by_point"] = {point: {"rounding": [dtype] * count} for point, count in sorted(roundings.items())}
    return flat
