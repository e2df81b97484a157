//! Reading a run: a folder, a folder of loose `.jsonl` files, or one such file.
//!
//! Reading is strict: what the format forbids is refused with file, line and key; what it does not know is noted, and
//! what is cut off at the end of an unfinished run is noted too. Opening never panics, whatever the files hold.

use crate::accept::Unmapped;
use crate::blocks;
use crate::event::HashCheck;
use crate::expected::PROMISED_ROWS_MAX;
use crate::files::read_file;
use crate::json::quote_bare_words;
use crate::lines::{Lines, MAX_LINE_BYTES, Next};
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::notes::Note;
use crate::payload::Payloads;
use crate::seen::Seen;
use crate::{Event, Row, Source, TraceError};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folder of a run in which the same run lies with prefill's cache under decode, a run of its own.
pub const ALIGNED_DIR: &str = "kv_aligned";
/// How folders of a run begin in which it was recorded again to find a fault, each a run of its own.
pub const SEARCH_PREFIX: &str = "search-";
/// Folder of a run that holds its events.
pub const TRACES_DIR: &str = "traces";
/// Folder of a run that holds its payloads.
pub const TENSORS_DIR: &str = "tensors";

/// Largest manifest that is read: the tokens of some hundred thousand prompts.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// A run that was read: its events in memory, its payloads mapped when asked for.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The run's folder; payload paths are relative to it.
    pub dir: PathBuf,
    /// Its manifest, if there is one.
    pub manifest: Option<Manifest>,
    /// Its events: files in name order, lines in file order.
    pub events: Vec<Event>,
    /// Events of points that this version does not know.
    pub unmapped: Vec<Unmapped>,
    /// What was noticed and not refused.
    pub notes: Vec<Note>,
    /// Its self-repeats (`repeat-1/`, `repeat-2/`, …), in order.
    pub repeats: Vec<Run>,
    pub(crate) payloads: Payloads,
    /// What it was read from, if that is no folder of JSON.
    pub(crate) store: Option<Arc<dyn Store>>,
    pub(crate) seen: Seen,
}

/// What a run can be read from that is no folder of JSON.
pub trait Store: Rows + Send + std::fmt::Debug {
    /// The run that a folder of this name in the run's folder would be ([`ALIGNED_DIR`], `search-1`, …), if it is there.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    fn inner(&self, name: &str) -> Result<Option<Run>, TraceError>;
}

/// Where rows come from; asked from several threads.
pub trait Rows: Sync {
    /// The row that an event points to; `None` if it has no payload.
    ///
    /// # Errors
    /// If the payload is missing, damaged, outside the run, or of another dtype or size than the event says.
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError>;

    /// Whether the payload's bytes are those whose hash the event has.
    ///
    /// # Errors
    /// As [`Rows::row`], and [`TraceError::PayloadHash`] if they are not.
    fn verify(&self, event: &Event) -> Result<HashCheck, TraceError> {
        match self.row(event)? {
            None => Ok(HashCheck::NoPayload),
            Some(row) => event.verify(&row),
        }
    }
}

impl Rows for Run {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        match &self.store {
            Some(store) => store.row(event),
            None => self.payloads.row(&self.dir, event),
        }
    }
}

