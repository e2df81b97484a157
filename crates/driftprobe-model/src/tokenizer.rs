//! Tokenizers, by the `tokenizers` crate: from `tokenizer.json`, or built from GGUF metadata.

mod from_gguf;

use crate::ModelError;
use crate::gguf::{self, Gguf};
use std::fs;
use std::path::Path;

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
        Tokenizer::from_json(path, &fs::read(path).map_err(ModelError::io(path))?)
    }

    pub(crate) fn from_json(path: &Path, bytes: &[u8]) -> Result<Tokenizer, ModelError> {
        let inner = tokenizers::Tokenizer::from_bytes(bytes);
        inner.map(Tokenizer).map_err(|e| ModelError::malformed(path, format!("tokenizer: {e}")))
    }

    /// Builds the tokenizer that a GGUF file's metadata describes.
    pub(crate) fn from_gguf(path: &Path, gguf: &Gguf) -> Result<Tokenizer, ModelError> {
        from_gguf::build(path, gguf).map(Tokenizer)
    }

    /// Token ids of a text, with the special tokens that the model expects around it.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.0.encode(text, true).map(|e| e.get_ids().to_vec()).map_err(|e| e.to_string())
    }

    /// Text of token ids, special tokens included.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, String> {
        self.0.decode(ids, false).map_err(|e| e.to_string())
    }
}
