//! Gates for CI: the noise model's verdict, the gates of others beside it, a baseline, and a matrix of runs that must be
//! complete. Which of them decide is said, and nothing that was not compared passes.

pub mod apply;
pub mod attention;
pub mod baseline;
pub mod decide;
pub mod guardrail;
pub mod matrix;
pub mod measure;
pub mod preset;
pub mod span;

pub use apply::{CheckResult, PresetResult, apply};
pub use decide::{Deciding, Gate, Noise, Subject, SubjectMode};
pub use guardrail::{GuardrailVerdict, SpanPromise};
pub use preset::{Limit, Measure, PRESETS, Preset};

use crate::verdict::Verdict;

/// The worst of several verdicts: FAIL, then INCONCLUSIVE, then PASS; of none, INCONCLUSIVE.
pub fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let rank = |verdict: &Verdict| match verdict {
        Verdict::Pass => 0,
        Verdict::Inconclusive => 1,
        Verdict::Fail => 2,
    };
    verdicts.into_iter().max_by_key(rank).unwrap_or(Verdict::Inconclusive)
}
