//! Hugging Face folders: `config.json`, safetensors in one file or sharded, `tokenizer.json`.

use crate::config::{Activation, Architecture, Config};
use crate::rope::{Rope, RopeLayout, RopeScaling, yarn_mscale};
use crate::weights::{FileBytes, WeightDtype, WeightEntry, Weights, regular};
use crate::{ModelError, gguf};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FAMILIES_HINT: &str = "supported are llama, mistral, qwen2, qwen3 and gemma2";
/// Largest config or index file that is read.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// Reads `config.json`.
pub fn read_config(folder: &Path) -> Result<Config, ModelError> {
    let path = folder.join("config.json");
    parse_config(&path, &read_json(&path)?)
}

/// Maps every weight file of the folder: `model.safetensors.index.json`'s shards, or all `*.safetensors`.
pub fn map_weights(folder: &Path) -> Result<Weights, ModelError> {
    let index = folder.join("model.safetensors.index.json");
    let (files, listed) = if index.exists() {
        shards(folder, &index, &read_bounded(&index, JSON_BYTES_MAX)?)?
    } else {
        (single_files(folder)?, None)
    };
    let mut entries = BTreeMap::new();
    let mut mapped = Vec::new();
    for path in &files {
        let bytes = FileBytes::map(path)?;
        let own = safetensors_entries(path, &bytes)?;
        let here = |file: &str| path.file_name().is_some_and(|name| name == file);
        if let Some((tensor, file)) =
            listed.iter().flatten().find(|(tensor, file)| here(file) && !own.contains_key(*tensor))
        {
            let what = format!("tensor {tensor} is not in {file}, where the index has it");
            return Err(ModelError::malformed(&index, what));
        }
        for (tensor, entry) in own {
            if entries.contains_key(&tensor) {
                return Err(ModelError::malformed(path, format!("tensor {tensor} stands in two files")));
            }
            entries.insert(tensor, entry);
        }
        mapped.push(bytes);
    }
    Ok(Weights::new(folder.to_owned(), mapped, entries))
}

/// Where the tensors of one file lie.
pub(crate) fn safetensors_entries(path: &Path, bytes: &FileBytes) -> Result<BTreeMap<String, WeightEntry>, ModelError> {
    let mut entries = BTreeMap::new();
    let tensors = SafeTensors::deserialize(bytes.as_slice()).map_err(|e| ModelError::malformed(path, e.to_string()))?;
    for (name, view) in tensors.iter() {
        let dtype = match view.dtype() {
            Dtype::F32 => WeightDtype::F32,
            Dtype::F16 => WeightDtype::F16,
            Dtype::BF16 => WeightDtype::Bf16,
            other => {
                let what = format!("tensor {name} has dtype {other:?}");
                return Err(ModelError::unsupported(path, what, "safetensors weights may be F32, F16 or BF16"));
            }
        };
        // An empty axis would hide others of any length.
        let axes = view.shape().iter().filter(|d| **d > 0);
        if axes.copied().try_fold(dtype.block().1, usize::checked_mul).is_none() {
            let what = format!("tensor {name} of shape {:?} is too large", view.shape());
            return Err(ModelError::malformed(path, what));
        }
        // The view lies inside the file's bytes, so the distance of the two starts is its offset.
        let offset = view.data().as_ptr() as usize - bytes.as_slice().as_ptr() as usize;
        let entry =
            WeightEntry { bytes: bytes.clone(), offset, len: view.data().len(), dtype, shape: view.shape().to_vec() };
        entries.insert(name.to_owned(), entry);
    }
    Ok(entries)
}

fn single_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(ModelError::io(folder))? {
        let path = entry.map_err(ModelError::io(folder))?.path();
        if path.file_name().is_some_and(|n| n == "model.safetensors") {
            return Ok(vec![path]);
        }
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let hint = "expected model.safetensors, shards with model.safetensors.index.json, or name a .gguf file";
        return Err(ModelError::unsupported(folder, "holds no *.safetensors", hint));
    }
    Ok(files)
}

type Listed = Option<BTreeMap<String, String>>;

pub(crate) fn shards(folder: &Path, index: &Path, text: &[u8]) -> Result<(Vec<PathBuf>, Listed), ModelError> {
    let json = json_object(index, text)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| ModelError::malformed(index, "key weight_map is missing or no object"))?;
    let mut listed = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|f| !f.is_empty() && !f.contains(['/', '\\']) && *f != "..");
        let file = file.ok_or_else(|| ModelError::malformed(index, format!("weight_map.{tensor} is no file name")))?;
        listed.insert(tensor.clone(), file.to_owned());
    }
    let mut names: Vec<&String> = listed.values().collect();
    names.sort();
    names.dedup();
    Ok((names.into_iter().map(|n| folder.join(n)).collect(), Some(listed)))
}

