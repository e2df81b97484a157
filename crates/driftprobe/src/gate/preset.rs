//! The gates that people already use, as tables: what is measured, over what, and which value passes.

use super::measure::Rows;
use driftprobe_trace::Point;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Values whose bits differ.
    Differing,
    /// max |d − p| / (atol + rtol·|p|), tolerances by storage type: `torch.testing.assert_close`.
    AssertClose,
    /// max over values of the smaller of |d − p| / 1e-5 and (|d − p| / |p|) / 1e-5.
    AbsOrRel,
    /// Σ(p − d)² / Σp².
    Nmse,
    /// Mean (p − d)² / variance of p.
    MseOverVariance,
    /// 1 − 2Σpd / Σ(p² + d²).
    Unlikeness,
    /// Σpd / (‖p‖ ‖d‖).
    Cosine,
    /// max |d − p|.
    MaxAbs,
    /// ‖d − p‖ / ‖p‖.
    RelL2,
    /// Whether the largest value stands at the same index: 1 or 0.
    Top1,
    /// Over a span of tokens: the 99th percentile (nearest rank) of |d − p| over all logits.
    SpanP99Abs,
    /// Over a span: max |d − p|.
    SpanMaxAbs,
    /// Over a span: share of tokens whose largest logit is the same in both phases.
    SpanTop1,
    /// Over a span: mean of e^Δ − 1 − Δ, Δ = log-prob of the next token in decode minus that in prefill.
    SpanK3,
    /// Over a span: mean KL(prefill ‖ decode) in nats.
    SpanMeanKl,
    /// Over a span: the 95th percentile (between ranks, linearly) of KL(prefill ‖ decode).
    SpanP95Kl,
    /// Over a span: Σpd / √(Σp²·Σd²) over all logits.
    SpanCosine,
    /// Of all attention outputs of one phase and layer: max |out − ref| / (2·max |plain − ref| + 1e-5).
    Attention,
}

/// What a measure is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Over {
    /// Each pair of rows.
    Pairs,
    /// Each pair of rows of logits.
    LogitsPairs,
    /// All rows of logits together.
    Span,
    /// The attention outputs of each phase and layer.
    Attention,
}

impl Measure {
    /// As reports call it.
    pub const fn id(self) -> &'static str {
        match self {
            Measure::Differing => "differing values",
            Measure::AssertClose => "max |d-p|/(atol+rtol|p|)",
            Measure::AbsOrRel => "max min(abs, rel)/1e-5",
            Measure::Nmse => "NMSE",
            Measure::MseOverVariance => "MSE/var",
            Measure::Unlikeness => "1-2pd/(p²+d²)",
            Measure::Cosine | Measure::SpanCosine => "cosine",
            Measure::MaxAbs | Measure::SpanMaxAbs => "max abs",
            Measure::RelL2 => "rel. L2",
            Measure::Top1 | Measure::SpanTop1 => "top-1 agreement",
            Measure::SpanP99Abs => "p99 abs",
            Measure::SpanK3 => "k3 KL",
            Measure::SpanMeanKl => "mean KL",
            Measure::SpanP95Kl => "p95 KL",
            Measure::Attention => "error/(2 plain + 1e-5)",
        }
    }
}

/// Which values pass. Each comparison is written so that NaN fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// ≤
    AtMost(f64),
    /// <
    Below(f64),
    /// ≥
    AtLeast(f64),
    /// >
    Above(f64),
}

impl Limit {
    /// Whether a value passes.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Limit::AtMost(limit) => value <= limit,
            Limit::Below(limit) => value < limit,
            Limit::AtLeast(limit) => value >= limit,
            Limit::Above(limit) => value > limit,
        }
    }

    /// The number.
    pub const fn bound(self) -> f64 {
        match self {
            Limit::AtMost(limit) | Limit::Below(limit) | Limit::AtLeast(limit) | Limit::Above(limit) => limit,
        }
    }

    /// The sign before it.
    pub const fn sign(self) -> &'static str {
        match self {
            Limit::AtMost(_) => "≤",
            Limit::Below(_) => "<",
            Limit::AtLeast(_) => "≥",
            Limit::Above(_) => ">",
        }
    }

    /// How bad a value is against this limit: larger is worse, NaN is worst.
    pub(crate) fn badness(self, value: f64) -> f64 {
        let bad = match self {
            Limit::AtMost(limit) | Limit::Below(limit) if limit > 0.0 => value / limit,
            Limit::AtMost(_) | Limit::Below(_) => value,
            Limit::AtLeast(limit) | Limit::Above(limit) => limit - value,
        };
        if bad.is_nan() { f64::INFINITY } else { bad }
    }
}

