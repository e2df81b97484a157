//! A plain float64 twin of one layer: every stage computed anew from the inputs that the engine itself showed for it, and
//! set against what it showed as the result. Written from the formulas, with nothing of the engine's.
//!
//! A result may be off by 64·2⁻²⁴ of the sum of the magnitudes that it is made of (f32 accumulation over the fixtures'
//! short rows), and by half a unit of the storage type.

use super::values;
use driftprobe_engine::{Settings, Storage, TappedRow};
use driftprobe_model::{Activation, Config, Model, RopeLayout, WeightId};
use driftprobe_trace::Point;
use half::{bf16, f16};
use std::collections::BTreeMap;

const ROUNDINGS: f64 = 64.0 / (1 << 24) as f64;

/// A value and the sum of the magnitudes that it is made of.
type Exact = (f64, f64);

pub struct Twin<'a> {
    model: &'a Model,
    settings: &'a Settings,
    rows: BTreeMap<(Point, i32, usize), Vec<f64>>,
    /// Largest error found, in units of what is allowed, by point.
    pub worst: BTreeMap<Point, f64>,
}

pub fn round_to(x: f64, storage: Storage) -> f64 {
    match storage {
        Storage::F32 => f64::from(x as f32),
        Storage::F16 => f16::from_f32(x as f32).to_f64(),
        Storage::Bf16 => bf16::from_f32(x as f32).to_f64(),
    }
}

/// Half a unit of the storage type at x; nothing for f32, whose roundings are counted already.
fn half_unit(x: f64, storage: Storage) -> f64 {
    match storage {
        Storage::F32 => 0.0,
        Storage::F16 => x.abs() / 2048.0 + 2f64.powi(-25),
        Storage::Bf16 => x.abs() / 256.0,
    }
}

