//! Tensors as dumps hold them: little-endian bytes in row-major order, and how rows are cut out of them.

use driftprobe_trace::{Dtype, element_count};

/// Type of a dumped tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A type that rows have too.
    Float(Dtype),
    /// Integers: signed or not, and their size in bytes.
    Int {
        /// Whether they are signed.
        signed: bool,
        /// Bytes of one.
        bytes: usize,
    },
    /// One byte, 0 or 1.
    Bool,
}

impl Kind {
    /// Signed 64-bit integers, which token ids and positions are in torch.
    pub const I64: Kind = Kind::Int { signed: true, bytes: 8 };

    /// Size of one value in bytes.
    pub const fn size_bytes(self) -> usize {
        match self {
            Kind::Float(dtype) => dtype.size_bytes(),
            Kind::Int { bytes, .. } => bytes,
            Kind::Bool => 1,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Float(dtype) => write!(f, "{dtype}"),
            Kind::Int { signed, bytes } => write!(f, "{}{}", if *signed { "i" } else { "u" }, bytes * 8),
            Kind::Bool => f.write_str("bool"),
        }
    }
}

/// A tensor in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Type of its values.
    pub kind: Kind,
    /// Its shape, outermost axis first.
    pub shape: Vec<u64>,
    /// Its little-endian bytes, row-major.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// A tensor of these bytes.
    ///
    /// # Errors
    /// If there are more or fewer bytes than kind and shape say.
    pub fn new(kind: Kind, shape: Vec<u64>, bytes: Vec<u8>) -> Result<Tensor, String> {
        // An empty axis would hide others of any length.
        let axes = shape.iter().filter(|size| **size > 0);
        if axes.copied().try_fold(kind.size_bytes() as u64, u64::checked_mul).is_none() {
            return Err(format!("no tensor of {kind}: shape {shape:?} is more than can be counted"));
        }
        let expected = element_count(&shape).and_then(|count| count.checked_mul(kind.size_bytes() as u64));
        if expected == Some(bytes.len() as u64) {
            return Ok(Tensor { kind, shape, bytes });
        }
        Err(format!("{} bytes are no tensor of {kind} and shape {shape:?}", bytes.len()))
    }

    /// Its values, if they are integers.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let Kind::Int { signed, bytes } = self.kind else { return None };
        let value = |part: &[u8]| {
            let negative = signed && part.last().is_some_and(|top| top & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide.iter_mut().zip(part).for_each(|(wide, part)| *wide = *part);
            i64::from_le_bytes(wide)
        };
        Some(self.bytes.chunks_exact(bytes).map(value).collect())
    }

    /// The part `from .. from + width` of its last axis.
    ///
    /// # Errors
    /// If the axis is shorter.
    pub fn columns(&self, from: u64, width: u64) -> Result<Tensor, String> {
        let all = self.shape.last().copied().unwrap_or(0);
        if from.checked_add(width).is_none_or(|end| end > all) {
            return Err(format!("has no columns {from} to {} in shape {:?}", from.saturating_add(width), self.shape));
        }
        let size = self.kind.size_bytes() as u64;
        // An empty tensor may have an axis of any length.
        let byte = |column: u64| column.checked_mul(size).and_then(|at| usize::try_from(at).ok());
        let (Some(begin), Some(end), Some(part)) = (byte(from), byte(from + width), byte(all)) else {
            return Err(format!("has too many columns in shape {:?}", self.shape));
        };
        let range = begin..end;
        let parts = self.bytes.chunks_exact(part.max(1));
        let bytes = parts.filter_map(|part| part.get(range.clone())).flatten().copied().collect();
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        Tensor::new(self.kind, shape, bytes)
    }

    /// One index of axis `at`, the first `cut` ones of another axis, the axes that are left in the order `order` (their
    /// numbers in this tensor).
    ///
    /// # Errors
    /// If there is no such axis or index.
    pub fn slice(
        &self,
        at: Option<(usize, u64)>,
        cut: Option<(usize, u64)>,
        order: &[usize],
    ) -> Result<Tensor, String> {
        let outside = || format!("no such part in shape {:?}", self.shape);
        let stride = |axis: usize| self.shape.get(axis + 1..).and_then(element_count).map(|n| n as usize);
        let size = |axis: usize| match cut {
            Some((cut_axis, length)) if cut_axis == axis => Some(length),
            _ => self.shape.get(axis).copied(),
        };
        if let Some((axis, length)) = cut
            && self.shape.get(axis).is_none_or(|&all| length > all)
        {
            return Err(outside());
        }
        let mut base = 0usize;
        if let Some((axis, index)) = at {
            if self.shape.get(axis).is_none_or(|&all| index >= all) {
                return Err(outside());
            }
            base =
                stride(axis).and_then(|stride| stride.checked_mul(usize::try_from(index).ok()?)).ok_or_else(outside)?;
        }
        let axes: Option<Vec<(u64, usize)>> = order.iter().map(|&axis| Some((size(axis)?, stride(axis)?))).collect();
        let axes = axes.ok_or_else(outside)?;
        let shape: Vec<u64> = axes.iter().map(|(size, _)| *size).collect();
        let width = self.kind.size_bytes();
        // An empty tensor may have axes of any length, which are not walked.
        match element_count(&shape).and_then(|count| count.checked_mul(width as u64)) {
            Some(0) => return Tensor::new(self.kind, shape, vec![]),
            Some(bytes) if bytes <= self.bytes.len() as u64 => {}
            _ => return Err(outside()),
        }
        let mut bytes = Vec::new();
        let mut offsets = vec![base];
        for (size, stride) in &axes {
            offsets = offsets.iter().flat_map(|&o| (0..*size as usize).map(move |i| o + i * stride)).collect();
        }
        for offset in offsets {
            let at = offset * width;
            bytes.extend_from_slice(self.bytes.get(at..at + width).ok_or_else(outside)?);
        }
        Tensor::new(self.kind, shape, bytes)
    }
}
