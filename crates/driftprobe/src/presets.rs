//! Contracts of engines that people run, by name.

use driftprobe_trace::{Contract, ContractFields};

/// The presets.
pub const NAMES: [&str; 5] = ["f32", "f16", "bf16", "transformers-eager-f16", "transformers-eager-bf16"];

/// The contract of this name.
pub fn contract(name: &str) -> Option<Contract> {
    let (engine, format) = name.rsplit_once('-').unwrap_or(("", name));
    let format = Some(format).filter(|format| ["f32", "f16", "bf16"].contains(format))?;
    match engine {
        "" => Some(Contract { flat: plain(format), ..Contract::default() }),
        "transformers-eager" if format != "f32" => Some(eager(format)),
        _ => None,
    }
}

/// Values stored in one format between stages, everything inside a stage in f32.
fn plain(format: &str) -> ContractFields {
    let (storage, f32) = (Some(format.to_owned()), Some("f32".to_owned()));
    ContractFields {
        activations: storage.clone(),
        residual: storage.clone(),
        kv_cache: storage,
        accumulate: f32.clone(),
        softmax: f32.clone(),
        scores: f32.clone(),
        probs: f32.clone(),
        rope_table: f32,
        ..ContractFields::default()
    }
}

/// Eager attention of Hugging Face transformers in a 16-bit format: every operation's result is stored.
fn eager(format: &str) -> Contract {
    let storage = Some(format.to_owned());
    let flat = ContractFields { scores: storage.clone(), probs: storage.clone(), rope_table: storage, ..plain(format) };
    let twice = ContractFields { rounding: Some(vec![format.to_owned(); 2]), ..ContractFields::default() };
    let points = ["attn_norm_out", "ffn_norm_out", "final_norm_out", "q_post_rope", "k_post_rope", "mlp_act"];
    let by_point = points.into_iter().map(|point| (point.to_owned(), twice.clone())).collect();
    Contract { flat, by_point, ..Contract::default() }
}
