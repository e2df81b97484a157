//! The arithmetic that an engine claims: which dtypes and roundings each stage has.

use crate::Phase;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What holds otherwise in forward passes of few tokens, for which engines have other kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FewRows {
    /// Passes of fewer tokens than this.
    pub below: u64,
    /// What they have otherwise.
    #[serde(flatten)]
    pub fields: Box<ContractFields>,
}

/// The arithmetic of one stage, or of all. Dtypes are names (`f64 f32 tf32 bf16 f16 fp8_e4m3 q8_0 q8_k …`); an absent
/// one is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContractFields {
    /// Dtype of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Dtype in which activations are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<String>,
    /// Dtype of the accumulator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accumulate: Option<String>,
    /// Dtype of the residual stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<String>,
    /// Dtype that the KV cache holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<String>,
    /// Dtype in which softmax is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softmax: Option<String>,
    /// Quantiser of activations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_quant: Option<String>,
    /// Dtype in which attention scores are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<String>,
    /// Dtype in which attention probabilities are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probs: Option<String>,
    /// Dtype in which the partial sums of a split sum are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partials: Option<String>,
    /// Dtype of the rotary embedding's cos/sin table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_table: Option<String>,
    /// Dtype (or quantiser) to which a stage brings what it reads before it computes: Q where attention multiplies it, the
    /// gate where the MLP's activation does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
    /// Dtype to which attention brings the cached rows before it multiplies them, if another than the cache's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_read: Option<String>,
    /// Dtype in which fused attention keeps its running sum of weighted values, rounded key by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_sums: Option<String>,
    /// Into how many parts the keys are split whose running sums are merged at the end: `parts`, or `parts@keys/multiple`
    /// where only rows do it that see so many keys, counted up to a multiple.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_parts: Option<String>,
    /// What passes of few tokens have otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_rows: Option<FewRows>,
    /// The storage roundings inside a point, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Vec<String>>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The arithmetic that the engine claims.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "RawContract")]
pub struct Contract {
    /// What holds where nothing more special is said.
    #[serde(flatten)]
    pub flat: ContractFields,
    /// What one phase has otherwise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_phase: BTreeMap<Phase, ContractFields>,
    /// What one point has otherwise, by the point's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_point: BTreeMap<String, ContractFields>,
}

/// As it stands in the manifest. The fields are spelled out so that an error knows where it is.
#[derive(Deserialize)]
struct RawContract {
    weights: Option<String>,
    activations: Option<String>,
    accumulate: Option<String>,
    residual: Option<String>,
    kv_cache: Option<String>,
    softmax: Option<String>,
    activation_quant: Option<String>,
    scores: Option<String>,
    probs: Option<String>,
    partials: Option<String>,
    rope_table: Option<String>,
    inputs: Option<String>,
    kv_read: Option<String>,
    value_sums: Option<String>,
    key_parts: Option<String>,
    few_rows: Option<FewRows>,
    rounding: Option<Vec<String>>,
    by_phase: Option<BTreeMap<Phase, ContractFields>>,
    by_point: Option<BTreeMap<String, ContractFields>>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl From<RawContract> for Contract {
    fn from(raw: RawContract) -> Contract {
        Contract {
            flat: ContractFields {
                weights: raw.weights,
                activations: raw.activations,
                accumulate: raw.accumulate,
                residual: raw.residual,
                kv_cache: raw.kv_cache,
                softmax: raw.softmax,
                activation_quant: raw.activation_quant,
                scores: raw.scores,
                probs: raw.probs,
                partials: raw.partials,
                rope_table: raw.rope_table,
                inputs: raw.inputs,
                kv_read: raw.kv_read,
                value_sums: raw.value_sums,
                key_parts: raw.key_parts,
                few_rows: raw.few_rows,
                rounding: raw.rounding,
                extra: raw.extra,
            },
            by_phase: raw.by_phase.unwrap_or_default(),
            by_point: raw.by_point.unwrap_or_default(),
        }
    }
}
