//! Tokenizers, by the `tokenizers` crate: from `tokenizer.json`, or built from GGUF metadata.

mod charsmap;
mod from_gguf;

use crate::ModelError;
use crate::gguf::{self, Gguf};
use crate::hf;
use crate::isolate::isolated;
use std::path::Path;

/// Largest `tokenizer.json` that is read; those of 256 000 tokens have 34 MB.
const JSON_BYTES_MAX: u64 = 512 << 20;

/// Turns text into token ids and back.
pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// Reads a `tokenizer.json`, or the tokenizer in a `.gguf` file's metadata (which needs to hold no model).
    ///
    /// # Errors
    /// When the file cannot be read, is no tokenizer, or is one that is not supported.
    pub fn from_file(path: &Path) -> Result<Tokenizer, ModelError> {
        if gguf::is_gguf_name(path) {
            return Tokenizer::from_gguf(path, &gguf::open_header(path)?);
        }
        Tokenizer::from_json(path, &hf::read_bounded(path, JSON_BYTES_MAX)?)
    }

    pub(crate) fn from_json(path: &Path, bytes: &[u8]) -> Result<Tokenizer, ModelError> {
        let refuse = |e: String| ModelError::malformed(path, format!("tokenizer: {e}"));
        charsmap::check(bytes).map_err(refuse)?;
        let mut inner = isolated(|| tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string()))
            .unwrap_or_else(|e| Err(broken(&e)))
            .map_err(refuse)?;
        // A prompt is run as it stands. What the file would pad it to has no bound.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| refuse(e.to_string()))?;
        Ok(Tokenizer(inner))
    }

    /// Builds the tokenizer that a GGUF file's metadata describes.
    pub(crate) fn from_gguf(path: &Path, gguf: &Gguf) -> Result<Tokenizer, ModelError> {
        let hint = "name a tokenizer.json with --tokenizer, or give prompts as token ids";
        isolated(|| from_gguf::build(path, gguf).map(Tokenizer))
            .unwrap_or_else(|e| Err(ModelError::unsupported(path, broken(&e), hint)))
    }

    /// Token ids of a text, with the special tokens that the model expects around it.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encode = || self.0.encode(text, true).map(|e| e.get_ids().to_vec()).map_err(|e| e.to_string());
        isolated(encode).unwrap_or_else(|e| Err(broken(&e)))
    }

    /// Text of token ids, special tokens included.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, String> {
        isolated(|| self.0.decode(ids, false).map_err(|e| e.to_string())).unwrap_or_else(|e| Err(broken(&e)))
    }
}

/// What the library says of a tokenizer that it cannot cope with.
fn broken(panic: &str) -> String {
    format!("the tokenizers library failed on it: {panic}")
}
