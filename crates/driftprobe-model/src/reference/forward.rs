//! A whole model, out of the stages.

use super::attention::{AttentionShape, Cached, head_scores, softmax, weigh};
use super::linear::linear;
use super::norm::{norm_weight, rms_norm, rms_norm_heads};
use super::rope::{RopePrecision, RopeTable, rotate_heads};
use super::{add, embed, gated, softcap};
use crate::{Model, ModelError, Weight, WeightId};

/// Logits `[tokens, vocab]` of a sequence, every operation and table in f64.
///
/// # Errors
/// When the model lacks a tensor that its config asks for, or a token is not in the vocabulary.
pub fn forward(model: &Model, tokens: &[u32]) -> Result<Vec<f64>, ModelError> {
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let pass = Pass { model, tokens: tokens.len() };
    let embedding = pass.weight(WeightId::Embed)?;
    let rows = tokens.iter().map(|t| embed(&embedding, *t, model.config.embed_scale));
    let rows: Vec<Vec<f64>> = rows.collect::<Result<_, _>>().map_err(|e| pass.refuse(e.to_string()))?;
    let mut x = rows.concat();
    for layer in 0..model.config.num_hidden_layers {
        x = pass.layer(layer, x)?;
    }
    let normed = pass.norm(WeightId::Norm, &x)?;
    let head = if model.config.tie_word_embeddings { WeightId::Embed } else { WeightId::LmHead };
    let logits = pass.linear(head, None, &normed)?;
    Ok(match model.config.final_softcap {
        Some(cap) => logits.iter().map(|l| softcap(*l, cap)).collect(),
        None => logits,
    })
}

struct Pass<'a> {
    model: &'a Model,
    tokens: usize,
}

impl Pass<'_> {
    fn refuse(&self, what: String) -> ModelError {
        ModelError::malformed(self.model.weights.path(), what)
    }

    fn weight(&self, id: WeightId) -> Result<Weight, ModelError> {
        self.model.weights.get(&id.name())
    }

    /// x `[tokens, hidden]` through one layer.
    fn layer(&self, l: usize, x: Vec<f64>) -> Result<Vec<f64>, ModelError> {
        use WeightId::*;
        let c = &self.model.config;
        let normed = self.norm(InputNorm(l), &x)?;
        let attended = self.attention(l, &normed)?;
        let mut projected = self.linear(OProj(l), Some(OBias(l)).filter(|_| c.o_bias), &attended)?;
        if c.post_norms {
            projected = self.norm(PostAttentionNorm(l), &projected)?;
        }
        let x = add(&x, &projected);
        let normed = self.norm(if c.post_norms { PreFeedforwardNorm(l) } else { PostAttentionNorm(l) }, &x)?;
        let bias = |id| Some(id).filter(|_| c.mlp_bias);
        let gate = self.linear(Gate(l), bias(GateBias(l)), &normed)?;
        let up = self.linear(Up(l), bias(UpBias(l)), &normed)?;
        let mut mlp = self.linear(Down(l), bias(DownBias(l)), &gated(c.activation, &gate, &up))?;
        if c.post_norms {
            mlp = self.norm(PostFeedforwardNorm(l), &mlp)?;
        }
        Ok(add(&x, &mlp))
    }

    fn attention(&self, l: usize, x: &[f64]) -> Result<Vec<f64>, ModelError> {
        use WeightId::*;
        let c = &self.model.config;
        let shape = AttentionShape::of(c, l);
        let bias = |id| Some(id).filter(|_| c.qkv_bias);
        let mut q = self.linear(QProj(l), bias(QBias(l)), x)?;
        let mut k = self.linear(KProj(l), bias(KBias(l)), x)?;
        let v = self.linear(VProj(l), bias(VBias(l)), x)?;
        if c.qk_norm {
            let norm = |id, x: &[f64]| -> Result<Vec<f64>, ModelError> {
                Ok(rms_norm_heads(x, &norm_weight(&self.weight(id)?, c.norm_weight_plus_one), c.rms_norm_eps))
            };
            (q, k) = (norm(QNorm(l), &q)?, norm(KNorm(l), &k)?);
        }
        let (q, k) = (self.rotated(&q), self.rotated(&k));
        let (k, v) = (self.by_head(&k), self.by_head(&v));
        let cached = |values| Cached { values, rows: self.tokens, first_pos: 0 };
        let mut out = Vec::with_capacity(q.len());
        for (pos, q) in q.chunks_exact(shape.heads * shape.head_dim).enumerate() {
            for head in 0..shape.heads {
                let scores = head_scores(&shape, q, &cached(&k), (head, pos)).scores;
                out.extend(weigh(&shape, &softmax(&scores), &cached(&v), head));
            }
        }
        Ok(out)
    }

    /// x `[tokens, heads, head_dim]`, rotated.
    fn rotated(&self, x: &[f64]) -> Vec<f64> {
        let c = &self.model.config;
        let row = |(pos, row): (usize, &[f64])| {
            rotate_heads(row, c.rope.layout, &RopeTable::new(c, pos as u64, RopePrecision::F64))
        };
        x.chunks(x.len() / self.tokens.max(1)).enumerate().flat_map(row).collect()
    }

    /// `[tokens, kv_heads, head_dim]` to `[kv_heads, tokens, head_dim]`.
    fn by_head(&self, x: &[f64]) -> Vec<f64> {
        let (heads, width) = (self.model.config.num_key_value_heads, self.model.config.head_dim);
        let rows = |head| x.chunks_exact(width).skip(head).step_by(heads);
        (0..heads).flat_map(rows).flatten().copied().collect()
    }

    /// `[tokens, hidden]`, each row normed.
    fn norm(&self, id: WeightId, x: &[f64]) -> Result<Vec<f64>, ModelError> {
        let c = &self.model.config;
        let weight = norm_weight(&self.weight(id)?, c.norm_weight_plus_one);
        Ok(x.chunks(weight.len()).flat_map(|row| rms_norm(row, &weight, c.rms_norm_eps)).collect())
    }

    /// `[tokens, inputs]` to `[tokens, outputs]`.
    fn linear(&self, id: WeightId, bias: Option<WeightId>, x: &[f64]) -> Result<Vec<f64>, ModelError> {
        let weight = self.weight(id)?;
        let y = linear(&weight, 0..weight.rows(), x).map_err(|e| self.refuse(e.to_string()))?.sums;
        let Some(bias) = bias else { return Ok(y) };
        let bias: Vec<f64> = self.weight(bias)?.to_f32().iter().map(|b| f64::from(*b)).collect();
        Ok(y.chunks(bias.len()).flat_map(|row| add(row, &bias)).collect())
    }
}
