//! Models with the logits that transformers computes for them, and a receiver that keeps what an engine shows.

pub mod blocks;
pub mod recording;
pub mod twin;

pub use driftprobe_testkit::worst_row;

use driftprobe_engine::{
    DecodeAttention, EmbeddedEngine, Engine, EngineError, PrefillAttention, Receiver, Selection, Settings, Storage,
    Tap, TappedRow,
};
use driftprobe_model::Model;
use driftprobe_testkit::{Expected, expected_path};
use driftprobe_trace::{Phase, Point, Row};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One folder of every family.
pub const FAMILIES: [&str; 5] = ["hf/llama", "hf/mistral", "hf/qwen2", "hf/qwen3", "hf/gemma2"];

pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

pub fn model(path: &str) -> Model {
    Model::open(&fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn engine(path: &str, settings: &Settings) -> EmbeddedEngine {
    EmbeddedEngine::new(&model(path), settings.clone()).unwrap()
}

/// A fixture's tokens and the logits that transformers computes for them, position by position.
pub fn expected(path: &str) -> (Vec<u32>, Vec<f32>) {
    let expected = Expected::open(&expected_path(&fixture(path)));
    (expected.tokens, expected.logits)
}

pub fn tokens(path: &str) -> Vec<u32> {
    expected(path).0
}

/// f32, naive, whole prompt at once.
pub fn plain() -> Settings {
    Settings::default()
}

pub fn blocked(keys: usize) -> Settings {
    Settings { prefill_attention: PrefillAttention::Blocked { keys }, ..plain() }
}

pub fn split_k(parts: usize) -> Settings {
    Settings { decode_attention: DecodeAttention::SplitK { parts }, ..plain() }
}

pub fn chunked(tokens: usize) -> Settings {
    Settings { prefill_chunk_tokens: Some(tokens), ..plain() }
}

/// Storage between stages, and in the cache.
pub fn stored(storage: Storage, kv_cache: Storage) -> Settings {
    Settings { storage, kv_cache, ..plain() }
}

/// Keeps every row.
#[derive(Default)]
pub struct Collected {
    pub rows: Vec<TappedRow>,
    /// Layers that began, in order, each with the tokens that pass through it.
    pub entered: Vec<(usize, usize)>,
}

impl Receiver for Collected {
    fn row(&mut self, row: TappedRow) -> Result<(), EngineError> {
        self.rows.push(row);
        Ok(())
    }

    fn layer(&mut self, layer: usize, tokens: usize) -> Result<(), EngineError> {
        self.entered.push((layer, tokens));
        Ok(())
    }
}

/// Every point of every layer.
pub fn everything(engine: &dyn Engine) -> Selection {
    Selection { points: Point::ALL.iter().copied().collect(), layers: (0..engine.layers()).collect() }
}

/// Logits of all positions, untapped.
pub fn logits(engine: &dyn Engine, phase: Phase, tokens: &[u32]) -> Vec<f32> {
    feed(engine, phase, tokens, &mut Tap::closed())
}

/// Logits of all positions and the selected rows.
pub fn tapped(
    engine: &dyn Engine,
    phase: Phase,
    tokens: &[u32],
    (selection, positions): (&Selection, Range<usize>),
) -> (Vec<f32>, Vec<TappedRow>) {
    let mut collected = Collected::default();
    let logits = feed(engine, phase, tokens, &mut Tap::open(selection, positions, &mut collected));
    (logits, collected.rows)
}

pub fn feed(engine: &dyn Engine, phase: Phase, tokens: &[u32], tap: &mut Tap<'_>) -> Vec<f32> {
    let mut session = engine.session().unwrap();
    match phase {
        Phase::Prefill => session.prefill(tokens, 0..tokens.len(), tap).unwrap(),
        Phase::Decode => tokens.iter().flat_map(|t| session.decode(*t, tap).unwrap()).collect(),
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The values of a row, each exactly.
pub fn values(row: &TappedRow) -> Vec<f64> {
    Row::new(row.dtype, row.shape.clone(), row.bytes.clone()).unwrap().to_f64()
}
