//! The embedded engine against Hugging Face transformers, on every fixture: both phases, every position.
//!
//! The expected logits were computed by transformers in float32 (see `fixtures/`). The bound is of the logits' norm.

use driftprobe_engine::{EmbeddedEngine, Engine, QuantisedMatmul, Session, Settings, Tap};
use driftprobe_model::Model;
use driftprobe_testkit::{Expected, worst_row};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest relative error of a row of logits.
const REL_ERROR_MAX: f64 = 2e-6;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

struct Case {
    path: String,
    family: String,
    format: String,
    dtype: String,
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let list: Value = serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    let text = |f: &Value, key: &str| f[key].as_str().unwrap().to_owned();
    let models = list["fixtures"].as_array().unwrap().iter().filter(|f| f["tokens"].is_number());
    let cases: Vec<Case> = models
        .map(|f| {
            let Expected { tokens, logits, .. } = Expected::open(&fixtures().join(text(f, "expected")));
            Case {
                path: text(f, "path"),
                family: text(f, "family"),
                format: text(f, "format"),
                dtype: text(f, "dtype"),
                tokens,
                logits,
            }
        })
        .collect();
    assert!(cases.len() >= 30, "only {} fixtures", cases.len());
    cases
}

fn engine(case: &Case, settings: Settings) -> EmbeddedEngine {
    let model = Model::open(&fixtures().join(&case.path)).unwrap_or_else(|e| panic!("{}: {e}", case.path));
    EmbeddedEngine::new(&model, settings).unwrap()
}

fn prefill(engine: &EmbeddedEngine, tokens: &[u32]) -> Vec<f32> {
    engine.session().unwrap().prefill(tokens, 0..tokens.len(), &mut Tap::closed()).unwrap()
}

fn decode(engine: &EmbeddedEngine, tokens: &[u32]) -> Vec<f32> {
    let mut session: Box<dyn Session> = engine.session().unwrap();
    tokens.iter().flat_map(|t| session.decode(*t, &mut Tap::closed()).unwrap()).collect()
}

#[test]
fn logits_of_both_phases_equal_those_of_transformers() {
    let mut failed = Vec::new();
    for case in cases() {
        let engine = engine(&case, Settings { quantised_matmul: QuantisedMatmul::Dequantise, ..Default::default() });
        let n = case.tokens.len();
        let (p, d) = (prefill(&engine, &case.tokens), decode(&engine, &case.tokens));
        let (p, d) = (worst_row(&p, &case.logits, n), worst_row(&d, &case.logits, n));
        println!("| {} | {} | {} | {} | {n} | {p:.1e} | {d:.1e} |", case.family, case.format, case.dtype, case.path);
        if !(p <= REL_ERROR_MAX && d <= REL_ERROR_MAX) {
            failed.push(format!("{}: prefill {p:.2e}, decode {d:.2e}", case.path));
        }
    }
    assert!(failed.is_empty(), "over {REL_ERROR_MAX:e}:\n{}", failed.join("\n"));
}
