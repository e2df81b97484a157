//! A run's place in a dataset: written beside it, put there whole, and cleared of what exports that were killed left.

use crate::error::fault;
use crate::layout::{INVENTORY, name_of, run_folder};
use driftprobe_trace::{TraceError, take_folder, wait_for_folder};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// How the hidden folder ends that a run is written into.
const PART: &str = ".part";

/// How the hidden folder ends that a run lies in which is being replaced.
const OLD: &str = ".old";

/// A run on its way into a dataset. Dropped before it is put in its place, it is deleted.
pub struct Place {
    dataset: PathBuf,
    /// The run's folder, once it is whole.
    pub target: PathBuf,
    /// The hidden folder that it is written into.
    pub part: PathBuf,
    force: bool,
    /// Tells others that the hidden folder is in use, for as long as this process lives.
    _held: Option<File>,
}

impl Place {
    /// Clears what killed exports of a run of this name left, and makes the hidden folder for a new one.
    ///
    /// # Errors
    /// If a run of this name lies there and is not to be replaced (`force`), if what lies there is no run, and what the
    /// system says.
    pub fn begin(dataset: &Path, name: &str, force: bool) -> Result<Place, TraceError> {
        let folder = run_folder(name);
        let target = dataset.join(&folder);
        let alone = wait_for_folder(dataset)?;
        if alone.is_some() {
            sweep(dataset, &folder)?;
        }
        check(&target, force)?;
        let part = dataset.join(format!(".{folder}.{}{PART}", std::process::id()));
        let held = take_folder(&part)?;
        Ok(Place { dataset: dataset.to_owned(), target, part, force, _held: held })
    }

