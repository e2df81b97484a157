//! The readers over bytes in memory, for fuzzers and tests: what [`Run::open`](crate::Run::open) reads from files.

use crate::lines::{Gunzip, Lines};
pub use crate::payload::PayloadFile;
use crate::raw::RawEvent;
use crate::run::TraceFile;
use crate::{Event, Note, Reading, TraceError, Unmapped, quick};
use std::io::{BufReader, Cursor};
use std::path::PathBuf;
use std::sync::Arc;

/// What the lines of a trace file hold.
#[derive(Debug)]
pub struct Read {
    /// Its events, in the order of the lines.
    pub events: Vec<Event>,
    /// Events of unknown points.
    pub unmapped: Vec<Unmapped>,
    /// What was noticed.
    pub notes: Vec<Note>,
}

/// Reads a trace file's bytes, those of a `.jsonl.gz` file if `packed`; `complete`: the manifest says that the run ended.
///
/// # Errors
/// As [`Run::open`](crate::Run::open).
pub fn read(bytes: &[u8], packed: bool, complete: bool) -> Result<Read, TraceError> {
    let name = if packed { "t.jsonl.gz" } else { "t.jsonl" };
    let file = TraceFile { path: PathBuf::from(name), name: Arc::from(name) };
    let mut lines = match packed {
        false => Lines::of(bytes.to_vec(), None, 0),
        true => Lines::over(Box::new(BufReader::new(Gunzip::new(Cursor::new(bytes.to_vec()))))),
    };
    let mut reading = Reading::new(complete);
    reading.lines(&file, &mut lines)?;
    let (events, unmapped) = (reading.events, reading.unmapped);
    Ok(Read { events, unmapped, notes: reading.notes.into_list(Some(complete)) })
}

/// What the quick and the strict reader make of a line's fields, as text; `None` for a line that the reader leaves or
/// refuses.
pub fn both_readers(line: &str) -> (Option<String>, Option<String>) {
    let quick = quick::read(line).map(|raw| format!("{raw:?}"));
    (quick, serde_json::from_str::<RawEvent>(line).ok().map(|raw| format!("{raw:?}")))
}
