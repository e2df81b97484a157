//! Numbers beside hashes: how far two rows are apart.
//!
//! All sums and differences are taken in f64. A NaN or an infinity on one side makes every number NaN or infinite, so that
//! a comparison written `!(number <= bound)` fails; two equal infinities differ by 0.

#![expect(clippy::neg_cmp_op_on_partial_ord, reason = "a comparison must fail on NaN")]

mod kernel;
mod tally;

pub use tally::Tally;

use driftprobe_trace::Dtype;
use half::{bf16, f16};

/// Distances between a reference row `p` (prefill) and a candidate row `d` (decode) of the same length.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// What was compared.
    pub scope: Scope,
    /// Values compared.
    pub compared: u64,
    /// Values whose bits differ (−0 and +0 do).
    pub differing: u64,
    /// max |dᵢ − pᵢ|, in the tensor's own unit.
    pub max_abs: f64,
    /// Index (in the row) where `max_abs` is reached first.
    pub max_abs_at: u64,
    /// ‖d − p‖₂ / ‖p‖₂; `None` where p is all zero and d is not.
    pub rel_l2: Option<f64>,
    /// Largest distance in units in the last place of the storage type: the count of representable values between the
    /// two, ±0 being one value (Dawson's ordered-integer distance). `None` for NaN or an unknown type.
    pub max_ulp: Option<u64>,
    /// ⟨p, d⟩ / (‖p‖₂ ‖d‖₂); `None` where a row is all zero.
    pub cosine: Option<f64>,
    /// Σ(pᵢ − dᵢ)² / Σpᵢ², as ggml's test-backend-ops has it; `None` where p is all zero and d is not.
    pub nmse: Option<f64>,
}

impl Numbers {
    /// The numbers of two rows with equal bits, finite and of `compared` values; `zero`: all of them zero.
    pub fn equal(scope: Scope, compared: u64, zero: bool) -> Numbers {
        Numbers {
            scope,
            compared,
            differing: 0,
            max_abs: 0.0,
            max_abs_at: 0,
            rel_l2: Some(0.0),
            max_ulp: Some(0),
            cosine: if zero { None } else { Some(1.0) },
            nmse: Some(0.0),
        }
    }
}

/// How much of the row the numbers are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every value of the row.
    Whole,
    /// Columns 0 … `last` of every head: what this position may attend to.
    Columns {
        /// Last column compared.
        last: u64,
    },
    /// Only the values that both events sampled, of a row of this many values (`None`: not recorded).
    Sample {
        /// Length of the row.
        of: Option<u64>,
    },
}

/// Distance of two values in units in the last place of `dtype`; `None` if one is NaN.
///
/// Both must be values of `dtype`, widened.
pub fn ulp_distance(dtype: Dtype, one: f64, other: f64) -> Option<u64> {
    if one.is_nan() || other.is_nan() {
        return None;
    }
    let distance = i128::from(ordinal(dtype, one)) - i128::from(ordinal(dtype, other));
    u64::try_from(distance.unsigned_abs()).ok()
}

/// Position of a value among all values of its type, in order; 0 for ±0.
fn ordinal(dtype: Dtype, value: f64) -> i64 {
    let (bits, sign) = match dtype {
        Dtype::F64 => (value.to_bits(), 63),
        Dtype::F32 => (u64::from((value as f32).to_bits()), 31),
        Dtype::F16 => (u64::from(f16::from_f64(value).to_bits()), 15),
        Dtype::Bf16 => (u64::from(bf16::from_f64(value).to_bits()), 15),
    };
    let magnitude = (bits & !(1u64 << sign)) as i64;
    if bits >> sign == 1 { -magnitude } else { magnitude }
}

/// What two rows of logits say of the next token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitsNumbers {
    /// Token with the largest logit, by phase (prefill, decode).
    pub top1: [Option<u32>; 2],
    /// Largest minus second largest logit, by phase.
    pub gap: [Option<f64>; 2],
    /// KL(prefill ‖ decode) of the softmax distributions, in nats; needs both rows.
    pub kl: Option<f64>,
}

impl LogitsNumbers {
    /// Whether both phases would choose the same token; `None` if one does not say.
    pub fn agree(&self) -> Option<bool> {
        match self.top1 {
            [Some(prefill), Some(decode)] => Some(prefill == decode),
            _ => None,
        }
    }
}

/// KL(p ‖ q) in nats of the softmax distributions of two rows of logits of the same length: Σ pᵢ (log pᵢ − log qᵢ), with
/// the log-sum-exp shifted by each row's maximum. NaN if a row holds NaN or no finite value.
pub fn kl_divergence(reference: &[f64], candidate: &[f64]) -> f64 {
    let log_sum = |row: &[f64]| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + row.iter().map(|value| (value - max).exp()).sum::<f64>().ln()
    };
    let (p_sum, q_sum) = (log_sum(reference), log_sum(candidate));
    let terms = reference.iter().zip(candidate).map(|(&p, &q)| {
        let (log_p, log_q) = (p - p_sum, q - q_sum);
        // 0 · log 0 = 0: a token that the reference excludes adds nothing.
        if log_p == f64::NEG_INFINITY { 0.0 } else { log_p.exp() * (log_p - log_q) }
    });
    terms.sum()
}

/// ln of the softmax of a row of logits at a token: xₜ − max − ln Σ e^(x − max), in f64. NaN for a token that the row does not
/// have.
pub fn log_softmax(row: impl Iterator<Item = f64> + Clone, token: usize) -> f64 {
    let max = row.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.clone().map(|value| (value - max).exp()).sum();
    row.clone().nth(token).map_or(f64::NAN, |value| value - max - sum.ln())
}

