//! The judging core of driftprobe: do the prefill and the decode phase of an engine compute the same token alike?
//!
//! [`analyze`] takes a run and goes through
//! - [`pair`]: which prefill event is the same row as which decode event, and what was promised and is missing;
//! - [`mod@evidence`]: what the two rows prove of each other;
//! - [`mod@judge`]: what becomes of each pair, with the model's help ([`oracle`], [`simulate`], [`cause`]);
//! - [`verdict`]: the reasons, the first failure, the root cause;
//! - [`report`]: renderings of the [`Analysis`], which is all there is to say.
//!
//! Beside that stand what asks for more than one run or another question: [`mod@compare`], [`digest`], [`gate`], [`sweep`],
//! [`search`], [`reach`], [`logprobs`].
//!
//! The crate is pure: it opens no file, no socket, asks neither clock nor environment. The same run gives the same bytes.
pub mod analysis;
pub mod cause;
pub mod compare;
pub mod digest;
pub mod evidence;
pub mod gate;
pub mod judge;
pub mod logprobs;
pub mod oracle;
pub mod pair;
pub mod presets;
pub mod progress;
pub mod reach;
pub mod report;
pub mod search;
pub mod simulate;
pub mod sweep;
#[cfg(test)]
#[allow(dead_code, reason = "the integration tests use all of it")]
#[path = "../tests/judging/support/mod.rs"]
mod testing;
pub mod verdict;

pub use analysis::{Analysis, Options, analyze, analyze_against, analyze_with};
pub use verdict::{EXIT_COULD_NOT_RUN, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, Verdict};
