//! GGUF files: a strict reader of the header, the config from its metadata, and Hugging Face names for its tensors.
//!
//! The header is read by our own code because nothing that it claims may be believed: every length is checked against the
//! file before anything is allocated.

mod config;
mod header;

pub use config::read_config;
pub use header::{Gguf, Value};

use crate::config::{Architecture, Config};
use crate::weights::{FileBytes, WeightEntry, Weights};
use crate::{ModelError, layout};
use std::collections::BTreeMap;
use std::path::Path;

/// Whether a path is named like a GGUF file.
pub fn is_gguf_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// A GGUF file, opened: metadata, config and mapped weights under Hugging Face names.
pub fn open(path: &Path) -> Result<(Gguf, Config, Weights), ModelError> {
    read(path, FileBytes::map(path)?)
}

/// The same of these bytes; `path` is what errors call them.
pub fn read(path: &Path, bytes: FileBytes) -> Result<(Gguf, Config, Weights), ModelError> {
    let gguf = Gguf::parse(path, bytes.as_slice())?;
    let mut config = read_config(path, &gguf)?;
    let mut weights = tensors(path, bytes, &gguf, |name| hugging_face_name(config.architecture, name))?;
    take_rope_factors(&mut config, &mut weights)?;
    config.tie_word_embeddings = weights.describe(layout::LM_HEAD).is_none();
    config.qkv_bias = weights.describe("model.layers.0.self_attn.q_proj.bias").is_some();
    config.o_bias = weights.describe("model.layers.0.self_attn.o_proj.bias").is_some();
    config.mlp_bias = weights.describe("model.layers.0.mlp.gate_proj.bias").is_some();
    config.check().map_err(|what| ModelError::malformed(path, what))?;
    Ok((gguf, config, weights))
}

/// The tensors under the names that the file gives them, whatever they mean.
pub fn open_tensors(path: &Path) -> Result<Weights, ModelError> {
    let bytes = FileBytes::map(path)?;
    let gguf = Gguf::parse(path, bytes.as_slice())?;
    tensors(path, bytes, &gguf, str::to_owned)
}

/// The header alone.
pub fn open_header(path: &Path) -> Result<Gguf, ModelError> {
    Gguf::parse(path, FileBytes::map(path)?.as_slice())
}

/// The tensors of these bytes under the names that `rename` gives them.
pub fn tensors(
    path: &Path,
    bytes: FileBytes,
    gguf: &Gguf,
    rename: impl Fn(&str) -> String,
) -> Result<Weights, ModelError> {
    let mut entries = BTreeMap::new();
    for tensor in &gguf.tensors {
        let entry = WeightEntry {
            bytes: bytes.clone(),
            offset: tensor.offset,
            len: tensor.len,
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        };
        if entries.insert(rename(&tensor.name), entry).is_some() {
            return Err(ModelError::malformed(path, format!("tensor {} stands twice under one meaning", tensor.name)));
        }
    }
    Ok(Weights::new(path.to_owned(), vec![bytes], entries))
}

/// `rope_freqs.weight` holds a divisor a frequency: part of the config, not of the weights.
fn take_rope_factors(config: &mut Config, weights: &mut Weights) -> Result<(), ModelError> {
    let path = weights.path().to_owned();
    if weights.describe("rope_freqs.weight").is_none() {
        return Ok(());
    }
    let factors = weights.get("rope_freqs.weight")?;
    if factors.shape().len() != 1 || factors.shape() != [config.head_dim / 2] {
        let what =
            format!("tensor rope_freqs.weight has shape {:?}, expected [{}]", factors.shape(), config.head_dim / 2);
        return Err(ModelError::malformed(&path, what));
    }
    config.rope.scaling = crate::RopeScaling::Factors(factors.to_f32());
    weights.remove("rope_freqs.weight");
    Ok(())
}

/// Hugging Face's name for a GGUF tensor; a name that is not known stays as it is, and is refused later.
fn hugging_face_name(architecture: Architecture, name: &str) -> String {
    match name {
        "token_embd.weight" => return layout::EMBED.to_owned(),
        "output_norm.weight" => return layout::NORM.to_owned(),
        "output.weight" => return layout::LM_HEAD.to_owned(),
        _ => {}
    }
    let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|n| n.split_once('.')) else {
        return name.to_owned();
    };
    let Some((module, kind)) = rest.rsplit_once('.') else { return name.to_owned() };
    let gemma = architecture == Architecture::Gemma2;
    let module = match module {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_output" => "self_attn.o_proj",
        "post_attention_norm" => "post_attention_layernorm",
        "ffn_norm" if gemma => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "post_ffw_norm" => "post_feedforward_layernorm",
        _ => return name.to_owned(),
    };
    format!("model.layers.{layer}.{module}.{kind}")
}
