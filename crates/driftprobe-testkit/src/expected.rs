//! What transformers computed from a fixture.

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// A fixture's tokens, and the logits of every position.
pub struct Expected {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// `[tokens, vocab]`, computed in f32.
    pub logits: Vec<f32>,
    /// The same in float64; empty where the fixture has none.
    pub logits_f64: Vec<f64>,
}

impl Expected {
    /// Reads an `expected.safetensors`.
    pub fn open(path: &Path) -> Expected {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tokens = tensors.tensor("tokens").unwrap().data().as_chunks::<8>().0;
        let logits = tensors.tensor("logits").unwrap().data().as_chunks::<4>().0;
        let logits_f64 = tensors.tensor("logits_f64").map_or(&[][..], |t| t.data().as_chunks::<8>().0);
        Expected {
            tokens: tokens.iter().map(|t| u32::try_from(i64::from_le_bytes(*t)).unwrap()).collect(),
            logits: logits.iter().map(|l| f32::from_le_bytes(*l)).collect(),
            logits_f64: logits_f64.iter().map(|l| f64::from_le_bytes(*l)).collect(),
        }
    }
}

/// Where a model's expected values are: beside its GGUF file, or in its folder.
pub fn expected_path(model: &Path) -> PathBuf {
    match model.extension() {
        Some(extension) if extension == "gguf" => {
            let stem = model.file_stem().unwrap_or_default().to_string_lossy();
            model.with_file_name(format!("{stem}-expected.safetensors"))
        }
        _ => model.join("expected.safetensors"),
    }
}
