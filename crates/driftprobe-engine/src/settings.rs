//! How the embedded engine computes: the knobs whose every setting is legitimate arithmetic.

use crate::error::EngineError;
use candle_core::{DType, Device};
use driftprobe_trace::Dtype;
use std::fmt;
use std::str::FromStr;

/// Type in which values are stored between stages. Sums are always accumulated in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Storage {
    pub(crate) const fn candle(self) -> DType {
        match self {
            Storage::F32 => DType::F32,
            Storage::F16 => DType::F16,
            Storage::Bf16 => DType::BF16,
        }
    }

    /// The trace format's name of it.
    pub const fn dtype(self) -> Dtype {
        match self {
            Storage::F32 => Dtype::F32,
            Storage::F16 => Dtype::F16,
            Storage::Bf16 => Dtype::Bf16,
        }
    }
}

impl FromStr for Storage {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "f32" => Ok(Storage::F32),
            "f16" => Ok(Storage::F16),
            "bf16" => Ok(Storage::Bf16),
            _ => Err("expected f32, f16 or bf16".to_owned()),
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.dtype().id())
    }
}

/// Attention of the prefill phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefillAttention {
    /// All scores at once, softmax, product with V.
    Naive,
    /// Blocks of keys with an online softmax (FlashAttention, arXiv 2205.14135); never holds a row of probabilities.
    Blocked {
        /// Keys a block.
        keys: usize,
    },
}

/// Attention of the decode phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeAttention {
    /// All scores at once, softmax, product with V.
    Naive,
    /// The keys are split into equal parts, each with a softmax of its own, merged at the end (Flash-Decoding).
    SplitK {
        /// Number of parts.
        parts: usize,
    },
}

fn with_count(s: &str, names: [&str; 2], default: usize) -> Result<Option<usize>, String> {
    let expected = || format!("expected {} or {}:COUNT with a count from 1", names[0], names[1]);
    match s.split_once(':') {
        None if s == names[0] => Ok(None),
        None if s == names[1] => Ok(Some(default)),
        Some((name, count)) if name == names[1] => count.parse().ok().filter(|n| *n > 0).map(Some).ok_or_else(expected),
        _ => Err(expected()),
    }
}

impl FromStr for PrefillAttention {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let count = with_count(s, ["naive", "blocked"], 64)?;
        Ok(count.map_or(PrefillAttention::Naive, |keys| PrefillAttention::Blocked { keys }))
    }
}

impl FromStr for DecodeAttention {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let count = with_count(s, ["naive", "split-k"], 4)?;
        Ok(count.map_or(DecodeAttention::Naive, |parts| DecodeAttention::SplitK { parts }))
    }
}

impl fmt::Display for PrefillAttention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrefillAttention::Naive => f.pad("naive"),
            PrefillAttention::Blocked { keys } => f.pad(&format!("blocked:{keys}")),
        }
    }
}

impl fmt::Display for DecodeAttention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeAttention::Naive => f.pad("naive"),
            DecodeAttention::SplitK { parts } => f.pad(&format!("split-k:{parts}")),
        }
    }
}

/// How quantised weights are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantisedMatmul {
    /// Activations are quantised too (q8_0 or q8_K by the weight's type) and multiplied as integers: the fast way.
    Integer,
    /// Weights are dequantised to f32, activations stay as they are.
    Dequantise,
}

impl FromStr for QuantisedMatmul {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "integer" => Ok(QuantisedMatmul::Integer),
            "dequantise" => Ok(QuantisedMatmul::Dequantise),
            _ => Err("expected integer or dequantise".to_owned()),
        }
    }
}

/// All settings of the embedded engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Type in which values are stored between stages.
    pub storage: Storage,
    /// Type of the residual stream: the embedding and both sums of every layer; `None`: as `storage`.
    pub residual: Option<Storage>,
    /// Type in which the KV cache holds its rows.
    pub kv_cache: Storage,
    /// Attention of the prefill phase.
    pub prefill_attention: PrefillAttention,
    /// Attention of the decode phase.
    pub decode_attention: DecodeAttention,
    /// Prefill in chunks of so many tokens; `None`: the whole prompt at once.
    pub prefill_chunk_tokens: Option<usize>,
    /// Sequences that a pass computes at once: this one and copies of it. Its matrices are multiplied with so many times the
    /// rows, by the kernel for many rows.
    pub batch: usize,
    /// How quantised weights are multiplied.
    pub quantised_matmul: QuantisedMatmul,
    /// Where the tensors live.
    pub device: Device,
}

impl Default for Settings {
    /// f32 throughout, naive attention in both phases (so that every point can be shown), on the CPU.
    fn default() -> Self {
        Settings {
            storage: Storage::F32,
            residual: None,
            kv_cache: Storage::F32,
            prefill_attention: PrefillAttention::Naive,
            decode_attention: DecodeAttention::Naive,
            prefill_chunk_tokens: None,
            batch: 1,
            quantised_matmul: QuantisedMatmul::Integer,
            device: Device::Cpu,
        }
    }
}

impl Settings {
    /// Type of the residual stream.
    pub fn residual(&self) -> Storage {
        self.residual.unwrap_or(self.storage)
    }

    /// Refuses blocks, parts and chunks of nothing.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let refuse = |what: String| Err(EngineError::request(what, "give a count from 1"));
        if self.prefill_attention == (PrefillAttention::Blocked { keys: 0 }) {
            return refuse(format!("prefill attention {}", self.prefill_attention));
        }
        if self.decode_attention == (DecodeAttention::SplitK { parts: 0 }) {
            return refuse(format!("decode attention {}", self.decode_attention));
        }
        if self.prefill_chunk_tokens == Some(0) {
            return refuse("prefill in chunks of 0 tokens".to_owned());
        }
        if self.batch == 0 {
            return refuse("a batch of 0 sequences".to_owned());
        }
        Ok(())
    }
}
