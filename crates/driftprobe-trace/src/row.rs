//! A row: one point's values for one token, as little-endian bytes, owned or lying in a mapped file.
//!
//! Hash, statistics and values all come from here, so that writer, reader and judge agree on every bit.

use crate::payload::MappedBytes;
use crate::{Dtype, HashAlgo, LogitsTop, RowError, RowHash, RowStats, hash, stats};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::fmt;
use std::sync::Arc;

/// Values decoded at once: small enough for the first-level cache, large enough to vectorise.
const BLOCK_VALUES: usize = 1024;

/// Number of values that `greta-fnv1a-256` covers.
pub const GRETA_HASHED_VALUES: u64 = 256;

#[derive(Clone)]
enum Bytes {
    Owned(Vec<u8>),
    Mapped(MappedBytes),
    Shared(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

/// One point's values for one token.
#[derive(Clone)]
pub struct Row {
    /// Storage type.
    pub dtype: Dtype,
    /// Shape; only the element count binds.
    pub shape: Vec<u64>,
    bytes: Bytes,
}

impl Row {
    /// A row of these little-endian bytes.
    ///
    /// # Errors
    /// If `bytes` is not exactly `shape`'s element count × `dtype`'s size.
    pub fn new(dtype: Dtype, shape: Vec<u64>, bytes: Vec<u8>) -> Result<Row, RowError> {
        check_len(dtype, &shape, bytes.len())?;
        Ok(Row { dtype, shape, bytes: Bytes::Owned(bytes) })
    }

    /// An f32 row of these values.
    pub fn from_f32(values: &[f32]) -> Row {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Row { dtype: Dtype::F32, shape: vec![values.len() as u64], bytes: Bytes::Owned(bytes) }
    }

    pub(crate) fn mapped(dtype: Dtype, shape: Vec<u64>, bytes: MappedBytes) -> Result<Row, RowError> {
        check_len(dtype, &shape, bytes.as_slice().len())?;
        Ok(Row { dtype, shape, bytes: Bytes::Mapped(bytes) })
    }

    /// A row of little-endian bytes that somebody else keeps too.
    ///
    /// # Errors
    /// As [`Row::new`].
    pub fn shared(dtype: Dtype, shape: Vec<u64>, bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Row, RowError> {
        check_len(dtype, &shape, (*bytes).as_ref().len())?;
        Ok(Row { dtype, shape, bytes: Bytes::Shared(bytes) })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.bytes().len() / self.dtype.size_bytes()
    }

    /// Whether it has no value.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(bytes) => bytes.as_slice(),
            Bytes::Shared(bytes) => (**bytes).as_ref(),
        }
    }

    /// The value at `i`, widened exactly to f64; NaN past the end.
    pub fn value(&self, i: usize) -> f64 {
        let size = self.dtype.size_bytes();
        let bytes = i.checked_mul(size).and_then(|at| self.bytes().get(at..)?.get(..size));
        bytes.map_or(f64::NAN, |bytes| decode_one(self.dtype, bytes))
    }

    /// The values in order, widened exactly to f64.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        let dtype = self.dtype;
        self.bytes().chunks_exact(dtype.size_bytes()).map(move |bytes| decode_one(dtype, bytes))
    }

    /// The values in order, widened exactly to f64.
    pub fn to_f64(&self) -> Vec<f64> {
        let mut all = Vec::with_capacity(self.len());
        for_each_block(self.dtype, self.bytes(), |block| all.extend_from_slice(block));
        all
    }

    /// The row's hash by `algo`.
    pub fn hash(&self, algo: HashAlgo) -> RowHash {
        let value = match algo {
            HashAlgo::Xxh3_64 => hash::xxh3_64(self.bytes()),
            HashAlgo::GretaFnv1a256 => {
                hash::greta_fnv1a_256(self.values().take(GRETA_HASHED_VALUES as usize).map(|v| v as f32))
            }
        };
        RowHash { algo, value }
    }

    /// The row's statistics: over the finite values, in f64. Every count is known; `min`, `max` and `mean` are absent
    /// if no value is finite.
    pub fn stats(&self) -> RowStats {
        let mut sums = stats::Sums::default();
        for_each_block(self.dtype, self.bytes(), |block| sums.add(block));
        sums.finish()
    }

    /// The two largest values and their indices, if this is a row of logits; the lower index wins a tie, NaN never.
    pub fn logits_top(&self) -> LogitsTop {
        stats::logits_top(self.values())
    }
}

/// Whether so many bytes are a row of this type and shape.
pub(crate) fn check_len(dtype: Dtype, shape: &[u64], len: usize) -> Result<(), RowError> {
    let count = element_count(shape).and_then(|n| n.checked_mul(dtype.size_bytes() as u64));
    match count {
        None => Err(RowError::Overflow { shape: shape.to_vec() }),
        Some(expected) if expected == len as u64 => Ok(()),
        Some(_) => Err(RowError::Length { dtype, shape: shape.to_vec(), bytes: len }),
    }
}

/// Number of elements of a shape; none if it does not fit in 64 bits.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (o, b) in out.iter_mut().zip(bytes) {
        *o = *b;
    }
    out
}

fn decode_one(dtype: Dtype, bytes: &[u8]) -> f64 {
    match dtype {
        Dtype::F64 => f64::from_le_bytes(array(bytes)),
        Dtype::F32 => f64::from(f32::from_le_bytes(array(bytes))),
        Dtype::F16 => f16::from_le_bytes(array(bytes)).to_f64(),
        Dtype::Bf16 => bf16::from_le_bytes(array(bytes)).to_f64(),
    }
}

/// Calls `each` on consecutive blocks of the values, widened exactly to f64.
fn for_each_block(dtype: Dtype, bytes: &[u8], mut each: impl FnMut(&[f64])) {
    let mut wide = [0f64; BLOCK_VALUES];
    let mut single = [0f32; BLOCK_VALUES];
    for block in bytes.chunks(BLOCK_VALUES * dtype.size_bytes()) {
        let n = block.len() / dtype.size_bytes();
        let (wide, single) = (&mut wide[..n], &mut single[..n]);
        match dtype {
            Dtype::F64 => {
                for (w, b) in wide.iter_mut().zip(block.chunks_exact(8)) {
                    *w = f64::from_le_bytes(array(b));
                }
            }
            Dtype::F32 => {
                for (w, b) in wide.iter_mut().zip(block.chunks_exact(4)) {
                    *w = f64::from(f32::from_le_bytes(array(b)));
                }
            }
            Dtype::F16 => {
                let mut halves = [f16::ZERO; BLOCK_VALUES];
                for (h, b) in halves.iter_mut().zip(block.chunks_exact(2)) {
                    *h = f16::from_le_bytes(array(b));
                }
                halves[..n].convert_to_f32_slice(single);
                widen(wide, single);
            }
            Dtype::Bf16 => {
                for (s, b) in single.iter_mut().zip(block.chunks_exact(2)) {
                    *s = f32::from_bits(u32::from(u16::from_le_bytes(array(b))) << 16);
                }
                widen(wide, single);
            }
        }
        each(wide);
    }
}

fn widen(wide: &mut [f64], single: &[f32]) {
    for (w, s) in wide.iter_mut().zip(single) {
        *w = f64::from(*s);
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: Vec<f64> = self.values().take(8).collect();
        f.debug_struct("Row").field("dtype", &self.dtype).field("shape", &self.shape).field("first", &first).finish()
    }
}

/// Equal if dtype, shape and every bit are.
impl PartialEq for Row {
    fn eq(&self, other: &Row) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}
