//! Tensors to little-endian bytes and back.

use crate::error::EngineError;
use candle_core::{DType, Device, Tensor};
use driftprobe_trace::Dtype;
use half::{bf16, f16};

/// Little-endian bytes of a tensor whose values are in the storage type's grid already.
pub fn bytes_of(x: &Tensor, dtype: Dtype) -> Result<Vec<u8>, EngineError> {
    let x = x.flatten_all()?.to_device(&Device::Cpu)?;
    Ok(match dtype {
        Dtype::F16 => x.to_dtype(DType::F16)?.to_vec1::<f16>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::Bf16 => x.to_dtype(DType::BF16)?.to_vec1::<bf16>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F32 => little_endian(x.to_vec1::<f32>()?),
        Dtype::F64 => x.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
    })
}

/// Little-endian bytes of values.
pub fn little_endian(values: Vec<f32>) -> Vec<u8> {
    if cfg!(target_endian = "little") {
        bytemuck::cast_slice(&values).to_vec()
    } else {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}

/// A tensor of little-endian values, widened to f32 (exactly, but for f64).
pub fn tensor_of(bytes: &[u8], dtype: Dtype, shape: (usize, usize, usize)) -> Result<Tensor, EngineError> {
    let values: Vec<f32> = match dtype {
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::Bf16 => bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
    };
    if values.len() != shape.0 * shape.1 * shape.2 {
        let what = format!("{} bytes of {dtype} are not {shape:?}", bytes.len());
        return Err(EngineError::request(what, "hand over whole rows"));
    }
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
