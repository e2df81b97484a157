//! `.npy` files: numpy's header (a Python literal of three known keys) and its values.

use crate::error::{ImportError, Result};
use crate::tensor::{Kind, Tensor};
use driftprobe_trace::Dtype;
use std::path::Path;

const HINT: &str = "write it with numpy.save, C order, little-endian numbers (bfloat16: use safetensors)";

/// Reads a file's bytes.
///
/// # Errors
/// If it is no `.npy` file, is in Fortran order, of a type that is not read, or cut off.
pub fn read(path: &Path, bytes: &[u8]) -> Result<Tensor> {
    parse(bytes).map_err(|what| ImportError::file(path, what, HINT))
}

fn parse(bytes: &[u8]) -> std::result::Result<Tensor, String> {
    let version = bytes.strip_prefix(b"\x93NUMPY").ok_or("byte 0: not numpy's magic")?;
    let (length, at) = match version {
        [1, 0, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 10usize),
        [2 | 3, 0, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12),
        _ => return Err("byte 6: a version that is not 1, 2 or 3".to_owned()),
    };
    let header = bytes.get(at..).and_then(|rest| rest.get(..length));
    let header = header.ok_or_else(|| format!("byte {at}: a header of {length} bytes, the file ends before"))?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    let kind = kind(field(header, "descr")?.trim_matches(['\'', '"']))?;
    match field(header, "fortran_order")? {
        "False" => {}
        other => return Err(format!("fortran_order is {other}")),
    }
    let shape = field(header, "shape")?;
    let inner = shape.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or("shape is no tuple")?;
    let sizes = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
    let shape: std::result::Result<Vec<u64>, _> = sizes.map(str::parse).collect();
    let shape = shape.map_err(|_| format!("shape ({inner}) is no tuple of sizes"))?;
    let values = bytes.get(at + length..).unwrap_or_default();
    Tensor::new(kind, shape, values.to_vec()).map_err(|what| format!("byte {}: {what}", at + length))
}

/// The text of a key's value: up to the comma outside of parentheses.
fn field<'a>(header: &'a str, key: &str) -> std::result::Result<&'a str, String> {
    let missing = || format!("the header has no {key}");
    let (_, rest) = header.split_once(&format!("'{key}':")).ok_or_else(missing)?;
    let mut depth = 0i32;
    for (i, c) in rest.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' | '}' if depth == 0 => return rest.get(..i).map(str::trim).ok_or_else(missing),
            _ => {}
        }
    }
    Err(missing())
}

fn kind(descr: &str) -> std::result::Result<Kind, String> {
    let int = |signed, bytes| Kind::Int { signed, bytes };
    Ok(match descr {
        "<f8" => Kind::Float(Dtype::F64),
        "<f4" => Kind::Float(Dtype::F32),
        "<f2" => Kind::Float(Dtype::F16),
        "<i8" => int(true, 8),
        "<i4" => int(true, 4),
        "<i2" => int(true, 2),
        "|i1" => int(true, 1),
        "|u1" => int(false, 1),
        "<u2" => int(false, 2),
        "<u4" => int(false, 4),
        "|b1" => Kind::Bool,
        other => return Err(format!("values of type {other} are not read")),
    })
}
