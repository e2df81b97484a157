//! One decoder layer, stage after stage, each shown to the tap as it is stored.

use super::attention::{self, Inputs, Shape};
use super::bytes::bytes_of;
use super::cache::LayerCache;
use super::linear::Linear;
use super::ops::{RopeTable, gated, rms_norm, store};
use super::weights::LayerWeights;
use crate::error::EngineError;
use crate::settings::{Settings, Storage};
use crate::tap::{Tap, TappedRow};
use candle_core::{DType, Tensor};
use driftprobe_model::Config;
use driftprobe_trace::{Phase, Point};
use std::ops::Range;

/// One forward pass over consecutive tokens.
#[derive(Clone, Copy)]
pub struct Pass {
    pub phase: Phase,
    /// Position of the first token.
    pub first: usize,
    pub tokens: usize,
}

impl Pass {
    /// Which rows of this pass lie at these positions.
    pub fn overlap(&self, positions: &Range<usize>) -> Range<usize> {
        let start = positions.start.max(self.first) - self.first;
        let end = positions.end.min(self.first + self.tokens).saturating_sub(self.first);
        start.min(end)..end
    }
}

/// What all layers of a pass share.
pub struct Forward<'a, 't> {
    pub config: &'a Config,
    pub settings: &'a Settings,
    pub rope: RopeTable,
    pub pass: Pass,
    pub tap: &'a mut Tap<'t>,
}

impl Forward<'_, '_> {
    /// x `[tokens, hidden]` through layer `l`.
    pub fn layer(
        &mut self,
        l: usize,
        w: &LayerWeights,
        cache: &mut LayerCache,
        x: Tensor,
    ) -> Result<Tensor, EngineError> {
        self.show(Point::ResidualPreAttn, l, &x)?;
        let normed = self.norm(Point::AttnNormOut, l, &x, &w.input_norm)?;
        let attended = self.attention(l, w, cache, &normed)?;
        let mut projected = self.linear(Point::AttnProjOut, l, &w.o, &attended)?;
        if let Some(norm) = &w.attn_post_norm {
            projected = self.norm(Point::AttnPostNormOut, l, &projected, norm)?;
        }
        let x = self.stored((x + projected)?)?;
        self.show(Point::ResidualPostAttn, l, &x)?;
        let normed = self.norm(Point::FfnNormOut, l, &x, &w.ffn_norm)?;
        let mut mlp = self.mlp(l, w, &normed)?;
        if let Some(norm) = &w.mlp_post_norm {
            mlp = self.norm(Point::MlpPostNormOut, l, &mlp, norm)?;
        }
        let x = self.stored((x + mlp)?)?;
        self.show(Point::ResidualPostMlp, l, &x)?;
        Ok(x)
    }

    fn mlp(&mut self, l: usize, w: &LayerWeights, x: &Tensor) -> Result<Tensor, EngineError> {
        let gate = self.linear(Point::MlpGate, l, &w.gate, x)?;
        let up = self.linear(Point::MlpUp, l, &w.up, x)?;
        let act = self.stored(gated(&gate, &up, self.config.activation)?)?;
        self.show(Point::MlpAct, l, &act)?;
        self.linear(Point::MlpOut, l, &w.down, &act)
    }

    fn attention(
        &mut self,
        l: usize,
        w: &LayerWeights,
        cache: &mut LayerCache,
        x: &Tensor,
    ) -> Result<Tensor, EngineError> {
        let (heads, kv_heads) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        let phase = self.pass.phase;
        let mut q = self.heads(self.stored(w.q.forward(x, phase)?)?, heads)?;
        let mut k = self.heads(self.stored(w.k.forward(x, phase)?)?, kv_heads)?;
        if let Some((q_norm, k_norm)) = &w.qk_norms {
            self.show(Point::QProjOut, l, &q)?;
            self.show(Point::KProjOut, l, &k)?;
            q = self.stored(rms_norm(&q, q_norm, self.config.rms_norm_eps)?)?;
            k = self.stored(rms_norm(&k, k_norm, self.config.rms_norm_eps)?)?;
        }
        self.show(Point::QPreRope, l, &q)?;
        self.show(Point::KPreRope, l, &k)?;
        let v = self.heads(self.stored(w.v.forward(x, phase)?)?, kv_heads)?;
        self.show(Point::VProj, l, &v)?;
        let q = self.stored(self.rope.apply(&q)?)?;
        self.show(Point::QPostRope, l, &q)?;
        let k = self.stored(self.rope.apply(&k)?)?;
        self.show(Point::KPostRope, l, &k)?;
        cache.append(&k, &v)?;
        self.show_cache(l, cache)?;
        self.attend(l, cache, &q)
    }

