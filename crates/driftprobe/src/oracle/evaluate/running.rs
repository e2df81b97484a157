//! Fused attention whose running sum of weighted values is kept in a 16-bit format: emulated key by key.
//!
//! As one-row kernels do it (the online softmax of arXiv 1805.02867): with a running maximum M, each new maximum scales the
//! sum by e^(M − M′) and rounds it, each key adds e^(s − M)·V and rounds it; in the end it is divided by the f32 sum of the
//! exponentials. Rounding swallows the noise of the scores except near a tie; there the sum is in doubt by an ulp, and the
//! doubt is carried on.

use crate::oracle::float::Float;
use crate::oracle::key_parts::KeyParts;
use crate::oracle::noise::{AttentionNoise, score_error};
use driftprobe_model::reference::HeadScores;

/// Standard deviations of the scores' noise within which a tie is in doubt.
const DOUBTFUL: f64 = 4.0;

/// One part's sum.
struct Part {
    max: f64,
    /// Σ e^(s − max), and its variance.
    sum: f64,
    sum_variance: f64,
    /// The running sum, rounded, and by how much it may be off.
    values: Vec<f64>,
    doubts: Vec<f64>,
}

/// A head's output and variance: `[head_dim]` each.
pub fn attend<'v>(
    (head, pos): (&HeadScores, usize),
    v: impl Iterator<Item = &'v [f64]>,
    (format, parts): (Float, KeyParts),
    noise: &AttentionNoise,
) -> (Vec<f64>, Vec<f64>) {
    let rows: Vec<&[f64]> = v.collect();
    let first = (pos + 1).saturating_sub(rows.len());
    let width = rows.first().map_or(0, |row| row.len());
    let one = |range: std::ops::Range<usize>| {
        let mut part = Part::new(width);
        for at in range.start.max(first)..range.end {
            let row = at - first;
            let (Some(score), Some(values)) = (head.scores.get(row), rows.get(row)) else { continue };
            if score.is_finite() {
                let squares = head.squares.get(row).copied().unwrap_or(0.0);
                part.add((*score, score_error(*score, squares, noise)), values, (format, noise));
            }
        }
        part
    };
    merge(&parts.of(pos).into_iter().map(one).collect::<Vec<_>>(), width, noise)
}

impl Part {
    fn new(width: usize) -> Part {
        let none = || vec![0.0; width];
        Part { max: f64::NEG_INFINITY, sum: 0.0, sum_variance: 0.0, values: none(), doubts: none() }
    }

    /// Adds a key: `variance` is that of its score.
    fn add(&mut self, (score, variance): (f64, f64), values: &[f64], (format, noise): (Float, &AttentionNoise)) {
        let distance = if self.max.is_finite() { score - self.max } else { 0.0 };
        // Relative error of the exponential of a difference of two scores.
        let error = (2.0 * variance + noise.cu_softmax.powi(2) * (distance * distance + 6.0)).sqrt();
        let (mut scale, mut weight) = (1.0, 1.0);
        if score > self.max {
            scale = if self.max.is_finite() { (self.max - score).exp() } else { 0.0 };
            self.max = score;
            for (sum, doubt) in self.values.iter_mut().zip(&mut self.doubts) {
                let x = *sum * scale;
                let reach = *doubt * scale + DOUBTFUL * error * x.abs();
                (*sum, *doubt) = settle(format, x, reach);
            }
        } else {
            weight = (score - self.max).exp();
        }
        for ((sum, doubt), v) in self.values.iter_mut().zip(&mut self.doubts).zip(values) {
            let x = *sum + weight * v;
            let own = if weight < 1.0 { error * (weight * v).abs() } else { 0.0 };
            let reach = *doubt + DOUBTFUL * (own + noise.cu_softmax * x.abs());
            (*sum, *doubt) = settle(format, x, reach);
        }
        self.sum = self.sum * scale + weight;
        self.sum_variance = self.sum_variance * scale * scale
            + (error * weight).powi(2)
            + (noise.cu_softmax * self.sum).powi(2)
            + if scale < 1.0 { (error * (self.sum - weight)).powi(2) } else { 0.0 };
    }
}

/// Rounds what is known to within ±`reach`: the value, and by how much it may be off. The bound must hold: a doubt that is
/// forgotten too early is a false alarm later on.
fn settle(format: Float, x: f64, reach: f64) -> (f64, f64) {
    let rounded = format.round(x);
    let off = |other: f64| (format.round(other) - rounded).abs();
    (rounded, off(x + reach).max(off(x - reach)))
}

