//! Writing a safetensors file from rows, without copying them.

use crate::folder::replace_file;
use crate::{Dtype, Row};
use serde_json::{Map, Value, json};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// A row and its name in the file.
pub struct Tensor<'a> {
    pub key: Arc<str>,
    pub row: &'a Row,
}

/// A file that is to be written: its header, and its rows in the order of the file.
pub struct Laid<'a> {
    header: Vec<u8>,
    order: Vec<&'a Tensor<'a>>,
    data: u64,
}

impl Laid<'_> {
    /// Bytes that the file will have.
    pub fn len(&self) -> u64 {
        8 + self.header.len() as u64 + self.data
    }

    /// The header with the bytes that say how long it is.
    pub fn head(&self) -> Vec<u8> {
        [&(self.header.len() as u64).to_le_bytes(), self.header.as_slice()].concat()
    }

    /// The tensors' bytes, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = &[u8]> {
        self.order.iter().map(|tensor| tensor.row.bytes())
    }
}

/// Lays the file out. Wider dtypes come first, so that every tensor is aligned.
pub fn lay_out<'a>(tensors: &'a [Tensor<'a>]) -> serde_json::Result<Laid<'a>> {
    let mut order: Vec<&Tensor<'_>> = tensors.iter().collect();
    order.sort_by_key(|t| std::cmp::Reverse(t.row.dtype.size_bytes()));
    let mut header = Map::new();
    let mut at = 0;
    for tensor in &order {
        let end = at + tensor.row.bytes().len();
        let info = json!({"dtype": name_of(tensor.row.dtype), "shape": tensor.row.shape, "data_offsets": [at, end]});
        header.insert(tensor.key.to_string(), info);
        at = end;
    }
    let mut header = serde_json::to_vec(&Value::Object(header))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(Laid { header, order, data: at as u64 })
}

/// Writes the file and renames it into place.
pub fn write(path: &Path, file: &Laid<'_>) -> io::Result<()> {
    replace_file(path, |out| {
        let mut out = BufWriter::with_capacity(1 << 18, out);
        out.write_all(&file.head())?;
        for bytes in file.tensors() {
            out.write_all(bytes)?;
        }
        out.flush()
    })
}

const fn name_of(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "F64",
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::Bf16 => "BF16",
    }
}
