//! One layer's KV cache as llama.cpp holds it: where an element lies, and its values.

use crate::node::{Node, Unreadable, floats, halves};
use driftprobe_trace::Dtype;
use half::f16;
use llama_cpp_sys_2 as sys;

/// Values of a q8_0 block, and its bytes: an f16 scale and as many integers.
const Q8_0_BLOCK: (usize, usize) = (32, 34);

/// How a cache's rows lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Key heads and the width of a head.
    pub heads: (usize, usize),
    /// Whether all positions of a channel lie side by side: V without flash attention.
    pub transposed: bool,
}

impl Layout {
    fn width(&self) -> usize {
        self.heads.0 * self.heads.1
    }

    /// The first `rows` rows, in order of positions, each `[kv_heads × head_dim]`.
    ///
    /// # Errors
    /// When the cache is of a type that is not known, or has fewer rows.
    pub fn rows(&self, cache: &Node<'_>, rows: usize) -> Result<Rows, Unreadable> {
        let (width, cells) = (self.width(), cache.len(1));
        if cache.len(0) != width || rows > cells {
            let has = format!("{} × {cells}", cache.len(0));
            return Err(Unreadable(format!("{}: {rows} rows of {width} of {has}", cache.name())));
        }
        let dtype = cache.dtype();
        if !self.transposed {
            let size = row_size(dtype, width).ok_or_else(|| unknown(cache))?;
            let bytes = cache.bytes(0, rows * size)?;
            return Ok(Rows { width, dtype: shown(dtype), values: values(dtype, &bytes) });
        }
        let size = row_size(dtype, 1).ok_or_else(|| unknown(cache))?;
        let mut all = vec![0.0; rows * width];
        for channel in 0..width {
            let bytes = cache.bytes(channel * cells * size, rows * size)?;
            for (row, value) in values(dtype, &bytes).into_iter().enumerate() {
                if let Some(place) = all.get_mut(row * width + channel) {
                    *place = value;
                }
            }
        }
        Ok(Rows { width, dtype: shown(dtype), values: all })
    }

    /// Overwrites rows from `first`.
    ///
    /// # Errors
    /// When the cache is of a type that is not known, or has no such rows.
    ///
    /// # Safety
    /// Nothing computes with the cache meanwhile.
    pub unsafe fn overwrite(&self, cache: &Node<'_>, first: usize, rows: &[f32]) -> Result<(), Unreadable> {
        let (width, cells) = (self.width(), cache.len(1));
        let count = rows.len() / width.max(1);
        if cache.len(0) != width || first + count > cells || count * width != rows.len() {
            return Err(Unreadable(format!("{}: no rows {first}..{} of {width}", cache.name(), first + count)));
        }
        let dtype = cache.dtype();
        if !self.transposed {
            let size = row_size(dtype, width).ok_or_else(|| unknown(cache))?;
            let bytes = packed(dtype, rows);
            // SAFETY: by this function's contract.
            return unsafe { cache.write(first * size, &bytes) };
        }
        let size = row_size(dtype, 1).ok_or_else(|| unknown(cache))?;
        for channel in 0..width {
            let column: Vec<f32> = rows.iter().skip(channel).step_by(width).copied().collect();
            // SAFETY: by this function's contract.
            unsafe { cache.write((channel * cells + first) * size, &packed(dtype, &column))? };
        }
        Ok(())
    }
}

/// Rows of a cache as values.
pub struct Rows {
    width: usize,
    /// Type in which the values are shown: the cache's own, or f32 for blocks.
    pub dtype: Dtype,
    values: Vec<f32>,
}

impl Rows {
    /// Rows `range` as `[kv_heads, rows, head_dim]`, little-endian.
    pub fn by_head(&self, range: std::ops::Range<usize>, (heads, width): (usize, usize)) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len() * self.width * self.dtype.size_bytes());
        for head in 0..heads {
            for row in range.clone() {
                let at = row * self.width + head * width;
                for value in self.values.get(at..at + width).unwrap_or_default() {
                    put(self.dtype, *value, &mut bytes);
                }
            }
        }
        bytes
    }
}