/// One of a preset's conditions; all of them must hold.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What is measured.
    pub measure: Measure,
    /// What passes, by point.
    pub limit: fn(Point) -> Limit,
}

/// A gate by name.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name on the command line.
    pub id: &'static str,
    /// What it is taken over.
    pub over: Over,
    /// Its conditions.
    pub checks: &'static [Check],
    /// The formula, p being prefill's row and d decode's.
    pub formula: &'static str,
    /// Where it comes from.
    pub source: &'static str,
}

impl PartialEq for Preset {
    fn eq(&self, other: &Preset) -> bool {
        self.id == other.id
    }
}

/// Limits of ggml's `test-backend-ops` on NMSE: its default, and those of the operations that have another.
pub fn ggml_limit(point: Point) -> Limit {
    use Point::*;
    Limit::AtMost(match point {
        QProjOut | KProjOut | QPreRope | KPreRope | VProj | AttnScores | AttnOut | AttnProjOut | MlpGate | MlpUp
        | MlpOut | Logits => 5e-4,
        QPostRope | KPostRope => 1e-3,
        AttnProbs => 1e-6,
        _ => 1e-7,
    })
}

macro_rules! presets {
    ($($id:literal, $over:ident, [$($measure:ident $limit:expr),*], $formula:literal, $source:literal;)*) => {
        /// Every preset.
        pub const PRESETS: &[Preset] = &[$(Preset {
            id: $id,
            over: Over::$over,
            checks: &[$(Check { measure: Measure::$measure, limit: $limit }),*],
            formula: $formula,
            source: $source,
        }),*];
    };
}

use Limit::{Above, AtLeast, AtMost, Below};

presets! {
    "torch-assert-close", Pairs, [AssertClose |_| AtMost(1.0)],
        "|d − p| ≤ atol + rtol·|p| for every value; rtol/atol f16 1e-3/1e-5, bf16 1.6e-2/1e-5, f32 1.3e-6/1e-5, f64 1e-7/1e-7",
        "torch.testing.assert_close, defaults by dtype";
    "ggml-op", Pairs, [Nmse ggml_limit],
        "Σ(p − d)²/Σp² ≤ 1e-7; matrix products and attention 5e-4, rotary embedding 1e-3, softmax 1e-6",
        "ggml tests/test-backend-ops.cpp, max_nmse_err";
    "llama-logits", LogitsPairs, [MseOverVariance |_| Below(1e-2)],
        "mean (p − d)² / var(p) < 1e-2 of each row of logits (bands at 1e-6, 1e-4, 1e-3, 1e-2, 0.1)",
        "llama.cpp examples/model-conversion, check-nmse.py";
    "sglang", Pairs, [Unlikeness |_| AtMost(1e-3)],
        "1 − 2Σpd/Σ(p² + d²) ≤ 1e-3",
        "SGLang's dump comparator (and DeepGEMM's calc_diff)";
    "sglang-kl", Span, [SpanK3 |_| AtMost(2.5e-3)],
        "mean over tokens of e^Δ − 1 − Δ ≤ 2.5e-3, Δ = log-prob of the next token in decode − in prefill",
        "SGLang's KL tests of decode against prefill; k3 is Schulman's estimator";
    "sglang-kl-invariant", Span, [SpanK3 |_| AtMost(1e-9)],
        "as sglang-kl, ≤ 1e-9: where every kernel is batch-invariant",
        "SGLang's KL tests with deterministic inference";
    "batch-invariant", Pairs, [Differing |_| AtMost(0.0)],
        "every bit equal",
        "thinking-machines batch_invariant_ops; vLLM and SGLang batch-invariant modes";
    "flash-attn", Attention, [Attention |_| AtMost(1.0)],
        "of each phase and layer: max|out − ref| ≤ 2·max|plain − ref| + 1e-5; ref: attention of the recorded q, K, V in float64; plain: unfused, in the row's type",
        "FlashAttention tests/test_flash_attn.py";
    "automodel-strict", Span, [SpanMeanKl |_| AtMost(1e-7), SpanP95Kl |_| AtMost(1e-6), SpanCosine |_| AtLeast(0.999_999)],
        "mean KL ≤ 1e-7, p95 KL ≤ 1e-6, cosine of all logits ≥ 0.999999",
        "NeMo Automodel, parity of one implementation, strict";
    "automodel-standard", Span, [SpanMeanKl |_| AtMost(3e-3), SpanP95Kl |_| AtMost(1.2e-2), SpanCosine |_| AtLeast(0.999)],
        "mean KL ≤ 3e-3, p95 KL ≤ 1.2e-2, cosine of all logits ≥ 0.999",
        "NeMo Automodel, standard";
    "automodel-relaxed", Span, [SpanMeanKl |_| AtMost(2e-2), SpanP95Kl |_| AtMost(5e-2), SpanCosine |_| AtLeast(0.995)],
        "mean KL ≤ 2e-2, p95 KL ≤ 5e-2, cosine of all logits ≥ 0.995",
        "NeMo Automodel, relaxed";
    "msprobe", Pairs, [Cosine |_| Above(0.99), MaxAbs |_| Below(1e-3)],
        "cosine > 0.99 and max |d − p| < 1e-3",
        "msprobe (MindStudio), compare";
    "polygraphy", Pairs, [AbsOrRel |_| AtMost(1.0)],
        "|d − p| ≤ 1e-5 or |d − p|/|p| ≤ 1e-5 for every value",
        "Polygraphy CompareFunc.simple, defaults";
    "guardrail", Span, [SpanP99Abs |_| AtMost(1e-3), SpanMaxAbs |_| AtMost(5e-3), SpanTop1 |_| AtLeast(0.999)],
        "of logits with prefill's cache under decode: p99 abs ≤ 1e-3, max abs ≤ 5e-3, top-1 agreement ≥ 0.999",
        "GRETA's equivalence guardrail";
    "cosine", Pairs, [Cosine |_| AtLeast(0.999)], "cosine ≥ 0.999", "common practice";
    "rel-l2", Pairs, [RelL2 |_| AtMost(1e-3)], "‖d − p‖/‖p‖ ≤ 1e-3", "common practice";
    "top-1", LogitsPairs, [Top1 |_| AtLeast(1.0)], "the largest logit is the same token's", "common practice";
}

