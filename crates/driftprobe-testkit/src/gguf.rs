//! Llama models as GGUF files, of any size and weight type.

use crate::Dice;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// Sizes of a model.
#[derive(Clone, Copy, Debug)]
pub struct LlamaShape {
    /// Channels between layers.
    pub hidden: usize,
    /// Channels within the MLP.
    pub inner: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels a head.
    pub head_dim: usize,
    /// Token ids.
    pub vocab: usize,
}

impl LlamaShape {
    /// Wide enough for every quantiser, and no wider.
    pub const SMALL: LlamaShape =
        LlamaShape { hidden: 256, inner: 512, layers: 3, heads: 8, kv_heads: 4, head_dim: 32, vocab: 320 };
    /// As small as it may be, for long prompts.
    pub const TINY: LlamaShape =
        LlamaShape { hidden: 64, inner: 96, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, vocab: 48 };
}

/// Writes tensors under their GGUF names, with the metadata of a llama and a tokenizer that has no text.
pub fn write_llama(path: &Path, shape: LlamaShape, tensors: &[(String, QTensor)]) {
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata = metadata(shape);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let mut file = BufWriter::new(File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

/// Writes a model of random weights, its matrices of this type.
pub fn random_llama(path: &Path, s: LlamaShape, dtype: GgmlDType) {
    let mut dice = Dice(s.hidden as u64);
    let mut tensors: Vec<(String, QTensor)> = Vec::new();
    let mut matrix = |name: String, (rows, cols): (usize, usize), gain: f64| {
        let size = gain / (cols as f64).sqrt();
        let values: Vec<f32> = (0..rows * cols).map(|_| (size * dice.normal()) as f32).collect();
        let tensor = Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap();
        tensors.push((name, QTensor::quantize(&tensor, dtype).unwrap()));
    };
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    matrix("token_embd.weight".into(), (s.vocab, s.hidden), (s.hidden as f64).sqrt());
    matrix("output.weight".into(), (s.vocab, s.hidden), 2.0);
    for l in 0..s.layers {
        let name = |rest: &str| format!("blk.{l}.{rest}.weight");
        matrix(name("attn_q"), (q, s.hidden), 1.5);
        matrix(name("attn_k"), (kv, s.hidden), 1.5);
        matrix(name("attn_v"), (kv, s.hidden), 1.0);
        matrix(name("attn_output"), (s.hidden, q), 1.0);
        matrix(name("ffn_gate"), (s.inner, s.hidden), 1.0);
        matrix(name("ffn_up"), (s.inner, s.hidden), 1.0);
        matrix(name("ffn_down"), (s.hidden, s.inner), 1.0);
    }
    let mut norm = |name: String| {
        let values: Vec<f32> = (0..s.hidden).map(|_| (1.0 + 0.1 * dice.normal()) as f32).collect();
        let tensor = Tensor::from_vec(values, s.hidden, &Device::Cpu).unwrap();
        tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
    };
    norm("output_norm.weight".into());
    for l in 0..s.layers {
        norm(format!("blk.{l}.attn_norm.weight"));
        norm(format!("blk.{l}.ffn_norm.weight"));
    }
    write_llama(path, s, &tensors);
}

fn metadata(s: LlamaShape) -> Vec<(&'static str, Value)> {
    let count = |n: usize| Value::U32(n as u32);
    let tokens: Vec<Value> = (0..s.vocab).map(|i| Value::String(format!("<{i}>"))).collect();
    vec![
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String("random".into())),
        ("llama.block_count", count(s.layers)),
        ("llama.context_length", count(4096)),
        ("llama.embedding_length", count(s.hidden)),
        ("llama.feed_forward_length", count(s.inner)),
        ("llama.attention.head_count", count(s.heads)),
        ("llama.attention.head_count_kv", count(s.kv_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", count(s.head_dim)),
        ("llama.vocab_size", count(s.vocab)),
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.scores", Value::Array(vec![Value::F32(0.0); s.vocab])),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); s.vocab])),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(1)),
    ]
}
