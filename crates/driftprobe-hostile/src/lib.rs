//! Every reader of driftprobe as a function of bytes: what a fuzzer feeds, and what the tests replay of its findings.
//!
//! A target panics where a reader breaks a promise: it panics itself, asks for more memory than its input can justify, says
//! no word on what to do about an error, or two readers of one format disagree.

pub mod built;
pub mod dumps;
mod framed;
mod memory;
#[cfg(feature = "models")]
pub mod models;
#[cfg(feature = "program")]
pub mod program;
pub mod runs;

pub use memory::{Watched, bounded, most_held};

/// A reader's name, and the function that feeds it.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. `fuzz/fuzz_targets/` has a file for each, `fuzz/regressions/` a folder.
pub const TARGETS: &[Target] = &[
    ("archive", dumps::archive),
    #[cfg(feature = "models")]
    ("config", models::config),
    #[cfg(feature = "program")]
    ("contract", program::contract),
    ("events", runs::events),
    ("events_gz", runs::events_gz),
    #[cfg(feature = "models")]
    ("gguf", models::gguf),
    #[cfg(feature = "models")]
    ("gguf_built", models::gguf_built),
    ("index", runs::index),
    ("inventory", runs::inventory),
    #[cfg(feature = "program")]
    ("layers", program::layers),
    ("logits", dumps::logits),
    ("logprobs", dumps::logprobs),
    ("manifest", runs::manifest),
    ("map", dumps::map),
    #[cfg(feature = "program")]
    ("matrix", program::matrix),
    ("npy", dumps::npy),
    ("parquet", runs::parquet),
    ("payload", runs::payload),
    ("payload_zst", runs::payload_zst),
    ("pickle", dumps::pickle),
    #[cfg(feature = "program")]
    ("plan", program::plan),
    #[cfg(feature = "program")]
    ("prompts", program::prompts),
    #[cfg(feature = "models")]
    ("safetensors", models::safetensors),
    #[cfg(feature = "models")]
    ("tokenizer", models::tokenizer),
    ("torch", dumps::torch),
    ("torch_built", dumps::torch_built),
    ("trees", dumps::trees),
    #[cfg(feature = "models")]
    ("weight_files", models::weight_files),
];

/// Has the thread pool be this thread, for a program of one thread: work is not handed over, and what it holds is counted.
pub fn alone() {
    // A second time it is as it was.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
}

/// The target of this name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, feed)| *feed)
}

/// An error must say something, and what to do.
fn told(error: impl std::fmt::Display, hint: &str) {
    assert!(!error.to_string().is_empty() && !hint.is_empty(), "an error without words: {error}, hint: {hint:?}");
}
