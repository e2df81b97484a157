//! The runs that lie below a path: one walk for every command that takes folders of runs.

use crate::failure::Failure;
use driftprobe_trace::{MANIFEST_FILE, REPORT_DIR, TENSORS_DIR, TRACES_DIR, is_part_of_run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders within folders that are looked through for runs.
pub const DEPTH_MAX: usize = 16;

/// Is shown each folder that is gone through, whether or not it is a run.
pub type Look<'a> = dyn FnMut(&Path) -> Result<(), Failure> + 'a;

/// The run at `path`, and those in the folder there: also beside the runs of a dataset, and in a run's own folder beside its
/// parts. Each is named by the way to it, once, in the order of the names; what is no folder counts as a run.
///
/// Passed over are hidden folders, in which lies what is on its way into a folder.
///
/// # Errors
/// If a folder cannot be listed, or lies deeper than [`DEPTH_MAX`].
pub fn runs_below(path: &Path, look: &mut Look<'_>) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    find(path, DEPTH_MAX, look, &mut found)?;
    let mut seen = BTreeSet::new();
    found.retain(|run| seen.insert(run.canonicalize().unwrap_or_else(|_| run.clone())));
    Ok(found)
}

fn find(path: &Path, depth: usize, look: &mut Look<'_>, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let dataset = driftprobe_parquet::is_dataset(path);
    if dataset {
        found.extend(driftprobe_parquet::runs(path)?);
    }
    if !path.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    look(path)?;
    let run = is_run(path)?;
    if run {
        found.push(path.to_owned());
    }
    let parts = Parts { run, manifest: path.join(MANIFEST_FILE).is_file(), dataset };
    for inner in entries(path)?.into_iter().filter(|inner| inner.is_dir() && !parts.hold(inner)) {
        if depth == 0 {
            let what = format!("{}: more than {DEPTH_MAX} folders within each other", path.display());
            return Err(Failure::new(what, "name a folder that lies nearer to the runs"));
        }
        find(&inner, depth - 1, look, found)?;
    }
    Ok(())
}

/// What a folder is, and so which folders in it are parts of it and no runs of their own.
struct Parts {
    run: bool,
    manifest: bool,
    dataset: bool,
}

impl Parts {
    fn hold(&self, inner: &Path) -> bool {
        let name = inner.file_name().unwrap_or_default().to_string_lossy();
        let of_run = [TRACES_DIR, TENSORS_DIR, REPORT_DIR].contains(&&*name) || is_part_of_run(&name, self.manifest);
        let partition = ["run=", "search=", "mode=", "repeat="].iter().any(|key| name.starts_with(key));
        let of_dataset = partition || name == "_report";
        name.starts_with('.') || (self.run && of_run) || (self.dataset && of_dataset)
    }
}

fn entries(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(path).and_then(|all| all.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>());
    let mut entries = entries.map_err(|e| Failure::io("list", path, &e))?;
    entries.sort();
    Ok(entries)
}

/// Whether a folder is a run: a manifest, or traces. Logits of a dump have lines too.
fn is_run(path: &Path) -> Result<bool, Failure> {
    let is_trace = |entry: &PathBuf| {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        (name.ends_with(".jsonl") || name.ends_with(".jsonl.gz")) && !name.starts_with("logits.jsonl")
    };
    let named = path.join(MANIFEST_FILE).is_file() || path.join(TRACES_DIR).is_dir();
    Ok(named || entries(path)?.iter().any(is_trace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let found = runs_below(dir, &mut |_| Ok(())).ok().unwrap();
        found.iter().map(|run| run.strip_prefix(dir).unwrap().to_string_lossy().into_owned()).collect()
    }

    fn run(path: &Path, manifest: bool) {
        fs::create_dir_all(path.join("traces")).unwrap();
        if manifest {
            fs::write(path.join("manifest.json"), "{\"schema\": 1}").unwrap();
        }
    }

    #[test]
    fn what_lies_too_deep_is_told_and_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let at = |depth: usize| (0..depth).fold(dir.path().to_owned(), |path, _| path.join("in"));
        run(&dir.path().join("good"), true);
        run(&at(DEPTH_MAX), true);
        assert_eq!(names(dir.path()).len(), 2);
        fs::remove_dir_all(dir.path().join("in")).unwrap();
        run(&at(DEPTH_MAX + 2), true);
        let refused = runs_below(dir.path(), &mut |_| Ok(())).err().unwrap();
        assert!(format!("{refused:?}").contains("folders within each other"), "{refused:?}");
    }

    #[test]
    fn parts_of_a_run_are_none_and_what_is_only_called_so_is_one() {
        let dir = tempfile::tempdir().unwrap();
        run(&dir.path().join("good"), true);
        run(&dir.path().join("loose"), false);
        for (name, manifest) in [("kv_aligned", true), ("search-1", true), ("repeat-1", true), ("traces", false)] {
            run(&dir.path().join("good").join(name), manifest);
            // What has no manifest is judged alone, and only its repeats are its own.
            run(&dir.path().join("loose").join(name), manifest);
        }
        for name in ["kv_aligned", "search-1", "good/search-x", "good/mine", "good/repeat-01", ".part"] {
            run(&dir.path().join(name), true);
        }
        let own = ["good", "good/mine", "good/repeat-01", "good/search-x"];
        let loose = ["kv_aligned", "loose", "loose/kv_aligned", "loose/search-1", "search-1"];
        assert_eq!(names(dir.path()), [&own[..], &loose].concat());
        assert_eq!(names(&dir.path().join("good")), ["", "mine", "repeat-01", "search-x"]);
    }
}
