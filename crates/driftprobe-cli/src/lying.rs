//! A run that lies on disk, as JSON or in a dataset.

use driftprobe_trace::{Run, TraceError};
use std::path::Path;

/// Opens the run at `path`: a folder of JSON, a file of it, or a Parquet dataset of one run.
pub fn open(path: &Path) -> Result<Run, TraceError> {
    match driftprobe_parquet::is_dataset(path) {
        true => driftprobe_parquet::open(path),
        false => Run::open(path),
    }
}
