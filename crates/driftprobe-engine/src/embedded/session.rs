//! One sequence: its caches, and the two ways of feeding it tokens.

use super::bytes::{bytes_of, tensor_of};
use super::cache::LayerCache;
use super::interference::{Interference, Matrix, Norm};
use super::layer::{Forward, Pass};
use super::ops::{RopeFrequencies, store};
use super::weights::EngineWeights;
use crate::error::EngineError;
use crate::settings::{Settings, Storage};
use crate::tap::Tap;
use crate::{KvRows, Session};
use candle_core::Tensor;
use driftprobe_model::Config;
use driftprobe_trace::{Phase, Point};
use std::ops::Range;

pub struct EmbeddedSession<'m> {
    config: &'m Config,
    settings: &'m Settings,
    weights: &'m EngineWeights,
    rope: RopeFrequencies,
    caches: Vec<LayerCache>,
    /// What stands in for the stages; see [`Interference`].
    pub interference: &'m dyn Interference,
}

impl<'m> EmbeddedSession<'m> {
    pub fn new(
        (config, settings): (&'m Config, &'m Settings),
        weights: &'m EngineWeights,
        interference: &'m dyn Interference,
    ) -> Result<Self, EngineError> {
        let cache = || {
            let dtype = settings.kv_cache.candle();
            LayerCache::new(config.num_key_value_heads, config.head_dim, dtype, &settings.device)
        };
        let caches = (0..config.num_hidden_layers).map(|_| cache()).collect::<Result<_, _>>()?;
        Ok(EmbeddedSession { config, settings, weights, rope: RopeFrequencies::new(config), caches, interference })
    }

    /// Feeds tokens through all layers and returns the logits of some of them.
    fn feed(
        &mut self,
        tokens: &[u32],
        phase: Phase,
        logits: Range<usize>,
        tap: &mut Tap<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let first = self.len();
        let pass = Pass { phase, first, tokens: tokens.len() };
        let rope = self.rope.table(first, tokens.len(), &self.settings.device)?;
        let (at, stages) = (pass.at(None), self.interference);
        let mut forward =
            Forward { config: self.config, settings: self.settings, rope, pass, interference: stages, tap };
        let mut x = self.embed(tokens, pass)?;
        forward.show(Point::EmbedOut, 0, &x)?;
        for (l, (weights, cache)) in self.weights.layers.iter().zip(&mut self.caches).enumerate() {
            forward.tap.enter(l, tokens.len())?;
            x = forward.layer(l, weights, cache, x)?;
        }
        forward.show(Point::FinalNormIn, 0, &x)?;
        let rows = pass.overlap(&logits);
        // Only rows whose logits or last norm are wanted go further; the norm is row by row.
        let shown = forward.tap.positions(Point::FinalNormOut, 0).map_or(0..0, |p| pass.overlap(&p));
        let kept = match (rows.is_empty(), shown.is_empty()) {
            (true, _) => shown,
            (false, true) => rows.clone(),
            (false, false) => rows.start.min(shown.start)..rows.end.max(shown.end),
        };
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let x = x.narrow(0, kept.start, kept.len())?;
        let normed = stages.norm(at, Norm::Final, &x, (&self.weights.norm, self.config.rms_norm_eps))?;
        let normed = store(normed, self.settings.storage)?;
        forward.show_from(Point::FinalNormOut, kept.start, &normed)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = normed.narrow(0, rows.start - kept.start, rows.len())?;
        let out = stages.linear(at, Matrix::LmHead, &self.weights.lm_head, &wanted.contiguous()?)?;
        let out = stages.logits(at, out)?;
        let out = super::ops::softcap(out, stages.final_softcap(at, self.config.final_softcap))?;
        forward.show_logits(rows.start, &out)?;
        Ok(out.flatten_all()?.to_vec1::<f32>()?)
    }

    fn embed(&self, tokens: &[u32], pass: Pass) -> Result<Tensor, EngineError> {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let mut values = vec![0.0; tokens.len() * hidden];
        for (token, row) in tokens.iter().zip(values.chunks_exact_mut(hidden)) {
            if *token as usize >= vocab {
                let what = format!("token {token} is not in the vocabulary of {vocab}");
                return Err(EngineError::request(what, "tokenise the prompt with the model's own tokenizer"));
            }
            let id = self.interference.embed_row(pass.at(None), *token) as usize;
            self.weights.embed.dequantise_rows(id..id + 1, row);
        }
        let embedded = Tensor::from_vec(values, (tokens.len(), hidden), &self.settings.device)?;
        let scaled = match self.interference.embed_scale(pass.at(None), self.config.embed_scale) {
            None => embedded,
            // Engines hold the factor itself in the storage type.
            Some(scale) => (embedded * rounded(scale, self.settings.residual()))?,
        };
        store(scaled, self.settings.residual())
    }
}

fn rounded(x: f64, storage: Storage) -> f64 {
    match storage {
        Storage::F32 => f64::from(x as f32),
        Storage::F16 => half::f16::from_f64(x).to_f64(),
        Storage::Bf16 => half::bf16::from_f64(x).to_f64(),
    }
}

impl Session for EmbeddedSession<'_> {
    fn len(&self) -> usize {
        self.caches.first().map_or(0, LayerCache::len)
    }

    fn prefill(&mut self, tokens: &[u32], logits: Range<usize>, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError> {
        let end = self.len() + tokens.len();
        if logits.end > end || logits.start < self.len() && !logits.is_empty() {
            let what = format!("logits of the positions {logits:?} while {}..{end} are fed", self.len());
            return Err(EngineError::request(what, "ask for positions that this call feeds"));
        }
        let chunk = self.settings.prefill_chunk_tokens.unwrap_or(tokens.len()).max(1);
        let mut all = Vec::new();
        for tokens in tokens.chunks(chunk) {
            all.extend(self.feed(tokens, Phase::Prefill, logits.clone(), tap)?);
        }
        Ok(all)
    }

    fn decode(&mut self, token: u32, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError> {
        let pos = self.len();
        self.feed(&[token], Phase::Decode, pos..pos + 1, tap)
    }

    fn kv(&self, layer: usize, rows: Range<usize>) -> Result<KvRows, EngineError> {
        let cache = self.caches.get(layer).filter(|c| rows.start <= rows.end && rows.end <= c.len());
        let cache = cache.ok_or_else(|| no_such_rows(layer, &rows))?;
        let part = |all: Tensor| -> Result<Tensor, EngineError> { Ok(all.narrow(1, rows.start, rows.len())?) };
        let (k, v) = (part(cache.k(rows.end)?)?, part(cache.v(rows.end)?)?);
        let dtype = self.settings.kv_cache.dtype();
        Ok(KvRows { dtype, shape: k.dims3()?, k: bytes_of(&k, dtype)?, v: bytes_of(&v, dtype)? })
    }

    fn set_kv(&mut self, layer: usize, first: usize, rows: &KvRows) -> Result<(), EngineError> {
        let device = &self.settings.device;
        let k = tensor_of(&rows.k, rows.dtype, rows.shape)?.to_device(device)?;
        let v = tensor_of(&rows.v, rows.dtype, rows.shape)?.to_device(device)?;
        let cache = self.caches.get_mut(layer).ok_or_else(|| no_such_rows(layer, &(first..first + rows.shape.1)))?;
        cache.overwrite(first, &k, &v)
    }
}

fn no_such_rows(layer: usize, rows: &Range<usize>) -> EngineError {
    EngineError::request(format!("layer {layer} has no cache rows {rows:?}"), "ask for rows that have been fed")
}