impl<'a> Twin<'a> {
    pub fn new(model: &'a Model, settings: &'a Settings, rows: &[TappedRow]) -> Twin<'a> {
        let rows = rows.iter().map(|r| ((r.point, r.layer, r.pos), values(r))).collect();
        Twin { model, settings, rows, worst: BTreeMap::new() }
    }

    fn config(&self) -> &'a Config {
        &self.model.config
    }

    pub fn shown(&self, point: Point, l: i32, pos: usize) -> &[f64] {
        self.rows.get(&(point, l, pos)).unwrap_or_else(|| panic!("{point} of layer {l} at {pos} was not shown"))
    }

    /// Changes one shown value by a relative 2⁻¹⁰, which every comparison that it enters must notice.
    pub fn spoil(&mut self, point: Point, l: i32, pos: usize, index: usize) {
        let row = self.rows.get_mut(&(point, l, pos)).expect("a row that was shown");
        row[index] = row[index] * (1.0 + 2f64.powi(-10)) + 1e-4;
    }

    fn compare(&mut self, point: Point, l: i32, pos: usize, exact: &[Exact]) {
        let storage = match point {
            Point::AttnScores | Point::AttnProbs | Point::Logits => Storage::F32,
            _ => self.settings.storage,
        };
        let shown = self.shown(point, l, pos);
        assert_eq!(shown.len(), exact.len(), "{point}");
        let excess = |(found, (value, magnitude)): (&f64, &Exact)| {
            if found == value {
                return 0.0;
            }
            (found - value).abs() / (ROUNDINGS * magnitude + half_unit(*value, storage))
        };
        let worst = shown.iter().zip(exact).map(excess).fold(0.0, |a: f64, e| if e.is_nan() { e } else { a.max(e) });
        let known = self.worst.entry(point).or_default();
        *known = if worst.is_nan() { worst } else { known.max(worst) };
    }

    fn compare_bits(&mut self, point: Point, l: i32, pos: usize, exact: &[f64]) {
        let equal = self.shown(point, l, pos) == exact;
        let known = self.worst.entry(point).or_default();
        *known = known.max(if equal { 0.0 } else { f64::INFINITY });
    }

    fn weight(&self, id: WeightId) -> (usize, Vec<f64>) {
        let weight = self.model.weights.get(&id.name()).unwrap();
        (weight.cols(), weight.to_f32().into_iter().map(f64::from).collect())
    }

    fn linear(&self, id: WeightId, bias: Option<WeightId>, x: &[f64]) -> Vec<Exact> {
        let (cols, weight) = self.weight(id);
        let bias = bias.map(|b| self.weight(b).1);
        let row = |(i, row): (usize, &[f64])| {
            let b = bias.as_ref().map_or(0.0, |b| b[i]);
            let products = || row.iter().zip(x).map(|(w, x)| w * x);
            (products().sum::<f64>() + b, products().map(f64::abs).sum::<f64>() + b.abs())
        };
        weight.chunks(cols).enumerate().map(row).collect()
    }

    /// RMS norm of each `width` values.
    fn norm(&self, id: WeightId, x: &[f64], width: usize) -> Vec<Exact> {
        let one = if self.config().norm_weight_plus_one { 1.0 } else { 0.0 };
        let weight = self.weight(id).1;
        let part = |x: &[f64]| {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / width as f64;
            let factor = 1.0 / (mean + self.config().rms_norm_eps).sqrt();
            x.iter().zip(&weight).map(|(v, w)| v * factor * (w + one)).map(|y| (y, y.abs())).collect::<Vec<_>>()
        };
        x.chunks(width).flat_map(part).collect()
    }

    fn rope(&self, x: &[f64], pos: usize) -> Vec<Exact> {
        let (rope, d) = (&self.config().rope, self.config().head_dim);
        let mut out = vec![(0.0, 0.0); x.len()];
        for (head, x) in x.chunks(d).enumerate() {
            for (i, frequency) in rope.inv_freq(d).into_iter().enumerate() {
                let angle = f64::from(pos as f32 * frequency);
                let (sin, cos) = (angle.sin() * rope.attention_factor(), angle.cos() * rope.attention_factor());
                let (a, b) = match rope.layout {
                    RopeLayout::Half => (i, i + d / 2),
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                };
                let magnitude = (x[a].abs() + x[b].abs()) * rope.attention_factor();
                out[head * d + a] = (x[a] * cos - x[b] * sin, magnitude);
                out[head * d + b] = (x[b] * cos + x[a] * sin, magnitude);
            }
        }
        out
    }

    pub fn layer(&mut self, l: usize, pos: usize) {
        use Point::*;
        let (c, at) = (self.config(), l as i32);
        let get = |twin: &Self, point| twin.shown(point, at, pos).to_vec();
        let entry = if l == 0 { (EmbedOut, -1) } else { (ResidualPostMlp, at - 1) };
        let before = self.shown(entry.0, entry.1, pos).to_vec();
        self.compare_bits(ResidualPreAttn, at, pos, &before);
        let normed = self.norm(WeightId::InputNorm(l), &before, c.hidden_size);
        self.compare(AttnNormOut, at, pos, &normed);
        self.projections(l, pos);
        self.attention(l, pos);
        let projected = self.linear(WeightId::OProj(l), None, &get(self, AttnOut));
        self.compare(AttnProjOut, at, pos, &projected);
        let added = if c.post_norms {
            let normed = self.norm(WeightId::PostAttentionNorm(l), &get(self, AttnProjOut), c.hidden_size);
            self.compare(AttnPostNormOut, at, pos, &normed);
            AttnPostNormOut
        } else {
            AttnProjOut
        };
        self.sum(ResidualPostAttn, (at, pos), &before, &get(self, added));
        self.mlp(l, pos);
    }

    fn projections(&mut self, l: usize, pos: usize) {
        use Point::*;
        let (c, at) = (self.config(), l as i32);
        let x = self.shown(AttnNormOut, at, pos).to_vec();
        let bias = |id| Some(id).filter(|_| c.qkv_bias);
        for (weight, bias, norm, [projected, before, after]) in [
            (WeightId::QProj(l), bias(WeightId::QBias(l)), WeightId::QNorm(l), [QProjOut, QPreRope, QPostRope]),
            (WeightId::KProj(l), bias(WeightId::KBias(l)), WeightId::KNorm(l), [KProjOut, KPreRope, KPostRope]),
        ] {
            let product = self.linear(weight, bias, &x);
            if c.qk_norm {
                self.compare(projected, at, pos, &product);
                let normed = self.norm(norm, self.shown(projected, at, pos), c.head_dim);
                self.compare(before, at, pos, &normed);
            } else {
                self.compare(before, at, pos, &product);
            }
            let rotated = self.rope(self.shown(before, at, pos), pos);
            self.compare(after, at, pos, &rotated);
        }
        let v = self.linear(WeightId::VProj(l), bias(WeightId::VBias(l)), &x);
        self.compare(VProj, at, pos, &v);
        for (cache, row) in [(KCache, KPostRope), (VCache, VProj)] {
            let cached = self.cached(row, at, pos);
            self.compare_bits(cache, at, pos, &cached);
        }
    }

    /// What the cache must hold: the rows of all positions so far, rounded to the cache's type, by head.
    fn cached(&self, point: Point, l: i32, pos: usize) -> Vec<f64> {
        let d = self.config().head_dim;
        let heads = 0..self.config().num_key_value_heads;
        let row = |h: usize, p: usize| &self.shown(point, l, p)[h * d..(h + 1) * d];
        let rows = heads.flat_map(|h| (0..=pos).flat_map(move |p| row(h, p)));
        rows.map(|x| round_to(*x, self.settings.kv_cache)).collect()
    }

    /// Scores from Q and the cache, probabilities from the scores, the output from the probabilities and the cache.
    fn attention(&mut self, l: usize, pos: usize) {
        use Point::*;
        let (c, at) = (self.config(), l as i32);
        let (d, keys) = (c.head_dim, pos + 1);
        let group = c.num_attention_heads / c.num_key_value_heads;
        let get = |twin: &Self, point| twin.shown(point, at, pos).to_vec();
        let (q, k, v, shown) = (get(self, QPostRope), get(self, KCache), get(self, VCache), get(self, AttnScores));
        let (mut scores, mut probs, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for h in 0..c.num_attention_heads {
            let key = |cache: &[f64], j: usize, i: usize| cache[(h / group * keys + j) * d + i];
            for j in 0..keys {
                let products = || (0..d).map(|i| q[h * d + i] * key(&k, j, i) * c.attention_scale);
                let (sum, magnitude) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                let hidden = c.sliding_windows[l].is_some_and(|w| j + w <= pos);
                let capped = c.attn_softcap.map_or(sum, |cap| cap * (sum / cap).tanh());
                scores.push(if hidden { (f64::NEG_INFINITY, 0.0) } else { (capped, magnitude) });
            }
            let own = &shown[h * keys..(h + 1) * keys];
            let max = own.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = own.iter().map(|s| (s - max).exp()).sum();
            let weights: Vec<f64> = own.iter().map(|s| (s - max).exp() / sum).collect();
            probs.extend(weights.iter().map(|p| (*p, p * (1.0 + max.abs()))));
            for i in 0..d {
                let products = || weights.iter().enumerate().map(|(j, p)| p * key(&v, j, i));
                out.push((products().sum(), products().map(f64::abs).sum::<f64>() * (1.0 + max.abs())));
            }
        }
        self.compare(AttnScores, at, pos, &scores);
        if self.rows.contains_key(&(AttnProbs, at, pos)) {
            self.compare(AttnProbs, at, pos, &probs);
        }
        self.compare(AttnOut, at, pos, &out);
    }

    fn mlp(&mut self, l: usize, pos: usize) {
        use Point::*;
        let (c, at) = (self.config(), l as i32);
        let get = |twin: &Self, point| twin.shown(point, at, pos).to_vec();
        let before = get(self, ResidualPostAttn);
        let norm = if c.post_norms { WeightId::PreFeedforwardNorm(l) } else { WeightId::PostAttentionNorm(l) };
        let normed = self.norm(norm, &before, c.hidden_size);
        self.compare(FfnNormOut, at, pos, &normed);
        let x = get(self, FfnNormOut);
        for (point, weight) in [(MlpGate, WeightId::Gate(l)), (MlpUp, WeightId::Up(l))] {
            let product = self.linear(weight, None, &x);
            self.compare(point, at, pos, &product);
        }
        let activation = |g: f64| match c.activation {
            Activation::Silu => g / (1.0 + (-g).exp()),
            Activation::GeluTanh => {
                0.5 * g * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3))).tanh())
            }
        };
        let gated = get(self, MlpGate).into_iter().zip(get(self, MlpUp));
        let gated: Vec<Exact> = gated.map(|(g, u)| (activation(g) * u, (g * u).abs())).collect();
        self.compare(MlpAct, at, pos, &gated);
        let product = self.linear(WeightId::Down(l), None, &get(self, MlpAct));
        self.compare(MlpOut, at, pos, &product);
        let mut added = MlpOut;
        if c.post_norms {
            let normed = self.norm(WeightId::PostFeedforwardNorm(l), &get(self, MlpOut), c.hidden_size);
            self.compare(MlpPostNormOut, at, pos, &normed);
            added = MlpPostNormOut;
        }
        self.sum(ResidualPostMlp, (at, pos), &before, &get(self, added));
    }

    /// One addition in f32, stored: exact to the bit.
    fn sum(&mut self, point: Point, (l, pos): (i32, usize), a: &[f64], b: &[f64]) {
        let storage = self.settings.storage;
        let sums: Vec<f64> = a.iter().zip(b).map(|(a, b)| round_to(f64::from((a + b) as f32), storage)).collect();
        self.compare_bits(point, l, pos, &sums);
    }

    /// What stands before the first and behind the last layer.
    pub fn ends(&mut self, token: u32, pos: usize) {
        let c = self.config();
        let storage = self.settings.storage;
        let (cols, embedding) = self.weight(WeightId::Embed);
        let row = &embedding[token as usize * cols..(token as usize + 1) * cols];
        let scale = c.embed_scale.map_or(1.0, |s| round_to(s, storage));
        let scaled: Vec<f64> = row.iter().map(|x| round_to(f64::from((x * scale) as f32), storage)).collect();
        self.compare_bits(Point::EmbedOut, -1, pos, &scaled);
        let last = self.shown(Point::ResidualPostMlp, c.num_hidden_layers as i32 - 1, pos).to_vec();
        self.compare_bits(Point::FinalNormIn, -1, pos, &last);
        let normed = self.norm(WeightId::Norm, &last, c.hidden_size);
        self.compare(Point::FinalNormOut, -1, pos, &normed);
        let head = if c.tie_word_embeddings { WeightId::Embed } else { WeightId::LmHead };
        let logits = self.linear(head, None, self.shown(Point::FinalNormOut, -1, pos)).into_iter();
        let logits: Vec<Exact> =
            logits.map(|(y, m)| (c.final_softcap.map_or(y, |cap| cap * (y / cap).tanh()), m)).collect();
        self.compare(Point::Logits, -1, pos, &logits);
    }
}
