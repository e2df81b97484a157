//! llama.cpp through this crate against transformers, on GGUF fixtures: both phases, every position.

mod support;

use driftprobe_engine::{Engine, Tap};
use driftprobe_llama_cpp::{CacheType, Options};
use driftprobe_testkit::worst_row;
use support::Fixture;

#[test]
fn logits_of_both_phases_are_those_of_transformers_within_the_rounding_of_the_types() {
    // Largest relative error of a row: what the activations' type rounds off.
    let cases = [
        ("llama-f32", 1e-6),
        ("llama-f16", 1e-3),
        ("llama-bf16", 1e-2),
        ("llama-q8_0", 3e-2),
        ("llama-q4_0", 3e-2),
        ("llama-q4_1", 3e-2),
        ("llama-q5_0", 3e-2),
        ("llama-q5_1", 3e-2),
        ("llama-q2_k", 4e-2),
        ("llama-q3_k", 4e-2),
        ("llama-q4_k", 4e-2),
        ("llama-q5_k", 4e-2),
        ("llama-q6_k", 4e-2),
        ("llama-rope-linear-f16", 1e-3),
        ("llama-rope-llama3-f16", 1e-3),
        ("llama-rope-yarn-f16", 1e-3),
        ("qwen2-f32", 1e-6),
        ("qwen3-bf16", 1e-2),
        // GELU from a table of f16 by f16.
        ("gemma2-f32", 1e-3),
    ];
    let mut failed = Vec::new();
    for (name, bound) in cases {
        let fixture = Fixture::open(name);
        let options = Options { kv_cache: CacheType::F32, ..Options::default() };
        let engine = fixture.engine(&options);
        let n = fixture.tokens.len();
        let p = engine.session().unwrap().prefill(&fixture.tokens, 0..n, &mut Tap::closed()).unwrap();
        let mut session = engine.session().unwrap();
        let d: Vec<f32> = fixture.tokens.iter().flat_map(|t| session.decode(*t, &mut Tap::closed()).unwrap()).collect();
        let rows = fixture.tokens.len();
        let (p, d) = (worst_row(&p, &fixture.logits, rows), worst_row(&d, &fixture.logits, rows));
        println!("{name}: {n} tokens, prefill {p:.2e}, decode {d:.2e}");
        if !(p <= bound && d <= bound) {
            failed.push(format!("{name}: prefill {p:.2e}, decode {d:.2e}, expected {bound:e}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
