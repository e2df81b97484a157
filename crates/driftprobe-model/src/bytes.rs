//! The readers over bytes in memory, for fuzzers and tests: what [`Model::open`] reads from files.

use crate::weights::FileBytes;
use crate::{Config, Format, Model, ModelError, Tokenizer, Weights, gguf, hf, layout};
use std::path::{Path, PathBuf};

/// A GGUF file of these bytes, checked as [`Model::open`] checks it.
///
/// # Errors
/// As [`Model::open`].
pub fn gguf(bytes: Vec<u8>) -> Result<Model, ModelError> {
    let path = Path::new("model.gguf");
    let (header, config, weights) = gguf::read(path, FileBytes::held(bytes))?;
    let tokenizer = Tokenizer::from_gguf(path, &header);
    layout::check(&config, &weights)?;
    Ok(Model { path: path.to_owned(), format: Format::Gguf, config, weights, tokenizer })
}

/// The tensors of a GGUF file of these bytes, and the tokenizer that it describes, whatever else it holds.
///
/// # Errors
/// As [`Weights::open_gguf`].
pub fn gguf_parts(bytes: Vec<u8>) -> Result<(Weights, Result<Tokenizer, ModelError>), ModelError> {
    let (path, bytes) = (Path::new("model.gguf"), FileBytes::held(bytes));
    let header = gguf::Gguf::parse(path, bytes.as_slice())?;
    let weights = gguf::tensors(path, bytes, &header, str::to_owned)?;
    Ok((weights, Tokenizer::from_gguf(path, &header)))
}

/// The tensors of a safetensors file of these bytes.
///
/// # Errors
/// As [`Model::open`].
pub fn safetensors(bytes: Vec<u8>) -> Result<Weights, ModelError> {
    let (path, bytes) = (Path::new("model.safetensors"), FileBytes::held(bytes));
    let entries = hf::safetensors_entries(path, &bytes)?;
    Ok(Weights::new(path.to_owned(), vec![bytes], entries))
}

/// A `config.json` of these bytes.
///
/// # Errors
/// As [`Model::open`].
pub fn config(bytes: &[u8]) -> Result<Config, ModelError> {
    hf::config_of(Path::new("config.json"), bytes)
}

/// A `tokenizer.json` of these bytes.
///
/// # Errors
/// As [`Tokenizer::from_file`].
pub fn tokenizer(bytes: &[u8]) -> Result<Tokenizer, ModelError> {
    Tokenizer::from_json(Path::new("tokenizer.json"), bytes)
}

/// The files that a `model.safetensors.index.json` of these bytes names, below `folder`.
///
/// # Errors
/// As [`Model::open`].
pub fn weight_files(folder: &Path, bytes: &[u8]) -> Result<Vec<PathBuf>, ModelError> {
    Ok(hf::shards(folder, Path::new("model.safetensors.index.json"), bytes)?.0)
}
