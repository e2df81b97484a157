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
