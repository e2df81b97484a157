//! Attention: scores, softmax, and the weighted values, each where it is recorded and all of them fused.

use super::{ordered_sum_variance, softcap_variance, sum_variance};
use crate::oracle::float::Float;

/// Largest variance of a score that still means anything: beyond it a probability is not known at all.
const SCORE_VARIANCE_MAX: f64 = 8.0;
/// Below this a probability may be flushed to 0.
const PROB_FLOOR: f64 = 1.175_494_350_822_287_5e-38;

/// The arithmetic of attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionNoise {
    /// c·u of the sums Q·K and P·V.
    pub cu: f64,
    /// c·u of the running sum of weighted values.
    pub cu_values: f64,
    /// c·u of the softmax.
    pub cu_softmax: f64,
    /// u of the sum P·V: what is smaller than u times the sum is lost.
    pub u: f64,
    /// Relative variance of a product from the rounding of its inputs.
    pub inputs: f64,
    /// Width of a head.
    pub head_dim: f64,
    /// Soft cap of the scores.
    pub softcap: Option<f64>,
    /// Format in which scores are stored on the way.
    pub scores: Float,
    /// How many roundings to that format a score goes through.
    pub score_roundings: f64,
    /// Format in which probabilities are stored on the way.
    pub probs: Float,
}

/// One head in float64.
#[derive(Clone, Copy, Debug)]
pub struct HeadInputs<'a> {
    /// Scores, −∞ where hidden: `[rows]`.
    pub scores: &'a [f64],
    /// scale²·Σ(qᵢkᵢ)²: `[rows]`.
    pub squares: &'a [f64],
    /// Probabilities: `[rows]`.
    pub probs: &'a [f64],
    /// The head's output: `[head_dim]`.
    pub out: &'a [f64],
}

/// Variance of a score s = scale·q·k: that of a sum of d products, of the scaling, and of the soft cap.
pub fn scores_variance(score: f64, squares: f64, noise: &AttentionNoise) -> f64 {
    let inputs = noise.inputs * squares;
    let Some(cap) = noise.softcap else {
        return sum_variance(noise.head_dim, squares, score, noise.cu) + (noise.cu * score).powi(2) + inputs;
    };
    let raw = cap * (score / cap).clamp(-1.0, 1.0).atanh().clamp(-20.0, 20.0);
    let before = sum_variance(noise.head_dim, squares, raw, noise.cu) + (noise.cu * raw).powi(2) + inputs;
    softcap_variance(score, cap, before, noise.cu)
}

/// The same of a score that is stored on the way, as far as it means anything.
pub fn score_error(score: f64, squares: f64, noise: &AttentionNoise) -> f64 {
    let stored = noise.score_roundings * noise.scores.rounding_variance(score);
    (scores_variance(score, squares, noise) + stored).min(SCORE_VARIANCE_MAX)
}

/// Variance of each probability of a softmax over recorded scores:
/// (cup)²[(s−s_max)² + 6 + D] + (p·Σ_{p<u} p)² + floor², D = max(N/3, ΣₖPₖ²).
///
/// The exponential has the relative error of its argument. The denominator, a sum of N positive terms, is common to the
/// row: Pₖ is the k-th partial sum of the probabilities in the order of the keys, so D is up to N behind an attention sink
/// at the first position. It loses terms that are below its u.
pub fn softmax_variance(scores: &[f64], probs: &[f64], noise: &AttentionNoise) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let visible = scores.iter().filter(|s| s.is_finite()).count() as f64;
    let lost: f64 = probs.iter().filter(|p| **p < noise.u).sum();
    let denominator = denominator_roundings(visible, probs);
    let one = |(s, p): (&f64, &f64)| {
        if !s.is_finite() {
            return 0.0;
        }
        let relative = (s - max).powi(2) + 6.0 + denominator;
        (noise.cu_softmax * p).powi(2) * relative + (p * lost).powi(2) + PROB_FLOOR * PROB_FLOOR
    };
    scores.iter().zip(probs).map(one).collect()
}

/// How many roundings of its own size the sum of the exponentials goes through: max(N/3, ΣₖPₖ²).
fn denominator_roundings(visible: f64, probs: &[f64]) -> f64 {
    let mut partial = 0.0;
    let squares = probs.iter().filter(|p| **p > 0.0).map(|p| {
        partial += p;
        partial * partial
    });
    squares.sum::<f64>().max(visible / 3.0)
}

/// A running sum of one channel.
#[derive(Clone, Copy, Default)]
struct Channel {
    sum: f64,
    squares: f64,
    partials: f64,
    /// Largest product by magnitude, or the whole sum if that is larger.
    largest: f64,
    lost: f64,
}

