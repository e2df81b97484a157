//! A run's folder: whether one holds a run, who may write there, and what of it is deleted when it is written anew.

use crate::TraceError;
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::run::{ALIGNED_DIR, SEARCH_PREFIX, TENSORS_DIR, TRACES_DIR, manifest_at, repeat_number};
use crate::seen::Seen;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Folder of a run that holds its reports.
pub const REPORT_DIR: &str = "report";

/// File of a run that was made on another machine: where.
pub const REMOTE_FILE: &str = "remote.json";

/// Folder of a [`REPORT_DIR`] with results of prompts.
pub const UNITS_DIR: &str = "units";

/// Folder of a [`REPORT_DIR`] with stages of ranges of layers, judged beforehand.
pub const LAYERS_DIR: &str = "layers";

/// What reports on a run and pictures of one are called, and how their names end.
const REPORTS: [(&str, &[&str]); 9] = [
    ("drift", &["html", "json", "md", "tsv"]),
    ("merged", &["json", "md", "tsv"]),
    ("reach", &["json", "md"]),
    ("logprobs", &["json", "md", "tsv", "png", "svg"]),
    ("heatmap", &["png", "svg"]),
    ("growth", &["png", "svg"]),
    ("modes", &["png", "svg"]),
    ("attention", &["png", "svg"]),
    ("junit", &["xml"]),
];

/// Whether a file of this name, in a run's [`REPORT_DIR`], speaks of the run: it goes when the run is written anew.
pub fn is_report(name: &str) -> bool {
    let known = |(stem, ending): (&str, &str)| REPORTS.iter().any(|(own, all)| *own == stem && all.contains(&ending));
    name.split_once('.').is_some_and(known)
}

/// Whether a file of this name is a result of a prompt, or stages of its layers: sixteen hexadecimal digits, the prompt, `.json`.
fn is_result(name: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
    name.ends_with(".json") && name.get(..16).is_some_and(hex) && name.get(16..17) == Some("-")
}

/// How the name of a file ends that is being written, and begins with a dot.
const PART_SUFFIX: &str = ".part";

/// Whether a file in a folder of results is by its name a plan of what was to be judged: `plan.json`, or of a shard
/// `plan-I-of-N.json` with numbers. Any other name is of somebody's own file, which is neither read as a plan nor deleted.
pub fn is_plan_name(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let shard = name.strip_prefix("plan-").and_then(|rest| rest.strip_suffix(".json")?.split_once("-of-"));
    name == "plan.json" || shard.is_some_and(|(index, of)| number(index) && number(of))
}

/// Whether a run lies there, or a part of one.
pub fn holds_run(dir: &Path) -> bool {
    let has_entries = |folder: &str| fs::read_dir(dir.join(folder)).is_ok_and(|mut entries| entries.next().is_some());
    dir.join(MANIFEST_FILE).exists() || has_entries(TRACES_DIR) || has_entries(TENSORS_DIR)
}