fn read_json(path: &Path) -> Result<Map<String, Value>, ModelError> {
    json_object(path, &read_bounded(path, JSON_BYTES_MAX)?)
}

/// The bytes of a regular file of at most so many.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ModelError> {
    let size = regular(path)?;
    if size > bytes_max {
        return Err(ModelError::malformed(path, format!("is {size} bytes long, expected at most {bytes_max}")));
    }
    fs::read(path).map_err(ModelError::io(path))
}

fn json_object(path: &Path, text: &[u8]) -> Result<Map<String, Value>, ModelError> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(ModelError::malformed(path, "expected a JSON object")),
        Err(e) => Err(ModelError::malformed(path, e.to_string())),
    }
}

struct Keys<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }
    fn bad(&self, key: &str, expected: &str) -> ModelError {
        let found = self.map.get(key).map_or("nothing".to_owned(), Value::to_string);
        ModelError::malformed(self.path, format!("key {key}: expected {expected}, found {found:.80}"))
    }
    fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.size_or_none(key)?.ok_or_else(|| self.bad(key, "a count"))
    }
    fn size_or_none(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.map(Some).ok_or_else(|| self.bad(key, "a count"))
    }
    fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.bad(key, "a number"))
    }
    fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.bad(key, "true or false"))
    }
    fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.bad(key, "a string"))
    }
}

fn parse_config(path: &Path, map: &Map<String, Value>) -> Result<Config, ModelError> {
    let keys = Keys { path, map };
    let refuse = |what: String, hint: &str| Err(ModelError::unsupported(path, what, hint));
    let name = keys.text("model_type")?.ok_or_else(|| keys.bad("model_type", "the name of a family"))?;
    let Some(architecture) = Architecture::parse(name) else {
        return refuse(format!("architecture {name} is not supported"), FAMILIES_HINT);
    };
    if let Some(scheme) = keys.get("quantization_config") {
        let what = format!("quantization_config {scheme:.120} is not supported");
        return refuse(what, "use the unquantised model, or a GGUF file of it");
    }
    let (hidden_size, heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    let layers = keys.size("num_hidden_layers")?;
    let head_dim = match keys.size_or_none("head_dim")? {
        Some(d) => d,
        None if heads > 0 && hidden_size % heads == 0 => hidden_size / heads,
        None => return Err(keys.bad("num_attention_heads", "a divisor of hidden_size, or a head_dim")),
    };
    let gemma = architecture == Architecture::Gemma2;
    let attention_bias = keys.flag("attention_bias", false)?;
    let config = Config {
        architecture,
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: keys.size_or_none("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        vocab_size: keys.size("vocab_size")?,
        max_position_embeddings: keys.size_or_none("max_position_embeddings")?,
        rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
        norm_weight_plus_one: gemma,
        rope: rope(&keys)?,
        attention_scale: keys.number("query_pre_attn_scalar")?.filter(|_| gemma).unwrap_or(head_dim as f64).powf(-0.5),
        attn_softcap: keys.number("attn_logit_softcapping")?.filter(|_| gemma),
        final_softcap: keys.number("final_logit_softcapping")?.filter(|_| gemma),
        sliding_windows: windows(&keys, architecture, layers)?,
        activation: activation(&keys)?,
        embed_scale: gemma.then(|| (hidden_size as f64).sqrt()),
        qkv_bias: attention_bias || architecture == Architecture::Qwen2,
        o_bias: attention_bias && architecture != Architecture::Qwen2,
        mlp_bias: keys.flag("mlp_bias", false)?,
        qk_norm: architecture == Architecture::Qwen3,
        post_norms: gemma,
        tie_word_embeddings: keys.flag("tie_word_embeddings", gemma)?,
    };
    config.check().map_err(|what| ModelError::malformed(path, what))?;
    Ok(config)
}

fn activation(keys: &Keys) -> Result<Activation, ModelError> {
    let name = match keys.text("hidden_activation")? {
        Some(name) => name,
        None => keys.text("hidden_act")?.unwrap_or("silu"),
    };
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        other => {
            let what = format!("activation {other} is not supported");
            Err(ModelError::unsupported(keys.path, what, "supported are silu and gelu_pytorch_tanh"))
        }
    }
}

fn windows(keys: &Keys, architecture: Architecture, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let window = keys.size_or_none("sliding_window")?;
    let layers = layers.min(4096);
    if let Some(types) = keys.get("layer_types") {
        let types = types.as_array().filter(|t| t.len() == layers);
        let types = types.ok_or_else(|| keys.bad("layer_types", "a list with an entry a layer"))?;
        let one = |t: &Value| match t.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") if window.is_some() => Ok(window),
            _ => Err(keys.bad("layer_types", "full_attention, or sliding_attention with a sliding_window")),
        };
        return types.iter().map(one).collect();
    }
    let from = keys.size_or_none("max_window_layers")?.unwrap_or(0);
    let used = keys.flag("use_sliding_window", false)?;
    Ok((0..layers)
        .map(|layer| match architecture {
            Architecture::Llama => None,
            Architecture::Mistral => window,
            Architecture::Gemma2 => window.filter(|_| layer % 2 == 0),
            Architecture::Qwen2 | Architecture::Qwen3 => window.filter(|_| used && layer >= from),
        })
        .collect())
}