impl Preset {
    /// The preset of this name.
    pub fn by_id(id: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.id == id)
    }

    /// Whether two rows of a point fail; `None` where the preset is not one of pairs of this point.
    pub fn fails(&self, point: Point, rows: &Rows<'_>) -> Option<bool> {
        let of_pairs = matches!(self.over, Over::Pairs | Over::LogitsPairs) && self.takes(point);
        of_pairs.then(|| !self.checks.iter().all(|check| (check.limit)(point).holds(rows.measure(check.measure))))
    }

    /// Whether rows of this point are gated.
    pub fn takes(&self, point: Point) -> bool {
        match self.over {
            Over::Pairs => true,
            Over::LogitsPairs | Over::Span => point == Point::Logits,
            Over::Attention => point == Point::AttnOut,
        }
    }
}

/// The band of a row's MSE/var as llama.cpp's script names it, from the best: below 1e-6, 1e-4, 1e-3, 1e-2, 0.1, or above.
pub fn llama_band(value: f64) -> &'static str {
    let bands = [(1e-6, "< 1e-6"), (1e-4, "< 1e-4"), (1e-3, "< 1e-3"), (1e-2, "< 1e-2"), (0.1, "< 0.1")];
    bands.iter().find(|(limit, _)| value < *limit).map_or("≥ 0.1", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_passes_no_limit_and_is_worst_of_all() {
        for limit in [AtMost(1.0), Below(1.0), AtLeast(0.0), Above(0.0), AtMost(f64::INFINITY)] {
            assert!(!limit.holds(f64::NAN), "{limit:?}");
            assert_eq!(limit.badness(f64::NAN), f64::INFINITY);
        }
    }

    #[test]
    fn limits_hold_up_to_their_bound_and_not_beyond() {
        let over = 1e-3f64.next_up();
        assert!(AtMost(1e-3).holds(1e-3) && !AtMost(1e-3).holds(over));
        assert!(!Below(1e-3).holds(1e-3) && Below(1e-3).holds(1e-3f64.next_down()));
        assert!(AtLeast(0.999).holds(0.999) && !AtLeast(0.999).holds(0.999f64.next_down()));
        assert!(!Above(0.99).holds(0.99) && Above(0.99).holds(0.99f64.next_up()));
    }

    #[test]
    fn every_preset_has_a_name_of_its_own_and_a_condition() {
        for (number, preset) in PRESETS.iter().enumerate() {
            assert!(!preset.checks.is_empty() && !preset.source.is_empty(), "{}", preset.id);
            assert_eq!(PRESETS.iter().position(|other| other.id == preset.id), Some(number));
        }
    }

    #[test]
    fn bands_are_the_scripts() {
        let named: Vec<_> = [0.0, 1e-6, 5e-4, 5e-3, 0.05, 0.1, f64::NAN].map(llama_band).into();
        assert_eq!(named, ["< 1e-6", "< 1e-4", "< 1e-3", "< 1e-2", "< 0.1", "≥ 0.1", "≥ 0.1"]);
    }
}