/// A quantile of sorted values, between ranks by their distance, as `torch.quantile` and `numpy.quantile` have it; NaN if there is
/// none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * sorted.len().saturating_sub(1) as f64;
    let value = |index: f64| sorted.get(index as usize).copied().unwrap_or(f64::NAN);
    let (low, high) = (value(at.floor()), value(at.ceil()));
    // Of two infinities the difference is no number.
    if low == high { low } else { low + (high - low) * at.fract() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(reference: &[f64], candidate: &[f64], dtype: Option<Dtype>) -> Numbers {
        let mut tally = Tally::default();
        for (at, (&p, &d)) in reference.iter().zip(candidate).enumerate() {
            tally.add(at as u64, p, d, dtype);
        }
        tally.finish(Scope::Whole).unwrap()
    }

    #[test]
    fn hand_computed_distances() {
        // p = (3, 4), d = (3, 4.5): ‖p‖ = 5, ‖d−p‖ = 0.5, ⟨p,d⟩ = 27, ‖d‖ = √29.25.
        let got = numbers(&[3.0, 4.0], &[3.0, 4.5], Some(Dtype::F32));
        assert_eq!((got.compared, got.differing, got.max_abs, got.max_abs_at), (2, 1, 0.5, 1));
        assert_eq!(got.rel_l2, Some(0.1));
        assert!((got.nmse.unwrap() - 0.01).abs() < 1e-17);
        assert!((got.cosine.unwrap() - 27.0 / (5.0 * 29.25f64.sqrt())).abs() < 1e-15);
        // f32 has 2^21 values in [4, 4.5): the step there is 2^-21... 0.5 / 2^-21 = 2^20.
        assert_eq!(got.max_ulp, Some(1 << 20));
    }

    #[test]
    fn equal_rows_are_at_distance_zero_even_all_zero_or_infinite() {
        let got = numbers(&[0.0, 0.0], &[0.0, 0.0], Some(Dtype::F16));
        assert_eq!(
            (got.rel_l2, got.nmse, got.cosine, got.max_ulp, got.differing),
            (Some(0.0), Some(0.0), None, Some(0), 0)
        );
        let got = numbers(&[f64::INFINITY, 1.0], &[f64::INFINITY, 1.0], Some(Dtype::F32));
        assert_eq!((got.max_abs, got.differing, got.max_ulp), (0.0, 0, Some(0)));
    }

    #[test]
    fn a_zero_reference_has_no_relative_error() {
        let got = numbers(&[0.0], &[1.0], None);
        assert_eq!((got.rel_l2, got.nmse, got.max_abs), (None, None, 1.0));
    }

    #[test]
    fn nan_fails_every_bound() {
        for (p, d) in [([f64::NAN, 1.0], [1.0, 9.0]), ([1.0, 2.0], [1.0, f64::NAN]), ([f64::NAN; 2], [f64::NAN; 2])] {
            let got = numbers(&p, &d, Some(Dtype::F32));
            for value in [Some(got.max_abs), got.rel_l2, got.nmse, got.cosine] {
                assert!(!(value.unwrap() <= f64::MAX), "{got:?}");
            }
            assert_eq!(got.max_ulp, None);
        }
        let one_sided = numbers(&[1.0], &[f64::INFINITY], Some(Dtype::F32));
        assert!(!(one_sided.max_abs <= f64::MAX));
    }

    #[test]
    fn ulp_counts_representable_values() {
        let next = f64::from(f32::from_bits(1f32.to_bits() + 1));
        assert_eq!(ulp_distance(Dtype::F32, 1.0, next), Some(1));
        assert_eq!(ulp_distance(Dtype::F32, 0.0, -0.0), Some(0));
        let tiny = f64::from(f32::from_bits(1));
        assert_eq!(ulp_distance(Dtype::F32, -tiny, tiny), Some(2));
        // bf16 steps by 2^-7 in [1, 2), f16 by 2^-10.
        assert_eq!(ulp_distance(Dtype::Bf16, 1.0, 1.0078125), Some(1));
        assert_eq!(ulp_distance(Dtype::F16, 1.0, 1.0009765625), Some(1));
        assert_eq!(ulp_distance(Dtype::F64, 1.0, 1.0 + f64::EPSILON), Some(1));
        assert_eq!(ulp_distance(Dtype::F64, f64::MIN, f64::MAX), Some(2 * 0x7FEF_FFFF_FFFF_FFFF));
        assert_eq!(ulp_distance(Dtype::F32, f64::NAN, 1.0), None);
    }

    #[test]
    fn two_tokens_are_one_or_not_and_one_alone_is_neither() {
        let agree = |top1| LogitsNumbers { top1, ..LogitsNumbers::default() }.agree();
        assert_eq!([agree([Some(3), Some(3)]), agree([Some(3), Some(4)])], [Some(true), Some(false)]);
        assert_eq!([[None, Some(3)], [Some(3), None], [None, None]].map(agree), [None; 3]);
    }

    #[test]
    fn kl_of_known_distributions() {
        // p = (1/2, 1/2), q = (1/4, 3/4): ½ ln 2 + ½ ln(2/3).
        let got = kl_divergence(&[0.0, 0.0], &[1f64.ln(), 3f64.ln()]);
        assert!((got - (0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln())).abs() < 1e-15, "{got}");
        assert_eq!(kl_divergence(&[1000.0, 0.0], &[1000.0, 0.0]), 0.0);
        assert!(kl_divergence(&[f64::NAN, 0.0], &[0.0, 0.0]).is_nan());
    }
}
