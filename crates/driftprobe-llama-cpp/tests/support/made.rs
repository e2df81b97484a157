//! Random llama models as GGUF files, larger than the fixtures: several layers, any weight type, any length of prompt.

#![allow(dead_code, reason = "every user takes its part")]

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use driftprobe_model::Model;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// Sizes of a model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub vocab: usize,
}

impl Shape {
    /// Wide enough for every quantiser, and no wider.
    pub const SMALL: Shape = Shape { hidden: 256, inner: 512, layers: 3, heads: 8, kv_heads: 4, vocab: 320 };
    /// As small as it may be, for long prompts.
    pub const TINY: Shape = Shape { hidden: 64, inner: 96, layers: 2, heads: 4, kv_heads: 2, vocab: 48 };

    fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}

/// A pseudo-random sequence (splitmix64), the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Of variance 1, by and large normal.
    fn normal(&mut self) -> f32 {
        let uniform = |z: u64| (z >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        (0..6).map(|_| uniform(self.next())).sum::<f32>() * std::f32::consts::SQRT_2
    }

    pub fn tokens(&mut self, count: usize, vocab: usize) -> Vec<u32> {
        (0..count).map(|_| (self.next() % vocab as u64) as u32).collect()
    }
}

/// Writes a model of this shape with matrices of this type, and opens it.
pub fn make(path: &Path, s: Shape, dtype: GgmlDType) -> Model {
    let mut dice = Dice(s.hidden as u64);
    let mut tensors: Vec<(String, QTensor)> = Vec::new();
    let mut matrix = |name: String, (rows, cols): (usize, usize), gain: f32| {
        let size = gain / (cols as f32).sqrt();
        let values: Vec<f32> = (0..rows * cols).map(|_| size * dice.normal()).collect();
        let tensor = Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap();
        tensors.push((name, QTensor::quantize(&tensor, dtype).unwrap()));
    };
    let (q, kv) = (s.hidden, s.kv_heads * s.head_dim());
    matrix("token_embd.weight".into(), (s.vocab, s.hidden), (s.hidden as f32).sqrt());
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
        let values: Vec<f32> = (0..s.hidden).map(|_| 1.0 + 0.1 * dice.normal()).collect();
        let tensor = Tensor::from_vec(values, s.hidden, &Device::Cpu).unwrap();
        tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
    };
    norm("output_norm.weight".into());
    for l in 0..s.layers {
        norm(format!("blk.{l}.attn_norm.weight"));
        norm(format!("blk.{l}.ffn_norm.weight"));
    }
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let metadata = metadata(s);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    gguf_file::write(&mut BufWriter::new(File::create(path).unwrap()), &metadata, &tensors).unwrap();
    Model::open(path).unwrap()
}

fn metadata(s: Shape) -> Vec<(&'static str, Value)> {
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
        ("llama.rope.dimension_count", count(s.head_dim())),
        ("llama.vocab_size", count(s.vocab)),
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.scores", Value::Array(vec![Value::F32(0.0); s.vocab])),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); s.vocab])),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(1)),
    ]
}
