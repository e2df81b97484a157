//! Whether a run's manifest is still the one that was read: what is written anew meanwhile is no longer what was judged.

use crate::TraceError;
use crate::hash::xxh3_128;
use crate::run::manifest_bytes;
use std::path::{Path, PathBuf};

/// A manifest as it was when it was read, or that there was none. By default nothing was looked at, and nothing changes.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    path: PathBuf,
    hash: Option<u128>,
}

impl Seen {
    /// The manifest at `path`, which held these bytes.
    pub fn of(path: &Path, bytes: Option<&[u8]>) -> Seen {
        Seen { path: path.to_owned(), hash: bytes.map(xxh3_128) }
    }

    /// Whether it is still the same.
    ///
    /// # Errors
    /// [`TraceError::Changed`] if it is not; what the system says if it cannot be read.
    pub fn unchanged(&self) -> Result<(), TraceError> {
        if self.path.as_os_str().is_empty() || manifest_bytes(&self.path)?.as_deref().map(xxh3_128) == self.hash {
            return Ok(());
        }
        Err(TraceError::Changed { path: self.path.clone(), line: 1 })
    }
}
