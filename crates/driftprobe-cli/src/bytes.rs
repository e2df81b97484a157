//! The readers of what a user hands to the program, over bytes in memory: for fuzzers and tests.

use crate::{Failure, by_prompt, gate, import, prompts};
use driftprobe::digest::Plan;
use driftprobe::gate::matrix::Matrix;
use std::path::Path;

/// How many prompts a `*.json` prompt file of this text has, and the tokens of those that are given as tokens.
///
/// # Errors
/// As `driftprobe run --prompts`.
pub fn prompts(text: &str) -> Result<(usize, u64), Failure> {
    prompts::count(Path::new("prompts.json"), text)
}

/// The token ids of a file of these bytes; `raw`: 32-bit ones rather than JSON.
///
/// # Errors
/// As `driftprobe import --tokens`.
pub fn tokens(bytes: &[u8], raw: bool) -> Result<Vec<u32>, Failure> {
    import::tokens_of(Path::new(if raw { "tokens.bin" } else { "tokens.json" }), bytes)
}

/// The matrix of a file of this text.
///
/// # Errors
/// As `driftprobe gate --matrix`.
pub fn matrix(text: &str) -> Result<Matrix, Failure> {
    gate::matrix_of("matrix.toml", text)
}

/// The plan of a folder of results.
///
/// # Errors
/// As `driftprobe merge`.
pub fn plan(bytes: &[u8]) -> Result<Plan, Failure> {
    by_prompt::plan_of(Path::new("plan.json"), bytes)
}
