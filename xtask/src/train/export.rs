//! Writes the trained model as a Hugging Face folder and as GGUF, both in F16 and of the same values.

use super::net::{Net, RMS_NORM_EPS, ROPE_THETA, Shape};
use super::tokenizer::{BOS, EOS};
use anyhow::{Result, anyhow};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::{fs, path::Path};
use tokenizers::Tokenizer;

/// How the training went; stands beside the model.
pub struct Record {
    pub steps: usize,
    pub seed: u64,
    pub train_loss: f64,
    pub held_out_loss: f64,
}

pub fn write(out: &Path, net: &Net, tokenizer: &Tokenizer, record: &Record) -> Result<()> {
    let tensors: BTreeMap<String, Tensor> = net
        .vars()
        .into_iter()
        .map(|(name, var)| Ok((name, var.as_tensor().to_dtype(DType::F16)?)))
        .collect::<Result<_>>()?;
    let shape = net.shape;
    fs::write(out.join("config.json"), serde_json::to_string_pretty(&config(shape))? + "\n")?;
    let for_safetensors: HashMap<String, Tensor> = tensors.clone().into_iter().collect();
    candle_core::safetensors::save(&for_safetensors, out.join("model.safetensors"))?;
    tokenizer.save(out.join("tokenizer.json"), true).map_err(|e| anyhow!("{e}"))?;
    write_gguf(&out.join("model.gguf"), shape, &tensors, tokenizer)?;
    let training = serde_json::json!({
        "command": "cargo xtask train", "steps": record.steps, "seed": record.seed,
        "loss_per_token_text": round4(record.train_loss), "loss_per_token_held_out": round4(record.held_out_loss),
        "text": "xtask/data/devils-dictionary.txt",
    });
    fs::write(out.join("training.json"), serde_json::to_string_pretty(&training)? + "\n")?;
    Ok(())
}

fn round4(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

fn config(s: Shape) -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16",
        "hidden_size": s.hidden, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads, "head_dim": s.head_dim, "intermediate_size": s.intermediate,
        "vocab_size": s.vocab, "hidden_act": "silu", "rms_norm_eps": RMS_NORM_EPS, "rope_theta": ROPE_THETA,
        "max_position_embeddings": 1024, "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false,
        "bos_token_id": BOS, "eos_token_id": EOS,
    })
}

fn write_gguf(path: &Path, s: Shape, tensors: &BTreeMap<String, Tensor>, tokenizer: &Tokenizer) -> Result<()> {
    let metadata = metadata(s, tokenizer)?;
    let mut quantised = Vec::new();
    for (name, tensor) in tensors {
        let tensor = tensor.to_dtype(DType::F32)?;
        let tensor = match name.as_str() {
            n if n.ends_with("q_proj.weight") => interleave(&tensor, s.heads)?,
            n if n.ends_with("k_proj.weight") => interleave(&tensor, s.kv_heads)?,
            _ => tensor,
        };
        // Norm weights stand in F32 in GGUF files, as its writers do it.
        let dtype = if tensor.rank() == 1 { GgmlDType::F32 } else { GgmlDType::F16 };
        quantised.push((gguf_name(name), QTensor::quantize(&tensor, dtype)?));
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = quantised.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut fs::File::create(path)?, &metadata, &tensors)?;
    Ok(())
}

/// GGUF's llama keeps each head's rotary pairs side by side, Hugging Face half a head apart.
fn interleave(w: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, cols) = w.dims2()?;
    Ok(w.reshape((heads, 2, rows / heads / 2, cols))?.transpose(1, 2)?.contiguous()?.reshape((rows, cols))?)
}

/// A tensor's name in GGUF files.
pub fn gguf_name(name: &str) -> String {
    let Some(rest) = name.strip_prefix("model.layers.") else {
        let plain = match name {
            "model.embed_tokens.weight" => "token_embd.weight",
            "model.norm.weight" => "output_norm.weight",
            _ => "output.weight",
        };
        return plain.to_owned();
    };
    let (layer, tensor) = rest.split_once('.').unwrap_or((rest, ""));
    let tensor = match tensor {
        "input_layernorm.weight" => "attn_norm",
        "self_attn.q_proj.weight" => "attn_q",
        "self_attn.k_proj.weight" => "attn_k",
        "self_attn.v_proj.weight" => "attn_v",
        "self_attn.o_proj.weight" => "attn_output",
        "post_attention_layernorm.weight" => "ffn_norm",
        "mlp.gate_proj.weight" => "ffn_gate",
        "mlp.up_proj.weight" => "ffn_up",
        _ => "ffn_down",
    };
    format!("blk.{layer}.{tensor}.weight")
}

fn metadata(s: Shape, tokenizer: &Tokenizer) -> Result<Vec<(&'static str, Value)>> {
    let count = |n: usize| Value::U32(n as u32);
    let strings = |v: Vec<String>| Value::Array(v.into_iter().map(Value::String).collect());
    let tokens: Vec<String> = (0..s.vocab as u32)
        .map(|id| tokenizer.id_to_token(id).ok_or_else(|| anyhow!("no token {id}")))
        .collect::<Result<_>>()?;
    let kinds = (0..s.vocab as u32).map(|id| Value::I32(if id <= EOS { 3 } else { 1 })).collect();
    let json: serde_json::Value = serde_json::from_str(&tokenizer.to_string(false).map_err(|e| anyhow!("{e}"))?)?;
    let merges = json["model"]["merges"].as_array().ok_or_else(|| anyhow!("no merges"))?;
    let merges = merges.iter().map(|m| format!("{} {}", m[0].as_str().unwrap_or(""), m[1].as_str().unwrap_or("")));
    Ok(vec![
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String("driftprobe demo".into())),
        ("general.alignment", Value::U32(32)),
        ("llama.block_count", count(s.layers)),
        ("llama.context_length", count(1024)),
        ("llama.embedding_length", count(s.hidden)),
        ("llama.feed_forward_length", count(s.intermediate)),
        ("llama.attention.head_count", count(s.heads)),
        ("llama.attention.head_count_kv", count(s.kv_heads)),
        ("llama.attention.key_length", count(s.head_dim)),
        ("llama.attention.value_length", count(s.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(RMS_NORM_EPS as f32)),
        ("llama.rope.freq_base", Value::F32(ROPE_THETA as f32)),
        ("llama.rope.dimension_count", count(s.head_dim)),
        ("llama.vocab_size", count(s.vocab)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", strings(merges.collect())),
        ("tokenizer.ggml.bos_token_id", Value::U32(BOS)),
        ("tokenizer.ggml.eos_token_id", Value::U32(EOS)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
    ])
}
