//! A matrix's values: where its file has them, or held in memory by a faulty engine that has altered them.

use super::bytes::little_endian;
use crate::error::EngineError;
use candle_core::Device;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use driftprobe_model::{Weight, WeightDtype, ggml_dtype};

/// `[rows, cols]`, rows being a linear layer's outputs.
#[derive(Clone)]
pub enum Values {
    Mapped(Weight),
    Held(Held),
}

/// Altered values.
#[derive(Clone)]
pub struct Held {
    pub name: String,
    pub dtype: WeightDtype,
    pub rows: usize,
    pub cols: usize,
    /// The bytes, in words so that they are aligned for every block type.
    words: Vec<u64>,
    len: usize,
}

impl Held {
    /// Values in f32.
    pub fn f32(name: &str, (rows, cols): (usize, usize), values: Vec<f32>) -> Held {
        Held::blocks(name, (WeightDtype::F32, rows, cols), &little_endian(values))
    }

    /// Stored bytes of a type.
    pub fn blocks(name: &str, (dtype, rows, cols): (WeightDtype, usize, usize), bytes: &[u8]) -> Held {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Held { name: name.to_owned(), dtype, rows, cols, words, len: bytes.len() }
    }

    /// The stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    /// The same values in f32.
    pub fn dequantised(&self) -> Result<Held, EngineError> {
        let quantised =
            qtensor_from_ggml(ggml_dtype(self.dtype), self.bytes(), vec![self.rows, self.cols], &Device::Cpu)?;
        let values = quantised.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Held::f32(&self.name, (self.rows, self.cols), values))
    }
}

impl Values {
    pub fn name(&self) -> &str {
        match self {
            Values::Mapped(weight) => weight.name(),
            Values::Held(held) => &held.name,
        }
    }

    pub fn dtype(&self) -> WeightDtype {
        match self {
            Values::Mapped(weight) => weight.dtype(),
            Values::Held(held) => held.dtype,
        }
    }

    pub fn rows(&self) -> usize {
        match self {
            Values::Mapped(weight) => weight.rows(),
            Values::Held(held) => held.rows,
        }
    }

    pub fn cols(&self) -> usize {
        match self {
            Values::Mapped(weight) => weight.cols(),
            Values::Held(held) => held.cols,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Values::Mapped(weight) => weight.bytes(),
            Values::Held(held) => held.bytes(),
        }
    }

    /// Calls `with` with some rows as f32: in place where they are so, else dequantised. Held blocks are only ever
    /// multiplied as integers; see [`Held::dequantised`].
    pub fn with_rows(&self, first: usize, count: usize, with: impl FnOnce(&[f32])) {
        let cols = self.cols();
        let all = match self {
            Values::Mapped(weight) => weight.as_f32(),
            Values::Held(held) => bytemuck::try_cast_slice(held.bytes()).ok(),
        };
        match (all, self) {
            (Some(all), _) => with(&all[first * cols..(first + count) * cols]),
            (None, Values::Mapped(weight)) => {
                let mut rows = vec![0.0; count * cols];
                weight.dequantise_rows(first..first + count, &mut rows);
                with(&rows);
            }
            (None, Values::Held(_)) => with(&vec![f32::NAN; count * cols]),
        }
    }
}
