//! What lies where the user points: runs, dumps of logits, or folders of them.

use crate::below::runs_below;
use crate::failure::Failure;
use driftprobe_import::LogitsDump;
use std::collections::BTreeSet;
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
            let Found { runs, dumps } = &mut found;
            let mut look = |folder: &Path| -> Result<(), Failure> {
                dumps.extend(LogitsDump::open(folder)?);
                Ok(())
            };
            runs.extend(runs_below(path, &mut look)?);
            if found.runs.len() + found.dumps.len() == before {
                let hint = "a run has manifest.json and traces/, or *.jsonl files; a dump has logits.jsonl.gz";
                return Err(Failure::new(format!("{}: neither a run nor a dump of logits", path.display()), hint));
            }
        }
        let mut seen = BTreeSet::new();
        found.runs.retain(|run| seen.insert(run.canonicalize().unwrap_or_else(|_| run.clone())));
        Ok(found)
    }
}
