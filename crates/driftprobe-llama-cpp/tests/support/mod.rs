//! Fixtures for the tests: GGUF files and the logits that transformers computed from them.

#![allow(dead_code, reason = "every test binary uses its part")]

pub mod judged;

use candle_core::quantized::GgmlDType;
use driftprobe_llama_cpp::{LlamaCppEngine, Options};
use driftprobe_model::Model;
use driftprobe_testkit::{Expected, LlamaShape, expected_path, random_llama};
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
        let path = folder().join(format!("{name}.gguf"));
        let Expected { tokens, logits, .. } = Expected::open(&expected_path(&path));
        Fixture { name: name.to_owned(), model: Model::open(&path).unwrap(), tokens, logits }
    }

    pub fn engine(&self, options: &Options) -> LlamaCppEngine {
        let options = Options { context_tokens: Some(512), threads: Some(2), ..options.clone() };
        LlamaCppEngine::new(&self.model, options).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

/// A tiny model of random weights, its matrices of this type.
pub fn random_model(dir: &tempfile::TempDir, dtype: GgmlDType) -> Model {
    let path = dir.path().join("tiny.gguf");
    random_llama(&path, LlamaShape::TINY, dtype);
    Model::open(&path).unwrap()
}