/// The other way round: from `[kv_heads, rows, head_dim]` to rows.
pub fn by_row(bytes: &[u8], dtype: Dtype, (heads, rows, width): (usize, usize, usize)) -> Option<Vec<f32>> {
    let values: Vec<f32> = match dtype {
        Dtype::F32 => floats(bytes).collect(),
        Dtype::F16 => halves(bytes).collect(),
        Dtype::F64 | Dtype::Bf16 => return None,
    };
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        for head in 0..heads {
            let at = (head * rows + row) * width;
            out.extend_from_slice(values.get(at..at + width)?);
        }
    }
    (out.len() == values.len()).then_some(out)
}

fn put(dtype: Dtype, value: f32, bytes: &mut Vec<u8>) {
    match dtype {
        Dtype::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
        _ => bytes.extend(value.to_le_bytes()),
    }
}

fn unknown(cache: &Node<'_>) -> Unreadable {
    Unreadable(format!("{}: a cache of ggml type {} is not known", cache.name(), cache.dtype()))
}

/// Bytes of so many values; none where the type is not known or they fill no whole blocks.
fn row_size(dtype: sys::ggml_type, values: usize) -> Option<usize> {
    match dtype {
        sys::GGML_TYPE_F32 => Some(values * 4),
        sys::GGML_TYPE_F16 => Some(values * 2),
        sys::GGML_TYPE_Q8_0 => values.is_multiple_of(Q8_0_BLOCK.0).then(|| values / Q8_0_BLOCK.0 * Q8_0_BLOCK.1),
        _ => None,
    }
}

fn shown(dtype: sys::ggml_type) -> Dtype {
    if dtype == sys::GGML_TYPE_F16 { Dtype::F16 } else { Dtype::F32 }
}

fn values(dtype: sys::ggml_type, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        sys::GGML_TYPE_F32 => floats(bytes).collect(),
        sys::GGML_TYPE_F16 => halves(bytes).collect(),
        _ => bytes.as_chunks::<{ Q8_0_BLOCK.1 }>().0.iter().flat_map(unblocked).collect(),
    }
}

/// A q8_0 block: scale times integers, exact in f32.
fn unblocked(block: &[u8; Q8_0_BLOCK.1]) -> impl Iterator<Item = f32> {
    let [low, high, integers @ ..] = *block;
    let scale = f16::from_le_bytes([low, high]).to_f32();
    integers.into_iter().map(move |q| scale * f32::from(q.cast_signed()))
}

fn packed(dtype: sys::ggml_type, values: &[f32]) -> Vec<u8> {
    match dtype {
        sys::GGML_TYPE_F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        sys::GGML_TYPE_F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.chunks(Q8_0_BLOCK.0).flat_map(blocked).collect(),
    }
}

/// Values to a q8_0 block: scale max|x|/127, integers rounded. What came out of a block goes back into the same one, for
/// its largest integer is ±127.
fn blocked(values: &[f32]) -> Vec<u8> {
    let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let (scale, inverse) = (largest / 127.0, if largest > 0.0 { 127.0 / largest } else { 0.0 });
    let mut block = f16::from_f32(scale).to_le_bytes().to_vec();
    block.extend(values.iter().map(|v| ((v * inverse).round() as i8).cast_unsigned()));
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_as_it_was() {
        for seed in 0..200u32 {
            let scale = f16::from_f32(0.001 + seed as f32 * 0.0137);
            let mut block = scale.to_le_bytes().to_vec();
            block.extend(
                (0..32u32).map(|i| ((i * 37 + seed * 11) % 255) as u8 as i8 as i32).map(|q| q.max(-127) as i8 as u8),
            );
            block[2 + (seed as usize % 32)] = 127;
            let values = values(sys::GGML_TYPE_Q8_0, &block);
            assert_eq!(packed(sys::GGML_TYPE_Q8_0, &values), block, "seed {seed}");
        }
        assert_eq!(packed(sys::GGML_TYPE_Q8_0, &[0.0; 32]), [0u8; 34]);
    }

    #[test]
    fn heads_and_rows_change_places_and_back() {
        let rows = Rows { width: 4, dtype: Dtype::F32, values: (0..12).map(|i| i as f32).collect() };
        let bytes = rows.by_head(1..3, (2, 2));
        let expected: Vec<u8> =
            [4.0f32, 5.0, 8.0, 9.0, 6.0, 7.0, 10.0, 11.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(bytes, expected);
        assert_eq!(by_row(&bytes, Dtype::F32, (2, 2, 2)).unwrap(), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert!(by_row(&bytes, Dtype::F32, (2, 3, 2)).is_none());
    }
}
