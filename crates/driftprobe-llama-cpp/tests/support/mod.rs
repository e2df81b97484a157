//! Fixtures for the tests: GGUF files and the logits that transformers computed from them.

#![allow(dead_code, reason = "every test binary uses its part")]

pub mod judged;
pub mod made;

use driftprobe_llama_cpp::{LlamaCppEngine, Options};
use driftprobe_model::Model;
use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};

/// A GGUF model with expected logits.
pub struct Fixture {
    pub name: String,
    pub model: Model,
    pub tokens: Vec<u32>,
    /// `[tokens, vocab]`.
    pub logits: Vec<f32>,
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf")
}

impl Fixture {
    pub fn open(name: &str) -> Fixture {
        let model = Model::open(&folder().join(format!("{name}.gguf"))).unwrap();
        let bytes = fs::read(folder().join(format!("{name}-expected.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tokens = tensors.tensor("tokens").unwrap();
        let tokens = tokens.data().as_chunks::<8>().0.iter().map(|t| u32::try_from(i64::from_le_bytes(*t)).unwrap());
        let logits = tensors.tensor("logits").unwrap();
        let logits = logits.data().as_chunks::<4>().0.iter().map(|l| f32::from_le_bytes(*l)).collect();
        Fixture { name: name.to_owned(), model, tokens: tokens.collect(), logits }
    }

    pub fn engine(&self, options: &Options) -> LlamaCppEngine {
        let options = Options { context_tokens: Some(512), threads: Some(2), ..options.clone() };
        LlamaCppEngine::new(&self.model, options).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

/// The worst row's ‖found − expected‖ / ‖expected‖, in f64. NaN if anything is.
pub fn worst_row(found: &[f32], expected: &[f32], width: usize) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let row_error = |(f, e): (&[f32], &[f32])| {
        let difference = norm(&mut f.iter().zip(e).map(|(f, e)| f64::from(*f) - f64::from(*e)));
        difference / norm(&mut e.iter().map(|e| f64::from(*e)))
    };
    let rows = found.chunks(width).zip(expected.chunks(width)).map(row_error);
    rows.fold(0.0, |worst: f64, e| if e.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(e) })
}
