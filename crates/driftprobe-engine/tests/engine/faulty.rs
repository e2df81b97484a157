//! The faulty engine: every fault acts exactly where it should, goes on from there, and leaves all else as it was.

mod acting;
mod meaning;
mod recorded;
mod text;
mod traces;
mod voids;

use crate::support::model;
use driftprobe_engine::Settings;
use driftprobe_engine::faulty::{Fault, FaultyEngine, Scope, Subject};
use driftprobe_model::Model;

/// Length of the sequences.
const TOKENS: usize = 12;

/// The catalogue's ids.
const IDS: [&str; 44] = [
    "ROPE_POSITION_OFFSET",
    "ROPE_THETA",
    "ROPE_LAYOUT",
    "ROPE_SCALING",
    "K_WITHOUT_ROPE",
    "ROPE_TABLE_PRECISION",
    "MASK_SEES_FUTURE",
    "MASK_MISSES_NEWEST",
    "MASK_MISSES_FIRST",
    "MASK_WINDOW",
    "KV_STALE_SLOT",
    "KV_DUPLICATED_SLOT",
    "KV_SWAPPED_SLOTS",
    "KV_FOREIGN_ROW",
    "KV_EXCHANGED",
    "KV_PRECISION",
    "KV_NOT_WRITTEN",
    "GQA_MAP",
    "HEAD_SWAP",
    "HEAD_LAYOUT",
    "SCALE_MISSING",
    "SCALE_WRONG",
    "SOFTCAP_MISSING",
    "SOFTMAX_UNNORMALISED",
    "SOFTMAX_MERGE",
    "NORM_EPS",
    "NORM_WEIGHT_PLUS_ONE",
    "NORM_MEAN_SUBTRACTED",
    "NORM_SKIPPED",
    "WEIGHT_TRANSPOSED",
    "BIAS_MISSING",
    "BIAS_REPEATED",
    "WEIGHT_OTHER_LAYER",
    "TAIL_DROPPED",
    "QUANT_SCALE",
    "ACCUMULATOR_SATURATED",
    "GATE_UP_SWAPPED",
    "ACTIVATION_WRONG",
    "RESIDUAL_DROPPED",
    "RESIDUAL_DOUBLED",
    "EMBED_SCALE",
    "EMBED_ROW",
    "LM_HEAD_ROW",
    "LM_HEAD_WEIGHT",
];

fn open(path: &str) -> Model {
    if path == "DEMO" { Model::demo().unwrap() } else { model(path) }
}

fn subject<'a>(model: &'a Model, settings: &'a Settings) -> Subject<'a> {
    Subject { model, settings, tokens: TOKENS }
}

fn sequence(vocab: usize) -> Vec<u32> {
    (0..TOKENS).map(|i| ((i * i * 7 + 5 * i + 3) % vocab) as u32).collect()
}

fn faulty(subject: &Subject<'_>, fault: &Fault) -> FaultyEngine {
    FaultyEngine::new(subject, fault.clone()).unwrap_or_else(|e| panic!("{fault}: {e}"))
}

fn catalogue(subject: &Subject<'_>, scope: Scope) -> Vec<Fault> {
    Fault::catalogue(subject, scope)
}
