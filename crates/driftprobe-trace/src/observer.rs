//! What tracing did to an engine, as its manifest says.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Logits of a phase that was traced against those of the same phase untraced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogitsCompared {
    /// Rows of logits that were compared.
    pub rows: u64,
    /// Of them bit-equal ones.
    pub equal: u64,
    /// Largest max |traced − untraced|; `None` if it is not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_abs: Option<f64>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What tracing did to the engine, seen in its logits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObserverEffect {
    /// In prefill.
    pub prefill: LogitsCompared,
    /// In decode.
    pub decode: LogitsCompared,
}
