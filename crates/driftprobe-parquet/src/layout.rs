//! How a dataset lies on disk: its partitions, and each run's list of what must be there.

use crate::error::{COPY_AGAIN, EXPORT_AGAIN, SEE_SCHEMA, fault};
use driftprobe_trace::{MANIFEST_BYTES_MAX, Manifest, Mode, TraceError, read_file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Manifest of a partition. Readers of whole folders pass over names that begin so.
pub const MANIFEST: &str = "_manifest.json";

/// What a run's partitions must hold.
pub const INVENTORY: &str = "_run.json";

/// How file names end.
pub const ENDING: &str = ".parquet";

/// The version of the inventory.
const SCHEMA: u32 = 1;

/// Folders within folders of a run that are looked through for partitions.
const DEPTH_MAX: usize = 6;

/// Which recording of a run a partition is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Partition {
    /// 0 for the run itself, N for round N of the search that followed it.
    pub search: u32,
    /// The mode; `unknown` if the manifest does not tell.
    pub mode: String,
    /// 0 for the recording itself, N for self-repeat N.
    pub repeat: u32,
}

/// The mode's name where the manifest does not tell it.
pub const UNKNOWN_MODE: &str = "unknown";

/// The mode of a manifest, as a partition is called.
pub fn mode_of(manifest: Option<&Manifest>) -> &'static str {
    manifest.and_then(|manifest| manifest.mode).map_or(UNKNOWN_MODE, Mode::id)
}

impl Partition {
    /// Its folder in the run's.
    pub fn folder(&self) -> PathBuf {
        let Partition { search, mode, repeat } = self;
        PathBuf::from(format!("search={search}")).join(format!("mode={mode}")).join(format!("repeat={repeat}"))
    }
}

/// What one partition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which it is.
    #[serde(flatten)]
    pub partition: Partition,
    /// `xxh3-128:` and lower-case hex over its manifest, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Its files.
    pub files: BTreeMap<String, Content>,
    /// Files of the folder that it was made of that no reader reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    /// Lines that were cut off, and so are not there: file and line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub torn: Vec<(String, u64)>,
    /// Numbers of self-repeats of which nothing was recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub empty_repeats: Vec<u32>,
}

/// What one file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Rows.
    pub rows: u64,
    /// `xxh3-128:` and lower-case hex over the file without its payloads, which have hashes of their own.
    pub hash: String,
}

/// `_run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The version of this file.
    pub schema: u32,
    /// The run's name.
    pub run: String,
    /// All partitions.
    pub parts: Vec<Part>,
}

impl Inventory {
    /// An empty one.
    pub fn new(run: &str) -> Inventory {
        Inventory { schema: SCHEMA, run: run.to_owned(), parts: Vec::new() }
    }

    /// The inventory of the run in `folder`, if there is one.
    ///
    /// # Errors
    /// If it is there and says nothing that can be understood.
    pub fn read(folder: &Path) -> Result<Option<Inventory>, TraceError> {
        let path = folder.join(INVENTORY);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_file(&path, MANIFEST_BYTES_MAX).map_err(TraceError::io("read", &path))?;
        Inventory::parse(&path, &text).map(Some)
    }

    /// The inventory of this text; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`Inventory::read`].
    pub fn parse(path: &Path, text: &[u8]) -> Result<Inventory, TraceError> {
        let inventory: Inventory =
            serde_json::from_slice(text).map_err(|e| fault(path, "", e.to_string(), COPY_AGAIN))?;
        match inventory.schema {
            SCHEMA => Ok(inventory),
            other => {
                let hint = "use the version of driftprobe that wrote the dataset";
                Err(fault(path, "schema", format!("expected {SCHEMA}, found {other}"), hint))
            }
        }
    }

