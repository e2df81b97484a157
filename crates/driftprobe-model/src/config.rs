//! What an architecture is: sizes, and the switches in which the families differ.

use crate::rope::{Rope, RopeScaling};
use serde_json::{Map, Value, json};

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2, 3 and their derivatives.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: biases on Q, K and V.
    Qwen2,
    /// Qwen 3: a norm on each head's Q and K.
    Qwen3,
    /// Gemma 2: soft caps, alternating windows, norms after attention and MLP too.
    Gemma2,
}

impl Architecture {
    /// Every family that can be computed.
    pub const ALL: &'static [Architecture] =
        &[Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3, Architecture::Gemma2];

    /// Name as it stands in `config.json`'s `model_type`.
    pub const fn id(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Mistral => "mistral",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Gemma2 => "gemma2",
        }
    }

    /// The family with this `model_type`, or none.
    pub fn parse(id: &str) -> Option<Architecture> {
        Architecture::ALL.iter().copied().find(|a| a.id() == id)
    }
}

/// The MLP's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·sigmoid(x).
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

impl Activation {
    /// Name as it stands in `config.json`'s `hidden_act`.
    pub const fn id(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        }
    }
}

/// Everything but the weights that a forward pass needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Vocabulary.
    pub vocab_size: usize,
    /// Longest context the model was made for, if known.
    pub max_position_embeddings: Option<usize>,
    /// ε inside the square root of every RMS norm.
    pub rms_norm_eps: f64,
    /// Norms multiply by 1 + w rather than by w.
    pub norm_weight_plus_one: bool,
    /// Rotary embedding.
    pub rope: Rope,
    /// Factor on Q·K.
    pub attention_scale: f64,
    /// cap·tanh(score/cap) on attention scores.
    pub attn_softcap: Option<f64>,
    /// cap·tanh(logit/cap) on logits.
    pub final_softcap: Option<f64>,
    /// For each layer, how many keys a row sees, its own included; `None`: all.
    pub sliding_windows: Vec<Option<usize>>,
    /// MLP activation.
    pub activation: Activation,
    /// Factor on the token embedding.
    pub embed_scale: Option<f64>,
    /// Q, K and V have biases.
    pub qkv_bias: bool,
    /// The output projection has a bias.
    pub o_bias: bool,
    /// The MLP's projections have biases.
    pub mlp_bias: bool,
    /// Q and K are normed a head before the rotary embedding.
    pub qk_norm: bool,
    /// Norms stand after attention and MLP as well as before them.
    pub post_norms: bool,
    /// The token embedding serves as the output matrix too.
    pub tie_word_embeddings: bool,
}

/// Largest size that any field of a config may have; keeps products inside 64 bits.
const SIZE_MAX: usize = 1 << 24;

impl Config {
    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// The config in Hugging Face `config.json` names, and `rope_layout`, as a run's manifest has it. Keys that GGUF and
    /// Hugging Face spell differently come out the same.
    pub fn to_hugging_face(&self) -> Map<String, Value> {
        let rope = &self.rope;
        let scaling = match &rope.scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_context,
            }),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original_context,
                "beta_fast": beta_fast, "beta_slow": beta_slow, "attention_factor": attention_factor,
                "truncate": truncate,
            }),
            RopeScaling::Factors(factors) => json!({"rope_type": "factors", "factors": factors}),
        };
        let config = json!({
            "model_type": self.architecture.id(), "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size, "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads, "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim, "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings, "rms_norm_eps": self.rms_norm_eps,
            "norm_weight_plus_one": self.norm_weight_plus_one, "rope_theta": rope.theta, "rope_scaling": scaling,
            "rope_layout": rope.layout.id(), "attention_scale": self.attention_scale,
            "attn_logit_softcapping": self.attn_softcap, "final_logit_softcapping": self.final_softcap,
            "sliding_windows": self.sliding_windows, "hidden_act": self.activation.id(),
            "embed_scale": self.embed_scale, "attention_bias": self.qkv_bias, "o_proj_bias": self.o_bias,
            "mlp_bias": self.mlp_bias, "qk_norm": self.qk_norm, "post_norms": self.post_norms,
            "tie_word_embeddings": self.tie_word_embeddings,
        });
        match config {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// Says what makes these sizes impossible, if anything does.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
        ];
        for (name, size) in sizes {
            if size == 0 || size > SIZE_MAX {
                return Err(format!("{name} is {size}, expected 1 to {SIZE_MAX}"));
            }
        }
        if self.max_position_embeddings == Some(0) {
            return Err("max_position_embeddings is 0, expected at least 1".to_owned());
        }
        if self.num_hidden_layers > 4096 {
            return Err(format!("num_hidden_layers is {}, expected at most 4096", self.num_hidden_layers));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "num_attention_heads ({}) is no multiple of num_key_value_heads ({})",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim is {}, expected an even number", self.head_dim));
        }
        let finite =
            [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope.theta), ("scale", self.attention_scale)];
        for (name, value) in finite {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("{name} is {value}, expected a positive number"));
            }
        }
        for (name, cap) in
            [("attn_logit_softcapping", self.attn_softcap), ("final_logit_softcapping", self.final_softcap)]
        {
            if cap.is_some_and(|c| !(c.is_finite() && c > 0.0)) {
                return Err(format!("{name} is not a positive number"));
            }
        }
        if self.sliding_windows.contains(&Some(0)) {
            return Err("sliding_window is 0, expected at least 1: a row sees itself".to_owned());
        }
        self.rope.check(self.head_dim)
    }
}
