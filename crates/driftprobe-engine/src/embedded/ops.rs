//! The small stages: storage rounding, norm, rotary embedding, soft cap. Row by row the same in both phases.

use crate::error::EngineError;
use crate::settings::Storage;
use candle_core::{D, DType, Device, Tensor};
use driftprobe_model::{Activation, Config, RopeLayout};

/// Rounds to the storage type; the values stay in an f32 tensor.
pub fn store(x: Tensor, storage: Storage) -> Result<Tensor, EngineError> {
    match storage {
        Storage::F32 => Ok(x),
        _ => Ok(x.to_dtype(storage.candle())?.to_dtype(DType::F32)?),
    }
}

/// x · (mean(x²) + ε)^−½ · w over the last dimension (RMSNorm, arXiv 1910.07467).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, EngineError> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let factor = (mean + eps)?.sqrt()?.recip()?;
    Ok(x.broadcast_mul(&factor)?.broadcast_mul(weight)?)
}

/// cap · tanh(x / cap).
pub fn softcap(x: Tensor, cap: Option<f64>) -> Result<Tensor, EngineError> {
    match cap {
        Some(cap) => Ok(((x / cap)?.tanh()? * cap)?),
        None => Ok(x),
    }
}

/// activation(gate) · up.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor, EngineError> {
    let activated = match activation {
        Activation::Silu => gate.silu()?,
        Activation::GeluTanh => gate.gelu()?,
    };
    Ok((activated * up)?)
}

/// cos and sin of the rotary embedding for some positions: `[tokens, 1, head_dim/2]`.
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
    layout: RopeLayout,
}

/// The frequencies, and how angles become a table. Angles are products in f32, as engines compute them.
pub struct RopeFrequencies {
    inv_freq: Vec<f32>,
    factor: f32,
    layout: RopeLayout,
}

impl RopeFrequencies {
    pub fn new(config: &Config) -> RopeFrequencies {
        let rope = &config.rope;
        RopeFrequencies {
            inv_freq: rope.inv_freq(config.head_dim),
            factor: rope.attention_factor() as f32,
            layout: rope.layout,
        }
    }

    pub fn table(&self, first: usize, tokens: usize, device: &Device) -> Result<RopeTable, EngineError> {
        self.table_from(first as i64, tokens, device)
    }

    /// As [`RopeFrequencies::table`]; positions before the start turn backwards.
    pub fn table_from(&self, first: i64, tokens: usize, device: &Device) -> Result<RopeTable, EngineError> {
        let angles = (first..).take(tokens).flat_map(|pos| self.inv_freq.iter().map(move |f| pos as f32 * f));
        let angles: Vec<f64> = angles.map(f64::from).collect();
        let table = |of: fn(f64) -> f64| -> Result<Tensor, EngineError> {
            let values: Vec<f32> = angles.iter().map(|a| of(*a) as f32 * self.factor).collect();
            Ok(Tensor::from_vec(values, (tokens, 1, self.inv_freq.len()), device)?)
        };
        Ok(RopeTable { cos: table(f64::cos)?, sin: table(f64::sin)?, layout: self.layout })
    }
}

impl RopeTable {
    /// The same table, rounded to a type.
    pub fn stored(self, storage: Storage) -> Result<RopeTable, EngineError> {
        Ok(RopeTable { cos: store(self.cos, storage)?, sin: store(self.sin, storage)?, layout: self.layout })
    }

    /// Rotates `[tokens, heads, head_dim]`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor, EngineError> {
        let (tokens, heads, head_dim) = x.dims3()?;
        let half = head_dim / 2;
        let (a, b) = match self.layout {
            RopeLayout::Half => (x.narrow(2, 0, half)?, x.narrow(2, half, half)?),
            RopeLayout::Interleaved => {
                let pairs = x.reshape((tokens, heads, half, 2))?;
                (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
            }
        };
        let first = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let second = (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?;
        match self.layout {
            RopeLayout::Half => Ok(Tensor::cat(&[first, second], 2)?),
            RopeLayout::Interleaved => Ok(Tensor::stack(&[first, second], 3)?.reshape((tokens, heads, head_dim))?),
        }
    }
}