/// Takes a folder, which is made if it is not there, for one writer. It is free again when what this gives is dropped, or its
/// process ends in whatever way. `None` where folders cannot be taken: outside Unix, and on some network file systems.
///
/// # Errors
/// [`TraceError::InUse`] if somebody has it, and what the system says.
pub fn take(dir: &Path) -> Result<Option<File>, TraceError> {
    let Some(folder) = made(dir)? else { return Ok(None) };
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(TraceError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// As [`take`], but waits until whoever has the folder is done with it: for what takes a moment.
///
/// # Errors
/// What the system says.
pub fn wait_for(dir: &Path) -> Result<Option<File>, TraceError> {
    let folder = made(dir)?;
    Ok(folder.filter(|folder| folder.lock().is_ok()))
}

/// A folder, which is made if it is not there, opened where it can be taken.
fn made(dir: &Path) -> Result<Option<File>, TraceError> {
    fs::create_dir_all(dir).map_err(TraceError::io("make the folder", dir))?;
    if !cfg!(unix) {
        return Ok(None);
    }
    File::open(dir).map(Some).map_err(TraceError::io("open", dir))
}

/// Deletes a run: its traces, payloads, self-repeats, the runs inside it and its reports, and nothing else. Its manifest stays
/// and says from the first on that the run is incomplete: whenever this is cut short, what is left is known for what it is.
pub fn delete_run(dir: &Path) -> Result<(), TraceError> {
    delete_reports(dir)?;
    mark_unfinished(dir)?;
    // Somebody may have judged the run just before it was marked.
    delete_reports(dir)?;
    for path in entries(dir)? {
        let name = name_of(&path);
        if name == REMOTE_FILE && path.is_file() {
            fs::remove_file(&path).map_err(TraceError::io("delete", &path))?;
            continue;
        }
        let (of_run, inner) = (is_of_run(name), is_inner(name));
        if of_run && path.is_dir() {
            fs::remove_dir_all(&path).map_err(TraceError::io("delete", &path))?;
        } else if inner && holds_run(&path) {
            delete_inner(&path)?;
        } else if inner && path.is_dir() {
            // Empty where a process was killed before it wrote there. Whatever else lies there is not ours.
            let _ = fs::remove_dir(&path);
        }
    }
    Ok(())
}

/// Refuses a folder that is no run.
///
/// # Errors
/// [`TraceError::NotOurs`] if it holds no manifest of one.
pub fn check_run(dir: &Path) -> Result<(), TraceError> {
    match manifest_at(&dir.join(MANIFEST_FILE)) {
        Ok(Some(_)) => Ok(()),
        _ => Err(TraceError::NotOurs { path: dir.to_owned() }),
    }
}

/// Puts the run in `from`, whose folder is gone then, in the place of the one in `dir`. Of that one all is deleted that is
/// deleted of a run that is overwritten, and nothing else; the new manifest comes last.
///
/// # Errors
/// As [`check_run`], and with the folder in it that is somebody's and in the new run's way; [`TraceError::InUse`] if somebody
/// writes there; and what the system says: what was not moved yet is still in `from`.
pub fn replace_run(dir: &Path, from: &Path) -> Result<(), TraceError> {
    check_run(dir)?;
    let _held = take(dir)?;
    let mut all = entries(from)?;
    for path in all.iter().filter(|path| path.is_dir()) {
        let (name, there) = (name_of(path), dir.join(name_of(path)));
        let empty = fs::read_dir(&there).is_ok_and(|mut entries| entries.next().is_none());
        let goes = is_of_run(name) || (is_inner(name) && holds_run(&there));
        if there.exists() && !goes && !empty {
            return Err(TraceError::NotOurs { path: there });
        }
    }
    delete_run(dir)?;
    all.sort_by_key(|path| name_of(path) == MANIFEST_FILE);
    for path in all {
        let to = dir.join(path.file_name().unwrap_or_default());
        fs::rename(&path, &to).map_err(TraceError::io("write", &to))?;
    }
    fs::remove_dir(from).map_err(TraceError::io("delete", from))
}

/// Whether a folder of this name in a run is of the run alone.
fn is_of_run(name: &str) -> bool {
    name == TRACES_DIR || name == TENSORS_DIR || repeat_number(name).is_some()
}

/// Whether a folder of this name in a run may hold another one.
fn is_inner(name: &str) -> bool {
    name == ALIGNED_DIR || name.starts_with(SEARCH_PREFIX)
}

/// Deletes what a process left that was killed while it wrote a manifest there.
pub fn sweep(dir: &Path) -> Result<(), TraceError> {
    for path in entries(dir)?.into_iter().filter(|path| of_part(name_of(path)) == Some(MANIFEST_FILE)) {
        fs::remove_file(&path).map_err(TraceError::io("delete", &path))?;
    }
    Ok(())
}

/// Deletes a run that lies in another, its manifest last: what is left of it is known for a run as long as there is any.
fn delete_inner(dir: &Path) -> Result<(), TraceError> {
    mark_unfinished(dir)?;
    for path in entries(dir)?.into_iter().filter(|path| name_of(path) != MANIFEST_FILE) {
        let gone = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(TraceError::io("delete", &path))?;
    }
    fs::remove_dir_all(dir).map_err(TraceError::io("delete", dir))
}

fn delete_reports(dir: &Path) -> Result<(), TraceError> {
    let folder = dir.join(REPORT_DIR);
    if !folder.is_dir() {
        return Ok(());
    }
    for path in entries(&folder)?.into_iter().filter(|path| !path.is_dir()) {
        let name = name_of(&path);
        let whole = of_part(name).unwrap_or(name);
        if is_plan_name(whole) || is_report(whole) {
            fs::remove_file(&path).map_err(TraceError::io("delete", &path))?;
        }
    }
    // What a link leads to is not this run's.
    let is_folder = |path: &PathBuf| path.is_dir() && !path.is_symlink();
    for results in [UNITS_DIR, LAYERS_DIR].map(|name| folder.join(name)).iter().filter(|path| is_folder(path)) {
        let is_ours = |path: &PathBuf| is_result(of_part(name_of(path)).unwrap_or(name_of(path))) && !path.is_dir();
        for path in entries(results)?.into_iter().filter(is_ours) {
            fs::remove_file(&path).map_err(TraceError::io("delete", &path))?;
        }
        // Whatever else lies there is not ours.
        let _ = fs::remove_dir(results);
    }
    Ok(())
}

/// The name of the file whose part has this one, `.NAME.PID.part`.
fn of_part(name: &str) -> Option<&str> {
    Some(name.strip_prefix('.')?.strip_suffix(PART_SUFFIX)?.rsplit_once('.')?.0)
}

/// Makes the manifest of a run, if it is one, say that the run is incomplete.
fn mark_unfinished(dir: &Path) -> Result<(), TraceError> {
    let path = dir.join(MANIFEST_FILE);
    match manifest_at(&path) {
        Ok(Some(manifest)) if manifest.complete => {
            write_manifest(dir, &Manifest { complete: false, ..manifest }).map(drop)
        }
        _ => Ok(()),
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, TraceError> {
    let entries = fs::read_dir(dir).map_err(TraceError::io("list", dir))?;
    entries.map(|entry| Ok(entry.map_err(TraceError::io("list", dir))?.path())).collect()
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Replaces the manifest, and returns what was written as what is seen there.
///
/// # Errors
/// What the system says; the one that lay there still lies there then.
pub fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<Seen, TraceError> {
    let path = dir.join(MANIFEST_FILE);
    let write = || -> io::Result<Seen> {
        let mut text = serde_json::to_vec_pretty(manifest)?;
        text.push(b'\n');
        replace_file(&path, |file| file.write_all(&text))?;
        Ok(Seen::of(&path, Some(&text)))
    };
    write().map_err(TraceError::io("write", &path))
}

/// Writes a whole file and renames it into place: nobody ever sees a part of it, and two who write the same do not mix.
///
/// # Errors
/// What the system says; what lay there still lies there then.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    Part::write(path, write)?.place()
}

/// A whole file that is on disk under another name, to be renamed into place. Dropped before, it is deleted.
#[derive(Debug)]
pub struct Part {
    part: PathBuf,
    path: PathBuf,
}

impl Part {
    /// Writes the file that is to lie at `path`.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<Part> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}{PART_SUFFIX}", std::process::id()));
        let part = Part { part: path.with_file_name(name), path: path.to_owned() };
        let mut file = File::create(&part.part)?;
        write(&mut file)?;
        file.sync_all()?;
        Ok(part)
    }

    /// Renames it into place.
    ///
    /// # Errors
    /// What the system says; what lay there still lies there then.
    pub fn place(self) -> io::Result<()> {
        fs::rename(&self.part, &self.path)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already once it is in place; one that cannot be deleted is of no use to anyone and hides nothing.
        let _ = fs::remove_file(&self.part);
    }
}
