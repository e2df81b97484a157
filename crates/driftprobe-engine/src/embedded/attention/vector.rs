//! Naive decode attention on the CPU: one query against every key, by dot products.

use super::{Attended, Inputs, Shape};
use crate::embedded::kernels::dot;
use crate::error::EngineError;
use candle_core::{Device, Storage, Tensor};
use rayon::prelude::*;

/// Multiplications below which splitting the heads over threads costs more than it saves.
const SERIAL_PRODUCTS_MAX: usize = 1 << 16;

struct Head {
    scores: Vec<f32>,
    probs: Vec<f32>,
    out: Vec<f32>,
}

pub fn attend(inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
    let keys = inputs.k.dim(1)?;
    let q = inputs.q.flatten_all()?.to_vec1::<f32>()?;
    let heads: Vec<Head> = with_slice(inputs.k, |k, k_stride| {
        with_slice(inputs.v, |v, v_stride| {
            let head = |h: usize| {
                let kv = h / (shape.heads / shape.kv_heads);
                let rows = |stride: usize| kv * stride..kv * stride + keys * shape.head_dim;
                one_head(
                    &q[h * shape.head_dim..(h + 1) * shape.head_dim],
                    &k[rows(k_stride)],
                    &v[rows(v_stride)],
                    shape,
                )
            };
            if shape.heads * keys * shape.head_dim <= SERIAL_PRODUCTS_MAX {
                (0..shape.heads).map(head).collect()
            } else {
                (0..shape.heads).into_par_iter().map(head).collect()
            }
        })
    })??;
    let gather = |of: fn(&Head) -> &[f32]| heads.iter().flat_map(|h| of(h).iter().copied()).collect::<Vec<f32>>();
    let rows = |values| Tensor::from_vec(values, (shape.heads, 1, keys), &Device::Cpu);
    Ok(Attended {
        out: Tensor::from_vec(gather(|h| &h.out), (1, shape.heads * shape.head_dim), &Device::Cpu)?,
        scores: Some(rows(gather(|h| &h.scores))?),
        probs: Some(rows(gather(|h| &h.probs))?),
    })
}

fn one_head(q: &[f32], k: &[f32], v: &[f32], shape: &Shape) -> Head {
    let score = |(key, row): (usize, &[f32])| {
        if !shape.sees(shape.first_pos, key) {
            return f32::NEG_INFINITY;
        }
        let scaled = dot(q, row) * shape.scale as f32;
        shape.softcap.map_or(scaled, |cap| (scaled / cap as f32).tanh() * cap as f32)
    };
    let scores: Vec<f32> = k.chunks_exact(q.len()).enumerate().map(score).collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b.is_nan() { b } else { a.max(b) });
    let exps: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f32 = exps.iter().sum();
    let probs: Vec<f32> = exps.iter().map(|e| e / sum).collect();
    let mut out = vec![0.0; q.len()];
    for (p, row) in probs.iter().zip(v.chunks_exact(q.len())) {
        for (o, v) in out.iter_mut().zip(row) {
            *o += p * v;
        }
    }
    Head { scores, probs, out }
}

/// Calls `with` with the values of a CPU tensor `[heads, rows, width]` and the distance between heads, in place.
fn with_slice<R>(tensor: &Tensor, with: impl FnOnce(&[f32], usize) -> R) -> Result<R, EngineError> {
    let (storage, layout) = tensor.storage_and_layout();
    let (&[head_stride, row_stride, 1], &[_, rows, width]) = (layout.stride(), layout.dims()) else {
        return Err(candle_core::Error::Msg("keys and values are not laid out by head".to_owned()).into());
    };
    match &*storage {
        Storage::Cpu(cpu) if row_stride == width || rows == 1 => {
            Ok(with(&cpu.as_slice::<f32>()?[layout.start_offset()..], head_stride))
        }
        _ => Err(candle_core::Error::Msg("keys and values are not contiguous on the CPU".to_owned()).into()),
    }
}