impl Run {
    /// Reads the run at `path`: a run's folder, a folder of `.jsonl`(`.gz`) files, or one such file.
    ///
    /// # Errors
    /// If there is no run, or if something in it is refused.
    pub fn open(path: &Path) -> Result<Run, TraceError> {
        let mut run = read_one(path)?;
        if path.is_dir() {
            for (number, dir) in repeat_dirs(path)? {
                match read_one(&dir) {
                    Ok(repeat) => run.push_repeat(number, repeat)?,
                    Err(TraceError::NotARun { .. }) => run.notes.push(Note::EmptyRepeat { number }),
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(run)
    }

    /// Adds its self-repeat of this number.
    ///
    /// # Errors
    /// If the repeat's manifest says another number.
    pub fn push_repeat(&mut self, number: u32, repeat: Run) -> Result<(), TraceError> {
        check_repeat(&repeat.dir, repeat.manifest.as_ref(), number)?;
        self.repeats.push(repeat);
        Ok(())
    }

    /// The run that lies in this run under this name ([`ALIGNED_DIR`], `search-1`, …), if it is there. A run without a
    /// manifest is judged alone, whatever lies beside it.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn inner(&self, name: &str) -> Result<Option<Run>, TraceError> {
        if self.manifest.is_none() {
            return Ok(None);
        }
        match &self.store {
            Some(store) => store.inner(name),
            None => Some(self.dir.join(name)).filter(|dir| dir.is_dir()).map(|dir| Run::open(&dir)).transpose(),
        }
    }

    /// The manifest as it was when the run was read, by which can be told later whether the run still lies there.
    pub fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// Whether the manifest says that the run ended.
    pub fn is_complete(&self) -> bool {
        self.manifest.as_ref().is_some_and(|m| m.complete)
    }
}

fn is_trace_name(name: &str) -> bool {
    name.ends_with(".jsonl") || name.ends_with(".jsonl.gz")
}

/// A trace file and what it is called in sources.
pub(crate) struct TraceFile {
    pub(crate) path: PathBuf,
    pub(crate) name: Arc<str>,
}

/// What lies where a run is said to lie.
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Option<Manifest>,
    /// The manifest as it was when it was read.
    pub(crate) seen: Seen,
    pub(crate) files: Vec<TraceFile>,
    /// Names of files that are not read.
    pub(crate) ignored: Vec<String>,
}

fn read_one(path: &Path) -> Result<Run, TraceError> {
    let Layout { dir, manifest, seen, files, ignored } = layout(path)?;
    if let Some(rows) = manifest.as_ref().and_then(Manifest::expected_count).filter(|rows| *rows > PROMISED_ROWS_MAX) {
        return Err(TraceError::Promise { path: dir.join(MANIFEST_FILE), rows });
    }
    let reading = blocks::read(&files, manifest.as_ref().is_some_and(|m| m.complete))?;
    // These events are what this manifest promised only if it is still there.
    seen.unchanged()?;
    let mut run = Run { seen, ..reading.into_run(dir, manifest) };
    run.notes.extend(ignored.into_iter().map(|name| Note::IgnoredFile { name }));
    Ok(run)
}

/// The manifest's bytes, if there is one.
pub(crate) fn manifest_bytes(path: &Path) -> Result<Option<Vec<u8>>, TraceError> {
    match read_file(path, MANIFEST_BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(TraceError::io("read", path)(e)),
    }
}

/// The manifest's text, if there is one.
pub(crate) fn manifest_text(path: &Path) -> Result<Option<String>, TraceError> {
    let text = manifest_bytes(path)?.map(|bytes| String::from_utf8(bytes).map_err(io::Error::other)).transpose();
    text.map_err(TraceError::io("read", path))
}

/// The manifest, if there is one.
pub(crate) fn manifest_at(path: &Path) -> Result<Option<Manifest>, TraceError> {
    manifest_text(path)?.map(|text| Manifest::parse(&text, path)).transpose()
}

/// The manifest and the trace files of one run, its repeats left out.
pub(crate) fn layout(path: &Path) -> Result<Layout, TraceError> {
    let kind = fs::metadata(path).map_err(TraceError::io("open", path))?;
    let (mut ignored, mut seen) = (Vec::new(), Seen::default());
    let (dir, manifest, files) = if kind.is_dir() {
        let manifest_path = path.join(MANIFEST_FILE);
        let text = manifest_text(&manifest_path)?;
        seen = Seen::of(&manifest_path, text.as_deref().map(str::as_bytes));
        let manifest = text.map(|text| Manifest::parse(&text, &manifest_path)).transpose()?;
        let traces = path.join(TRACES_DIR);
        let (files, others) = if traces.is_dir() {
            let (files, mut others) = list(&traces, "traces/")?;
            others.extend(list(path, "")?.0.iter().map(|beside| beside.name.to_string()));
            (files, others)
        } else {
            (list(path, "")?.0, Vec::new())
        };
        ignored = others;
        if manifest.is_none() && files.is_empty() {
            return Err(TraceError::NotARun { path: path.to_owned() });
        }
        (path.to_owned(), manifest, files)
    } else {
        let name = path.file_name().and_then(|n| n.to_str()).filter(|n| is_trace_name(n));
        let name: Arc<str> = Arc::from(name.ok_or_else(|| TraceError::NotARun { path: path.to_owned() })?);
        (folder_of(path), None, vec![TraceFile { path: path.to_owned(), name }])
    };
    Ok(Layout { dir, manifest, seen, files, ignored })
}

/// The run's folder of one trace file: where it lies, or above `traces/`.
fn folder_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent.file_name().is_some_and(|n| n == TRACES_DIR) { parent.join("..") } else { parent.to_owned() }
}

