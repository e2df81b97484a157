//! Inverse frequencies against those of transformers 4.57.3, through `config.json`.
//!
//! The constants were printed by
//! ```python
//! import torch
//! from transformers import LlamaConfig
//! from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
//! def show(theta, longest, **scaling):
//!     config = LlamaConfig(hidden_size=32, num_attention_heads=2, head_dim=16, rope_theta=theta,
//!                          max_position_embeddings=longest, rope_scaling=scaling)
//!     frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, "cpu")
//!     print([f"{f:.9g}" for f in frequencies.tolist()], float(factor))
//! ```
//! which computes in float32. Where two frequencies are blended it takes 1 − ramp, which cancels, so the bound is sixteen
//! roundings.

use crate::support::folder::Folder;
use crate::support::unsupported;
use driftprobe_model::{Rope, RopeLayout, RopeScaling};
use serde_json::{Value, json};

const HEAD_DIM: usize = 16;
const REL_ERROR_MAX: f64 = 16.0 * 6e-8;

fn rope(theta: f64, longest: u64, scaling: &Value) -> Rope {
    let folder = Folder::copy("llama-rope-linear");
    let config = json!({"rope_theta": theta, "max_position_embeddings": longest, "rope_scaling": scaling});
    folder.config(config).open().unwrap().config.rope
}

fn assert_frequencies(rope: &Rope, expected: [f64; HEAD_DIM / 2], factor: f64) {
    let found = rope.inv_freq(HEAD_DIM);
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*f) - e).abs() / e;
        assert!(error <= REL_ERROR_MAX, "frequency {i} is {f:e}, expected {e:e}: {rope:?}");
    }
    assert!((rope.attention_factor() - factor).abs() <= 1e-12, "factor {}: {rope:?}", rope.attention_factor());
    assert_eq!(rope.layout, RopeLayout::Half);
}

#[test]
fn plain_frequencies_are_powers_of_theta() {
    let plain = [1.0, 0.316227764, 0.1, 0.0316227786, 0.01, 0.00316227786, 0.001, 0.000316227786];
    for scaling in [json!(null), json!({"rope_type": "default"}), json!({"type": "default"})] {
        assert_frequencies(&rope(10000.0, 64, &scaling), plain, 1.0);
    }
}

#[test]
fn linear_scaling() {
    let expected =
        [0.25, 0.079056941, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-05];
    for key in ["rope_type", "type"] {
        assert_frequencies(&rope(10000.0, 64, &json!({key: "linear", "factor": 4.0})), expected, 1.0);
    }
}

#[test]
fn llama3_scaling() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let expected =
        [1.0, 0.193922758, 0.0376060307, 0.00729266508, 0.000524846022, 3.42810235e-05, 6.64786967e-06, 1.28917316e-06];
    assert_frequencies(&rope(500000.0, 131072, &scaling), expected, 1.0);
}

#[test]
fn yarn_scaling() {
    let scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
    let expected =
        [1.0, 0.177827939, 0.0316227786, 0.00421755994, 0.000500000024, 4.44569851e-05, 7.90569356e-06, 1.40585337e-06];
    assert_frequencies(&rope(1000000.0, 131072, &scaling), expected, 1.138629436111989);
}

#[test]
fn yarn_scaling_whose_ramp_is_not_rounded_outwards() {
    let scaling = json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096,
        "beta_fast": 24.0, "beta_slow": 2.0, "truncate": false});
    let expected =
        [1.0, 0.316227764, 0.100000001, 0.0299297553, 0.00541061955, 0.000429000997, 0.000125000006, 3.95284733e-05];
    assert_frequencies(&rope(10000.0, 32768, &scaling), expected, 1.2079441541679836);
}

#[test]
fn yarn_scaling_whose_factor_is_a_ratio_or_given() {
    let ratio = json!({"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0,
        "mscale_all_dim": 0.707});
    let expected =
        [1.0, 0.316227764, 0.100000001, 0.0239147246, 0.00512499968, 0.000849862176, 2.49999994e-05, 7.90569447e-06];
    assert_frequencies(&rope(10000.0, 163840, &ratio), expected, 1.0857263992561355);
    let given = json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096,
        "attention_factor": 1.25});
    let expected =
        [1.0, 0.316227764, 0.100000001, 0.0276699308, 0.00749999983, 0.00197642366, 0.000500000024, 0.000158113893];
    assert_frequencies(&rope(10000.0, 8192, &given), expected, 1.25);
}

#[test]
fn rope_parameters_of_transformers_5_mean_the_same() {
    let folder = Folder::copy("llama-rope-linear");
    let parameters = json!({"rope_type": "yarn", "rope_theta": 500000.0, "factor": 4.0,
        "original_max_position_embeddings": 64});
    folder.config(json!({"rope_scaling": null, "rope_theta": null, "rope_parameters": parameters}));
    let (new, old) = (folder.open().unwrap().config.rope, rope(500000.0, 256, &parameters));
    assert_eq!(new, old);
    assert!(matches!(new.scaling, RopeScaling::Yarn { .. }) && new.theta == 500000.0);
    let partial = json!({"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5});
    let partial = folder.config(json!({"rope_parameters": partial})).open();
    unsupported("partial", partial, &["config.json", "partial_rotary_factor"]);
}
