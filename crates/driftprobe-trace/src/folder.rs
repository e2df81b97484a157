//! A run's folder: whether one holds a run, and what of it is deleted when it is written anew.

use crate::TraceError;
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::run::{ALIGNED_DIR, SEARCH_PREFIX, TENSORS_DIR, TRACES_DIR, repeat_number};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// What `analyze` writes into `report/`.
const REPORT_FILES: [&str; 5] = ["drift.md", "drift.tsv", "drift.json", "drift.html", "junit.xml"];

/// Whether a run lies there, or a part of one.
pub fn holds_run(dir: &Path) -> bool {
    let has_entries = |folder: &str| fs::read_dir(dir.join(folder)).is_ok_and(|mut entries| entries.next().is_some());
    dir.join(MANIFEST_FILE).exists() || has_entries(TRACES_DIR) || has_entries(TENSORS_DIR)
}

/// Deletes a run: its manifest, traces, payloads, self-repeats and reports, and nothing else.
pub fn delete_run(dir: &Path) -> Result<(), TraceError> {
    let reports = REPORT_FILES.iter().map(|name| dir.join("report").join(name));
    for file in reports.chain([dir.join(MANIFEST_FILE)]).filter(|f| f.exists()) {
        fs::remove_file(&file).map_err(io_error("delete", &file))?;
    }
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let of_run = name == TRACES_DIR || name == TENSORS_DIR || repeat_number(name).is_some();
        let inner = (name == ALIGNED_DIR || name.starts_with(SEARCH_PREFIX)) && holds_run(&path);
        if (of_run || inner) && path.is_dir() {
            fs::remove_dir_all(&path).map_err(io_error("delete", &path))?;
        }
    }
    Ok(())
}

/// What the system said of a path.
pub fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TraceError {
    let path = path.to_owned();
    move |source| TraceError::Io { action, path, source }
}

/// Replaces the manifest.
pub fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<(), TraceError> {
    let path = dir.join(MANIFEST_FILE);
    let write = || -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(manifest)?;
        text.push(b'\n');
        replace(&path, |file| file.write_all(&text))
    };
    write().map_err(io_error("write", &path))
}

/// Writes a whole file and renames it into place; nobody ever sees a part of it.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let result = File::create(&part).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    match result.and_then(|()| fs::rename(&part, path)) {
        Ok(()) => Ok(()),
        Err(e) => {
            // The part is of no use to anyone; that it cannot be deleted either adds nothing to the first error.
            let _ = fs::remove_file(&part);
            Err(e)
        }
    }
}
