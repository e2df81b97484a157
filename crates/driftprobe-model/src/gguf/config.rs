//! A [`Config`] from GGUF metadata.

use super::{Gguf, Value};
use crate::ModelError;
use crate::config::{Activation, Architecture, Config};
use crate::rope::{Rope, RopeLayout, RopeScaling, yarn_mscale};
use std::path::Path;

struct Keys<'a> {
    path: &'a Path,
    gguf: &'a Gguf,
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.gguf.metadata.get(&self.name(key))
    }
    fn bad(&self, key: &str, expected: &str) -> ModelError {
        let found = match self.get(key) {
            None => "nothing".to_owned(),
            Some(value) => format!("{value:?}").chars().take(80).collect(),
        };
        ModelError::malformed(self.path, format!("key {}: expected {expected}, found {found}", self.name(key)))
    }
    fn size_or_none(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_count().and_then(|n| usize::try_from(n).ok());
        size.map(Some).ok_or_else(|| self.bad(key, "a count"))
    }
    fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.size_or_none(key)?.ok_or_else(|| self.bad(key, "a count"))
    }
    fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_number().map(Some).ok_or_else(|| self.bad(key, "a number"))
    }
}

/// Reads the config. Whether there are biases and whether embeddings are tied is read off the tensors afterwards.
pub fn read_config(path: &Path, gguf: &Gguf) -> Result<Config, ModelError> {
    let hint = "supported are llama, mistral (as llama), qwen2, qwen3 and gemma2";
    let name = gguf.metadata.get("general.architecture").and_then(Value::as_text);
    let name = name.ok_or_else(|| ModelError::malformed(path, "key general.architecture is missing or no text"))?;
    let Some(architecture) = Architecture::parse(name) else {
        return Err(ModelError::unsupported(path, format!("architecture {name} is not supported"), hint));
    };
    let keys = Keys { path, gguf, prefix: name };
    if keys.size_or_none("expert_count")?.is_some_and(|n| n > 0) {
        let what = format!("{name} with {} experts is not supported", keys.size("expert_count")?);
        return Err(ModelError::unsupported(path, what, hint));
    }
    let (hidden_size, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    let layers = keys.size("block_count")?;
    let head_dim = match keys.size_or_none("attention.key_length")? {
        Some(d) => d,
        None if heads > 0 && hidden_size % heads == 0 => hidden_size / heads,
        None => {
            return Err(keys.bad("attention.head_count", "a divisor of embedding_length, or an attention.key_length"));
        }
    };
    if keys.size_or_none("attention.value_length")?.is_some_and(|d| d != head_dim) {
        return Err(keys.bad("attention.value_length", "the same as attention.key_length"));
    }
    if keys.size_or_none("rope.dimension_count")?.is_some_and(|d| d != head_dim) {
        let what =
            format!("a rotary embedding of part of a head ({} of {head_dim})", keys.size("rope.dimension_count")?);
        return Err(ModelError::unsupported(path, what, hint));
    }
    let gemma = architecture == Architecture::Gemma2;
    let vocab_size = match keys.size_or_none("vocab_size")? {
        Some(n) => n,
        None => embedding_rows(gguf).ok_or_else(|| keys.bad("vocab_size", "a count, or a tensor token_embd.weight"))?,
    };
    let scale = gemma2_scale(architecture, (layers, hidden_size), (heads, head_dim));
    let config = Config {
        architecture,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: keys.size_or_none("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        vocab_size,
        max_position_embeddings: keys.size_or_none("context_length")?,
        rms_norm_eps: keys
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| keys.bad("attention.layer_norm_rms_epsilon", "a number"))?,
        // Converters add the one to Gemma's norm weights.
        norm_weight_plus_one: false,
        rope: rope(&keys, architecture)?,
        attention_scale: scale,
        attn_softcap: if gemma { keys.number("attn_logit_softcapping")?.or(Some(50.0)) } else { None },
        final_softcap: if gemma { keys.number("final_logit_softcapping")?.or(Some(30.0)) } else { None },
        sliding_windows: windows(&keys, architecture, layers.min(4096))?,
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        embed_scale: gemma.then(|| (hidden_size as f64).sqrt()),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: architecture == Architecture::Qwen3,
        post_norms: gemma,
        tie_word_embeddings: false,
    };
    config.check().map_err(|what| ModelError::malformed(path, what))?;
    Ok(config)
}

/// GGUF does not carry Gemma 2's `query_pre_attn_scalar`: it is head_dim, but for the 27B model (46 layers), where it is
/// hidden/heads.
fn gemma2_scale(
    architecture: Architecture,
    (layers, hidden): (usize, usize),
    (heads, head_dim): (usize, usize),
) -> f64 {
    if architecture == Architecture::Gemma2 && layers == 46 && heads > 0 {
        return (hidden as f64 / heads as f64).powf(-0.5);
    }
    (head_dim as f64).powf(-0.5)
}

fn embedding_rows(gguf: &Gguf) -> Option<usize> {
    gguf.tensors.iter().find(|t| t.name == "token_embd.weight").and_then(|t| t.shape.first().copied())
}

fn windows(keys: &Keys, architecture: Architecture, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let window = keys.size_or_none("attention.sliding_window")?.filter(|w| *w > 0);
    Ok((0..layers)
        .map(|l| if architecture == Architecture::Gemma2 { window.filter(|_| l % 2 == 0) } else { window })
        .collect())
}

fn rope(keys: &Keys, architecture: Architecture) -> Result<Rope, ModelError> {
    let layout = match architecture {
        Architecture::Llama | Architecture::Mistral => RopeLayout::Interleaved,
        _ => RopeLayout::Half,
    };
    let theta = keys.number("rope.freq_base")?.unwrap_or(10000.0);
    let kind = match keys.get("rope.scaling.type") {
        None => "none",
        Some(kind) => kind.as_text().ok_or_else(|| keys.bad("rope.scaling.type", "a name"))?,
    };
    let factor = || keys.number("rope.scaling.factor")?.ok_or_else(|| keys.bad("rope.scaling.factor", "a number"));
    let scaling = match kind {
        "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "yarn" => {
            let factor = factor()?;
            let original = match keys.number("rope.scaling.original_context_length")? {
                Some(n) => n,
                None => keys.number("context_length")?.ok_or_else(|| keys.bad("context_length", "a count"))?,
            };
            let beta = |key: &str, default| Ok::<f64, ModelError>(keys.number(key)?.unwrap_or(default));
            let attention = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
            RopeScaling::Yarn {
                factor,
                original_context: original,
                beta_fast: beta("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: beta("rope.scaling.yarn_beta_slow", 1.0)?,
                attention_factor: attention * yarn_mscale(factor, 1.0),
                truncate: true,
            }
        }
        other => {
            let what = format!("RoPE scaling {other} is not supported");
            return Err(ModelError::unsupported(
                keys.path,
                what,
                "supported are none, linear and yarn, and rope_freqs.weight",
            ));
        }
    };
    Ok(Rope { theta, layout, scaling })
}
