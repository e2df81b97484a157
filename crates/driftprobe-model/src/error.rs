//! What can be wrong with a model's files. Every error names the file and the key or tensor, and hints at a remedy.

use std::path::{Path, PathBuf};

/// Why a model was refused.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with key, tensor, shape or offset.
        what: String,
    },
    /// A file is well-formed, but asks for something that this crate cannot compute.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The architecture, tensor, quantisation or setting that is not supported.
        what: String,
        /// What to do instead.
        hint: String,
    },
}

impl ModelError {
    pub(crate) fn malformed(path: &Path, what: impl Into<String>) -> Self {
        ModelError::Malformed { path: path.to_owned(), what: what.into() }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        ModelError::Unsupported { path: path.to_owned(), what: what.into(), hint: hint.into() }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| ModelError::Io { path: path.to_owned(), source }
    }

    /// A remedy, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            ModelError::Io { source, path }
                if source.kind() == std::io::ErrorKind::NotFound && path.extension().is_none_or(|e| e != "json") =>
            {
                Some("a model is a folder with config.json and *.safetensors, a .gguf file, or DEMO".to_owned())
            }
            ModelError::Io { .. } => Some("check that the file exists and that you may read it".to_owned()),
            ModelError::Malformed { path, .. } if path.extension().is_some_and(|e| e == "json") => {
                Some("correct the file, or fetch it again".to_owned())
            }
            ModelError::Malformed { .. } => {
                Some("the file may be truncated or damaged: fetch or convert it again".into())
            }
            ModelError::Unsupported { hint, .. } => Some(hint.clone()),
        }
    }
}
