//! What is measured over the tokens that both phases scored, in f64 and in their order.

use super::Pair;
use crate::evidence::metrics::quantile;

/// What is measured over tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// Tokens.
    pub tokens: u64,
    /// Of these, those with Δ = 0.
    pub equal: u64,
    /// Mean of |Δ|.
    pub mean_abs_delta: f64,
    /// Largest |Δ|.
    pub max_abs_delta: f64,
    /// Mean of k1.
    pub k1: f64,
    /// Mean of k2.
    pub k2: f64,
    /// Mean of k3.
    pub k3: f64,
    /// Smallest r.
    pub ratio_min: f64,
    /// Median of r.
    pub ratio_p50: f64,
    /// 99th percentile of r.
    pub ratio_p99: f64,
    /// Largest r.
    pub ratio_max: f64,
    /// Share of tokens with r outside of 0.5 to 2.
    pub ratio_outside: f64,
    /// Mean of r², less 1.
    pub chi2: f64,
    /// e to the mean of −ln p, by prefill.
    pub perplexity_prefill: f64,
    /// The same by decode.
    pub perplexity_decode: f64,
    /// Decode's over prefill's.
    pub perplexity_ratio: f64,
    /// Pearson's correlation of the probabilities.
    pub correlation: f64,
}

/// Over these tokens; without any, no figure is a number.
pub(super) fn metrics(pairs: &[&Pair]) -> Metrics {
    let count = pairs.len();
    let mean = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(|pair| of(pair)).sum::<f64>() / count as f64;
    let mut ratios: Vec<f64> = pairs.iter().map(|pair| pair.delta().exp()).collect();
    ratios.sort_by(f64::total_cmp);
    let [perplexity_prefill, perplexity_decode] = [mean(&|p| -p.prefill).exp(), mean(&|p| -p.decode).exp()];
    Metrics {
        tokens: count as u64,
        equal: pairs.iter().filter(|pair| pair.delta() == 0.0).count() as u64,
        mean_abs_delta: mean(&|p| p.delta().abs()),
        max_abs_delta: pairs.iter().map(|pair| pair.delta().abs()).fold(f64::NAN, f64::max),
        k1: mean(&|p| -p.delta()),
        k2: mean(&|p| p.delta() * p.delta() / 2.0),
        // e^Δ − 1 by expm1: small Δ would lose all digits otherwise.
        k3: mean(&|p| p.delta().exp_m1() - p.delta()),
        ratio_min: quantile(&ratios, 0.0),
        ratio_p50: quantile(&ratios, 0.5),
        ratio_p99: quantile(&ratios, 0.99),
        ratio_max: quantile(&ratios, 1.0),
        ratio_outside: ratios.iter().filter(|r| !(0.5..=2.0).contains(*r)).count() as f64 / count as f64,
        chi2: mean(&|p| (2.0 * p.delta()).exp_m1()),
        perplexity_prefill,
        perplexity_decode,
        perplexity_ratio: perplexity_decode / perplexity_prefill,
        correlation: correlation(pairs),
    }
}

/// Pearson's, of the probabilities; NaN where one side has only one value.
fn correlation(pairs: &[&Pair]) -> f64 {
    let count = pairs.len() as f64;
    let of = |pair: &Pair| (pair.prefill.exp(), pair.decode.exp());
    let (sum_x, sum_y) = pairs.iter().map(|pair| of(pair)).fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x, sy + y));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs.iter().map(|pair| of(pair)) {
        let (dx, dy) = (x - mean_x, y - mean_y);
        (xy, xx, yy) = (xy + dx * dy, xx + dx * dx, yy + dy * dy);
    }
    xy / (xx * yy).sqrt()
}
