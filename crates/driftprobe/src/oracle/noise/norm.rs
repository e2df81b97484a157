//! RMS norm: one factor for the row, whose error all elements share.

/// Variance of each element of `y`, the norm of x: (cuy)²(3 + n/4) + (stag·y)².
///
/// Three roundings an element (x·factor, ·w, and the factor's), and the sum of n squares, all positive: the relative
/// variance of a sequential sum is (cu)²n/3, a quarter of that for its root, here taken threefold because equal signs
/// round alike. Stagnation: a square below u·Σx² is lost entirely behind a larger one (an outlier, in real models), always
/// in the same direction: stag = ½Σ_{x²<uΣx²} x²/Σx².
pub fn norm_variance(x: &[f64], y: &[f64], cu: f64) -> Vec<f64> {
    let u = cu / super::ROUNDING_RMS;
    let sum: f64 = x.iter().map(|x| x * x).sum();
    let lost: f64 = x.iter().map(|x| x * x).filter(|s| *s < u * sum).sum();
    let stagnation = if lost > 0.0 { 0.5 * lost / sum } else { 0.0 };
    let relative = cu * cu * (3.0 + x.len() as f64 / 4.0) + stagnation * stagnation;
    y.iter().map(|y| y * y * relative).collect()
}
