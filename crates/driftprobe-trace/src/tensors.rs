//! Writing a safetensors file from rows, without copying them.

use crate::{Dtype, Row, write};
use serde_json::{Map, Value, json};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// A row and its name in the file.
pub struct Tensor<'a> {
    pub key: Arc<str>,
    pub row: &'a Row,
}

/// Writes the file and renames it into place. Wider dtypes come first, so that every tensor is aligned.
pub fn write(path: &Path, tensors: &[Tensor<'_>]) -> io::Result<()> {
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
    write::replace(path, |file| {
        let mut out = BufWriter::with_capacity(1 << 18, file);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in &order {
            out.write_all(tensor.row.bytes())?;
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
