//! Which tensors a family has, under which names and in which shapes: checked before any work is done.

use crate::weights::Weights;
use crate::{Config, ModelError};
use std::collections::BTreeSet;

pub(crate) const EMBED: &str = "model.embed_tokens.weight";
pub(crate) const NORM: &str = "model.norm.weight";
pub(crate) const LM_HEAD: &str = "lm_head.weight";

/// A tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it: they are the modules of Hugging Face's decoder layers")]
pub enum WeightId {
    Embed,
    Norm,
    LmHead,
    InputNorm(usize),
    QProj(usize),
    KProj(usize),
    VProj(usize),
    QBias(usize),
    KBias(usize),
    VBias(usize),
    QNorm(usize),
    KNorm(usize),
    OProj(usize),
    OBias(usize),
    PostAttentionNorm(usize),
    PreFeedforwardNorm(usize),
    Gate(usize),
    Up(usize),
    Down(usize),
    GateBias(usize),
    UpBias(usize),
    DownBias(usize),
    PostFeedforwardNorm(usize),
}

impl WeightId {
    /// Hugging Face name.
    pub fn name(self) -> String {
        use WeightId::*;
        let (layer, module) = match self {
            Embed => return EMBED.to_owned(),
            Norm => return NORM.to_owned(),
            LmHead => return LM_HEAD.to_owned(),
            InputNorm(l) => (l, "input_layernorm.weight"),
            QProj(l) => (l, "self_attn.q_proj.weight"),
            KProj(l) => (l, "self_attn.k_proj.weight"),
            VProj(l) => (l, "self_attn.v_proj.weight"),
            QBias(l) => (l, "self_attn.q_proj.bias"),
            KBias(l) => (l, "self_attn.k_proj.bias"),
            VBias(l) => (l, "self_attn.v_proj.bias"),
            QNorm(l) => (l, "self_attn.q_norm.weight"),
            KNorm(l) => (l, "self_attn.k_norm.weight"),
            OProj(l) => (l, "self_attn.o_proj.weight"),
            OBias(l) => (l, "self_attn.o_proj.bias"),
            PostAttentionNorm(l) => (l, "post_attention_layernorm.weight"),
            PreFeedforwardNorm(l) => (l, "pre_feedforward_layernorm.weight"),
            Gate(l) => (l, "mlp.gate_proj.weight"),
            Up(l) => (l, "mlp.up_proj.weight"),
            Down(l) => (l, "mlp.down_proj.weight"),
            GateBias(l) => (l, "mlp.gate_proj.bias"),
            UpBias(l) => (l, "mlp.up_proj.bias"),
            DownBias(l) => (l, "mlp.down_proj.bias"),
            PostFeedforwardNorm(l) => (l, "post_feedforward_layernorm.weight"),
        };
        format!("model.layers.{layer}.{module}")
    }
}

/// Every tensor that this config needs, with its shape.
pub fn expected_weights(c: &Config) -> Vec<(WeightId, Vec<usize>)> {
    use WeightId::*;
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let mut all = vec![(Embed, vec![c.vocab_size, hidden]), (Norm, vec![hidden])];
    if !c.tie_word_embeddings {
        all.push((LmHead, vec![c.vocab_size, hidden]));
    }
    for l in 0..c.num_hidden_layers {
        all.extend([
            (InputNorm(l), vec![hidden]),
            (QProj(l), vec![q, hidden]),
            (KProj(l), vec![kv, hidden]),
            (VProj(l), vec![kv, hidden]),
            (OProj(l), vec![hidden, q]),
            (PostAttentionNorm(l), vec![hidden]),
            (Gate(l), vec![inner, hidden]),
            (Up(l), vec![inner, hidden]),
            (Down(l), vec![hidden, inner]),
        ]);
        if c.qkv_bias {
            all.extend([(QBias(l), vec![q]), (KBias(l), vec![kv]), (VBias(l), vec![kv])]);
        }
        if c.o_bias {
            all.push((OBias(l), vec![hidden]));
        }
        if c.mlp_bias {
            all.extend([(GateBias(l), vec![inner]), (UpBias(l), vec![inner]), (DownBias(l), vec![hidden])]);
        }
        if c.qk_norm {
            all.extend([(QNorm(l), vec![c.head_dim]), (KNorm(l), vec![c.head_dim])]);
        }
        if c.post_norms {
            all.extend([(PreFeedforwardNorm(l), vec![hidden]), (PostFeedforwardNorm(l), vec![hidden])]);
        }
    }
    all
}

/// Refuses, by name, a tensor that is missing, misshapen or not understood.
pub(crate) fn check(config: &Config, weights: &Weights) -> Result<(), ModelError> {
    let mut known = BTreeSet::new();
    for (id, shape) in expected_weights(config) {
        let name = id.name();
        let Some((found, dtype)) = weights.describe(&name) else {
            return Err(ModelError::malformed(weights.path(), format!("tensor {name} {shape:?} is missing")));
        };
        if found != shape {
            let what = format!("tensor {name} ({}) has shape {found:?}, expected {shape:?}", dtype.id());
            return Err(ModelError::malformed(weights.path(), what));
        }
        known.insert(name);
    }
    for name in weights.names() {
        // Buffers that older checkpoints carry, and an output matrix that tying makes unused.
        let harmless = name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == LM_HEAD);
        if !known.contains(name) && !harmless {
            let what = format!("tensor {name} is not known in the {} architecture", config.architecture.id());
            let hint = "the model computes something that driftprobe would leave out, so it is refused";
            return Err(ModelError::unsupported(weights.path(), what, hint));
        }
    }
    Ok(())
}
