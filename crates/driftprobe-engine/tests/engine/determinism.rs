//! The same settings give the same bytes: from run to run, from engine to engine, and on any number of threads.

use crate::support::blocks::Format;
use crate::support::recording::{files, plan, record_to};
use crate::support::{FAMILIES, bits, blocked, engine, logits, plain, split_k, tokens};
use driftprobe_engine::{EmbeddedEngine, QuantisedMatmul, Settings};
use driftprobe_model::Model;
use driftprobe_trace::Phase;

fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn recording_twice_writes_the_same_bytes() {
    for path in ["hf/gemma2", "gguf/llama-q8_0.gguf"] {
        let settings = Settings { decode_attention: split_k(3).decode_attention, ..blocked(5) };
        let engine = engine(path, &settings);
        let plan = plan(&engine, &tokens(path)[..12]);
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        record_to(&engine, &plan, one.path()).unwrap();
        record_to(&engine, &plan, two.path()).unwrap();
        let (one, two) = (files(one.path()), files(two.path()));
        // Two phases of two prompts, traced and with payloads; a repeat without; two manifests.
        assert_eq!(one.len(), 14, "{path}: {:?}", one.keys());
        assert!(one.keys().eq(two.keys()), "{path}");
        one.iter().for_each(|(name, bytes)| assert!(two[name] == *bytes, "{path}: {name}"));
    }
}

#[test]
fn an_engine_made_anew_gives_the_same_bits() {
    for path in FAMILIES {
        for phase in Phase::ALL {
            let once = || bits(&logits(&engine(path, &plain()), phase, &tokens(path)));
            assert!(once() == once(), "{path}, {phase}");
        }
    }
}

/// The logits of both phases on one thread, and on several.
fn assert_independent_of_threads(engine: &EmbeddedEngine, tokens: &[u32], decoded: usize) {
    let work = |phase, tokens: &[u32]| bits(&logits(engine, phase, tokens));
    for (phase, tokens) in [(Phase::Prefill, tokens), (Phase::Decode, &tokens[..decoded])] {
        let one = on_threads(1, || work(phase, tokens));
        assert!(on_threads(2, || work(phase, tokens)) == one, "{phase}: two threads");
        assert!(on_threads(5, || work(phase, tokens)) == one, "{phase}: five threads");
        assert!(work(phase, tokens) == one, "{phase}: as many as there are");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit_of_the_embedded_model() {
    let model = Model::demo().unwrap();
    let tokens: Vec<u32> = (0..120).map(|i| (i * 37 + 11) % 512).collect();
    let settings = Settings { decode_attention: split_k(3).decode_attention, ..blocked(32) };
    for settings in [plain(), settings] {
        assert_independent_of_threads(&EmbeddedEngine::new(&model, settings).unwrap(), &tokens, 10);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit_of_quantised_weights() {
    let tokens: Vec<u32> = (0..60).map(|i| (i * 37 + 11) % 40).collect();
    for quantised_matmul in [QuantisedMatmul::Integer, QuantisedMatmul::Dequantise] {
        let settings = Settings { quantised_matmul, ..plain() };
        assert_independent_of_threads(&EmbeddedEngine::new(&Format::Q8_0.model(), settings).unwrap(), &tokens, 10);
    }
}
