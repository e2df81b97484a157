//! The models of the tables: the trained one, and random ones with what real ones have (outliers, a sink, biases, caps).

use anyhow::{Result, bail};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use driftprobe_model::Model;
use driftprobe_testkit::{Dice, LlamaShape, write_llama};
use serde_json::json;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Names of the models, and what each is there for.
pub const MODELS: [(&str, &str); 8] = [
    ("demo", "the trained model of the binary: llama, hidden 64, 9 layers, 4 heads on 2, F16 weights"),
    (
        "outliers",
        "random llama, hidden 128, 4 layers, BF16 weights: massive activations in two channels of the first token, one that is twenty times as large in every token, an attention sink",
    ),
    ("gqa", "random llama, hidden 128, 4 layers, 8 heads on 2, F32 weights, tied, llama-3 scaled RoPE"),
    ("bias", "random qwen2, hidden 96, 3 layers, 6 heads on 3, F16 weights, large biases on Q, K and V"),
    (
        "softcap",
        "random gemma2, hidden 96, 4 layers, F32 weights, soft caps, windows of 16 in every other layer, norms behind attention and MLP, GELU",
    ),
    (
        "q8_0",
        "random llama as GGUF, hidden 256, 3 layers, 8 heads on 4, Q8_0 weights, an attention sink, interleaved RoPE",
    ),
    ("q4_k", "the same in Q4_K"),
    (
        WIDE,
        "for the smallest faults alone: random llama, hidden 512, 3 layers, 8 heads on 4, BF16 weights, an attention sink",
    ),
];

/// The model whose rows are as long as those of small real ones.
pub const WIDE: &str = "wide";

/// A channel that every token's embedding has the same value in, and those of the massive activations.
const CONSTANT: usize = 11;
const MASSIVE: [usize; 2] = [5, 77];
const HEAVY: usize = 40;

/// Makes a model under a folder, or opens it if it is there.
pub fn model(dir: &Path, name: &str) -> Result<Model> {
    let path = dir.join(name);
    match name {
        "demo" => return Ok(Model::demo()?),
        "outliers" | "gqa" | "bias" | "softcap" | WIDE => folder(&path, name)?,
        "q8_0" => return quantised(&dir.join("q8_0.gguf"), GgmlDType::Q8_0),
        "q4_k" => return quantised(&dir.join("q4_k.gguf"), GgmlDType::Q4K),
        _ => bail!("there is no model {name}"),
    }
    Ok(Model::open(&path)?)
}

/// What a random model has beside its sizes.
#[derive(Clone, Copy, Default)]
struct Traits {
    sink: bool,
    bias: bool,
    post_norms: bool,
    tied: bool,
    /// Norm weights are around 0 and not around 1.
    plus_one: bool,
}

struct Builder {
    shape: LlamaShape,
    dice: Dice,
    tensors: Vec<(String, Tensor)>,
}

impl Builder {
    fn values(&mut self, count: usize, size: f64) -> Vec<f32> {
        (0..count).map(|_| (self.dice.normal() * size) as f32).collect()
    }

    fn put(&mut self, name: &str, values: Vec<f32>, dims: &[usize]) -> Result<()> {
        self.tensors.push((name.to_owned(), Tensor::from_vec(values, dims, &Device::Cpu)?));
        Ok(())
    }

    /// Normal values that keep the size of what they are multiplied with.
    fn matrix(&mut self, name: &str, (rows, cols): (usize, usize)) -> Result<()> {
        let values = self.values(rows * cols, 1.0 / (cols as f64).sqrt());
        self.put(name, values, &[rows, cols])
    }

    fn norm(&mut self, name: &str, plus_one: bool) -> Result<()> {
        let centre = if plus_one { 0.0 } else { 1.0 };
        let values = self.values(self.shape.hidden, 0.1).into_iter().map(|v| v + centre).collect();
        self.put(name, values, &[self.shape.hidden])
    }

    /// Q or K whose every head points along its last channel (which the rotary embedding turns least) by as much as a
    /// channel of its input is large.
    fn towards(&mut self, name: &str, heads: usize, (channels, gain): (&[usize], f64)) -> Result<()> {
        let (hidden, width) = (self.shape.hidden, self.shape.head_dim);
        let mut values = self.values(heads * width * hidden, 1.0 / (hidden as f64).sqrt());
        for head in 0..heads {
            for channel in channels {
                values[(head * width + width - 1) * hidden + channel] = gain as f32;
            }
        }
        self.put(name, values, &[heads * width, hidden])
    }

    fn embedding(&mut self, name: &str, traits: Traits) -> Result<()> {
        let (vocab, hidden) = (self.shape.vocab, self.shape.hidden);
        let mut values = self.values(vocab * hidden, 1.0);
        if traits.sink {
            for token in 0..vocab {
                values[token * hidden + CONSTANT] = 2.0;
                values[token * hidden + HEAVY] *= 20.0;
            }
            // The first token of every prompt.
            MASSIVE.iter().for_each(|channel| values[*channel] = 300.0);
        }
        self.put(name, values, &[vocab, hidden])
    }

