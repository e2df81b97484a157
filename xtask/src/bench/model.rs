//! A random Llama of about half a billion parameters, written as GGUF.

use anyhow::Result;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 4096;
const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const VOCAB: usize = 32_000;

/// How the matrices are stored.
#[derive(Clone, Copy)]
pub enum Quantisation {
    F32,
    Q8_0,
}

impl Quantisation {
    pub fn id(self) -> &'static str {
        match self {
            Quantisation::F32 => "F32",
            Quantisation::Q8_0 => "Q8_0",
        }
    }
    fn dtype(self) -> GgmlDType {
        match self {
            Quantisation::F32 => GgmlDType::F32,
            Quantisation::Q8_0 => GgmlDType::Q8_0,
        }
    }
}

/// Path of the model, which is made if it is not there.
pub fn ensure(dir: &Path, layers: usize, quantisation: Quantisation) -> Result<PathBuf> {
    let path = dir.join(format!("random-{layers}-{}.gguf", quantisation.id()));
    if !path.exists() {
        eprintln!("making {}", path.display());
        let part = path.with_extension("part");
        write(&part, layers, quantisation)?;
        fs::rename(&part, &path)?;
    }
    Ok(path)
}

fn write(path: &Path, layers: usize, quantisation: Quantisation) -> Result<()> {
    let mut seed = 1u64;
    let mut tensors: Vec<(String, QTensor)> = Vec::new();
    let mut matrix = |name: String, rows: usize, cols: usize| -> Result<()> {
        let values = uniform(rows * cols, (3.0 / cols as f32).sqrt(), &mut seed);
        let tensor = Tensor::from_vec(values, (rows, cols), &Device::Cpu)?;
        tensors.push((name, QTensor::quantize(&tensor, quantisation.dtype())?));
        Ok(())
    };
    matrix("token_embd.weight".into(), VOCAB, HIDDEN)?;
    matrix("output.weight".into(), VOCAB, HIDDEN)?;
    for l in 0..layers {
        for (name, rows, cols) in [
            ("attn_q", HEADS * HEAD_DIM, HIDDEN),
            ("attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_v", KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_output", HIDDEN, HEADS * HEAD_DIM),
            ("ffn_gate", INTERMEDIATE, HIDDEN),
            ("ffn_up", INTERMEDIATE, HIDDEN),
            ("ffn_down", HIDDEN, INTERMEDIATE),
        ] {
            matrix(format!("blk.{l}.{name}.weight"), rows, cols)?;
        }
    }
    let ones = Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu)?;
    let norms = (0..layers).flat_map(|l| [format!("blk.{l}.attn_norm.weight"), format!("blk.{l}.ffn_norm.weight")]);
    for name in norms.chain(["output_norm.weight".to_owned()]) {
        tensors.push((name, QTensor::quantize(&ones, GgmlDType::F32)?));
    }
    let metadata = metadata(layers);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut BufWriter::new(File::create(path)?), &metadata, &tensors)?;
    Ok(())
}

/// Uniform values in ±bound, by xorshift.
fn uniform(count: usize, bound: f32, seed: &mut u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    *seed += 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * bound
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn metadata(layers: usize) -> Vec<(&'static str, Value)> {
    let count = |n: usize| Value::U32(n as u32);
    let tokens: Vec<Value> = (0..VOCAB).map(|i| Value::String(format!("<{i}>"))).collect();
    vec![
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String("random".into())),
        ("llama.block_count", count(layers)),
        ("llama.context_length", count(4096)),
        ("llama.embedding_length", count(HIDDEN)),
        ("llama.feed_forward_length", count(INTERMEDIATE)),
        ("llama.attention.head_count", count(HEADS)),
        ("llama.attention.head_count_kv", count(KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", count(HEAD_DIM)),
        ("llama.vocab_size", count(VOCAB)),
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.scores", Value::Array(vec![Value::F32(0.0); VOCAB])),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); VOCAB])),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ]
}
