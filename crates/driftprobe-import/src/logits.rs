//! Dumps of logits: `logits.jsonl(.gz)`, a line a token, and `metadata.json` beside it, which says what they are to be.

use crate::error::{ImportError, Result};
use crate::json_lines::JsonLines;
use driftprobe_trace::{Num, Phase, read_file};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::{Cursor, ErrorKind};
use std::path::{Path, PathBuf};

/// Longest line of logits.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Largest `metadata.json`.
const METADATA_BYTES_MAX: u64 = 64 << 20;
/// Names that the file may have.
const NAMES: [&str; 2] = ["logits.jsonl.gz", "logits.jsonl"];

/// A dump: a folder with logits, and what it says of itself.
#[derive(Clone, Debug)]
pub struct LogitsDump {
    /// The folder.
    pub folder: PathBuf,
    /// The file of the logits.
    pub file: PathBuf,
    /// `metadata.json`, if there is one.
    pub metadata: Option<Map<String, Value>>,
}

/// One token's logits.
#[derive(Clone, Debug, PartialEq)]
pub struct LogitsLine {
    /// Index of the token.
    pub index: u64,
    /// The token that the line names: fed or drawn, that is not told.
    pub token: Option<u32>,
    /// The logits.
    pub logits: Vec<f32>,
}

impl LogitsDump {
    /// The dump that lies in a folder itself; none if there are no logits.
    ///
    /// # Errors
    /// If its metadata are no JSON object.
    pub fn open(folder: &Path) -> Result<Option<LogitsDump>> {
        let Some(file) = NAMES.iter().map(|name| folder.join(name)).find(|file| file.is_file()) else {
            return Ok(None);
        };
        Ok(Some(LogitsDump { folder: folder.to_owned(), file, metadata: metadata(folder)? }))
    }

    /// A number of the metadata, by its path; `1`, `true` and `"1"` are alike.
    pub fn number(&self, path: &[&str]) -> Option<u64> {
        let mut value = self.metadata.as_ref()?.get(*path.first()?)?;
        for key in path.iter().skip(1) {
            value = value.get(key)?;
        }
        match value {
            Value::Bool(is) => Some(u64::from(*is)),
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_u64(),
        }
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key)?.as_str()
    }

    /// The phase that the metadata name, or else the folder.
    pub fn phase(&self) -> Option<Phase> {
        let stated = ["phase", "mode"].into_iter().find_map(|key| Phase::parse(self.text(key)?));
        stated.or_else(|| Phase::parse(&self.folder.file_name()?.to_string_lossy()))
    }

    /// Its lines, in the order of the file.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn lines(&self) -> Result<LogitsLines> {
        LogitsLines::open(&self.file)
    }
}

/// `metadata.json` of a folder, if there is one.
///
/// # Errors
/// If it cannot be read, or is no JSON object.
pub fn metadata(folder: &Path) -> Result<Option<Map<String, Value>>> {
    let path = folder.join("metadata.json");
    let text = match read_file(&path, METADATA_BYTES_MAX) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ImportError::io("read", &path, &e)),
    };
    let hint = "it is the JSON object that GRETA writes beside its logits";
    serde_json::from_slice(&text).map(Some).map_err(|e| ImportError::file(&path, e, hint))
}

/// What a line looks like.
const LINE_HINT: &str =
    "a line is {\"token_idx\": 5, \"token_id\": 42, \"logits\": [0.5, …]}; copy the dump again if it is cut off";

/// The lines of a file of logits, one at a time. After an error there are no more.
pub struct LogitsLines {
    lines: JsonLines,
    ended: bool,
}

#[derive(Deserialize)]
struct Line {
    token_idx: u64,
    #[serde(default)]
    token_id: Option<u32>,
    logits: Vec<Num>,
}

impl LogitsLines {
    /// Opens a file; a name that ends in `.gz` is decompressed.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<LogitsLines> {
        Ok(LogitsLines { lines: JsonLines::open(path, LINE_BYTES_MAX, LINE_HINT)?, ended: false })
    }

    /// The lines of these bytes; `path` is what errors call their file.
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> LogitsLines {
        let lines = JsonLines::of(path, Box::new(Cursor::new(bytes)), LINE_BYTES_MAX, LINE_HINT);
        LogitsLines { lines, ended: false }
    }

    fn read(&mut self) -> Result<Option<LogitsLine>> {
        let line: Option<Line> = self.lines.next()?;
        Ok(line.map(|line| {
            let logits = line.logits.iter().map(|Num(value)| *value as f32).collect();
            LogitsLine { index: line.token_idx, token: line.token_id, logits }
        }))
    }
}

impl Iterator for LogitsLines {
    type Item = Result<LogitsLine>;

    fn next(&mut self) -> Option<Result<LogitsLine>> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        self.ended = !matches!(read, Some(Ok(_)));
        read
    }
}
