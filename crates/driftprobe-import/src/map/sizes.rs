//! What a model's config says of widths, and of what tells families apart.

use super::SizeName;
use serde_json::{Map, Value};

/// A config in the names of Hugging Face's `config.json`, as a run's manifest has it.
#[derive(Clone, Debug)]
pub struct Sizes(Map<String, Value>);

impl Sizes {
    /// Of this config.
    pub fn new(config: Map<String, Value>) -> Sizes {
        Sizes(config)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key).and_then(Value::as_u64)
    }

    fn head_dim(&self) -> Option<u64> {
        let derived = || self.number("hidden_size")?.checked_div(self.number("num_attention_heads")?);
        self.number("head_dim").or_else(derived)
    }

    /// The number of columns.
    ///
    /// # Errors
    /// If the config does not say.
    pub fn columns(&self, size: &SizeName) -> Result<u64, String> {
        let product = |heads: &str| self.number(heads)?.checked_mul(self.head_dim()?);
        let (name, width) = match size {
            SizeName::Columns(columns) => return Ok(*columns),
            SizeName::Named(name) => (
                name,
                match name.as_str() {
                    "q" => product("num_attention_heads"),
                    "kv" => product("num_key_value_heads"),
                    "hidden" => self.number("hidden_size"),
                    "intermediate" => self.number("intermediate_size"),
                    _ => return Err(format!("size = \"{name}\": expected q, kv, hidden, intermediate or a number")),
                },
            ),
        };
        width.ok_or_else(|| format!("the model's config does not say how wide `{name}` is"))
    }

    /// A flag that the config decides.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match name {
            "embed_scaled" => self.0.get("embed_scale").map(|scale| !scale.is_null()),
            _ => self.0.get(name).and_then(Value::as_bool),
        }
    }

    /// Elements of one row of a point, where the config tells.
    pub fn row_elements(&self, point: driftprobe_trace::Point) -> Option<u64> {
        use driftprobe_trace::Point as P;
        let named = |name: &str| self.columns(&SizeName::Named(name.to_owned())).ok();
        match point {
            P::QProjOut | P::QPreRope | P::QPostRope | P::AttnOut => named("q"),
            P::KProjOut | P::KPreRope | P::KPostRope | P::VProj => named("kv"),
            P::MlpGate | P::MlpUp | P::MlpAct => named("intermediate"),
            P::Logits => self.number("vocab_size"),
            P::KCache | P::VCache | P::AttnScores | P::AttnProbs => None,
            _ => named("hidden"),
        }
    }
}
