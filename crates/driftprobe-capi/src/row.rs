//! A row as C hands it over: checked, and copied out of its strides.

use crate::error::Failure;
use driftprobe_trace::{Dtype, Phase, Point, RowRecord};
use std::ffi::{CStr, c_char, c_void};

/// Dimensions that a row may have.
pub const DIMENSIONS_MAX: usize = 4;
/// Bytes that one row may have: far beyond any row of logits or of a cache.
const ROW_BYTES_MAX: u64 = 1 << 36;

/// The phase that computed a row.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum dp_phase {
    /// The whole prompt at once.
    DP_PREFILL = 0,
    /// One token against the KV cache.
    DP_DECODE = 1,
}

/// The type in which values are stored.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum dp_dtype {
    /// Not told.
    DP_UNKNOWN = 0,
    /// IEEE binary64.
    DP_F64 = 1,
    /// IEEE binary32.
    DP_F32 = 2,
    /// IEEE binary16.
    DP_F16 = 3,
    /// bfloat16.
    DP_BF16 = 4,
}

/// One row of one point, in host memory. Zero-initialise it, set `struct_size`, then what applies. Enumerations are plain
/// integers here, so that any value can be refused.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct dp_row {
    /// `sizeof(dp_row)`; that of another version of this header is refused.
    pub struct_size: u32,
    /// A `dp_phase`.
    pub phase: i32,
    /// Id of the prompt, as given to `dp_run_prompt`.
    pub prompt_id: *const c_char,
    /// Id or alias of the point, such as `attn_out` or `x_in`.
    pub point: *const c_char,
    /// The layer, from 0; −1 for `embed_out`, `final_norm_in`, `final_norm_out` and `logits`.
    pub layer: i32,
    /// 0 in prefill; 1, 2 … in decode.
    pub step: u32,
    /// Position fed to the rotary embedding.
    pub pos_id: u64,
    /// Index of the token in the prompt.
    pub token_index: u64,
    /// The token fed at this row.
    pub token_id: u32,
    /// Tokens in this forward pass: 1 in a decode step.
    pub seq_len: u32,
    /// Keys that this row attends over; 0: not told.
    pub kv_len: u64,
    /// A `dp_dtype`: of the values.
    pub dtype: i32,
    /// A `dp_dtype`: of what the cache holds, if that is another (`k_cache`, `v_cache`).
    pub stored_dtype: i32,
    /// Dimensions of the row, up to 4.
    pub rank: u32,
    /// Nonzero: the values are hashed and counted, but not kept.
    pub without_payload: u32,
    /// Its shape.
    pub shape: [u64; 4],
    /// Distance of neighbours in each dimension, in values; all 0: contiguous.
    pub strides: [i64; 4],
    /// The first value.
    pub data: *const c_void,
}

/// A C string as text.
///
/// # Safety
/// `text` is null or points to a string that ends with a zero byte and outlives the result.
pub unsafe fn text<'a>(what: &str, text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::invalid(format!("{what} is NULL")));
    }
    // SAFETY: not null, and the caller vouches for the rest.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::invalid(format!("{what} is not UTF-8")))
}

/// The phase with this number.
pub fn phase(number: i32) -> Result<Phase, Failure> {
    match number {
        n if n == dp_phase::DP_PREFILL as i32 => Ok(Phase::Prefill),
        n if n == dp_phase::DP_DECODE as i32 => Ok(Phase::Decode),
        other => Err(Failure::invalid(format!("phase {other} is neither DP_PREFILL (0) nor DP_DECODE (1)"))),
    }
}

fn dtype(what: &str, number: i32) -> Result<Option<Dtype>, Failure> {
    Ok(match number {
        n if n == dp_dtype::DP_UNKNOWN as i32 => None,
        n if n == dp_dtype::DP_F64 as i32 => Some(Dtype::F64),
        n if n == dp_dtype::DP_F32 as i32 => Some(Dtype::F32),
        n if n == dp_dtype::DP_F16 as i32 => Some(Dtype::F16),
        n if n == dp_dtype::DP_BF16 as i32 => Some(Dtype::Bf16),
        other => return Err(Failure::invalid(format!("{what} {other} is no dp_dtype"))),
    })
}

