//! What lies where the user points: runs, dumps of logits, or folders of them.

use crate::by_prompt::{DEPTH_MAX, too_deep};
use crate::failure::Failure;
use driftprobe_import::LogitsDump;
use driftprobe_trace::{ALIGNED_DIR, MANIFEST_FILE, SEARCH_PREFIX, TRACES_DIR};
use std::fs;
use std::path::{Path, PathBuf};

/// Runs and dumps, in the order of the command line, then by name.
#[derive(Default)]
pub struct Found {
    /// Runs.
    pub runs: Vec<PathBuf>,
    /// Dumps of logits.
    pub dumps: Vec<LogitsDump>,
}

impl Found {
    /// Looks below each path.
    ///
    /// # Errors
    /// If a path is not there, or nothing lies below it.
    pub fn below(paths: &[PathBuf]) -> Result<Found, Failure> {
        let mut found = Found::default();
        for path in paths {
            let before = found.runs.len() + found.dumps.len();
            found.look(path, 0)?;
            if found.runs.len() + found.dumps.len() == before {
                let hint = "a run has manifest.json and traces/, or *.jsonl files; a dump has logits.jsonl.gz";
                return Err(Failure::new(format!("{}: neither a run nor a dump of logits", path.display()), hint));
            }
        }
        found.runs.dedup();
        Ok(found)
    }

    fn look(&mut self, path: &Path, depth: usize) -> Result<(), Failure> {
        if driftprobe_parquet::is_dataset(path) {
            self.runs.extend(driftprobe_parquet::runs(path)?);
            return Ok(());
        }
        if !path.is_dir() || is_run(path)? {
            self.runs.push(path.to_owned());
            return Ok(());
        }
        if let Some(dump) = LogitsDump::open(path)? {
            self.dumps.push(dump);
            return Ok(());
        }
        for folder in entries(path)?.into_iter().filter(|entry| entry.is_dir()) {
            if depth == DEPTH_MAX {
                return Err(too_deep(path));
            }
            self.look(&folder, depth + 1)?;
        }
        Ok(())
    }
}

fn entries(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(path).and_then(|all| all.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>());
    let mut entries = entries.map_err(|e| Failure::io("list", path, &e))?;
    entries.sort();
    // Parts of a run are no runs of their own, and hidden folders are nobody's.
    entries.retain(|entry| {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with('.') && name != ALIGNED_DIR && !name.starts_with(SEARCH_PREFIX)
    });
    Ok(entries)
}

/// Whether a folder is a run: a manifest and traces, or traces that are no logits.
fn is_run(path: &Path) -> Result<bool, Failure> {
    if path.join(MANIFEST_FILE).is_file() || path.join(TRACES_DIR).is_dir() {
        return Ok(true);
    }
    let is_trace = |entry: &PathBuf| {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lines = name.ends_with(".jsonl") || name.ends_with(".jsonl.gz");
        lines && !name.starts_with("logits.jsonl")
    };
    Ok(entries(path)?.iter().any(is_trace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_too_deep_is_told_and_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let run = |depth: usize| {
            let path = (0..depth).fold(dir.path().to_owned(), |path, _| path.join("in"));
            fs::create_dir_all(path.join("traces")).unwrap();
            fs::write(path.join("manifest.json"), "{\"schema\": 1}").unwrap();
        };
        fs::create_dir_all(dir.path().join("good/traces")).unwrap();
        run(DEPTH_MAX);
        assert_eq!(Found::below(&[dir.path().to_owned()]).ok().map(|found| found.runs.len()), Some(2));
        fs::remove_dir_all(dir.path().join("in")).unwrap();
        run(DEPTH_MAX + 2);
        let refused = Found::below(&[dir.path().to_owned()]).err().unwrap();
        assert!(format!("{refused:?}").contains("folders within each other"), "{refused:?}");
    }
}
