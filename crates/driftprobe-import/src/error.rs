//! Why a dump was refused: file, tensor, shape and offset, and a hint on what to do.

use driftprobe_trace::TraceError;
use std::path::Path;

/// Why a dump could not be imported.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ImportError {
    what: String,
    hint: String,
}

/// Result of an import's steps.
pub type Result<T> = std::result::Result<T, ImportError>;

impl ImportError {
    /// What is wrong, and what the user can do about it.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> ImportError {
        ImportError { what: what.into(), hint: hint.into() }
    }

    /// What is wrong with a file.
    pub fn file(path: &Path, what: impl std::fmt::Display, hint: impl Into<String>) -> ImportError {
        ImportError::new(format!("{}: {what}", path.display()), hint)
    }

    /// What the system said of a file.
    pub fn io(action: &str, path: &Path, source: &std::io::Error) -> ImportError {
        let hint = "check that the path exists and that you may read it";
        ImportError::file(path, format_args!("cannot {action}: {source}"), hint)
    }

    /// What the user can do about it.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl From<TraceError> for ImportError {
    fn from(e: TraceError) -> ImportError {
        ImportError::new(e.to_string(), e.hint())
    }
}
