//! What llama.cpp's CPU kernels do to numbers, as far as its type tables say it: by weight type and cache type.
//!
//! A product with a matrix first brings the activations into the type that its dot product takes (`vec_dot_type`): f16 for
//! F16, bf16 for BF16, blocks of 8 bits for quantised types. Without flash attention that holds of attention's two products
//! too, whose matrices are the cached K and V. What the kernels of flash attention do is not in any table, and is not
//! declared: the probe finds it out. Nothing of the kind is declared of a GPU.

use crate::options::{CacheType, Device, Options};
use driftprobe_engine::EngineError;
use driftprobe_model::{Activation, Model, WeightDtype, WeightId, expected_weights};
use driftprobe_trace::{Contract, ContractFields, Point};
use std::collections::BTreeSet;

/// The contract of a model under these options.
///
/// # Errors
/// When the model lacks a tensor.
pub fn of(model: &Model, options: &Options) -> Result<Contract, EngineError> {
    let f32 = || Some("f32".to_owned());
    let matrices = expected_weights(&model.config).into_iter().filter(|(_, shape)| shape.len() == 2);
    let mut dtypes = BTreeSet::new();
    for (id, _) in matrices {
        let weight = model.weights.get(&id.name())?;
        // The embedding is looked up and not multiplied, unless it is the output matrix too.
        if id != WeightId::Embed || model.config.tie_word_embeddings {
            dtypes.insert(weight.dtype());
        }
    }
    let flat = ContractFields {
        weights: Some(dtypes.iter().map(|d| d.id().to_lowercase()).collect::<Vec<_>>().join(",")),
        activations: f32(),
        residual: f32(),
        kv_cache: Some(options.kv_cache.to_string()),
        softmax: f32(),
        scores: f32(),
        probs: f32(),
        rope_table: f32(),
        ..ContractFields::default()
    };
    let mut contract = Contract { flat, ..Contract::default() };
    if options.device == Device::Gpu {
        return Ok(contract);
    }
    let quantised: BTreeSet<&str> = dtypes.iter().filter_map(|d| converted_to(*d)).collect();
    let quantised = (!quantised.is_empty()).then(|| quantised.into_iter().collect::<Vec<_>>().join(","));
    for point in Point::ALL.iter().filter(|point| **point != Point::AttnOut || !options.flash_attention) {
        let fields = ContractFields {
            accumulate: f32(),
            activation_quant: quantised.clone().filter(|_| is_product(*point)),
            ..ContractFields::default()
        };
        contract.by_point.insert(point.id().to_owned(), fields);
    }
    if !options.flash_attention {
        attention(options.kv_cache, &mut contract);
    }
    if model.config.activation == Activation::GeluTanh {
        // GELU is looked up in a table of f16 by f16.
        let fields = contract.by_point.entry(Point::MlpAct.id().to_owned()).or_default();
        fields.inputs = Some("f16".to_owned());
        fields.rounding = Some(vec!["f16".to_owned(), "f32".to_owned()]);
    }
    Ok(contract)
}

/// Attention as two products: Q meets K, and probabilities meet V, each in the cache's type.
fn attention(cache: CacheType, contract: &mut Contract) {
    if cache != CacheType::F16 {
        return;
    }
    for point in [Point::AttnScores, Point::AttnProbs, Point::AttnOut] {
        let fields = contract.by_point.entry(point.id().to_owned()).or_default();
        fields.inputs = Some("f16".to_owned());
        if point == Point::AttnOut {
            fields.probs = Some("f16".to_owned());
        }
    }
}

/// What activations are brought into before they meet weights of this type; none: they stay f32.
fn converted_to(weights: WeightDtype) -> Option<&'static str> {
    Some(match weights {
        WeightDtype::F32 => return None,
        WeightDtype::F16 => "f16",
        WeightDtype::Bf16 => "bf16",
        WeightDtype::Q4_1 | WeightDtype::Q5_1 => "q8_1_ggml",
        quantised if quantised.block().0 == 256 => "q8_k",
        _ => "q8_0",
    })
}

/// Whether a point is the product with a matrix of weights.
fn is_product(point: Point) -> bool {
    use Point::*;
    matches!(point, QProjOut | KProjOut | QPreRope | KPreRope | VProj | AttnProjOut | MlpGate | MlpUp | MlpOut | Logits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quant(contract: &Contract, point: Point) -> Option<&str> {
        contract.by_point.get(point.id())?.activation_quant.as_deref()
    }

    #[test]
    fn activations_take_the_type_of_the_weights_that_they_meet() {
        let demo = Model::demo().unwrap();
        let contract = of(&demo, &Options::default()).unwrap();
        assert_eq!(contract.flat.weights.as_deref(), Some("f16"));
        assert_eq!(quant(&contract, Point::MlpOut), Some("f16"));
        assert_eq!(quant(&contract, Point::FfnNormOut), None);
        assert_eq!(converted_to(WeightDtype::Q4_K), Some("q8_k"));
        assert_eq!(converted_to(WeightDtype::Q8_0), Some("q8_0"));
        assert_eq!(converted_to(WeightDtype::F32), None);
    }

    /// The presets of those who have a run of llama.cpp and not this crate.
    #[test]
    fn the_presets_say_the_same() {
        let gguf = |name: &str| concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf/").to_owned() + name;
        for weights in ["f32", "f16", "bf16", "q8_0", "q4_k"] {
            let model = Model::open(std::path::Path::new(&gguf(&format!("llama-{weights}.gguf")))).unwrap();
            let preset = driftprobe::presets::contract(&format!("llama-cpp-{weights}")).unwrap();
            let own = of(&model, &Options::default()).unwrap();
            // Files have a few tensors in finer types beside.
            let with = |contract: &Contract| Contract {
                flat: ContractFields { weights: None, ..contract.flat.clone() },
                ..contract.clone()
            };
            assert!(with(&preset) == with(&own), "{weights}");
        }
    }

    #[test]
    fn what_flash_attention_does_is_not_declared() {
        let demo = Model::demo().unwrap();
        let flash = of(&demo, &Options { flash_attention: true, ..Options::default() }).unwrap();
        assert!(!flash.by_point.contains_key("attn_out") && flash.flat.accumulate.is_none());
        let naive = of(&demo, &Options::default()).unwrap();
        assert_eq!(naive.by_point["attn_out"].probs.as_deref(), Some("f16"));
        let plain = of(&demo, &Options { kv_cache: CacheType::F32, ..Options::default() }).unwrap();
        assert_eq!(plain.by_point["attn_out"].probs, None);
        let q = |contract: &Contract| contract.by_point["attn_scores"].inputs.clone();
        assert_eq!((q(&naive).as_deref(), q(&plain)), (Some("f16"), None));
    }

    #[test]
    fn of_a_gpu_only_types_are_declared() {
        let gpu = of(&Model::demo().unwrap(), &Options { device: Device::Gpu, ..Options::default() }).unwrap();
        assert!(gpu.by_point.is_empty() && gpu.flat.accumulate.is_none());
    }
}