fn rope(keys: &Keys) -> Result<Rope, ModelError> {
    let empty = Map::new();
    // transformers 5 holds theta and scaling together in rope_parameters.
    let key = if keys.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let inner = match keys.get(key) {
        None => &empty,
        Some(value) => value.as_object().ok_or_else(|| keys.bad(key, "an object"))?,
    };
    let scaling = Keys { path: keys.path, map: inner };
    for keys in [keys, &scaling] {
        if let Some(part) = keys.number("partial_rotary_factor")?.filter(|f| *f != 1.0) {
            let what = format!("partial_rotary_factor {part} is not supported");
            return Err(ModelError::unsupported(keys.path, what, FAMILIES_HINT));
        }
    }
    let theta = match scaling.number("rope_theta")? {
        Some(theta) => theta,
        None => keys.number("rope_theta")?.unwrap_or(10000.0),
    };
    let kind = match scaling.text("rope_type")? {
        Some(kind) => kind,
        None => scaling.text("type")?.unwrap_or("default"),
    };
    let need = |key: &str| scaling.number(key)?.ok_or_else(|| scaling.bad(key, "a number"));
    let trained = keys.number("max_position_embeddings")?;
    let original = || match scaling.number("original_max_position_embeddings")? {
        Some(n) => Ok(n),
        None => trained.ok_or_else(|| scaling.bad("original_max_position_embeddings", "a count")),
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context: original()?,
        },
        "yarn" => {
            let factor = need("factor")?;
            let mscale = scaling.number("mscale")?.filter(|m| *m != 0.0);
            let all_dim = scaling.number("mscale_all_dim")?.filter(|m| *m != 0.0);
            let derived = match (mscale, all_dim) {
                (Some(m), Some(all)) => yarn_mscale(factor, m) / yarn_mscale(factor, all),
                _ => yarn_mscale(factor, 1.0),
            };
            RopeScaling::Yarn {
                factor,
                original_context: original()?,
                beta_fast: scaling.number("beta_fast")?.filter(|b| *b != 0.0).unwrap_or(32.0),
                beta_slow: scaling.number("beta_slow")?.filter(|b| *b != 0.0).unwrap_or(1.0),
                attention_factor: scaling.number("attention_factor")?.unwrap_or(derived),
                truncate: scaling.flag("truncate", true)?,
            }
        }
        other => {
            let what = format!("RoPE scaling {other} is not supported");
            return Err(ModelError::unsupported(keys.path, what, "supported are default, linear, llama3 and yarn"));
        }
    };
    Ok(Rope { theta, layout: RopeLayout::Half, scaling })
}

/// Reads a folder's one GGUF file, if it has no `config.json`.
pub fn gguf_inside(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    if folder.join("config.json").exists() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(ModelError::io(folder))? {
        let path = entry.map_err(ModelError::io(folder))?.path();
        if gguf::is_gguf_name(&path) {
            found.push(path);
        }
    }
    found.sort();
    match found.len() {
        1 => Ok(found.pop()),
        0 => Err(ModelError::unsupported(folder, "holds neither config.json nor a .gguf file", FAMILIES_HINT)),
        n => {
            let what = format!("holds {n} .gguf files and no config.json");
            Err(ModelError::unsupported(folder, what, "name the file that is meant"))
        }
    }
}

/// Bytes of a tokenizer file, if the folder has one.
pub fn tokenizer_file(folder: &Path) -> Option<PathBuf> {
    Some(folder.join("tokenizer.json")).filter(|p| p.exists())
}

/// A config of these bytes; `path` is what errors call them.
pub(crate) fn config_of(path: &Path, bytes: &[u8]) -> Result<Config, ModelError> {
    parse_config(path, &json_object(path, bytes)?)
}

pub(crate) fn demo_weights(bytes: &'static [u8]) -> Result<Weights, ModelError> {
    let (path, bytes) = (Path::new("DEMO/model.safetensors"), FileBytes::fixed(bytes));
    let entries = safetensors_entries(path, &bytes)?;
    Ok(Weights::new(path.to_owned(), vec![bytes], entries))
}
