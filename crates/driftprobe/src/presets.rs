//! Contracts of engines that people run, by name.

use driftprobe_trace::{Contract, ContractFields, Point};

/// The presets.
pub const NAMES: [&str; 10] = [
    "f32",
    "f16",
    "bf16",
    "transformers-eager-f16",
    "transformers-eager-bf16",
    "llama-cpp-f32",
    "llama-cpp-f16",
    "llama-cpp-bf16",
    "llama-cpp-q8_0",
    "llama-cpp-q4_k",
];

/// The contract of this name.
pub fn contract(name: &str) -> Option<Contract> {
    NAMES.contains(&name).then_some(())?;
    let (engine, format) = name.rsplit_once('-').unwrap_or(("", name));
    match engine {
        "" => Some(Contract { flat: plain(format), ..Contract::default() }),
        "llama-cpp" => Some(llama_cpp(format)),
        _ => Some(eager(format)),
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

/// llama.cpp on a CPU with matrices of one type, a cache in f16 and no flash attention. Activations take the type that a
/// product's kernel wants, in which attention's products meet the cache too.
fn llama_cpp(weights: &str) -> Contract {
    use Point::*;
    let met = match weights {
        "f32" => None,
        // Tensors whose rows are no multiple of 256 are kept in blocks of 32.
        "q4_k" => Some("q8_0,q8_k"),
        same => Some(same),
    };
    let products = [QProjOut, KProjOut, QPreRope, KPreRope, VProj, AttnProjOut, MlpGate, MlpUp, MlpOut, Logits];
    let of_point = |point: &Point| {
        let f16 = |of: &[Point]| of.contains(point).then(|| "f16".to_owned());
        let fields = ContractFields {
            accumulate: Some("f32".to_owned()),
            activation_quant: met.filter(|_| products.contains(point)).map(str::to_owned),
            inputs: f16(&[AttnScores, AttnProbs, AttnOut]),
            probs: f16(&[AttnOut]),
            ..ContractFields::default()
        };
        (point.id().to_owned(), fields)
    };
    let flat = ContractFields {
        weights: Some(weights.to_owned()),
        kv_cache: Some("f16".to_owned()),
        accumulate: None,
        ..plain("f32")
    };
    Contract { flat, by_point: Point::ALL.iter().map(of_point).collect(), ..Contract::default() }
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
