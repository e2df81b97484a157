//! Opening what lies in a dataset: a run, the run inside a run, or one prompt at a time.

use crate::error::fault;
use crate::index::Index;
use crate::layout::{ENDING, MANIFEST, name_of, run_folders};
use crate::leaf::Leaf;
use crate::recordings::Recordings;
use driftprobe_trace::{MANIFEST_FILE, Run, TRACES_DIR, TraceError};
use std::fs;
use std::path::{Path, PathBuf};

/// Names of runs that an error lists.
const NAMED_MAX: usize = 5;

/// Whether what lies at `path` is a dataset, a run or a partition of one, or a file of one: anything but a folder of JSON.
pub fn is_dataset(path: &Path) -> bool {
    if path.is_file() {
        return name_of(path).ends_with(ENDING);
    }
    if path.join(MANIFEST_FILE).exists() || path.join(TRACES_DIR).is_dir() {
        return false;
    }
    let partitioned = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let folder = ["run=", "search=", "mode=", "repeat="].iter().any(|key| name.starts_with(key));
        (folder && entry.path().is_dir()) || name == MANIFEST || name.ends_with(ENDING)
    };
    fs::read_dir(path).is_ok_and(|mut all| all.any(|entry| entry.is_ok_and(partitioned)))
}

/// Folders of the runs at `path`: those of a dataset, or the one that it is itself.
///
/// # Errors
/// If the folder cannot be listed.
pub fn runs(path: &Path) -> Result<Vec<PathBuf>, TraceError> {
    let all = if path.is_dir() { run_folders(path)? } else { vec![] };
    Ok(if all.is_empty() { vec![path.to_owned()] } else { all })
}

/// The only run at `path`.
fn only(path: &Path) -> Result<PathBuf, TraceError> {
    let folders = runs(path)?;
    if let [one] = folders.as_slice() {
        return Ok(one.clone());
    }
    let names: Vec<String> = folders.iter().take(NAMED_MAX).map(|folder| name_of(folder)).collect();
    let more = if folders.len() > NAMED_MAX { ", …" } else { "" };
    let what = format!("holds {} runs: {}{more}", folders.len(), names.join(", "));
    Err(fault(path, "", what, "name one of these folders, or judge all of them with --by-prompt"))
}

/// Opens the run at `path`: a dataset of one run, a run's folder in a dataset, one partition, or one file.
///
/// # Errors
/// Whatever [`Run::open`] would refuse of the same events; a part that is missing; a file that is damaged or of other
/// columns; a dataset of several runs.
pub fn open(path: &Path) -> Result<Run, TraceError> {
    let path = only(path)?;
    match path.is_file() {
        true => Leaf::of_file(&path).open(None),
        false => Recordings::open(&path)?.main(),
    }
}

/// Opens the run that lies in the run at `path` under this name (`kv_aligned`, `search-1`, …), if it is there.
///
/// # Errors
/// As [`open`].
pub fn open_inner(path: &Path, name: &str) -> Result<Option<Run>, TraceError> {
    let recordings = Recordings::open(&only(path)?)?;
    let found = recordings.inside(name)?;
    found.map(|(search, mode)| recordings.recording(search, &mode)).transpose()
}

/// Opens the run at `path`, or the one in it of the name `inner` if it is there, to be read prompt by prompt.
///
/// # Errors
/// As [`open`].
pub fn open_index(path: &Path, inner: Option<&str>) -> Result<Option<Index>, TraceError> {
    let path = only(path)?;
    if path.is_file() {
        return inner.is_none().then(|| Index::of_file(&path)).transpose();
    }
    let recordings = Recordings::open(&path)?;
    let found = match inner {
        Some(name) => recordings.inside(name)?,
        None => Some(recordings.own()?),
    };
    found.map(|(search, mode)| Index::open(&recordings, search, &mode)).transpose()
}