    /// Renames the run into its place. One that lies there is moved away first, and deleted when the new one is there.
    ///
    /// # Errors
    /// What the system says; if somebody else put a run of this name there meanwhile.
    pub fn put(self) -> Result<(), TraceError> {
        let _alone = wait_for_folder(&self.dataset)?;
        check(&self.target, self.force)?;
        let old = with_ending(&self.part, OLD);
        let replaces = self.target.exists();
        if replaces {
            fs::rename(&self.target, &old).map_err(TraceError::io("move away", &self.target))?;
        }
        fs::rename(&self.part, &self.target).map_err(|e| {
            // What is told is why the new one is not there; that the old one is back changes nothing of it.
            let _ = fs::rename(&old, &self.target);
            TraceError::io("write", &self.target)(e)
        })?;
        match replaces {
            true => fs::remove_dir_all(&old).map_err(TraceError::io("delete", &old)),
            false => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Gone once the run is in its place. What cannot be deleted is hidden, and cleared by the next export.
        let _ = fs::remove_dir_all(&self.part);
    }
}

/// Whether a run may be put there.
fn check(target: &Path, force: bool) -> Result<(), TraceError> {
    if target.exists() && !force {
        let hint = "give it another --name, name another dataset, or replace it with --force";
        return Err(fault(target, "", "a run of this name lies here already", hint));
    }
    if target.exists() && !target.join(INVENTORY).is_file() {
        let what = format!("holds no {INVENTORY}, so nothing is replaced");
        return Err(fault(target, "", what, "delete it yourself, or name another dataset"));
    }
    Ok(())
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Deletes what killed exports of this run left, as far as no process holds it. A run that was moved away for one that never
/// took its place is put back. Only for who has the dataset to itself.
fn sweep(dataset: &Path, folder: &str) -> Result<(), TraceError> {
    let target = dataset.join(folder);
    for entry in fs::read_dir(dataset).map_err(TraceError::io("list", dataset))? {
        let entry = entry.map_err(TraceError::io("list", dataset))?;
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(replaced) = left_over(&name_of(&path), folder).filter(|_| is_folder) else { continue };
        let _held = match take_folder(&path) {
            Ok(Some(held)) => held,
            // Somebody is writing there, or whether anybody is cannot be known.
            Ok(None) | Err(TraceError::InUse { .. }) => continue,
            Err(e) => return Err(e),
        };
        if replaced && !target.exists() && path.join(INVENTORY).is_file() {
            fs::rename(&path, &target).map_err(TraceError::io("put back", &target))?;
        } else {
            fs::remove_dir_all(&path).map_err(TraceError::io("delete", &path))?;
        }
    }
    Ok(())
}

/// Whether an entry of this name is the hidden folder of an export of the run in `folder`; `true`: of a run that was being
/// replaced.
fn left_over(name: &str, folder: &str) -> Option<bool> {
    let rest = name.strip_prefix('.')?.strip_prefix(folder)?.strip_prefix('.')?;
    let part = rest.strip_suffix(OLD);
    let process = part.unwrap_or(rest).strip_suffix(PART)?;
    (!process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit())).then_some(part.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_runs_own_leftovers_are_known_for_such() {
        assert_eq!(left_over(".run=a.17.part", "run=a"), Some(false));
        assert_eq!(left_over(".run=a.17.part.old", "run=a"), Some(true));
        for other in
            [".run=b.17.part", ".run=a.5.17.part", ".run=ab.17.part", "run=a.17.part", ".run=a.part", ".run=a.x1.part"]
        {
            assert_eq!(left_over(other, "run=a"), None, "{other}");
        }
        assert_eq!(left_over(".run=a.5.17.part", "run=a.5"), Some(false));
    }

    fn leave(dataset: &Path, name: &str) {
        fs::create_dir_all(dataset.join(name)).expect("folder");
        fs::write(dataset.join(name).join(INVENTORY), name).expect("file");
    }

    fn names(dataset: &Path) -> Vec<String> {
        let all = fs::read_dir(dataset).expect("folder").map(|entry| name_of(&entry.expect("entry").path()));
        let mut names: Vec<String> = all.collect();
        names.sort();
        names
    }

    #[cfg(unix)]
    #[test]
    fn what_nobody_holds_is_cleared_and_what_somebody_holds_stays() {
        let dir = tempfile::tempdir().expect("folder");
        let dataset = dir.path();
        for name in [".run=a.1.part", ".run=b.1.part", ".run=a.2.part", "run=b"] {
            leave(dataset, name);
        }
        fs::write(dataset.join(".run=a.3.part"), "a file, and so not ours").expect("file");
        let held = take_folder(&dataset.join(".run=a.2.part")).expect("taken");
        let place = Place::begin(dataset, "a", false).expect("begun");
        let own = name_of(&place.part);
        let mut expected = vec![own.as_str(), ".run=a.2.part", ".run=a.3.part", ".run=b.1.part", "run=b"];
        expected.sort();
        assert_eq!(names(dataset), expected);
        // The same run by another process, and by this one, at the same time.
        assert!(matches!(Place::begin(dataset, "a", false), Err(TraceError::InUse { .. })));
        drop((place, held));
        drop(Place::begin(dataset, "a", false).expect("begun"));
        assert_eq!(names(dataset), [".run=a.3.part", ".run=b.1.part", "run=b"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_run_that_was_moved_away_for_nothing_is_put_back() {
        let dir = tempfile::tempdir().expect("folder");
        let dataset = dir.path();
        leave(dataset, ".run=a.1.part.old");
        leave(dataset, ".run=a.1.part");
        assert!(Place::begin(dataset, "a", false).is_err(), "it lies there again");
        assert_eq!(names(dataset), ["run=a"]);
        assert_eq!(fs::read_to_string(dataset.join("run=a").join(INVENTORY)).expect("file"), ".run=a.1.part.old");
        // Beside the run that took its place it is cleared, and a run that comes meanwhile is not replaced unasked.
        leave(dataset, ".run=a.1.part.old");
        let place = Place::begin(dataset, "a", true).expect("begun");
        leave(&place.part, ".");
        place.put().expect("put");
        assert_eq!(names(dataset), ["run=a"]);
        let place = Place::begin(dataset, "b", false).expect("begun");
        leave(dataset, "run=b");
        assert!(place.put().is_err_and(|e| e.to_string().contains("lies here already")));
        assert_eq!(names(dataset), ["run=a", "run=b"]);
    }
}
