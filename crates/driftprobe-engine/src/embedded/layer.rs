//! One decoder layer, stage after stage, each shown to the tap as it is stored.

use super::attention::{Inputs, Kernel, Mask, Shape};
use super::bytes::bytes_of;
use super::cache::LayerCache;
use super::interference::{At, Interference, Matrix, Norm, Residual, Turned};
use super::linear::Linear;
use super::ops::{RopeTable, store};
use super::weights::LayerWeights;
use crate::error::EngineError;
use crate::settings::{Settings, Storage};
use crate::tap::{Tap, TappedRow};
use candle_core::{DType, Tensor};
use driftprobe_model::Config;
use driftprobe_trace::{Phase, Point};
use std::ops::Range;

/// Scores that attention works on at once: so many tokens of a pass go together that they stay below it (16 MiB of f32).
const SCORES_MAX: usize = 1 << 22;
/// Scores that it may have to show at once (256 MiB).
const SHOWN_MAX: usize = 1 << 26;

/// One forward pass over consecutive tokens.
#[derive(Clone, Copy)]
pub struct Pass {
    pub phase: Phase,
    /// Position of the first token.
    pub first: usize,
    pub tokens: usize,
}

impl Pass {
    /// Where a layer's stages stand in this pass; those outside the layers have none.
    pub fn at(&self, layer: Option<usize>) -> At {
        At { phase: self.phase, layer, first: self.first, tokens: self.tokens }
    }

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
    pub interference: &'a dyn Interference,
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
        let at = self.pass.at(Some(l));
        self.show(Point::ResidualPreAttn, l, &x)?;
        let normed = self.norm((Point::AttnNormOut, Norm::Attn), l, &x, &w.input_norm)?;
        let attended = self.attention(l, w, cache, &normed)?;
        let mut projected = self.linear((Point::AttnProjOut, Matrix::O), l, &w.o, &attended)?;
        if let Some(norm) = &w.attn_post_norm {
            projected = self.norm((Point::AttnPostNormOut, Norm::AttnPost), l, &projected, norm)?;
        }
        let x = store(self.interference.residual(at, Residual::Attn, x, projected)?, self.settings.residual())?;
        self.show(Point::ResidualPostAttn, l, &x)?;
        let normed = self.norm((Point::FfnNormOut, Norm::Ffn), l, &x, &w.ffn_norm)?;
        let mut mlp = self.mlp(l, w, &normed)?;
        if let Some(norm) = &w.mlp_post_norm {
            mlp = self.norm((Point::MlpPostNormOut, Norm::MlpPost), l, &mlp, norm)?;
        }
        let x = store(self.interference.residual(at, Residual::Mlp, x, mlp)?, self.settings.residual())?;
        self.show(Point::ResidualPostMlp, l, &x)?;
        Ok(x)
    }

    fn mlp(&mut self, l: usize, w: &LayerWeights, x: &Tensor) -> Result<Tensor, EngineError> {
        let gate = self.linear((Point::MlpGate, Matrix::Gate), l, &w.gate, x)?;
        let up = self.linear((Point::MlpUp, Matrix::Up), l, &w.up, x)?;
        let act = self.interference.gated(self.pass.at(Some(l)), &gate, &up, self.config.activation)?;
        let act = self.stored(act)?;
        self.show(Point::MlpAct, l, &act)?;
        self.linear((Point::MlpOut, Matrix::Down), l, &w.down, &act)
    }

    fn attention(
        &mut self,
        l: usize,
        w: &LayerWeights,
        cache: &mut LayerCache,
        x: &Tensor,
    ) -> Result<Tensor, EngineError> {
        let (heads, kv_heads) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        let (at, stages) = (self.pass.at(Some(l)), self.interference);
        let mut q = self.heads(self.stored(stages.linear(at, Matrix::Q, &w.q, x)?)?, heads)?;
        let mut k = self.heads(self.stored(stages.linear(at, Matrix::K, &w.k, x)?)?, kv_heads)?;
        if let Some((q_norm, k_norm)) = &w.qk_norms {
            self.show(Point::QProjOut, l, &q)?;
            self.show(Point::KProjOut, l, &k)?;
            let eps = self.config.rms_norm_eps;
            q = self.stored(stages.norm(at, Norm::Q, &q, (q_norm, eps))?)?;
            k = self.stored(stages.norm(at, Norm::K, &k, (k_norm, eps))?)?;
        }
        self.show(Point::QPreRope, l, &q)?;
        self.show(Point::KPreRope, l, &k)?;
        let v = self.heads(self.stored(stages.linear(at, Matrix::V, &w.v, x)?)?, kv_heads)?;
        self.show(Point::VProj, l, &v)?;
        let q = self.stored(stages.rope(at, Turned::Q, &self.rope, &q)?)?;
        self.show(Point::QPostRope, l, &q)?;
        let k = self.stored(stages.rope(at, Turned::K, &self.rope, &k)?)?;
        self.show(Point::KPostRope, l, &k)?;
        let (k, v) = stages.written(at, k, v)?;
        cache.append(&k, &v)?;
        let (k, v) = stages.read(at, cache.k(cache.len())?, cache.v(cache.len())?)?;
        self.show_cache(Point::KCache, l, &k)?;
        self.show_cache(Point::VCache, l, &v)?;
        // Both phases read the cache, so both see its rounding.
        self.attend(l, &q, (&k.to_dtype(DType::F32)?, &v.to_dtype(DType::F32)?))
    }

    fn attend(&mut self, l: usize, q: &Tensor, (k, v): (&Tensor, &Tensor)) -> Result<Tensor, EngineError> {
        let shape = Shape {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            scale: self.config.attention_scale,
            softcap: self.config.attn_softcap,
            mask: Mask::causal(self.config.sliding_windows.get(l).copied().flatten()),
            first_pos: self.pass.first,
        };
        let show_scores = self.tap.positions(Point::AttnScores, l).is_some();
        let kernel = match self.pass.phase {
            Phase::Prefill => Kernel::Prefill(self.settings.prefill_attention),
            Phase::Decode => Kernel::Decode(self.settings.decode_attention),
        };
        let (at, tokens) = (self.pass.at(Some(l)), q.dim(0)?);
        // The same whether the tap is open or closed: a kernel's order may depend on how many rows it has.
        let keys = k.dim(1)?;
        let tile = |max: usize, keys: usize| (max / (shape.heads * keys).max(1)).clamp(1, tokens.max(1));
        let tile = tile(SCORES_MAX, kernel.keys_held(keys)).min(tile(SHOWN_MAX, keys));
        let mut outs = Vec::new();
        for first in (0..tokens).step_by(tile) {
            let q = q.narrow(0, first, tile.min(tokens - first))?;
            let inputs = Inputs { q: &q, k, v, show_scores };
            let shape = Shape { first_pos: self.pass.first + first, ..shape };
            let attended = self.interference.attend(at, kernel, &inputs, &shape)?;
            for (point, rows) in [(Point::AttnScores, &attended.scores), (Point::AttnProbs, &attended.probs)] {
                if let Some(rows) = rows {
                    self.show_keys((point, l), first, rows)?;
                }
            }
            outs.push(attended.out);
        }
        let out = self.stored(Tensor::cat(&outs, 0)?)?;
        self.show(Point::AttnOut, l, &out)?;
        Ok(out)
    }

    fn heads(&self, x: Tensor, heads: usize) -> Result<Tensor, EngineError> {
        Ok(x.reshape((self.pass.tokens, heads, self.config.head_dim))?)
    }

    fn stored(&self, x: Tensor) -> Result<Tensor, EngineError> {
        store(x, self.settings.storage)
    }

    /// Type in which a stage's result is stored.
    fn storage_of(&self, point: Point) -> Storage {
        use Point::*;
        match point {
            EmbedOut | ResidualPreAttn | ResidualPostAttn | ResidualPostMlp | FinalNormIn => self.settings.residual(),
            _ => self.settings.storage,
        }
    }

    fn norm(
        &mut self,
        (point, norm): (Point, Norm),
        l: usize,
        x: &Tensor,
        weight: &Tensor,
    ) -> Result<Tensor, EngineError> {
        let spec = (weight, self.config.rms_norm_eps);
        let normed = self.stored(self.interference.norm(self.pass.at(Some(l)), norm, x, spec)?)?;
        self.show(point, l, &normed)?;
        Ok(normed)
    }

    fn linear(
        &mut self,
        (point, matrix): (Point, Matrix),
        l: usize,
        linear: &Linear,
        x: &Tensor,
    ) -> Result<Tensor, EngineError> {
        let y = self.stored(self.interference.linear(self.pass.at(Some(l)), matrix, linear, x)?)?;
        self.show(point, l, &y)?;
        Ok(y)
    }

    /// Shows the wanted rows of `[tokens, …]`.
    pub fn show(&mut self, point: Point, l: usize, x: &Tensor) -> Result<(), EngineError> {
        let Some(positions) = self.tap.positions(point, l) else { return Ok(()) };
        for row in self.pass.overlap(&positions) {
            self.put(point, l, row, (&x.get(row)?, self.storage_of(point)))?;
        }
        Ok(())
    }

    /// As [`Forward::show`], for an unlayered point whose first row is row `first` of the pass.
    pub fn show_from(&mut self, point: Point, first: usize, x: &Tensor) -> Result<(), EngineError> {
        let Some(positions) = self.tap.positions(point, 0) else { return Ok(()) };
        for row in self.pass.overlap(&positions) {
            if (first..first + x.dim(0)?).contains(&row) {
                self.put(point, 0, row, (&x.get(row - first)?, self.storage_of(point)))?;
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

    /// Scores or probabilities `[heads, tokens, keys]` of the pass's tokens from `first` on, of each wanted row the columns up
    /// to its own position.
    fn show_keys(&mut self, (point, l): (Point, usize), first: usize, x: &Tensor) -> Result<(), EngineError> {
        let Some(positions) = self.tap.positions(point, l) else { return Ok(()) };
        let held = first..first + x.dim(1)?;
        for row in self.pass.overlap(&positions).filter(|row| held.contains(row)) {
            let own = x.narrow(1, row - first, 1)?.squeeze(1)?.narrow(1, 0, self.pass.first + row + 1)?;
            self.put(point, l, row, (&own, Storage::F32))?;
        }
        Ok(())
    }

    /// Of each wanted row the rows of K or V `[kv_heads, rows, head_dim]` up to its own position.
    fn show_cache(&mut self, point: Point, l: usize, read: &Tensor) -> Result<(), EngineError> {
        let Some(positions) = self.tap.positions(point, l) else { return Ok(()) };
        for row in self.pass.overlap(&positions) {
            let rows = read.narrow(1, 0, self.pass.first + row + 1)?;
            self.put(point, l, row, (&rows, self.settings.kv_cache))?;
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
