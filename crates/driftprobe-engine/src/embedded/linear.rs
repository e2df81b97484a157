//! y = x·Wᵀ with W where it is mapped: GEMM for prefill, dot products for decode, candle's integer kernels for quantised
//! weights.

use super::kernels::dot;
use super::values::{Held, Values};
use crate::error::EngineError;
use crate::settings::{QuantisedMatmul, Settings};
use candle_core::quantized::{GgmlType, k_quants};
use candle_core::{Device, Tensor};
use driftprobe_model::{Weight, WeightDtype};
use driftprobe_trace::Phase;
use rayon::prelude::*;

/// Weight rows that one task multiplies. Fixed, so that the result does not depend on the number of threads.
const TILE_ROWS: usize = 64;
/// Multiplications below which splitting the work costs more than it saves.
const SERIAL_PRODUCTS_MAX: usize = 1 << 17;

/// A matrix `[outputs, inputs]`, and its bias if it has one.
#[derive(Clone)]
pub struct Linear {
    weight: Place,
    bias: Option<Tensor>,
    /// Sequences multiplied at once; see [`Settings::batch`].
    batch: usize,
}

#[derive(Clone)]
enum Place {
    /// In its file, or in memory.
    Host { values: Values, quantised: QuantisedMatmul },
    /// Copied to an accelerator, as f32.
    Device(Tensor),
}

impl Linear {
    pub fn new(weight: Weight, bias: Option<Tensor>, settings: &Settings) -> Result<Linear, EngineError> {
        let weight = if settings.device.is_cpu() {
            Place::Host { values: Values::Mapped(weight), quantised: settings.quantised_matmul }
        } else {
            let shape = (weight.rows(), weight.cols());
            Place::Device(Tensor::from_vec(weight.to_f32(), shape, &settings.device)?)
        };
        Ok(Linear { weight, bias, batch: settings.batch })
    }

    /// A matrix whose values have been altered, by the same kernels.
    pub fn held(held: Held, bias: Option<Tensor>, settings: &Settings) -> Result<Linear, EngineError> {
        let quantised = settings.quantised_matmul;
        let integer = held.dtype.is_quantised() && is_integer_shape(held.dtype, held.cols, quantised);
        let plain = held.dtype == WeightDtype::F32;
        let weight = match (settings.device.is_cpu(), integer || plain) {
            (true, true) => Place::Host { values: Values::Held(held), quantised },
            (true, false) => Place::Host { values: Values::Held(held.dequantised()?), quantised },
            (false, _) => {
                let (shape, mut values) = ((held.rows, held.cols), Vec::new());
                Values::Held(held.dequantised()?).with_rows(0, shape.0, |all| values = all.to_vec());
                Place::Device(Tensor::from_vec(values, shape, &settings.device)?)
            }
        };
        Ok(Linear { weight, bias, batch: settings.batch })
    }

    /// The same matrix without its bias.
    pub fn without_bias(&self) -> Linear {
        Linear { bias: None, ..self.clone() }
    }