    fn all(mut self, traits: Traits) -> Result<Vec<(String, Tensor)>> {
        let s = self.shape;
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        self.embedding("model.embed_tokens.weight", traits)?;
        self.norm("model.norm.weight", traits.plus_one)?;
        if !traits.tied {
            self.matrix("lm_head.weight", (s.vocab, s.hidden))?;
        }
        for l in 0..s.layers {
            let name = |rest: &str| format!("model.layers.{l}.{rest}.weight");
            self.norm(&name("input_layernorm"), traits.plus_one)?;
            self.norm(&name("post_attention_layernorm"), traits.plus_one)?;
            if traits.sink {
                self.towards(&name("self_attn.q_proj"), s.heads, (&[CONSTANT], 2.5))?;
                self.towards(
                    &name("self_attn.k_proj"),
                    s.kv_heads,
                    (&MASSIVE, if s.hidden > 128 { 0.3 } else { 0.8 }),
                )?;
            } else {
                self.matrix(&name("self_attn.q_proj"), (q, s.hidden))?;
                self.matrix(&name("self_attn.k_proj"), (kv, s.hidden))?;
            }
            self.matrix(&name("self_attn.v_proj"), (kv, s.hidden))?;
            self.matrix(&name("self_attn.o_proj"), (s.hidden, q))?;
            self.matrix(&name("mlp.gate_proj"), (s.inner, s.hidden))?;
            self.matrix(&name("mlp.up_proj"), (s.inner, s.hidden))?;
            self.matrix(&name("mlp.down_proj"), (s.hidden, s.inner))?;
            if traits.bias {
                for (matrix, count, size) in [("q", q, 2.0), ("k", kv, 8.0), ("v", kv, 0.5)] {
                    let values = self.values(count, size);
                    self.put(&format!("model.layers.{l}.self_attn.{matrix}_proj.bias"), values, &[count])?;
                }
            }
            if traits.post_norms {
                self.norm(&name("pre_feedforward_layernorm"), traits.plus_one)?;
                self.norm(&name("post_feedforward_layernorm"), traits.plus_one)?;
            }
        }
        Ok(self.tensors)
    }
}

fn shape(name: &str) -> (LlamaShape, Traits, DType) {
    let plain = LlamaShape { hidden: 128, inner: 256, layers: 4, heads: 4, kv_heads: 4, head_dim: 32, vocab: 320 };
    match name {
        "gqa" => {
            let shape = LlamaShape { heads: 8, kv_heads: 2, head_dim: 16, ..plain };
            (shape, Traits { tied: true, ..Traits::default() }, DType::F32)
        }
        "bias" => {
            let shape = LlamaShape { hidden: 96, inner: 192, layers: 3, heads: 6, kv_heads: 3, head_dim: 16, ..plain };
            (shape, Traits { bias: true, ..Traits::default() }, DType::F16)
        }
        "softcap" => {
            let shape = LlamaShape { hidden: 96, inner: 160, heads: 4, kv_heads: 2, head_dim: 24, ..plain };
            (shape, Traits { post_norms: true, tied: true, plus_one: true, ..Traits::default() }, DType::F32)
        }
        WIDE => {
            let shape = LlamaShape { hidden: 512, inner: 1024, layers: 3, heads: 8, head_dim: 64, ..plain };
            (shape, Traits { sink: true, ..Traits::default() }, DType::BF16)
        }
        _ => (plain, Traits { sink: true, ..Traits::default() }, DType::BF16),
    }
}

fn config(name: &str, s: LlamaShape) -> serde_json::Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
        "hidden_size": s.hidden, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads, "head_dim": s.head_dim, "intermediate_size": s.inner,
        "vocab_size": s.vocab, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 4096, "tie_word_embeddings": false,
        "bos_token_id": 0, "eos_token_id": 1,
    });
    let more = match name {
        "gqa" => json!({"tie_word_embeddings": true, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}}),
        "bias" => json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_theta": 1000000.0,
            "use_sliding_window": false, "rms_norm_eps": 1e-6}),
        "softcap" => json!({"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
            "attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0, "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 24, "sliding_window": 16, "tie_word_embeddings": true}),
        _ => json!({}),
    };
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

fn folder(path: &Path, name: &str) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    let (shape, traits, dtype) = shape(name);
    let tensors = Builder { shape, dice: Dice(name.len() as u64 * 1009), tensors: vec![] }.all(traits)?;
    let typed: HashMap<String, Tensor> =
        tensors.into_iter().map(|(name, t)| Ok((name, t.to_dtype(dtype)?))).collect::<Result<_>>()?;
    candle_core::safetensors::save(&typed, path.join("model.safetensors"))?;
    fs::write(path.join("config.json"), serde_json::to_string_pretty(&config(name, shape))?)?;
    Ok(())
}

fn quantised(path: &Path, dtype: GgmlDType) -> Result<Model> {
    if !path.exists() {
        let shape = LlamaShape { hidden: 256, inner: 512, layers: 3, heads: 8, kv_heads: 4, head_dim: 32, vocab: 320 };
        let builder = Builder { shape, dice: Dice(77), tensors: vec![] };
        let tensors = builder.all(Traits { sink: true, ..Traits::default() })?;
        let stored = |t: &Tensor| QTensor::quantize(t, if t.rank() == 1 { GgmlDType::F32 } else { dtype });
        let tensors: Vec<(String, QTensor)> =
            tensors.iter().map(|(name, t)| Ok((crate::train::gguf_name(name), stored(t)?))).collect::<Result<_>>()?;
        write_llama(path, shape, &tensors);
    }
    Ok(Model::open(path)?)
}