/// The trace files of a folder, and the names of whatever else lies there.
fn list(dir: &Path, prefix: &str) -> Result<(Vec<TraceFile>, Vec<String>), TraceError> {
    let (mut files, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(TraceError::io("list", dir))? {
        let path = entry.map_err(TraceError::io("list", dir))?.path();
        let Some(name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else { continue };
        if is_trace_name(&name) && path.is_file() {
            files.push(TraceFile { path, name: Arc::from(format!("{prefix}{name}")) });
        } else {
            others.push(format!("{prefix}{name}"));
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    others.sort();
    Ok((files, others))
}

/// The self-repeats that lie in a run's folder, in order: N of `repeat-N`, and the folder.
///
/// # Errors
/// If the folder cannot be listed.
pub fn repeat_dirs(dir: &Path) -> Result<Vec<(u32, PathBuf)>, TraceError> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(dir).map_err(TraceError::io("list", dir))? {
        let path = entry.map_err(TraceError::io("list", dir))?.path();
        let number = path.file_name().and_then(|n| repeat_number(n.to_str()?));
        if let Some(number) = number.filter(|_| path.is_dir()) {
            dirs.push((number, path));
        }
    }
    dirs.sort();
    Ok(dirs)
}

/// N of a folder called `repeat-N`.
pub(crate) fn repeat_number(name: &str) -> Option<u32> {
    number(name.strip_prefix("repeat-")?)
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&n: &u32| n > 0 && n.to_string() == text)
}

/// Whether a folder of this name in a run's folder is a part of the run: a self-repeat, or, of a run that has a manifest, the
/// other mode and the rounds of a search. (The folders of its traces, payloads and reports are by their own names.)
pub fn is_part_of_run(name: &str, manifest: bool) -> bool {
    repeat_number(name).is_some()
        || manifest && (name == ALIGNED_DIR || name.strip_prefix(SEARCH_PREFIX).and_then(number).is_some())
}

/// Refuses a run's folder with a round of a search that comes after one that is not there: what it was to show is not known.
///
/// # Errors
/// [`TraceError::RoundMissing`]; if the folder cannot be listed.
pub fn check_rounds(dir: &Path) -> Result<(), TraceError> {
    if !dir.is_dir() {
        return Ok(());
    }
    let mut rounds = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(TraceError::io("list", dir))? {
        let entry = entry.map_err(TraceError::io("list", dir))?;
        let name = entry.file_name();
        let round = name.to_str().and_then(|name| number(name.strip_prefix(SEARCH_PREFIX)?));
        rounds.extend(round.filter(|_| entry.path().is_dir()));
    }
    match (1..).zip(&rounds).find(|(expected, round)| expected != *round) {
        Some((missing, round)) => Err(TraceError::RoundMissing { path: dir.to_owned(), missing, round: *round }),
        None => Ok(()),
    }
}

pub(crate) fn check_repeat(dir: &Path, manifest: Option<&Manifest>, number: u32) -> Result<(), TraceError> {
    match manifest {
        Some(manifest) if manifest.repeat != number => Err(TraceError::Manifest {
            path: dir.join(MANIFEST_FILE),
            line: 1,
            key: "repeat".to_owned(),
            message: format!("expected {number} as the folder's name says, found {}", manifest.repeat),
        }),
        _ => Ok(()),
    }
}

/// What takes a line, where it stands and whether it has a line feed: nothing, or the key and what is wrong with it.
pub(crate) type TakeLine<'a> = dyn FnMut(&[u8], Source, bool) -> Result<(), (String, String)> + 'a;

/// Gives all lines to `take`; the number of the last line if it is cut off.
pub(crate) fn each_line(
    file: &TraceFile,
    lines: &mut Lines,
    take: &mut TakeLine<'_>,
) -> Result<Option<u64>, TraceError> {
    loop {
        let next = lines.next_line();
        let refuse = |key: String, message: String| TraceError::Event {
            path: file.path.clone(),
            line: lines.number,
            key,
            message,
        };
        let is_damage = |e: &io::Error| matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput);
        let next = next.map_err(|e| match is_damage(&e) {
            true => refuse(String::new(), format!("the compressed stream is damaged here: {e}")),
            false => TraceError::io("read", &file.path)(e),
        })?;
        match next {
            Next::End => return Ok(None),
            Next::BrokenOff => return Ok(Some(lines.number)),
            Next::TooLong => {
                return Err(refuse(String::new(), format!("the line is longer than {MAX_LINE_BYTES} bytes")));
            }
            Next::Line { ended } => {
                let source = Source { file: file.name.clone(), line: lines.number };
                match take(&lines.line, source, ended) {
                    Ok(()) => {}
                    Err(_) if !ended && !is_whole(&lines.line) => return Ok(Some(lines.number)),
                    Err((key, message)) => return Err(refuse(key, message)),
                }
            }
        }
    }
}

/// Whether a line that could not be read is at least whole JSON, and so not cut off.
fn is_whole(line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let quoted = quote_bare_words(text).map(|(quoted, _)| quoted);
    serde_json::from_str::<serde::de::IgnoredAny>(quoted.as_deref().unwrap_or(text)).is_ok()
}