    /// The bias.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `[tokens, inputs]` to `[tokens, outputs]`, by the phase's kernel, whatever the number of tokens; a batch of several
    /// sequences always by prefill's.
    pub fn forward(&self, x: &Tensor, phase: Phase) -> Result<Tensor, EngineError> {
        let tokens = x.dim(0)?;
        let (x, kernel) = match self.batch {
            1 => (x.clone(), phase),
            batch => (x.repeat((batch, 1))?, Phase::Prefill),
        };
        let y = match &self.weight {
            Place::Host { values, quantised } => multiply(values, *quantised, &x, kernel)?,
            Place::Device(weight) => x.matmul(&weight.t()?)?,
        };
        let y = y.narrow(0, 0, tokens)?;
        match &self.bias {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}

/// Whether this weight is multiplied as integers.
pub fn is_integer(weight: &Weight, quantised: QuantisedMatmul) -> bool {
    is_integer_shape(weight.dtype(), weight.cols(), quantised)
}

fn is_integer_shape(dtype: WeightDtype, cols: usize, quantised: QuantisedMatmul) -> bool {
    // candle's kernels of these formats take the blocks of a row in pairs.
    let in_pairs = matches!(dtype, WeightDtype::Q4_1 | WeightDtype::Q5_0 | WeightDtype::Q5_1);
    let fits = !in_pairs || (cols / dtype.block().0).is_multiple_of(2);
    dtype.is_quantised() && quantised == QuantisedMatmul::Integer && fits
}

/// By the kernel of `kernel`'s phase.
fn multiply(values: &Values, quantised: QuantisedMatmul, x: &Tensor, kernel: Phase) -> Result<Tensor, EngineError> {
    let (tokens, inputs) = x.dims2()?;
    let outputs = values.rows();
    if inputs != values.cols() {
        let what = format!("{} takes {} inputs, not {inputs}", values.name(), values.cols());
        return Err(EngineError::request(what, "this is a mistake of driftprobe's own; please report it"));
    }
    let x = x.flatten_all()?.to_vec1::<f32>()?;
    let y = if is_integer_shape(values.dtype(), inputs, quantised) {
        integer(values, (tokens, inputs, outputs), &x)?
    } else {
        match kernel {
            Phase::Prefill => gemm_tiles(values, tokens, &x),
            Phase::Decode => x.chunks(inputs.max(1)).flat_map(|row| dot_rows(values, row)).collect(),
        }
    };
    Ok(Tensor::from_vec(y, (tokens, outputs), &Device::Cpu)?)
}

/// Runs `tile` over chunks of `out`, on all threads if the work is worth it.
fn over_tiles(out: &mut [f32], values_a_tile: usize, products: usize, tile: impl Fn(usize, &mut [f32]) + Sync) {
    if products <= SERIAL_PRODUCTS_MAX {
        out.chunks_mut(values_a_tile).enumerate().for_each(|(i, chunk)| tile(i, chunk));
    } else {
        out.par_chunks_mut(values_a_tile).enumerate().for_each(|(i, chunk)| tile(i, chunk));
    }
}

fn dot_rows(weight: &Values, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; weight.rows()];
    over_tiles(&mut y, TILE_ROWS, weight.rows() * x.len(), |i, out| {
        weight.with_rows(i * TILE_ROWS, out.len(), |rows| {
            for (y, row) in out.iter_mut().zip(rows.chunks_exact(x.len())) {
                *y = dot(row, x);
            }
        });
    });
    y
}

fn gemm_tiles(weight: &Values, tokens: usize, x: &[f32]) -> Vec<f32> {
    let (outputs, inputs) = (weight.rows(), weight.cols());
    // Tiles of outputs are contiguous in yᵀ.
    let mut transposed = vec![0.0f32; outputs * tokens];
    over_tiles(&mut transposed, TILE_ROWS * tokens, outputs * inputs * tokens, |i, out| {
        weight.with_rows(i * TILE_ROWS, out.len() / tokens, |rows| gemm_tile(rows, x, out, (tokens, inputs)));
    });
    transpose(&transposed, outputs, tokens)
}

/// out `[outputs, tokens]` = rows `[outputs, inputs]` · xᵀ, x being `[tokens, inputs]`.
fn gemm_tile(rows: &[f32], x: &[f32], out: &mut [f32], (tokens, inputs): (usize, usize)) {
    let outputs = out.len() / tokens;
    assert!(rows.len() == outputs * inputs && x.len() == tokens * inputs && out.len() == outputs * tokens);
    let (tokens_stride, inputs_stride) = (tokens as isize, inputs as isize);
    // SAFETY: the three slices have just been checked to hold the whole of the matrices that these sizes and strides
    // describe (all row-major; x is read as its transpose), and `out` is borrowed exclusively. gemm takes raw pointers; it
    // is called directly so that weights are multiplied where they are mapped.
    unsafe {
        gemm::gemm(
            outputs,
            tokens,
            inputs,
            out.as_mut_ptr(),
            1,
            tokens_stride,
            false,
            rows.as_ptr(),
            1,
            inputs_stride,
            x.as_ptr(),
            inputs_stride,
            1,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn transpose(from: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut to = vec![0.0; from.len()];
    const BLOCK: usize = 32;
    for r0 in (0..rows).step_by(BLOCK) {
        for c in 0..cols {
            for r in r0..rows.min(r0 + BLOCK) {
                to[c * rows + r] = from[r * cols + c];
            }
        }
    }
    to
}

fn integer(weight: &Values, size: (usize, usize, usize), x: &[f32]) -> Result<Vec<f32>, EngineError> {
    let mut y = vec![0.0; size.0 * size.2];
    let out = y.as_mut_slice();
    match weight.dtype() {
        WeightDtype::Q4_0 => blocks::<k_quants::BlockQ4_0>(weight, size, x, out),
        WeightDtype::Q4_1 => blocks::<k_quants::BlockQ4_1>(weight, size, x, out),
        WeightDtype::Q5_0 => blocks::<k_quants::BlockQ5_0>(weight, size, x, out),
        WeightDtype::Q5_1 => blocks::<k_quants::BlockQ5_1>(weight, size, x, out),
        WeightDtype::Q8_0 => blocks::<k_quants::BlockQ8_0>(weight, size, x, out),
        WeightDtype::Q2_K => blocks::<k_quants::BlockQ2K>(weight, size, x, out),
        WeightDtype::Q3_K => blocks::<k_quants::BlockQ3K>(weight, size, x, out),
        WeightDtype::Q4_K => blocks::<k_quants::BlockQ4K>(weight, size, x, out),
        WeightDtype::Q5_K => blocks::<k_quants::BlockQ5K>(weight, size, x, out),
        WeightDtype::Q6_K => blocks::<k_quants::BlockQ6K>(weight, size, x, out),
        WeightDtype::F32 | WeightDtype::F16 | WeightDtype::Bf16 => {
            return Err(EngineError::request(
                format!("{} is not quantised", weight.name()),
                "this is a mistake of driftprobe's own",
            ));
        }
    }?;
    Ok(y)
}

fn blocks<T: GgmlType>(
    weight: &Values,
    size: (usize, usize, usize),
    x: &[f32],
    out: &mut [f32],
) -> Result<(), EngineError> {
    let bytes = weight.bytes();
    assert!(
        bytes.len() == weight.rows() * weight.cols() / T::BLCK_SIZE * size_of::<T>(),
        "blocks of {}",
        weight.name()
    );
    assert!(bytes.as_ptr().cast::<T>().is_aligned(), "alignment of {}", weight.name());
    // SAFETY: T is one of candle's `repr(C)` block types, plain old data for which every bit pattern is valid; length and
    // alignment have just been checked; the bytes stay where they are for as long as `weight` lives.
    let blocks = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<T>(), bytes.len() / size_of::<T>()) };
    Ok(k_quants::matmul::<T>(size, x, blocks, out)?)
}
