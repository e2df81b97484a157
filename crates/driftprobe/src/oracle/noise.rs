//! The variance of rounding errors, stage by stage, for an order of summation that is not known.
//!
//! Every function gives a, the variance of what the stage's own arithmetic adds before its result is stored; the rounding
//! to the storage format comes on top (ulp²/12, [`super::Float::rounding_variance`]). Roundings count as independent with
//! mean 0 and a relative size of c·u, where c = 0.4247 is the RMS error of round-to-nearest in units of u over a mantissa
//! that is log-uniform in [1, 2): √(⅓·∫m⁻³dm/ln 2) = √(⅓·⅜/ln 2). That errors then grow as √n·u is Higham and Mary's and
//! Ipsen and Zhou's result (arXiv 1906.10465 and 1904.10246). Sums are taken to be sequential, the worst of the orders
//! that engines use: pairwise, blocked and split sums have less error, so their z is below 1.

mod attention;
mod gate;
mod norm;
mod rope;

pub use attention::{
    AttentionNoise, HeadInputs, attention_head, score_error, scores_variance, softmax_variance, weigh_variance,
};
pub use gate::{gelu_variance, silu_variance, softcap_variance};
pub use norm::norm_variance;
pub use rope::{RotaryNoise, rope_variance};

use super::float::Float;

/// RMS error of rounding to nearest, in units of u.
pub const ROUNDING_RMS: f64 = 0.4247;

/// c·u of an arithmetic, the reference's own float64 included (it matters where the engine computes in float64 too).
pub fn relative_rms(arithmetic: Float) -> f64 {
    ROUNDING_RMS * arithmetic.unit_roundoff().hypot(Float::F64.unit_roundoff())
}

/// Variance of a sum of `terms` products whose squares sum to `squares`, itself being `y`:
/// (cu)²[(n/2 + 1)Σ(xᵢwᵢ)² + (n/3)y²].
///
/// The k-th partial sum of a sequential order has the square k/n·Σ(xᵢwᵢ)² + (k/n·y)² in the mean over random signs and
/// orders; each of its n roundings adds (cu)² of that. The 1 is for the products. A fused multiply-add has none.
pub fn sum_variance(terms: f64, squares: f64, y: f64, cu: f64) -> f64 {
    cu * cu * ((terms / 2.0 + 1.0) * squares + terms / 3.0 * y * y)
}

/// As [`sum_variance`], where the squares of the partial sums in the order of the inputs are known to sum to `partials`:
/// what counts is the larger of the two. Trained weights are no random signs; sums that first rise and then fall back
/// have far larger partial sums than a random order has.
pub fn ordered_sum_variance(terms: f64, squares: f64, (y, partials): (f64, f64), cu: f64) -> f64 {
    sum_variance(terms, squares, y, cu).max(cu * cu * (partials + squares))
}
