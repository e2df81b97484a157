//! The attention kernels. All take the same inputs and give the same mathematical result; they differ in the order of
//! summation, which is what driftprobe is there to look at.
//!
//! | phase | kernel | order |
//! |---|---|---|
//! | prefill | naive | GEMM, softmax over the row, GEMM |
//! | prefill | blocked | block after block of keys, running maximum and sum (FlashAttention, arXiv 2205.14135) |
//! | decode | naive | dot products, softmax over the row, one running sum |
//! | decode | split-k | parts of the keys, each with a softmax of its own, merged (Flash-Decoding) |

mod vector;

use super::ops::softcap;
use crate::error::EngineError;
use crate::settings::{DecodeAttention, PrefillAttention};
use candle_core::{D, Tensor};

/// What every kernel needs to know beside Q, K and V.
#[derive(Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f64,
    pub softcap: Option<f64>,
    pub mask: Mask,
    /// Position of the first query row.
    pub first_pos: usize,
}

/// Which keys a row sees.
#[derive(Clone, Copy)]
pub struct Mask {
    /// How many keys, its own included.
    pub window: Option<usize>,
    /// How far the last key that it sees lies behind its own: 0.
    pub ahead: isize,
    /// The first key of all: 0.
    pub first_key: usize,
}

impl Mask {
    /// Every key up to a row's own, within its window.
    pub const fn causal(window: Option<usize>) -> Mask {
        Mask { window, ahead: 0, first_key: 0 }
    }
}

impl Shape {
    fn sees(&self, pos: usize, key: usize) -> bool {
        let Mask { window, ahead, first_key } = self.mask;
        // A row always sees a key: at position 0 its own.
        key <= pos.saturating_add_signed(ahead) && key >= first_key.min(pos) && window.is_none_or(|w| key + w > pos)
    }
}

/// The result, and what can be shown of the way there.
pub struct Attended {
    /// `[tokens, heads × head_dim]`.
    pub out: Tensor,
    /// Scaled and masked scores `[heads, tokens, keys]`, if asked for.
    pub scores: Option<Tensor>,
    /// Probabilities `[heads, tokens, keys]`, where the kernel holds them.
    pub probs: Option<Tensor>,
}

/// Q `[tokens, heads, head_dim]` against K and V `[kv_heads, keys, head_dim]`, all f32.
pub struct Inputs<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    /// Whether the scores are wanted.
    pub show_scores: bool,
}

/// A phase's kernel.
#[derive(Clone, Copy)]
pub enum Kernel {
    Prefill(PrefillAttention),
    /// One query row.
    Decode(DecodeAttention),
}

impl Kernel {
    pub fn attend(self, inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
        match (self, self.ranges(inputs.k.dim(1)?)) {
            (_, Some(ranges)) => over_ranges(inputs, shape, &ranges),
            (Kernel::Decode(_), None) if inputs.q.device().is_cpu() => vector::attend(inputs, shape),
            (_, None) => naive(inputs, shape),
        }
    }

    /// The ranges (first, count) of keys that get a softmax of their own; `None` where all keys share one.
    pub fn ranges(self, keys: usize) -> Option<Vec<(usize, usize)>> {
        let size = self.range_keys(keys)?;
        Some((0..keys).step_by(size).map(|first| (first, size.min(keys - first))).collect())
    }

    /// Keys of a range; `None` where all share one.
    fn range_keys(self, keys: usize) -> Option<usize> {
        let size = match self {
            Kernel::Prefill(PrefillAttention::Naive) | Kernel::Decode(DecodeAttention::Naive) => return None,
            Kernel::Prefill(PrefillAttention::Blocked { keys: block }) => block,
            Kernel::Decode(DecodeAttention::SplitK { parts }) => keys.div_ceil(parts.max(1)),
        };
        Some(size.max(1))
    }

    /// Keys whose scores are held at once, of `keys`.
    pub fn keys_held(self, keys: usize) -> usize {
        self.range_keys(keys).map_or(keys, |range| range.min(keys))
    }
}

/// Q grouped by the key head it uses: `[kv_heads, group × tokens, head_dim]`.
fn grouped(q: &Tensor, shape: &Shape) -> Result<Tensor, EngineError> {
    let tokens = q.dim(0)?;
    let group = shape.heads / shape.kv_heads;
    Ok(q.transpose(0, 1)?.contiguous()?.reshape((shape.kv_heads, group * tokens, shape.head_dim))?)
}

