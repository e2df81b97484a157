//! The fixtures, copies of them that a test may spoil, and what every refusal must say.

pub mod folder;
pub mod gguf;

use driftprobe_model::ModelError;
use std::path::{Path, PathBuf};

/// A file or folder of `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

pub fn read(path: &str) -> Vec<u8> {
    std::fs::read(fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Asserts that something was refused, that the message holds all these pieces, and that there is a hint.
pub fn refused<T>(case: &str, result: Result<T, ModelError>, pieces: &[&str]) {
    let Err(error) = result else { panic!("{case}: not refused") };
    let message = error.to_string();
    for piece in pieces {
        assert!(message.contains(piece), "{case}: expected {piece:?} in {message:?}");
    }
    assert!(error.hint().is_some_and(|h| !h.is_empty()), "{case}: no hint with {message:?}");
}

/// As [`refused`], and it is refused as something that is not supported (rather than as damaged).
pub fn unsupported<T>(case: &str, result: Result<T, ModelError>, pieces: &[&str]) {
    assert!(matches!(result, Err(ModelError::Unsupported { .. })), "{case}: not refused as unsupported");
    refused(case, result, pieces);
}
