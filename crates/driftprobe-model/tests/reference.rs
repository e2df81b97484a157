//! The reference arithmetic against transformers in float64 throughout: every Hugging Face fixture, every position.

use driftprobe_model::{Model, reference};
use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest relative error of a row of logits. transformers' own float64 logits repeat to 1e-14.
const REL_ERROR_MAX: f64 = 1e-11;

fn fixtures() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/hf");
    let mut all: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    assert!(all.len() >= 13, "only {} fixtures", all.len());
    all
}

#[test]
fn a_float64_pass_gives_the_logits_that_transformers_gives_in_float64() {
    for path in fixtures() {
        let model = Model::open(&path).unwrap();
        let bytes = fs::read(path.join("expected.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tokens = tensors.tensor("tokens").unwrap().data().as_chunks::<8>().0;
        let tokens: Vec<u32> = tokens.iter().map(|t| u32::try_from(i64::from_le_bytes(*t)).unwrap()).collect();
        let expected = tensors.tensor("logits_f64").unwrap().data().as_chunks::<8>().0;
        let expected: Vec<f64> = expected.iter().map(|l| f64::from_le_bytes(*l)).collect();
        let found = reference::forward(&model, &tokens).unwrap();
        assert_eq!(found.len(), expected.len());
        let width = model.config.vocab_size;
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        for (pos, (f, e)) in found.chunks(width).zip(expected.chunks(width)).enumerate() {
            let error = norm(&mut f.iter().zip(e).map(|(f, e)| f - e)) / norm(&mut e.iter().copied());
            assert!(error <= REL_ERROR_MAX, "{} position {pos}: {error:e}", path.display());
        }
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_refused() {
    let model = Model::demo().unwrap();
    assert!(reference::forward(&model, &[model.config.vocab_size as u32]).is_err());
}
