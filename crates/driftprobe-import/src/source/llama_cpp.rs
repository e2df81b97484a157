//! llama.cpp's debug example: the last token's logits as raw f32, and the token ids.

use super::{Fixed, INDEX_BYTES_MAX, Named, Pass, below, name_of};
use crate::error::{ImportError, Result};
use crate::load::Origin;
use driftprobe_trace::{Phase, Point, read_file};
use std::path::{Path, PathBuf};

const TOKENS: &str = "-tokens.bin";

/// Whether a file holds logits.
pub fn is_logits(path: &Path) -> bool {
    let name = name_of(path);
    name.starts_with("llamacpp-")
        && name.ends_with(".bin")
        && !name.ends_with(TOKENS)
        && !name.ends_with("-embeddings.bin")
}

/// The passes: one a file of logits.
pub fn passes(root: &Path, files: &[PathBuf]) -> Result<Vec<Pass>> {
    files.iter().filter(|file| is_logits(file)).map(|file| pass(root, file)).collect()
}

fn pass(root: &Path, file: &Path) -> Result<Pass> {
    let tokens = file.with_file_name(format!("{}{TOKENS}", name_of(file).strip_suffix(".bin").unwrap_or_default()));
    let hint =
        "keep the -tokens.bin that llama.cpp wrote beside the logits: without it nobody knows which token they are of";
    let bytes = read_file(&tokens, INDEX_BYTES_MAX)
        .map_err(|e| ImportError::file(&tokens, format!("cannot read: {e}"), hint))?;
    let sequence = ids(&bytes).map_err(|what| ImportError::file(&tokens, what, hint))?;
    let index = sequence.len() as u64 - 1;
    let fixed = Fixed { point: Point::Logits, layer: -1, index, position: None };
    let named = Named { name: "logits".to_owned(), origin: Origin::RawF32(file.to_owned()), fixed: Some(fixed) };
    let phase = file.parent().and_then(|folder| Phase::parse(name_of(folder)));
    Ok(Pass { label: below(root, file), phase, tensors: vec![named], sequence: Some(sequence) })
}

/// Token ids as little-endian 32-bit integers; at least one.
pub fn ids(bytes: &[u8]) -> std::result::Result<Vec<u32>, String> {
    let (ids, rest) = bytes.as_chunks::<4>();
    if ids.is_empty() || !rest.is_empty() {
        return Err(format!("{} bytes are no 32-bit token ids", bytes.len()));
    }
    let id = |(i, bytes): (usize, &[u8; 4])| {
        let id = i32::from_le_bytes(*bytes);
        u32::try_from(id).map_err(|_| format!("byte {}: token id {id} is negative", 4 * i))
    };
    ids.iter().enumerate().map(id).collect()
}
