//! The arithmetics of the tables, and which models are run in them.

use driftprobe_engine::{DecodeAttention, PrefillAttention, Settings, Storage};

/// An arithmetic: how values are stored, and how attention goes about it.
#[derive(Clone)]
pub struct Contract {
    /// Name of the storage.
    pub storage: &'static str,
    /// Name of the attention.
    pub attention: &'static str,
    /// Both, as the engine takes them.
    pub settings: Settings,
    /// Models that it is run on.
    pub models: &'static [&'static str],
}

impl Contract {
    pub fn name(&self) -> String {
        format!("{}, {}", self.storage, self.attention)
    }
}

/// Models whose weights are not quantised.
const FLOATS: &[&str] = &["demo", "outliers", "gqa", "bias", "softcap"];

pub const STORAGES: [&str; 7] = [
    "f32",
    "f32 with f16 cache",
    "f16",
    "bf16",
    "bf16 with f32 residual",
    "Q8_0 weights, q8_0 activations",
    "Q4_K weights, q8_k activations",
];

fn storage(name: &'static str) -> (Settings, &'static [&'static str]) {
    let with = |storage, kv_cache| Settings { storage, kv_cache, ..Settings::default() };
    let residual = |settings| Settings { residual: Some(Storage::F32), ..settings };
    match name {
        "f32 with f16 cache" => (with(Storage::F32, Storage::F16), FLOATS),
        "f16" => (with(Storage::F16, Storage::F16), FLOATS),
        "bf16" => (with(Storage::Bf16, Storage::Bf16), FLOATS),
        "bf16 with f32 residual" => (residual(with(Storage::Bf16, Storage::Bf16)), FLOATS),
        "Q8_0 weights, q8_0 activations" => (Settings::default(), &["q8_0"]),
        "Q4_K weights, q8_k activations" => (Settings::default(), &["q4_k"]),
        _ => (Settings::default(), FLOATS),
    }
}

/// Each storage with naive attention and with blocks and split keys.
pub fn contracts() -> Vec<Contract> {
    let mut all = Vec::new();
    for name in STORAGES {
        let (settings, models) = storage(name);
        let blocked = Settings {
            prefill_attention: PrefillAttention::Blocked { keys: 8 },
            decode_attention: DecodeAttention::SplitK { parts: 3 },
            ..settings.clone()
        };
        all.push(Contract { storage: name, attention: "naive", settings, models });
        all.push(Contract { storage: name, attention: "blocked", settings: blocked, models });
    }
    all
}
