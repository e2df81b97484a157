//! The products that faults of the matrices give.

use crate::embedded::interference::{At, Interference, Matrix};
use crate::embedded::linear::Linear;
use crate::embedded::values::Held;
use crate::error::EngineError;
use candle_core::{Device, Tensor};
use driftprobe_model::{Weight, WeightDtype};
use half::f16;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The square matrix read by columns, in f32.
pub fn transposed(weight: &Weight) -> Held {
    let (values, n) = (weight.to_f32(), weight.cols());
    let by_column = (0..values.len()).filter_map(|i| values.get(i % n * n + i / n).copied());
    Held::f32(weight.name(), (n, n), by_column.collect())
}

/// The same blocks, each with the scale of the one behind it; the last one with that of the one before.
pub fn with_neighbours_scales(weight: &Weight) -> Held {
    let (dtype, bytes) = (weight.dtype(), weight.bytes());
    let scale = scale_at(dtype)..scale_at(dtype) + size_of::<f16>();
    let blocks: Vec<&[u8]> = bytes.chunks_exact(dtype.block().1).collect();
    let mut altered = bytes.to_vec();
    for (i, block) in altered.chunks_exact_mut(dtype.block().1).enumerate() {
        let neighbour = blocks.get(i + 1).or_else(|| blocks.get(i.wrapping_sub(1)));
        if let (Some(own), Some(other)) = (block.get_mut(scale.clone()), neighbour.and_then(|n| n.get(scale.clone()))) {
            own.copy_from_slice(other);
        }
    }
    Held::blocks(weight.name(), (dtype, weight.rows(), weight.cols()), &altered)
}

/// Where a block's scale (an f16) stands, by ggml's block layouts.
const fn scale_at(dtype: WeightDtype) -> usize {
    match dtype {
        WeightDtype::Q2_K => 80,
        WeightDtype::Q3_K => 108,
        WeightDtype::Q6_K => 208,
        _ => 0,
    }
}

fn biased(y: Tensor, linear: &Linear) -> Result<Tensor, EngineError> {
    match linear.bias() {
        Some(bias) => Ok(y.broadcast_add(bias)?),
        None => Ok(y),
    }
}

/// Another matrix in some layers, with the bias that belongs there.
pub struct Replaced {
    pub matrix: Matrix,
    pub by_layer: BTreeMap<Option<usize>, Linear>,
}

impl Interference for Replaced {
    fn linear(&self, at: At, matrix: Matrix, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        match self.by_layer.get(&at.layer) {
            Some(other) if matrix == self.matrix => biased(other.forward(x, at.phase)?, linear),
            _ => linear.forward(x, at.phase),
        }
    }
}

/// No bias.
pub struct Unbiased(pub Matrix);

impl Interference for Unbiased {
    fn linear(&self, at: At, matrix: Matrix, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        if matrix == self.0 { linear.without_bias().forward(x, at.phase) } else { linear.forward(x, at.phase) }
    }
}

/// The bias so often: once where it belongs, the other times behind it.
pub struct Rebiased(pub Matrix, pub usize);

impl Interference for Rebiased {
    fn linear(&self, at: At, matrix: Matrix, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        let y = linear.forward(x, at.phase)?;
        match linear.bias().filter(|_| matrix == self.0) {
            Some(bias) => Ok(y.broadcast_add(&bias.affine(self.1.saturating_sub(1) as f64, 0.0)?)?),
            None => Ok(y),
        }
    }
}

/// The last inputs count as zero.
pub struct Shortened(pub Matrix, pub usize);

impl Interference for Shortened {
    fn linear(&self, at: At, matrix: Matrix, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        if matrix != self.0 {
            return linear.forward(x, at.phase);
        }
        let kept = x.dim(1)?.saturating_sub(self.1);
        let tail = x.narrow(1, kept, x.dim(1)? - kept)?.zeros_like()?;
        linear.forward(&Tensor::cat(&[x.narrow(1, 0, kept)?, tail], 1)?, at.phase)
    }
}

/// A matrix's values, all of them in f32.
pub struct Dense {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl Dense {
    pub fn of(weight: &Weight) -> Dense {
        Dense { values: weight.to_f32(), rows: weight.rows(), cols: weight.cols() }
    }
}

/// Sums kept in f16.
pub struct Narrow {
    pub matrix: Matrix,
    pub by_layer: BTreeMap<Option<usize>, Dense>,
    pub limit: f32,
}

impl Interference for Narrow {
    fn linear(&self, at: At, matrix: Matrix, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        let Some(dense) = self.by_layer.get(&at.layer).filter(|_| matrix == self.matrix) else {
            return linear.forward(x, at.phase);
        };
        let tokens = x.dim(0)?;
        let inputs = x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let row = |x: &[f32]| -> Vec<f32> {
            dense.values.par_chunks_exact(dense.cols).map(|w| narrow_dot(w, x, self.limit)).collect()
        };
        let y: Vec<f32> = inputs.chunks_exact(dense.cols).flat_map(row).collect();
        biased(Tensor::from_vec(y, (tokens, dense.rows), x.device())?, linear)
    }
}

/// Σ w·x, rounded to f16 after every product, and never beyond ±limit.
fn narrow_dot(w: &[f32], x: &[f32], limit: f32) -> f32 {
    w.iter().zip(x).fold(0.0, |sum: f32, (w, x)| f16::from_f32((sum + w * x).clamp(-limit, limit)).to_f32())
}

#[cfg(test)]
mod tests {
    use super::narrow_dot;

    #[test]
    fn a_narrow_sum_saturates_stagnates_and_carries_nan() {
        assert_eq!(narrow_dot(&[1.0; 3], &[1.0, 2.0, 3.0], 65504.0), 6.0);
        assert_eq!(narrow_dot(&[300.0; 2], &[300.0, -1.0], 65504.0), 65216.0, "65504 − 300, to a multiple of 32");
        assert_eq!(narrow_dot(&[1.0; 3000], &[1.0; 3000], 65504.0), 2048.0, "2048 + 1 is a tie, and 2048 is even");
        assert!(narrow_dot(&[1.0; 2], &[f32::NAN, 1.0], 65504.0).is_nan());
    }
}
