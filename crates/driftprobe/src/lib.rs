//! The judging core of driftprobe: do the prefill and the decode phase of an engine compute the same token alike?
//!
//! [`analyze`] takes a run, pairs its events strictly ([`pair`]), compares each pair ([`evidence`], [`metrics`]), judges it
//! ([`judge`]), holds what was found against what was promised ([`coverage`]) and reaches a verdict ([`verdict`]). The
//! reports of [`report`] are renderings of the [`Analysis`], which is all there is to say.
//!
//! The crate is pure: it opens no file, no socket, asks neither clock nor environment. The same run gives the same bytes.
pub mod advice;
pub mod analysis;
pub mod attribute;
pub mod cause;
pub mod compare;
pub mod coverage;
pub mod digest;
pub mod evidence;
pub mod examine;
pub mod exercise;
pub mod first_values;
pub mod gate;
pub mod grounds;
pub mod hypotheses;
pub mod judge;
pub mod kv;
pub mod left_out;
pub mod logprobs;
pub mod metrics;
pub mod modes;
pub mod oracle;
pub mod pair;
pub mod place;
pub mod presets;
pub mod progress;
pub mod reach;
pub mod reason;
pub mod repeat;
pub mod report;
pub mod search;
pub mod simulate;
pub mod spelling;
pub mod statement;
pub mod sweep;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod testing;
pub mod verdict;
pub mod view;

pub use analysis::{Analysis, Options, analyze, analyze_against, analyze_with};
pub use verdict::{EXIT_COULD_NOT_RUN, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, Verdict};