/// Checks a row and copies its values: prompt, phase and the record.
///
/// # Safety
/// `row` is null or points to a `dp_row` whose strings are null or end with a zero byte, and whose `data`, where not null,
/// can be read at every place that shape and strides reach.
pub unsafe fn copied(row: *const dp_row) -> Result<(String, Phase, RowRecord), Failure> {
    if row.is_null() {
        return Err(Failure::invalid("the row is NULL"));
    }
    // SAFETY: not null; every caller has at least the first field.
    let size = unsafe { (&raw const (*row).struct_size).read() } as usize;
    if size != size_of::<dp_row>() {
        let expected = size_of::<dp_row>();
        return Err(Failure::invalid(format!(
            "struct_size is {size}, expected {expected}; hint: set it to sizeof(dp_row), and use the header of this library"
        )));
    }
    // SAFETY: the caller's structure is as large as ours.
    let row = unsafe { row.read() };
    // SAFETY: as the caller vouches.
    let (prompt, name) = unsafe { (text("prompt_id", row.prompt_id)?, text("point", row.point)?) };
    let at = |message: String| Failure::invalid(format!("{name} of layer {} of prompt {prompt}: {message}", row.layer));
    let point = Point::parse(name)
        .ok_or_else(|| at("not a point; hint: docs/trace-format.md lists the points and their aliases".to_owned()))?;
    if point.layered() && row.layer < 0 {
        return Err(at("the point exists once a layer, from 0".to_owned()));
    }
    let element = dtype("dtype", row.dtype)?.ok_or_else(|| at("dtype is not told".to_owned()))?;
    let shape = shape(&row, element).map_err(at)?;
    if row.data.is_null() {
        return Err(at("data is NULL".to_owned()));
    }
    // SAFETY: the caller vouches that data reaches as far as shape and strides.
    let bytes = unsafe { gathered(&row, &shape, element.size_bytes()) };
    let record = RowRecord {
        point,
        layer: row.layer,
        step: u64::from(row.step),
        pos_id: row.pos_id,
        logical_tok_idx: row.token_index,
        token_id: row.token_id,
        seq_len: u64::from(row.seq_len),
        kv_len: (row.kv_len > 0).then_some(row.kv_len),
        dtype: element,
        stored_dtype: dtype("stored_dtype", row.stored_dtype)?,
        shape,
        bytes,
        logits_top: None,
        payload: row.without_payload == 0,
    };
    Ok((prompt.to_owned(), phase(row.phase)?, record))
}

fn shape(row: &dp_row, element: Dtype) -> Result<Vec<u64>, String> {
    let rank = row.rank as usize;
    if rank == 0 || rank > DIMENSIONS_MAX {
        return Err(format!("rank is {rank}, expected 1 to {DIMENSIONS_MAX}"));
    }
    let shape: Vec<u64> = row.shape.iter().take(rank).copied().collect();
    let bytes = driftprobe_trace::element_count(&shape).and_then(|n| n.checked_mul(element.size_bytes() as u64));
    match bytes {
        Some(1..=ROW_BYTES_MAX) => Ok(shape),
        Some(0) => Err(format!("shape {shape:?} has no values")),
        _ => Err(format!("shape {shape:?} is too large for a row")),
    }
}

/// The values in order, as little-endian bytes.
///
/// # Safety
/// As [`copied`], for a shape of at most [`ROW_BYTES_MAX`] bytes.
unsafe fn gathered(row: &dp_row, shape: &[u64], size: usize) -> Vec<u8> {
    let count = shape.iter().product::<u64>() as usize;
    let strides = row.strides;
    let mut bytes = Vec::with_capacity(count * size);
    let first = row.data.cast::<u8>();
    if strides.iter().all(|stride| *stride == 0) {
        // SAFETY: contiguous values, as the caller vouches.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(first, count * size) });
    } else {
        let mut index = [0u64; DIMENSIONS_MAX];
        for _ in 0..count {
            let offset: i64 = index.iter().zip(strides).map(|(i, stride)| *i as i64 * stride).sum();
            // SAFETY: a place that shape and strides reach.
            let value = unsafe { std::slice::from_raw_parts(first.offset(offset as isize * size as isize), size) };
            bytes.extend_from_slice(value);
            for (i, extent) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < *extent {
                    break;
                }
                *i = 0;
            }
        }
    }
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    bytes
}
