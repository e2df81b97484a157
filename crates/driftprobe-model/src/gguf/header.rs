//! The header of a GGUF file (versions 2 and 3, little-endian).

use crate::{ModelError, WeightDtype};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Value>),
}

impl Value {
    /// The value as a count, if it is a whole number that is not negative.
    pub fn as_count(&self) -> Option<u64> {
        match self {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The value as a number.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Unsigned(n) => Some(*n as f64),
            Value::Signed(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// The value as text.
    pub fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// The value as a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(list) = self { Some(list) } else { None }
    }
}

/// A tensor's place in the file; offset and length in bytes have been checked.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: WeightDtype,
    pub shape: Vec<usize>,
    pub offset: usize,
    pub len: usize,
}

/// A parsed header.
pub struct Gguf {
    /// Key-value metadata.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors in the file's order.
    pub tensors: Vec<TensorInfo>,
}

const NAME_BYTES_MAX: usize = 256;
const DIMENSIONS_MAX: u32 = 4;
const NESTING_MAX: u32 = 2;

impl Gguf {
    /// Parses the header and checks every claim of it against the file's length.
    ///
    /// # Errors
    /// Names the key or tensor and the offset in bytes.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Gguf, ModelError> {
        let mut reader = Reader { path, bytes, at: 0 };
        if reader.take(4)? != b"GGUF" {
            return Err(ModelError::malformed(path, "does not begin with GGUF"));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            let hint = "versions 2 and 3, little-endian, are read; convert the file again";
            return Err(ModelError::unsupported(path, format!("GGUF version {version}"), hint));
        }
        let (tensor_count, pair_count) = (reader.u64()?, reader.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..reader.bounded(pair_count, 13, "metadata pairs")? {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(reader.bad(format!("metadata key {key} stands twice")));
            }
        }
        let mut raw = Vec::new();
        for _ in 0..reader.bounded(tensor_count, 24, "tensors")? {
            raw.push(reader.tensor()?);
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(v) => v.as_count().filter(|a| a.is_power_of_two() && (8..=1 << 20).contains(a)).ok_or_else(|| {
                ModelError::malformed(path, "key general.alignment: expected a power of two from 8 to 1048576")
            })? as usize,
        };
        let data = reader.at.next_multiple_of(alignment);
        let tensors = place(path, raw, data, (bytes.len(), alignment))?;
        Ok(Gguf { metadata, tensors })
    }
}

struct RawTensor {
    name: String,
    dtype: WeightDtype,
    shape: Vec<usize>,
    offset: u64,
    len: usize,
}