    /// Holds what lies there against what must lie there.
    ///
    /// # Errors
    /// The first partition or file that is missing, or one that is too many.
    pub fn check(&self, folder: &Path, found: &BTreeMap<Partition, PathBuf>) -> Result<(), TraceError> {
        for part in &self.parts {
            let at = folder.join(part.partition.folder());
            let Some(dir) = found.get(&part.partition) else {
                return Err(fault(&at, "", format!("the partition is missing: {INVENTORY} lists it"), EXPORT_AGAIN));
            };
            let files = parquet_files(dir)?;
            let names: Vec<String> = files.iter().map(|path| name_of(path)).collect();
            if let Some(name) = part.files.keys().find(|name| !names.contains(name)) {
                let path = dir.join(name);
                return Err(fault(&path, "", format!("the file is missing: {INVENTORY} lists it"), EXPORT_AGAIN));
            }
            if let Some(name) = names.iter().find(|name| !part.files.contains_key(*name)) {
                let path = dir.join(name);
                return Err(fault(&path, "", format!("{INVENTORY} does not list the file"), EXPORT_AGAIN));
            }
            if part.manifest.is_some() && !dir.join(MANIFEST).is_file() {
                let path = dir.join(MANIFEST);
                return Err(fault(&path, "", format!("the file is missing: {INVENTORY} lists it"), EXPORT_AGAIN));
            }
        }
        let listed = |partition: &Partition| self.parts.iter().any(|part| part.partition == *partition);
        match found.iter().find(|(partition, _)| !listed(partition)) {
            None => Ok(()),
            Some((_, dir)) => Err(fault(dir, "", format!("{INVENTORY} does not list the partition"), EXPORT_AGAIN)),
        }
    }
}

/// A path's last name.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The Parquet files of a folder, by name.
///
/// # Errors
/// If the folder cannot be listed.
pub fn parquet_files(folder: &Path) -> Result<Vec<PathBuf>, TraceError> {
    let mut files = entries(folder)?;
    files.retain(|path| path.is_file() && name_of(path).ends_with(ENDING));
    Ok(files)
}

/// What lies in a folder and is not hidden, by name.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>, TraceError> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(TraceError::io("list", folder))? {
        let path = entry.map_err(TraceError::io("list", folder))?.path();
        if !name_of(&path).starts_with(['.', '_']) {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// The partitions of the run in `folder`.
///
/// # Errors
/// If a folder is called after a key that a run does not have, or two of them are the same partition.
pub fn partitions(folder: &Path) -> Result<BTreeMap<Partition, PathBuf>, TraceError> {
    let mut found = BTreeMap::new();
    let whole = Partition { mode: UNKNOWN_MODE.to_owned(), ..Partition::default() };
    walk(folder, whole, DEPTH_MAX, &mut found)?;
    Ok(found)
}

fn walk(
    folder: &Path,
    at: Partition,
    depth: usize,
    found: &mut BTreeMap<Partition, PathBuf>,
) -> Result<(), TraceError> {
    let holds = !parquet_files(folder)?.is_empty() || folder.join(MANIFEST).is_file();
    if holds && let Some(other) = found.insert(at.clone(), folder.to_owned()) {
        let what = format!("the same partition as {}", other.display());
        return Err(fault(folder, "", what, "keep one of them"));
    }
    for inner in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let name = name_of(&inner);
        let Some((key, value)) = name.split_once('=') else { continue };
        if depth == 0 {
            return Err(fault(&inner, "", "partitions lie deeper than by search, mode and repeat", SEE_SCHEMA));
        }
        let number =
            || value.parse::<u32>().map_err(|_| fault(&inner, "", format!("`{value}` is no number"), SEE_SCHEMA));
        let mut next = at.clone();
        match key {
            "search" => next.search = number()?,
            "repeat" => next.repeat = number()?,
            "mode" => next.mode = value.to_owned(),
            _ => {
                let what = format!("a run has no partitions by `{key}`: they are by search, mode and repeat");
                return Err(fault(&inner, "", what, SEE_SCHEMA));
            }
        }
        walk(&inner, next, depth - 1, found)?;
    }
    Ok(())
}

/// Folders of the runs of the dataset in `folder`, by name; none if it holds none.
///
/// # Errors
/// If the folder cannot be listed.
pub fn run_folders(folder: &Path) -> Result<Vec<PathBuf>, TraceError> {
    let mut all = entries(folder)?;
    all.retain(|path| path.is_dir() && name_of(path).starts_with("run="));
    Ok(all)
}

/// The folder of a run of this name: bytes that are no letters, digits, `-`, `_` or inner dots become `%XX`, as Hive has them.
pub fn run_folder(name: &str) -> String {
    let mut folder = "run=".to_owned();
    for (at, byte) in name.bytes().enumerate() {
        match byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && at > 0) {
            true => folder.push(char::from(byte)),
            false => folder.push_str(&format!("%{byte:02X}")),
        }
    }
    folder
}
