//! A run that lies on disk, as JSON or in a dataset: opened as a whole, or to be read prompt by prompt.

use driftprobe_trace::{ByPrompt, Run, RunIndex, TraceError};
use std::path::{Path, PathBuf};

/// A run of which one prompt at a time is in memory.
pub type Index = Box<dyn ByPrompt>;

/// Opens the run at `path`: a folder of JSON, a file of it, or a Parquet dataset of one run.
pub fn open(path: &Path) -> Result<Run, TraceError> {
    match driftprobe_parquet::is_dataset(path) {
        true => driftprobe_parquet::open(path),
        false => Run::open(path),
    }
}

/// The same, prompt by prompt.
pub fn index(path: &Path) -> Result<Index, TraceError> {
    let found = match driftprobe_parquet::is_dataset(path) {
        true => driftprobe_parquet::open_index(path, None)?.map(boxed),
        false => Some(boxed(RunIndex::open(path)?)),
    };
    found.ok_or_else(|| TraceError::NotARun { path: path.to_owned() })
}

fn boxed(index: impl ByPrompt + 'static) -> Index {
    Box::new(index)
}

/// A run that lies in another one.
pub struct Inner {
    path: PathBuf,
    name: String,
}

impl Inner {
    /// The one of this name in the run at `path`.
    pub fn new(path: &Path, name: &str) -> Inner {
        Inner { path: path.to_owned(), name: name.to_owned() }
    }

    /// Opens it, if it is there.
    pub fn open(&self) -> Result<Option<Run>, TraceError> {
        match driftprobe_parquet::is_dataset(&self.path) {
            true => driftprobe_parquet::open_inner(&self.path, &self.name),
            false => self.folder().map(|folder| Run::open(&folder)).transpose(),
        }
    }

    /// The same, prompt by prompt.
    pub fn index(&self) -> Result<Option<Index>, TraceError> {
        match driftprobe_parquet::is_dataset(&self.path) {
            true => Ok(driftprobe_parquet::open_index(&self.path, Some(&self.name))?.map(boxed)),
            false => self.folder().map(|folder| RunIndex::open(&folder).map(boxed)).transpose(),
        }
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.path.join(&self.name)).filter(|folder| folder.is_dir())
    }
}
