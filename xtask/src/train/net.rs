//! The demo model as a differentiable function: a Llama of nine small layers.

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::ops::{rms_norm_slow, silu, softmax};
use driftprobe_testkit::Dice;

/// Sizes of the model.
#[derive(Clone, Copy)]
pub struct Shape {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub intermediate: usize,
    pub vocab: usize,
}

impl Shape {
    /// Nine layers, so that the layers 0, 1, 2, 4 and 8 that are traced by default all exist.
    pub const DEMO: Shape = Shape {
        hidden: 64,
        layers: 9,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        intermediate: 176,
        vocab: super::tokenizer::VOCAB,
    };
}

pub const RMS_NORM_EPS: f64 = 1e-5;
pub const ROPE_THETA: f64 = 10000.0;

struct Layer {
    attn_norm: Var,
    q: Var,
    k: Var,
    v: Var,
    o: Var,
    ffn_norm: Var,
    gate: Var,
    up: Var,
    down: Var,
}

pub struct Net {
    pub shape: Shape,
    embed: Var,
    layers: Vec<Layer>,
    norm: Var,
    head: Var,
}

impl Net {
    pub fn random(shape: Shape, rng: &mut Dice) -> Result<Net> {
        let mut matrix = |rows: usize, cols: usize, scale: f64| -> Result<Var> {
            let values: Vec<f32> = (0..rows * cols).map(|_| (rng.normal() * scale) as f32).collect();
            Ok(Var::from_tensor(&Tensor::from_vec(values, (rows, cols), &Device::Cpu)?)?)
        };
        let ones = |n: usize| -> Result<Var> { Ok(Var::ones(n, DType::F32, &Device::Cpu)?) };
        let Shape { hidden, heads, kv_heads, head_dim, intermediate, vocab, .. } = shape;
        let (fan_hidden, residual) = ((hidden as f64).powf(-0.5), (2.0 * shape.layers as f64).powf(-0.5));
        let mut layers = Vec::new();
        for _ in 0..shape.layers {
            layers.push(Layer {
                attn_norm: ones(hidden)?,
                q: matrix(heads * head_dim, hidden, fan_hidden)?,
                k: matrix(kv_heads * head_dim, hidden, fan_hidden)?,
                v: matrix(kv_heads * head_dim, hidden, fan_hidden)?,
                o: matrix(hidden, heads * head_dim, fan_hidden * residual)?,
                ffn_norm: ones(hidden)?,
                gate: matrix(intermediate, hidden, fan_hidden)?,
                up: matrix(intermediate, hidden, fan_hidden)?,
                down: matrix(hidden, intermediate, (intermediate as f64).powf(-0.5) * residual)?,
            });
        }
        let (embed, head) = (matrix(vocab, hidden, 0.5)?, matrix(vocab, hidden, fan_hidden)?);
        Ok(Net { shape, embed, layers, norm: ones(hidden)?, head })
    }

    /// The trained tensors under their Hugging Face names.
    pub fn vars(&self) -> Vec<(String, Var)> {
        let mut vars = vec![("model.embed_tokens.weight".to_owned(), self.embed.clone())];
        for (i, l) in self.layers.iter().enumerate() {
            let of = |name: &str| format!("model.layers.{i}.{name}.weight");
            vars.extend([
                (of("input_layernorm"), l.attn_norm.clone()),
                (of("self_attn.q_proj"), l.q.clone()),
                (of("self_attn.k_proj"), l.k.clone()),
                (of("self_attn.v_proj"), l.v.clone()),
                (of("self_attn.o_proj"), l.o.clone()),
                (of("post_attention_layernorm"), l.ffn_norm.clone()),
                (of("mlp.gate_proj"), l.gate.clone()),
                (of("mlp.up_proj"), l.up.clone()),
                (of("mlp.down_proj"), l.down.clone()),
            ]);
        }
        vars.extend([
            ("model.norm.weight".to_owned(), self.norm.clone()),
            ("lm_head.weight".to_owned(), self.head.clone()),
        ]);
        vars
    }

    /// Logits `[batch, tokens, vocab]` of token ids `[batch, tokens]`.
    pub fn logits(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let rope = Rope::new(tokens, self.shape.head_dim)?;
        let mask = causal_mask(tokens)?;
        let embedded = self.embed.index_select(&ids.flatten_all()?, 0)?;
        let mut x = embedded.reshape((batch, tokens, self.shape.hidden))?;
        for layer in &self.layers {
            x = (&x + self.attention(layer, &norm(&x, &layer.attn_norm)?, &rope, &mask)?)?;
            let h = norm(&x, &layer.ffn_norm)?;
            let act = (silu(&linear(&h, &layer.gate)?)? * linear(&h, &layer.up)?)?;
            x = (&x + linear(&act, &layer.down)?)?;
        }
        linear(&norm(&x, &self.norm)?, &self.head)
    }

    fn attention(&self, layer: &Layer, x: &Tensor, rope: &Rope, mask: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let Shape { heads, kv_heads, head_dim, .. } = self.shape;
        let split = |y: Tensor, n: usize| -> Result<Tensor> {
            Ok(y.reshape((batch, tokens, n, head_dim))?.transpose(1, 2)?.contiguous()?)
        };
        let q = rope.apply(&split(linear(x, &layer.q)?, heads)?)?;
        let k = rope.apply(&split(linear(x, &layer.k)?, kv_heads)?)?;
        let v = split(linear(x, &layer.v)?, kv_heads)?;
        let group = heads / kv_heads;
        let spread = |y: Tensor| -> Result<Tensor> {
            let y = y.unsqueeze(2)?.broadcast_as((batch, kv_heads, group, tokens, head_dim))?;
            Ok(y.reshape((batch, heads, tokens, head_dim))?)
        };
        let (k, v) = (spread(k)?, spread(v)?);
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * (head_dim as f64).powf(-0.5))?;
        let probs = softmax(&scores.broadcast_add(mask)?, D::Minus1)?;
        let out = probs.matmul(&v)?.transpose(1, 2)?.reshape((batch, tokens, heads * head_dim))?;
        linear(&out, &layer.o)
    }
}

fn linear(x: &Tensor, w: &Var) -> Result<Tensor> {
    let (batch, tokens, n) = x.dims3()?;
    Ok(x.reshape((batch * tokens, n))?.matmul(&w.t()?)?.reshape((batch, tokens, ()))?)
}

fn norm(x: &Tensor, w: &Var) -> Result<Tensor> {
    Ok(rms_norm_slow(x, w, RMS_NORM_EPS as f32)?)
}

fn causal_mask(tokens: usize) -> Result<Tensor> {
    let values: Vec<f32> =
        (0..tokens * tokens).map(|i| if i % tokens > i / tokens { f32::NEG_INFINITY } else { 0.0 }).collect();
    Ok(Tensor::from_vec(values, (tokens, tokens), &Device::Cpu)?)
}

struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    fn new(tokens: usize, head_dim: usize) -> Result<Rope> {
        let half = head_dim / 2;
        let angle = |i: usize| (i / half) as f64 * ROPE_THETA.powf(-2.0 * (i % half) as f64 / head_dim as f64);
        let table = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = (0..tokens * half).map(|i| f(angle(i)) as f32).collect();
            Ok(Tensor::from_vec(values, (tokens, half), &Device::Cpu)?)
        };
        Ok(Rope { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(D::Minus1)? / 2;
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let first = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let second = (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?;
        Ok(Tensor::cat(&[first, second], D::Minus1)?)
    }
}
