//! Stored bytes to f32, exactly as the formats define it. The block formats are candle's.

use crate::weights::WeightDtype;
use candle_core::Device;
use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// Dequantises whole blocks. `out.len()` is a multiple of the block's values, and `bytes` fits it.
pub fn dequantise(dtype: WeightDtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        WeightDtype::F32 => copy_f32(bytes, out),
        WeightDtype::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
            Ok(halves) => halves.convert_to_f32_slice(out),
            Err(_) => out.iter_mut().zip(pairs(bytes)).for_each(|(o, b)| *o = f16::from_le_bytes(b).to_f32()),
        },
        WeightDtype::Bf16 => out.iter_mut().zip(pairs(bytes)).for_each(|(o, b)| *o = bf16::from_le_bytes(b).to_f32()),
        _ => out.copy_from_slice(&blocks(ggml_dtype(dtype), bytes, out.len())),
    }
}

/// candle's name of a storage type.
pub fn ggml_dtype(dtype: WeightDtype) -> GgmlDType {
    match dtype {
        WeightDtype::F32 => GgmlDType::F32,
        WeightDtype::F16 => GgmlDType::F16,
        WeightDtype::Bf16 => GgmlDType::BF16,
        WeightDtype::Q4_0 => GgmlDType::Q4_0,
        WeightDtype::Q4_1 => GgmlDType::Q4_1,
        WeightDtype::Q5_0 => GgmlDType::Q5_0,
        WeightDtype::Q5_1 => GgmlDType::Q5_1,
        WeightDtype::Q8_0 => GgmlDType::Q8_0,
        WeightDtype::Q2_K => GgmlDType::Q2K,
        WeightDtype::Q3_K => GgmlDType::Q3K,
        WeightDtype::Q4_K => GgmlDType::Q4K,
        WeightDtype::Q5_K => GgmlDType::Q5K,
        WeightDtype::Q6_K => GgmlDType::Q6K,
    }
}

fn blocks(dtype: GgmlDType, bytes: &[u8], values: usize) -> Vec<f32> {
    let dequantised = qtensor_from_ggml(dtype, bytes, vec![values], &Device::Cpu)
        .and_then(|t| t.dequantize(&Device::Cpu))
        .and_then(|t| t.to_vec1::<f32>());
    // The length was checked when the file was opened; NaN, should this ever fail, cannot pass for a value.
    dequantised.unwrap_or_else(|_| vec![f32::NAN; values])
}

fn copy_f32(bytes: &[u8], out: &mut [f32]) {
    match bytemuck::try_cast_slice::<u8, f32>(bytes) {
        Ok(values) => out.copy_from_slice(values),
        Err(_) => {
            let quads = bytes.as_chunks::<4>().0;
            out.iter_mut().zip(quads).for_each(|(o, b)| *o = f32::from_le_bytes(*b));
        }
    }
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    bytes.as_chunks::<2>().0.iter().copied()
}
