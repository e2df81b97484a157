//! A model: config, weights and tokenizer from one place.

use crate::config::Config;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::{ModelError, demo, gguf, hf, layout};
use std::path::{Path, PathBuf};

/// What kind of files a model was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A Hugging Face folder.
    Safetensors,
    /// A GGUF file.
    Gguf,
}

impl Format {
    /// Name as it stands in a manifest.
    pub const fn id(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Gguf => "gguf",
        }
    }
}

/// A model that has been checked and can be computed. Its weights are still in their files.
pub struct Model {
    /// Where it was read, or `DEMO`.
    pub path: PathBuf,
    /// Kind of files.
    pub format: Format,
    /// Sizes and switches.
    pub config: Config,
    /// Mapped weights.
    pub weights: Weights,
    /// The tokenizer, or why there is none.
    pub tokenizer: Result<Tokenizer, ModelError>,
}

impl Model {
    /// The same weights under another config; without a tokenizer.
    #[must_use]
    pub fn with_config(&self, config: Config) -> Model {
        let hint = "take the model that this one was made from";
        let tokenizer = Err(ModelError::unsupported(&self.path, "is a variant that only computes", hint));
        Model { path: self.path.clone(), format: self.format, config, weights: self.weights.clone(), tokenizer }
    }

    /// Opens a Hugging Face folder or a GGUF file (or a folder that holds one), or the embedded model as `DEMO`.
    ///
    /// # Errors
    /// What is missing, misshapen, damaged or not supported, by name, before any work.
    pub fn open(path: &Path) -> Result<Model, ModelError> {
        if path == Path::new("DEMO") {
            return Model::demo();
        }
        let metadata = std::fs::metadata(path).map_err(ModelError::io(path))?;
        let inside = if metadata.is_dir() { hf::gguf_inside(path)? } else { Some(path.to_owned()) };
        let model = match inside {
            Some(file) => open_gguf(&file)?,
            None => open_folder(path)?,
        };
        layout::check(&model.config, &model.weights)?;
        Ok(model)
    }

    /// The small trained model that is built into the binary.
    ///
    /// # Errors
    /// None in practice; its files are parsed like any other's.
    pub fn demo() -> Result<Model, ModelError> {
        let config = hf::config_of(Path::new("DEMO/config.json"), demo::CONFIG)?;
        let weights = hf::demo_weights(demo::WEIGHTS)?;
        layout::check(&config, &weights)?;
        let path = PathBuf::from("DEMO");
        let tokenizer = Tokenizer::from_json(&path, demo::TOKENIZER);
        Ok(Model { path, format: Format::Safetensors, config, weights, tokenizer })
    }
}

fn open_gguf(path: &Path) -> Result<Model, ModelError> {
    let (header, config, weights) = gguf::open(path)?;
    let tokenizer = Tokenizer::from_gguf(path, &header);
    Ok(Model { path: path.to_owned(), format: Format::Gguf, config, weights, tokenizer })
}

fn open_folder(path: &Path) -> Result<Model, ModelError> {
    let config = hf::read_config(path)?;
    let weights = hf::map_weights(path)?;
    let tokenizer = match hf::tokenizer_file(path) {
        Some(file) => Tokenizer::from_file(&file),
        None => {
            let hint = "name a tokenizer.json with --tokenizer, or give prompts as token ids";
            Err(ModelError::unsupported(path, "holds no tokenizer.json", hint))
        }
    };
    Ok(Model { path: path.to_owned(), format: Format::Safetensors, config, weights, tokenizer })
}
