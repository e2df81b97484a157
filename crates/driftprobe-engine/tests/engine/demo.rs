//! The embedded model: its safetensors and its GGUF file are one model.

use crate::support::{logits, plain, worst_row};
use driftprobe_engine::{EmbeddedEngine, Engine};
use driftprobe_model::{Config, Format, Model, RopeLayout};
use driftprobe_trace::Phase;
use std::path::Path;

fn demo(file: &str) -> Model {
    Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../driftprobe-model/demo").join(file)).unwrap()
}

const TEXTS: [&str; 8] = [
    "",
    "a",
    "The same token, computed twice.",
    "  two  spaces,\n\nlines\r\n and\ttabs",
    "Größe, café, 日本語, 🦙 and 1234567890",
    "'tis what we'll do, they've said",
    "UPPER lower CamelCase snake_case",
    "<|endoftext|> <s> </s> <unk>",
];

#[test]
fn both_files_have_the_same_config() {
    let (gguf, embedded) = (demo("model.gguf"), Model::demo().unwrap());
    assert_eq!((gguf.format, embedded.format), (Format::Gguf, Format::Safetensors));
    assert_eq!(gguf.config.rope.layout, RopeLayout::Interleaved);
    let mut config = Config { rope: embedded.config.rope.clone(), ..gguf.config.clone() };
    // GGUF holds epsilon as f32.
    assert_eq!(gguf.config.rms_norm_eps as f32, embedded.config.rms_norm_eps as f32);
    config.rms_norm_eps = embedded.config.rms_norm_eps;
    assert_eq!(config, embedded.config);
}

#[test]
fn both_files_hold_the_same_values_but_for_the_order_of_q_and_k_rows() {
    let (gguf, embedded) = (demo("model.gguf"), Model::demo().unwrap());
    let names: Vec<&str> = embedded.weights.names().collect();
    assert!(gguf.weights.names().eq(names.iter().copied()));
    for name in names {
        let (ours, theirs) = (embedded.weights.get(name).unwrap(), gguf.weights.get(name).unwrap());
        let (rows, cols, half) = (ours.rows(), ours.cols(), embedded.config.head_dim / 2);
        let permuted = name.contains("q_proj") || name.contains("k_proj");
        let (ours, theirs) = (ours.to_f32(), theirs.to_f32());
        for row in 0..rows {
            // Row i of the first half of a head is GGUF's row 2i, row i of the second half its row 2i + 1.
            let (head, within) = (row / (2 * half), row % (2 * half));
            let there = if permuted { head * 2 * half + within % half * 2 + within / half } else { row };
            assert!(
                ours[row * cols..(row + 1) * cols] == theirs[there * cols..(there + 1) * cols],
                "{name}, row {row}"
            );
        }
    }
}

#[test]
fn both_files_encode_text_alike_and_give_it_back() {
    let (gguf, embedded) = (demo("model.gguf"), Model::demo().unwrap());
    let (gguf, embedded) = (gguf.tokenizer.unwrap(), embedded.tokenizer.unwrap());
    for text in TEXTS {
        let ids = embedded.encode(text).unwrap();
        assert_eq!(gguf.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(gguf.decode(&ids).unwrap(), embedded.decode(&ids).unwrap(), "{text:?}");
        let decoded = embedded.decode(&ids).unwrap();
        assert!(decoded.ends_with(text), "{text:?} came back as {decoded:?}");
    }
}

#[test]
fn both_files_give_the_same_logits() {
    let (gguf, embedded) = (demo("model.gguf"), Model::demo().unwrap());
    let tokens = embedded.tokenizer.as_ref().unwrap().encode(TEXTS[2]).unwrap();
    let (gguf, embedded) =
        (EmbeddedEngine::new(&gguf, plain()).unwrap(), EmbeddedEngine::new(&embedded, plain()).unwrap());
    for phase in Phase::ALL {
        let error = worst_row(&logits(&gguf, phase, &tokens), &logits(&embedded, phase, &tokens), tokens.len());
        assert!(error <= 2e-6, "{phase}: {error:e}");
    }
}

#[test]
fn the_trained_model_has_learnt_something() {
    let model = Model::demo().unwrap();
    let tokens = model.tokenizer.as_ref().unwrap().encode("The quick brown fox and the other one of the same").unwrap();
    let engine = EmbeddedEngine::new(&model, plain()).unwrap();
    let logits = logits(&engine, Phase::Prefill, &tokens);
    let rows = logits.chunks(engine.vocab()).zip(&tokens[1..]);
    let loss = |(row, next): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
        sum.ln() - f64::from(row[*next as usize])
    };
    let mean = rows.map(loss).sum::<f64>() / (tokens.len() - 1) as f64;
    let guessing = (engine.vocab() as f64).ln();
    assert!(mean < guessing - 1.0, "loss {mean:.2}, {guessing:.2} by guessing");
}