impl Channel {
    /// The sums of all channels of `out`, in the order of the keys.
    fn all<'v>(probs: &[f64], v: impl Iterator<Item = &'v [f64]> + Clone, (out, u): (&[f64], f64)) -> Vec<Channel> {
        let mut channels: Vec<Channel> =
            out.iter().map(|o| Channel { largest: o.abs(), ..Channel::default() }).collect();
        let visible = probs.iter().zip(v).filter(|(p, _)| **p > 0.0);
        for (p, row) in visible.clone() {
            channels.iter_mut().zip(row).for_each(|(channel, v)| channel.add(p * v));
        }
        for (p, row) in visible {
            channels.iter_mut().zip(row).for_each(|(channel, v)| channel.lose(p * v, u));
        }
        channels
    }

    fn add(&mut self, product: f64) {
        self.sum += product;
        self.squares += product * product;
        self.partials += self.sum * self.sum;
        self.largest = self.largest.max(product.abs());
    }

    fn lose(&mut self, product: f64, u: f64) {
        if product.abs() < u * self.largest {
            self.lost += product;
        }
    }

    /// Variance of the sum of `terms` products in this order, and the square of what it may lose.
    fn variance(&self, terms: f64, noise: &AttentionNoise) -> f64 {
        let sum = ordered_sum_variance(terms, self.squares, (self.sum, self.partials), noise.cu_values);
        sum + noise.inputs * self.squares + self.lost * self.lost
    }
}

/// Variance of each channel of o = Σpⱼ·Vⱼ for recorded probabilities: that of a sum of N products in this order, and
/// (Σ_{lost} p·V)² for terms below u times the sum or its largest term, which are lost behind it.
pub fn weigh_variance<'v>(
    inputs: &HeadInputs<'_>,
    v: impl Iterator<Item = &'v [f64]> + Clone,
    noise: &AttentionNoise,
) -> Vec<f64> {
    let visible = inputs.probs.iter().filter(|p| **p > 0.0).count() as f64;
    let channels = Channel::all(inputs.probs, v, (inputs.out, noise.u));
    let one = |(channel, o): (&Channel, &f64)| channel.variance(visible, noise) + (noise.cu * o).powi(2);
    channels.iter().zip(inputs.out).map(one).collect()
}

/// Variance of each channel of attention's output, from q, k and v:
/// Σpⱼ²ρⱼ²(Vⱼ−o)² + S + (cu)²(D + 1)o² + stag² + Σulp_P(pⱼ)²/12·Vⱼ².
///
/// S is the variance of the sum Σpⱼ·Vⱼ in the order of the keys, D that of the denominator as in [`softmax_variance`].
/// ρⱼ² = e^{2v}(e^v − 1) + (cu)²[(sⱼ−s_max)² + 6] is the relative variance of the exponential of a score whose own variance
/// is v (log-normal), and stag² = (Σ_{lost} pⱼ·Vⱼ)² + (o·Σ_{pⱼ<u} pⱼ)² what is lost behind an attention sink.
pub fn attention_head<'v>(
    inputs: &HeadInputs<'_>,
    v: impl Iterator<Item = &'v [f64]> + Clone,
    noise: &AttentionNoise,
) -> Vec<f64> {
    let max = inputs.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let visible = inputs.scores.iter().filter(|s| s.is_finite()).count() as f64;
    let lost_sum: f64 = inputs.probs.iter().filter(|p| **p < noise.u).sum();
    let mut own = vec![0.0; inputs.out.len()];
    let channels = Channel::all(inputs.probs, v.clone(), (inputs.out, noise.u));
    let keys = inputs.scores.iter().zip(inputs.squares).zip(inputs.probs).zip(v);
    for (((s, square), p), row) in keys.filter(|(((s, _), _), _)| s.is_finite()) {
        let variance = score_error(*s, *square, noise);
        let relative =
            (2.0 * variance).exp() * variance.exp_m1() + noise.cu_softmax.powi(2) * ((s - max).powi(2) + 6.0);
        let weight = p * p * relative;
        let stored = if noise.probs < Float::F32 { noise.probs.rounding_variance(*p) } else { 0.0 };
        for ((own, o), v) in own.iter_mut().zip(inputs.out).zip(row) {
            *own += weight * (v - o).powi(2) + stored * v * v;
        }
    }
    let common = noise.cu.powi(2) * (denominator_roundings(visible, inputs.probs) + 1.0);
    let one = |((own, channel), o): ((&f64, &Channel), &f64)| {
        own + channel.variance(visible, noise) + common * o * o + (o * lost_sum).powi(2)
    };
    own.iter().zip(&channels).zip(inputs.out).map(one).collect()
}
