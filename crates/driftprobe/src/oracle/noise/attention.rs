//! Attention: scores, softmax, and the weighted values, each where it is recorded and all of them fused.

use super::{softcap_variance, sum_variance};
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
    /// c·u of the softmax.
    pub cu_softmax: f64,
    /// u of the sum P·V: what is smaller than u times the sum is lost.
    pub u: f64,
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
    let Some(cap) = noise.softcap else {
        return sum_variance(noise.head_dim, squares, score, noise.cu) + (noise.cu * score).powi(2);
    };
    let raw = cap * (score / cap).clamp(-1.0, 1.0).atanh().clamp(-20.0, 20.0);
    let before = sum_variance(noise.head_dim, squares, raw, noise.cu) + (noise.cu * raw).powi(2);
    softcap_variance(score, cap, before, noise.cu)
}

/// Variance of each probability of a softmax over recorded scores:
/// (cup)²[(s−s_max)² + 6 + N/3] + (p·Σ_{p<2u} p)² + floor².
///
/// The exponential has the relative error of its argument; the sum of N positive terms is common to the row, and loses
/// terms that are below its u.
pub fn softmax_variance(scores: &[f64], probs: &[f64], noise: &AttentionNoise) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let visible = scores.iter().filter(|s| s.is_finite()).count() as f64;
    let lost: f64 = probs.iter().filter(|p| **p < 2.0 * noise.u).sum();
    let one = |(s, p): (&f64, &f64)| {
        if !s.is_finite() {
            return 0.0;
        }
        let relative = (s - max).powi(2) + 6.0 + visible / 3.0;
        (noise.cu_softmax * p).powi(2) * relative + (p * lost).powi(2) + PROB_FLOOR * PROB_FLOOR
    };
    scores.iter().zip(probs).map(one).collect()
}

/// Variance of each channel of o = Σpⱼ·Vⱼ for recorded probabilities: that of a sum of N products, and (Σ_{p<4u} p·|V|)² for
/// terms that are lost.
pub fn weigh_variance<'v>(
    inputs: &HeadInputs<'_>,
    v: impl Iterator<Item = &'v [f64]>,
    noise: &AttentionNoise,
) -> Vec<f64> {
    let visible = inputs.probs.iter().filter(|p| **p > 0.0).count() as f64;
    let mut squares = vec![0.0; inputs.out.len()];
    let mut lost = vec![0.0; inputs.out.len()];
    for (p, row) in inputs.probs.iter().zip(v).filter(|(p, _)| **p > 0.0) {
        for ((square, lost), v) in squares.iter_mut().zip(&mut lost).zip(row) {
            *square += (p * v).powi(2);
            if *p < 4.0 * noise.u {
                *lost += p * v.abs();
            }
        }
    }
    let one = |((square, lost), o): ((&f64, &f64), &f64)| {
        sum_variance(visible, *square, *o, noise.cu) + (noise.cu * o).powi(2) + lost * lost
    };
    squares.iter().zip(&lost).zip(inputs.out).map(one).collect()
}

/// Variance of each channel of attention's output, from q, k and v:
/// Σpⱼ²ρⱼ²(Vⱼ−o)² + (cu)²[(N/2)Σpⱼ²Vⱼ² + (N/3)o²] + stag² + Σulp_P(pⱼ)²/12·Vⱼ².
///
/// ρⱼ² = e^{2v}(e^v − 1) + (cu)²[(sⱼ−s_max)² + 6] is the relative variance of the exponential of a score whose own variance
/// is v (log-normal), and stag = Σ_{pⱼ<4u} pⱼ·|Vⱼ| + |o|·Σ_{pⱼ<2u} pⱼ what may be lost behind an attention sink.
pub fn attention_head<'v>(
    inputs: &HeadInputs<'_>,
    v: impl Iterator<Item = &'v [f64]>,
    noise: &AttentionNoise,
) -> Vec<f64> {
    let max = inputs.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let visible = inputs.scores.iter().filter(|s| s.is_finite()).count() as f64;
    let lost_sum: f64 = inputs.probs.iter().filter(|p| **p < 2.0 * noise.u).sum();
    let mut a = vec![0.0; inputs.out.len()];
    let mut lost: Vec<f64> = inputs.out.iter().map(|o| o.abs() * lost_sum).collect();
    let keys = inputs.scores.iter().zip(inputs.squares).zip(inputs.probs).zip(v);
    for (((s, square), p), row) in keys.filter(|(((s, _), _), _)| s.is_finite()) {
        let score = scores_variance(*s, *square, noise) + noise.score_roundings * noise.scores.rounding_variance(*s);
        let variance = score.min(SCORE_VARIANCE_MAX);
        let relative =
            (2.0 * variance).exp() * variance.exp_m1() + noise.cu_softmax.powi(2) * ((s - max).powi(2) + 6.0);
        let (weight, product) = (p * p * relative, noise.cu.powi(2) * visible / 2.0 * p * p);
        let stored = if noise.probs < Float::F32 { noise.probs.rounding_variance(*p) } else { 0.0 };
        let is_lost = *p < 4.0 * noise.u;
        for (((a, lost), o), v) in a.iter_mut().zip(&mut lost).zip(inputs.out).zip(row) {
            *a += weight * (v - o).powi(2) + (product + stored) * v * v;
            if is_lost {
                *lost += p * v.abs();
            }
        }
    }
    let common = noise.cu.powi(2) * (visible / 3.0 + 1.0);
    a.iter().zip(&lost).zip(inputs.out).map(|((a, lost), o)| a + common * o * o + lost * lost).collect()
}
