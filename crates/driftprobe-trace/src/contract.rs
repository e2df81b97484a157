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

macro_rules! fields {
    ($($name:ident: $doc:literal;)*) => {
        /// The arithmetic of one stage, or of all. Dtypes are names (`f64 f32 tf32 bf16 f16 fp8_e4m3 q8_0 q8_k …`); an absent
        /// one is not known.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct ContractFields {
            $(
                #[doc = $doc]
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $name: Option<String>,
            )*
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

        impl ContractFields {
            /// Names of the fields that hold a name, in the order in which they are written.
            pub const NAMED: &'static [&'static str] = &[$(stringify!($name),)*];

            /// What the field of this name says; `None` for one of no such name too.
            pub fn get(&self, name: &str) -> Option<&str> {
                match name { $(stringify!($name) => self.$name.as_deref(),)* _ => None }
            }

            /// These fields and no others: `(name, value)`. One of no such name is left out.
            pub fn of(named: &[(&str, &str)]) -> ContractFields {
                let mut fields = ContractFields::default();
                for (name, value) in named {
                    match *name { $(stringify!($name) => fields.$name = Some((*value).to_owned()),)* _ => {} }
                }
                fields
            }

            /// Takes from `other` what these do not have. Fields that are not known stay where they are.
            pub fn fill(&mut self, other: &ContractFields) {
                fn take<T: Clone>(into: &mut Option<T>, from: &Option<T>) {
                    if into.is_none() {
                        into.clone_from(from);
                    }
                }
                $(take(&mut self.$name, &other.$name);)*
                take(&mut self.few_rows, &other.few_rows);
                take(&mut self.rounding, &other.rounding);
            }
        }

        /// As it stands in the manifest. The fields are spelled out so that an error knows where it is.
        #[derive(Deserialize)]
        struct RawContract {
            $($name: Option<String>,)*
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
                        $($name: raw.$name,)*
                        few_rows: raw.few_rows,
                        rounding: raw.rounding,
                        extra: raw.extra,
                    },
                    by_phase: raw.by_phase.unwrap_or_default(),
                    by_point: raw.by_point.unwrap_or_default(),
                }
            }
        }
    };
}

fields! {
    weights: "Dtype of the weights.";
    activations: "Dtype in which activations are stored.";
    accumulate: "Dtype of the accumulator.";
    residual: "Dtype of the residual stream.";
    kv_cache: "Dtype that the KV cache holds.";
    softmax: "Dtype in which softmax is computed.";
    activation_quant: "Quantiser of activations.";
    scores: "Dtype in which attention scores are stored.";
    probs: "Dtype in which attention probabilities are stored.";
    partials: "Dtype in which the partial sums of a split sum are stored.";
    rope_table: "Dtype of the rotary embedding's cos/sin table.";
    inputs: "Dtype (or quantiser) to which a stage brings what it reads before it computes: Q where attention multiplies it, \
        the gate where the MLP's activation does.";
    kv_read: "Dtype to which attention brings the cached rows before it multiplies them, if another than the cache's.";
    value_sums: "Dtype in which fused attention keeps its running sum of weighted values, rounded key by key.";
    key_parts: "Into how many parts the keys are split whose running sums are merged at the end: `parts`, or \
        `parts@keys/multiple` where only rows do it that see so many keys, counted up to a multiple.";
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> ContractFields {
        let named: Vec<(&str, &str)> = ContractFields::NAMED.iter().map(|name| (*name, *name)).collect();
        ContractFields { rounding: Some(vec!["bf16".to_owned()]), ..ContractFields::of(&named) }
    }

    #[test]
    fn names_are_those_of_the_manifest() {
        let written = serde_json::to_value(all()).unwrap();
        for name in ContractFields::NAMED {
            assert_eq!(written[name], *name);
            assert_eq!(all().get(name), Some(*name));
            assert_eq!(ContractFields::default().get(name), None, "{name}");
        }
        assert_eq!(all().get("rounding"), None, "no name");
        assert_eq!(ContractFields::of(&[("own", "x")]), ContractFields::default());
        let read: Contract = serde_json::from_value(written).unwrap();
        assert_eq!(read.flat, all());
    }

    #[test]
    fn what_is_there_is_not_taken_from_the_other() {
        let mut some = ContractFields::of(&[("scores", "f32")]);
        some.fill(&all());
        assert_eq!(some, ContractFields { scores: Some("f32".to_owned()), ..all() });
        let mut whole = all();
        whole.fill(&ContractFields::of(&[("scores", "f32"), ("probs", "f32")]));
        assert_eq!(whole, all());
    }
}