/// Turns relative offsets into checked places: inside the file, aligned, no two overlapping, no name twice.
fn place(
    path: &Path,
    raw: Vec<RawTensor>,
    data: usize,
    (end, alignment): (usize, usize),
) -> Result<Vec<TensorInfo>, ModelError> {
    let mut names = BTreeSet::new();
    let mut tensors = Vec::new();
    for t in raw {
        if !names.insert(t.name.clone()) {
            return Err(ModelError::malformed(path, format!("tensor {} stands twice", t.name)));
        }
        let offset = usize::try_from(t.offset).ok().and_then(|o| data.checked_add(o));
        let inside = offset.filter(|o| o.checked_add(t.len).is_some_and(|e| e <= end));
        let Some(offset) = inside.filter(|o| (o - data).is_multiple_of(alignment)) else {
            let what = format!(
                "tensor {} {:?} {}: {} bytes at data offset {} do not lie, aligned to {alignment}, inside the {end} bytes of the file",
                t.name,
                t.shape,
                t.dtype.id(),
                t.len,
                t.offset
            );
            return Err(ModelError::malformed(path, what));
        };
        tensors.push(TensorInfo { name: t.name, dtype: t.dtype, shape: t.shape, offset, len: t.len });
    }
    let mut by_place: Vec<&TensorInfo> = tensors.iter().collect();
    by_place.sort_by_key(|t| t.offset);
    for pair in by_place.windows(2) {
        if let [a, b] = pair
            && a.offset + a.len > b.offset
        {
            return Err(ModelError::malformed(path, format!("tensors {} and {} overlap", a.name, b.name)));
        }
    }
    Ok(tensors)
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bad(&self, what: impl std::fmt::Display) -> ModelError {
        ModelError::malformed(self.path, format!("{what} (at offset {})", self.at))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], ModelError> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let taken =
            rest.get(..n).ok_or_else(|| self.bad(format!("ends early: {n} bytes expected, {} left", rest.len())))?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things that take at least `size_bytes` each, refused if the file cannot hold them.
    fn bounded(&self, count: u64, size_bytes: usize, what: &str) -> Result<usize, ModelError> {
        let room = self.bytes.len().saturating_sub(self.at) / size_bytes;
        let count = usize::try_from(count).ok().filter(|c| *c <= room);
        count.ok_or_else(|| self.bad(format!("claims more {what} than the file can hold")))
    }

    fn text(&mut self) -> Result<String, ModelError> {
        let claimed = self.u64()?;
        let len = self.bounded(claimed, 1, "characters")?;
        let text = std::str::from_utf8(self.take(len)?).map(str::to_owned);
        text.map_err(|_| self.bad("text is not UTF-8"))
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, ModelError> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.array::<1>()?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array()?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => match self.array::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(self.bad(format!("{other} is no boolean"))),
            },
            8 => Value::Text(self.text()?),
            9 if depth < NESTING_MAX => {
                let kind = self.u32()?;
                let claimed = self.u64()?;
                let count = self.bounded(claimed, 1, "list entries")?;
                (0..count).map(|_| self.value(kind, depth + 1)).collect::<Result<Vec<_>, _>>().map(Value::List)?
            }
            9 => return Err(self.bad("lists are nested too deeply")),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(self.bad(format!("unknown value type {other}"))),
        })
    }

    fn tensor(&mut self) -> Result<RawTensor, ModelError> {
        let name = self.text()?;
        if name.len() > NAME_BYTES_MAX {
            return Err(self.bad("a tensor's name is too long"));
        }
        let dimensions = self.u32()?;
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            return Err(self.bad(format!("tensor {name} has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64()?).map_err(|_| self.bad(format!("tensor {name} is too large")))?);
        }
        // GGUF lists the fastest dimension first.
        shape.reverse();
        let dtype = self.dtype(&name)?;
        let offset = self.u64()?;
        let (block, size) = dtype.block();
        let cols = shape.last().copied().unwrap_or(0);
        if cols % block != 0 {
            return Err(
                self.bad(format!("tensor {name} {shape:?}: {} needs rows of a multiple of {block}", dtype.id()))
            );
        }
        // Empty axes left out: they would hide others of any length.
        let values = shape.iter().filter(|d| **d > 0).try_fold(1usize, |n, d| n.checked_mul(*d));
        let len = values.and_then(|v| v.div_ceil(block).checked_mul(size));
        let len = len.map(|len| if shape.contains(&0) { 0 } else { len });
        let len = len.ok_or_else(|| self.bad(format!("tensor {name} {shape:?} is too large")))?;
        Ok(RawTensor { name, dtype, shape, offset, len })
    }

    fn dtype(&mut self, tensor: &str) -> Result<WeightDtype, ModelError> {
        Ok(match self.u32()? {
            0 => WeightDtype::F32,
            1 => WeightDtype::F16,
            2 => WeightDtype::Q4_0,
            3 => WeightDtype::Q4_1,
            6 => WeightDtype::Q5_0,
            7 => WeightDtype::Q5_1,
            8 => WeightDtype::Q8_0,
            10 => WeightDtype::Q2_K,
            11 => WeightDtype::Q3_K,
            12 => WeightDtype::Q4_K,
            13 => WeightDtype::Q5_K,
            14 => WeightDtype::Q6_K,
            30 => WeightDtype::Bf16,
            other => {
                let name = foreign_type(other);
                let what = format!("tensor {tensor} is quantised as {name}, which is not supported");
                let hint = "supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K";
                return Err(ModelError::unsupported(self.path, what, hint));
            }
        })
    }
}

/// GGUF's name of a type that is not supported.
fn foreign_type(id: u32) -> String {
    let name = match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("type {id}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Gguf, Value};
    use std::path::Path;

    fn json(value: &Value) -> serde_json::Value {
        match value {
            Value::Unsigned(n) => (*n).into(),
            Value::Signed(n) => (*n).into(),
            Value::Float(x) => (*x).into(),
            Value::Bool(b) => (*b).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(list) => list.iter().map(json).collect(),
        }
    }

    #[test]
    fn metadata_of_every_type_is_what_the_gguf_package_wrote() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let expected = std::fs::read(fixtures.join("expected.json")).expect("expected.json");
        let expected: serde_json::Value = serde_json::from_slice(&expected).expect("JSON");
        let all = expected["fixtures"].as_array().expect("a list");
        let of_quant = all.iter().find(|f| f["path"] == "gguf/quant.gguf").expect("quant.gguf");
        let bytes = std::fs::read(fixtures.join("gguf/quant.gguf")).expect("quant.gguf");
        let gguf = Gguf::parse(Path::new("quant.gguf"), &bytes).expect("a good file");
        let found = gguf.metadata.iter().filter(|(key, _)| key.starts_with("test."));
        let found: serde_json::Map<_, _> = found.map(|(key, value)| (key.clone(), json(value))).collect();
        assert_eq!(found.len(), 17);
        assert_eq!(serde_json::Value::Object(found), of_quant["metadata"]);
    }
}