/// Scaled, capped and masked scores of the keys `first_key ..`: `[heads, tokens, keys]`.
fn scores(q: &Tensor, k: &Tensor, shape: &Shape, (first_key, tokens): (usize, usize)) -> Result<Tensor, EngineError> {
    let keys = k.dim(1)?;
    let products = q.matmul(&k.transpose(1, 2)?)?.reshape((shape.heads, tokens, keys))?;
    let scaled = softcap((products * shape.scale)?, shape.softcap)?;
    let hidden = |i: usize| !shape.sees(shape.first_pos + i / keys, first_key + i % keys);
    let mask: Vec<f32> = (0..tokens * keys).map(|i| if hidden(i) { f32::NEG_INFINITY } else { 0.0 }).collect();
    if mask.iter().all(|m| *m == 0.0) {
        return Ok(scaled);
    }
    Ok(scaled.broadcast_add(&Tensor::from_vec(mask, (1, tokens, keys), q.device())?)?)
}

/// `[heads, tokens, keys]` weights times V: `[heads, tokens, head_dim]`.
pub fn weigh(weights: &Tensor, v: &Tensor, shape: &Shape) -> Result<Tensor, EngineError> {
    let (heads, tokens, keys) = weights.dims3()?;
    let weights = weights.reshape((shape.kv_heads, heads / shape.kv_heads * tokens, keys))?;
    Ok(weights.matmul(v)?.reshape((heads, tokens, shape.head_dim))?)
}

/// `[heads, tokens, head_dim]` to `[tokens, heads × head_dim]`.
pub fn by_token(out: &Tensor) -> Result<Tensor, EngineError> {
    let (heads, tokens, head_dim) = out.dims3()?;
    Ok(out.transpose(0, 1)?.reshape((tokens, heads * head_dim))?)
}

fn naive(inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
    let tokens = inputs.q.dim(0)?;
    let scores = scores(&grouped(inputs.q, shape)?, inputs.k, shape, (0, tokens))?;
    let exps = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let probs = exps.broadcast_div(&exps.sum_keepdim(D::Minus1)?)?;
    let out = by_token(&weigh(&probs, inputs.v, shape)?)?;
    Ok(Attended { out, scores: Some(scores), probs: Some(probs) })
}

/// A softmax under way: running maximum and sum `[heads, tokens, 1]`, unnormalised output `[heads, tokens, head_dim]`.
struct Partial {
    max: Tensor,
    sum: Tensor,
    out: Tensor,
}

impl Partial {
    /// The partial result of some keys. Rows that see none of them have the maximum f32::MIN, the sum 0 and the output 0.
    fn of(scores: &Tensor, v: &Tensor, shape: &Shape) -> Result<Partial, EngineError> {
        let max = scores.max_keepdim(D::Minus1)?.maximum(f64::from(f32::MIN))?;
        let exps = scores.broadcast_sub(&max)?.exp()?;
        Ok(Partial { sum: exps.sum_keepdim(D::Minus1)?, out: weigh(&exps, v, shape)?, max })
    }

    /// Rescales both to their common maximum and adds them.
    fn merge(&self, other: &Partial) -> Result<Partial, EngineError> {
        let max = self.max.maximum(&other.max)?;
        let (mine, theirs) = ((&self.max - &max)?.exp()?, (&other.max - &max)?.exp()?);
        let sum = ((&self.sum * &mine)? + (&other.sum * &theirs)?)?;
        let out = (self.out.broadcast_mul(&mine)? + other.out.broadcast_mul(&theirs)?)?;
        Ok(Partial { max, sum, out })
    }

    fn finish(&self) -> Result<Tensor, EngineError> {
        by_token(&self.out.broadcast_div(&self.sum)?)
    }
}

/// Runs over ranges of keys, each with its own scores, and merges the partial results in order.
fn over_ranges(inputs: &Inputs<'_>, shape: &Shape, ranges: &[(usize, usize)]) -> Result<Attended, EngineError> {
    let tokens = inputs.q.dim(0)?;
    let q = grouped(inputs.q, shape)?;
    let (mut whole, mut shown): (Option<Partial>, Vec<Tensor>) = (None, Vec::new());
    // What no row sees adds nothing, to the bit.
    let last = (shape.first_pos + tokens).saturating_add_signed(shape.mask.ahead.max(0));
    for &(first, keys) in ranges.iter().filter(|(first, _)| *first == 0 || *first < last) {
        let (k, v) = (inputs.k.narrow(1, first, keys)?, inputs.v.narrow(1, first, keys)?);
        let scores = scores(&q, &k, shape, (first, tokens))?;
        let partial = Partial::of(&scores, &v, shape)?;
        whole = Some(match whole {
            None => partial,
            Some(before) => before.merge(&partial)?,
        });
        if inputs.show_scores {
            shown.push(scores);
        }
    }
    let whole = whole.ok_or_else(|| EngineError::request("attention over no keys", "feed at least one token"))?;
    let scores = if shown.is_empty() { None } else { Some(Tensor::cat(&shown, 2)?) };
    Ok(Attended { out: whole.finish()?, scores, probs: None })
}