/// Parts are merged in f32.
fn merge(parts: &[Part], width: usize, noise: &AttentionNoise) -> (Vec<f64>, Vec<f64>) {
    let max = parts.iter().map(|part| part.max).fold(f64::NEG_INFINITY, f64::max);
    let weight = |part: &Part| if part.max.is_finite() { (part.max - max).exp() } else { 0.0 };
    let sum: f64 = parts.iter().map(|part| weight(part) * part.sum).sum();
    let of_sum: f64 = parts.iter().map(|part| weight(part).powi(2) * part.sum_variance).sum();
    let relative = of_sum / (sum * sum) + noise.cu_softmax.powi(2) * (4.0 + 8.0 * parts.len() as f64);
    let channel = |at: usize| {
        let of = |all: &[f64]| all.get(at).copied().unwrap_or(0.0);
        let total: f64 = parts.iter().map(|part| weight(part) * of(&part.values)).sum();
        let doubt: f64 = parts.iter().map(|part| (weight(part) * of(&part.doubts)).powi(2)).sum();
        let size: f64 = parts.iter().map(|part| (weight(part) * of(&part.values)).powi(2)).sum();
        let merged = if parts.len() > 1 { size / (sum * sum) * relative } else { 0.0 };
        let y = total / sum;
        (y, doubt / (sum * sum) + y * y * relative + merged)
    };
    (0..width).map(channel).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    fn noise() -> AttentionNoise {
        let cu = crate::oracle::noise::relative_rms(Float::F32);
        AttentionNoise {
            cu,
            cu_values: cu,
            cu_softmax: cu,
            u: Float::F32.unit_roundoff(),
            inputs: 0.0,
            head_dim: 8.0,
            softcap: None,
            scores: Float::F32,
            score_roundings: 1.0,
            probs: Float::F32,
        }
    }

    /// The loop itself, in the types that a kernel has.
    fn kernel(scores: &[f32], v: &[Vec<f64>], parts: &[std::ops::Range<usize>]) -> Vec<f64> {
        let mut merged = (f32::NEG_INFINITY, 0f32, vec![0f32; v[0].len()]);
        for part in parts {
            let (mut max, mut sum, mut out) = (f32::NEG_INFINITY, 0f32, vec![f16::ZERO; v[0].len()]);
            for at in part.clone() {
                let (mut ms, mut vs) = (1f32, 1f32);
                if scores[at] > max {
                    ms = (max - scores[at]).exp();
                    max = scores[at];
                    out.iter_mut().for_each(|o| *o = f16::from_f32(o.to_f32() * ms));
                } else {
                    vs = (scores[at] - max).exp();
                }
                out.iter_mut().zip(&v[at]).for_each(|(o, v)| *o = f16::from_f32((*v as f32).mul_add(vs, o.to_f32())));
                sum = sum * ms + vs;
            }
            let new = merged.0.max(max);
            let (old, own) = ((merged.0 - new).exp(), (max - new).exp());
            merged.2.iter_mut().zip(&out).for_each(|(m, o)| *m = *m * old + o.to_f32() * own);
            merged = (new, merged.1 * old + sum * own, merged.2);
        }
        merged.2.iter().map(|o| f64::from(*o / merged.1)).collect()
    }

    fn dice(seed: &mut u64) -> f64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    }

    #[test]
    fn a_kernel_that_keeps_f16_sums_is_met_and_one_that_keeps_f32_is_not() {
        let mut seed = 7;
        let (mut inside, mut coarse, mut all) = (0, 0, 0);
        // Many rows of 100 keys: a doubt that is forgotten too early shows in one element of some thousands.
        for keys in [1, 2, 30, 300].into_iter().chain(std::iter::repeat_n(100, 400)) {
            let scores: Vec<f32> = (0..keys).map(|_| 3.0 * dice(&mut seed) as f32).collect();
            let v: Vec<Vec<f64>> =
                (0..keys).map(|_| (0..8).map(|_| Float::F16.round(dice(&mut seed))).collect()).collect();
            let head = HeadScores { scores: scores.iter().map(|s| f64::from(*s)).collect(), squares: vec![1e-3; keys] };
            for parts in [KeyParts::WHOLE, "2".parse().unwrap()] {
                let recorded = kernel(&scores, &v, &parts.of(keys - 1));
                let rows = v.iter().map(Vec::as_slice);
                let (y, variance) = attend((&head, keys - 1), rows, (Float::F16, parts), &noise());
                for ((r, y), variance) in recorded.iter().zip(&y).zip(&variance) {
                    all += 1;
                    inside += usize::from((r - y).abs() <= 6.0 * variance.sqrt());
                    coarse += usize::from(variance.sqrt() > 1e-5 * y.abs().max(0.01));
                }
                if keys > 2 {
                    let probs = driftprobe_model::reference::softmax(&head.scores);
                    let exact = |c: usize| probs.iter().zip(&v).map(|(p, v)| p * v[c]).sum::<f64>();
                    let z = |c: usize| (exact(c) - y[c]) / variance[c].sqrt();
                    let rms = ((0..8).map(|c| z(c).powi(2)).sum::<f64>() / 8.0).sqrt();
                    assert!(rms > 20.0, "{keys} keys: f32 sums have an RMS z of {rms}");
                }
            }
        }
        assert_eq!(inside, all);
        assert!(coarse * 3 < all, "{coarse} of {all} are in doubt");
    }

    #[test]
    fn one_part_is_not_two() {
        let (scores, v): (Vec<f32>, Vec<Vec<f64>>) =
            (0..64).map(|i| ((i as f32 * 0.7).sin(), vec![Float::F16.round(f64::from(i as f32 * 0.37).cos())])).unzip();
        let head = HeadScores { scores: scores.iter().map(|s| f64::from(*s)).collect(), squares: vec![0.0; 64] };
        let two: KeyParts = "2".parse().unwrap();
        let recorded = kernel(&scores, &v, &two.of(63));
        let (y, variance) = attend((&head, 63), v.iter().map(Vec::as_slice), (Float::F16, KeyParts::WHOLE), &noise());
        assert!((recorded[0] - y[0]).abs() > 10.0 * variance[0].sqrt());
    }
}
