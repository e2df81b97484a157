//! What makes a run unreadable or unwritable, told with file, line and key, and with a hint on what to do.

use crate::{Dtype, RowHash, Source};
use std::path::{Path, PathBuf};

/// Why a run was refused, or could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing there looks like a run.
    #[error("{}: holds no run (no manifest.json, no traces/, no .jsonl or .jsonl.gz file)", path.display())]
    NotARun {
        /// The folder or file.
        path: PathBuf,
    },
    /// The manifest promises more rows than are held in memory at once.
    #[error(
        "{}: prompts, steps, layers and points promise {rows} rows, more than {} at once",
        path.display(),
        crate::expected::PROMISED_ROWS_MAX
    )]
    Promise {
        /// The manifest.
        path: PathBuf,
        /// How many.
        rows: u64,
    },
    /// A run would be written over another.
    #[error("{}: a run already lies here", path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process writes a run there.
    #[error("{}: another process is writing a run here", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that is to be overwritten holds something that is not known to be a run.
    #[error("{}: holds files, but no manifest of a run, so nothing is overwritten", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest is not what the format says.
    #[error("{}:{line}: {}: {message}", path.display(), if key.is_empty() { "manifest" } else { key.as_str() })]
    Manifest {
        /// The manifest file.
        path: PathBuf,
        /// Line in it, from 1.
        line: u64,
        /// Path of the key in it, e.g. `prompts[2].tokens[0]`; empty if the object as a whole is meant.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// The manifest is of another version of the format.
    #[error("{}: schema: expected 1, found {found}", path.display())]
    Schema {
        /// The manifest file.
        path: PathBuf,
        /// What stood there.
        found: String,
    },
    /// A line is not an event.
    #[error("{}:{line}: {}: {message}", path.display(), if key.is_empty() { "event" } else { key.as_str() })]
    Event {
        /// The trace file.
        path: PathBuf,
        /// Line in it, from 1.
        line: u64,
        /// The key in the event; empty if the line as a whole is meant.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// The last line of a run that calls itself complete is cut off.
    #[error("{}:{line}: the last line is cut off, yet the manifest says `complete: true`", path.display())]
    Torn {
        /// The trace file.
        path: PathBuf,
        /// Line in it, from 1.
        line: u64,
    },
    /// A file that would have to be read from the middle, and cannot.
    #[error("{}: a compressed file cannot be read prompt by prompt", path.display())]
    Compressed {
        /// The trace file.
        path: PathBuf,
    },
    /// A file that was read twice did not hold the same.
    #[error("{}:{line}: the file changed while it was read", path.display())]
    Changed {
        /// The trace file.
        path: PathBuf,
        /// Line in it, from 1.
        line: u64,
    },
    /// A run without a round of its search that has a later one.
    #[error("{}: search-{round} is there, and search-{missing} is not", path.display())]
    RoundMissing {
        /// The run's folder.
        path: PathBuf,
        /// The first round that is not there.
        missing: u32,
        /// The first that is there after it.
        round: u32,
    },
    /// A dataset, or a row of it, is not what the format says, or could not be written.
    #[error("{}: {at}{}{message}", path.display(), if at.is_empty() { "" } else { ": " })]
    Dataset {
        /// The file or folder.
        path: PathBuf,
        /// Where in it, such as `row 17, column hash`; empty if it as a whole is meant.
        at: String,
        /// What is wrong.
        message: String,
        /// What the user can do about it.
        hint: &'static str,
    },
    /// A payload that an event points to cannot be used.
    #[error("{}: tensor `{key}` (asked for by {event}): {message}", path.display())]
    Payload {
        /// The safetensors file.
        path: PathBuf,
        /// Name of the tensor.
        key: String,
        /// The event that points to it.
        event: Source,
        /// What is wrong.
        message: String,
    },
    /// A payload's bytes are not those whose hash the event has.
    #[error(
        "{}: tensor `{key}` (asked for by {event}): its bytes hash to {computed}, the event says {recorded}",
        path.display()
    )]
    PayloadHash {
        /// The safetensors file.
        path: PathBuf,
        /// Name of the tensor.
        key: String,
        /// The event that points to it.
        event: Source,
        /// The event's hash.
        recorded: RowHash,
        /// The hash of the payload's bytes.
        computed: RowHash,
    },
    /// The run would become larger than it may.
    #[error("{}: the next {next} bytes would bring the run to more than its {limit}", path.display())]
    Limit {
        /// The file that would be written.
        path: PathBuf,
        /// Bytes that were to come.
        next: u64,
        /// Bytes that the run may take.
        limit: u64,
    },
    /// A row that was given to the writer is not a row.
    #[error("prompt `{prompt_id}`, layer {layer}, `{point}`: {message}")]
    Record {
        /// The prompt.
        prompt_id: String,
        /// The point.
        point: &'static str,
        /// The layer.
        layer: i32,
        /// What is wrong.
        message: String,
    },
}

impl TraceError {
    /// What the system said when this was done to that path: `.map_err(TraceError::io("read", &path))`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TraceError {
        let path = path.to_owned();
        move |source| TraceError::Io { action, path, source }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            TraceError::Io { .. } => "check that the path exists, that its disk has room and that you may use it",
            TraceError::NotARun { .. } => "name the folder that holds manifest.json or traces/, or a .jsonl file",
            TraceError::InUse { .. } => "let it end, or name another folder",
            TraceError::NotOurs { .. } => "name another folder, or empty this one yourself",
            TraceError::RunExists { .. } => "name another folder, or ask for this one to be overwritten",
            TraceError::Manifest { .. } => {
                "correct the manifest by docs/trace-format.md, or take it away: traces without one can be read"
            }
            TraceError::RoundMissing { .. } => {
                "put back the folder that was recorded with the run, or move the later rounds away: without it nothing is known of them"
            }
            TraceError::Promise { .. } => {
                "judge it prompt by prompt (driftprobe analyze --by-prompt), or correct the manifest"
            }
            TraceError::Schema { .. } => {
                "this program reads schema 1; use the version of driftprobe that wrote the run"
            }
            TraceError::Event { .. } => "correct the engine that wrote this line, by docs/trace-format.md",
            TraceError::Torn { .. } => {
                "the file was damaged after the run had ended: copy it again, or set `complete` to false"
            }
            TraceError::Compressed { .. } => "decompress it (gunzip), or judge the run as a whole",
            TraceError::Changed { .. } => "let the engine end before the run is judged",
            TraceError::Dataset { hint, .. } => hint,
            TraceError::Payload { .. } => "copy the run's tensors/ again, or correct the engine's `payload`",
            TraceError::PayloadHash { .. } => {
                "the tensor is not the one that was hashed: copy tensors/ again, or correct the engine's `payload` or `hash`"
            }
            TraceError::Limit { .. } => "rows took more than was planned for them: allow more bytes, or trace less",
            TraceError::Record { .. } => "correct the engine that records this row",
        }
    }
}

/// Why bytes are not a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The number of bytes is not dtype × shape.
    #[error("{bytes} bytes are not a row of dtype {dtype} and shape {shape:?}")]
    Length {
        /// Storage type.
        dtype: Dtype,
        /// Shape.
        shape: Vec<u64>,
        /// Bytes given.
        bytes: usize,
    },
    /// The shape's element count does not fit.
    #[error("shape {shape:?} has more elements than can be counted")]
    Overflow {
        /// Shape.
        shape: Vec<u64>,
    },
}