    fn attend(&mut self, l: usize, cache: &LayerCache, q: &Tensor) -> Result<Tensor, EngineError> {
        let shape = Shape {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            scale: self.config.attention_scale,
            softcap: self.config.attn_softcap,
            window: self.config.sliding_windows.get(l).copied().flatten(),
            first_pos: self.pass.first,
        };
        // Both phases read the cache, so both see its rounding.
        let (k, v) = (cache.k(cache.len())?.to_dtype(DType::F32)?, cache.v(cache.len())?.to_dtype(DType::F32)?);
        let show_scores = self.tap.positions(Point::AttnScores, l).is_some();
        let inputs = Inputs { q, k: &k, v: &v, show_scores };
        let attended = match self.pass.phase {
            Phase::Prefill => attention::prefill(self.settings.prefill_attention, &inputs, &shape)?,
            Phase::Decode => attention::decode(self.settings.decode_attention, &inputs, &shape)?,
        };
        for (point, rows) in [(Point::AttnScores, &attended.scores), (Point::AttnProbs, &attended.probs)] {
            if let Some(rows) = rows {
                self.show_keys(point, l, rows)?;
            }
        }
        let out = self.stored(attended.out)?;
        self.show(Point::AttnOut, l, &out)?;
        Ok(out)
    }

    fn heads(&self, x: Tensor, heads: usize) -> Result<Tensor, EngineError> {
        Ok(x.reshape((self.pass.tokens, heads, self.config.head_dim))?)
    }

    fn stored(&self, x: Tensor) -> Result<Tensor, EngineError> {
        store(x, self.settings.storage)
    }

    fn norm(&mut self, point: Point, l: usize, x: &Tensor, weight: &Tensor) -> Result<Tensor, EngineError> {
        let normed = self.stored(rms_norm(x, weight, self.config.rms_norm_eps)?)?;
        self.show(point, l, &normed)?;
        Ok(normed)
    }

    fn linear(&mut self, point: Point, l: usize, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        let y = self.stored(linear.forward(x, self.pass.phase)?)?;
        self.show(point, l, &y)?;
        Ok(y)
    }

    /// Shows the wanted rows of `[tokens, …]`.
    pub fn show(&mut self, point: Point, l: usize, x: &Tensor) -> Result<(), EngineError> {
        let Some(positions) = self.tap.positions(point, l) else { return Ok(()) };
        for row in self.pass.overlap(&positions) {
            self.put(point, l, row, (&x.get(row)?, self.settings.storage))?;
        }
        Ok(())
    }

    /// As [`Forward::show`], for an unlayered point whose first row is row `first` of the pass.
    pub fn show_from(&mut self, point: Point, first: usize, x: &Tensor) -> Result<(), EngineError> {
        let Some(positions) = self.tap.positions(point, 0) else { return Ok(()) };
        for row in self.pass.overlap(&positions) {
            if (first..first + x.dim(0)?).contains(&row) {
                self.put(point, 0, row, (&x.get(row - first)?, self.settings.storage))?;
            }
        }
        Ok(())
    }

    /// Logits stay in f32 in every contract.
    pub fn show_logits(&mut self, first: usize, x: &Tensor) -> Result<(), EngineError> {
        let Some(positions) = self.tap.positions(Point::Logits, 0) else { return Ok(()) };
        for row in self.pass.overlap(&positions) {
            if (first..first + x.dim(0)?).contains(&row) {
                self.put(Point::Logits, 0, row, (&x.get(row - first)?, Storage::F32))?;
            }
        }
        Ok(())
    }

    /// Scores or probabilities `[heads, tokens, keys]`, of each wanted row the columns up to its own position.
    fn show_keys(&mut self, point: Point, l: usize, x: &Tensor) -> Result<(), EngineError> {
        let Some(positions) = self.tap.positions(point, l) else { return Ok(()) };
        for row in self.pass.overlap(&positions) {
            let own = x.narrow(1, row, 1)?.squeeze(1)?.narrow(1, 0, self.pass.first + row + 1)?;
            self.put(point, l, row, (&own, Storage::F32))?;
        }
        Ok(())
    }

    /// Of each wanted row the cache rows up to its own position.
    fn show_cache(&mut self, l: usize, cache: &LayerCache) -> Result<(), EngineError> {
        for point in [Point::KCache, Point::VCache] {
            let Some(positions) = self.tap.positions(point, l) else { continue };
            for row in self.pass.overlap(&positions) {
                let rows = self.pass.first + row + 1;
                let held = if point == Point::KCache { cache.k(rows)? } else { cache.v(rows)? };
                self.put(point, l, row, (&held, self.settings.kv_cache))?;
            }
        }
        Ok(())
    }

    fn put(&mut self, point: Point, l: usize, row: usize, (x, storage): (&Tensor, Storage)) -> Result<(), EngineError> {
        let layer = if point.layered() { i32::try_from(l).unwrap_or(i32::MAX) } else { -1 };
        self.tap.put(TappedRow {
            point,
            layer,
            pos: self.pass.first + row,
            seq_len: self.pass.tokens,
            dtype: storage.dtype(),
            shape: x.dims().iter().map(|d| *d as u64).collect(),
            bytes: bytes_of(x, storage.dtype())?,
        })
    }
}
