//! Lines of JSON from a file that may be compressed, one at a time, of limited length, each error with its line.

use crate::error::{ImportError, Result};
use driftprobe_trace::{Gunzip, quote_bare_words};
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// A file's lines.
pub(crate) struct JsonLines {
    path: PathBuf,
    lines: BufReader<Box<dyn Read>>,
    number: u64,
    bytes_max: u64,
    hint: &'static str,
    line: Vec<u8>,
}

impl JsonLines {
    /// Opens a file whose lines have at most so many bytes; a name that ends in `.gz` is decompressed. `hint` says what a
    /// line looks like.
    pub(crate) fn open(path: &Path, bytes_max: u64, hint: &'static str) -> Result<JsonLines> {
        let file = File::open(path).map_err(|e| ImportError::io("open", path, &e))?;
        let plain: Box<dyn Read> = match path.extension().is_some_and(|extension| extension == "gz") {
            true => Box::new(Gunzip::new(BufReader::new(file))),
            false => Box::new(file),
        };
        Ok(JsonLines::of(path, plain, bytes_max, hint))
    }

    /// The lines that this reader gives; `path` is what errors call their file.
    pub(crate) fn of(path: &Path, plain: Box<dyn Read>, bytes_max: u64, hint: &'static str) -> JsonLines {
        let lines = BufReader::new(plain);
        JsonLines { path: path.to_owned(), lines, number: 0, bytes_max, hint, line: Vec::new() }
    }

    /// An error at the line that was read last.
    pub(crate) fn refuse(&self, what: impl Display) -> ImportError {
        ImportError::new(format!("{}:{}: {what}", self.path.display(), self.number), self.hint)
    }

    /// The number of the line that was read last, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The line that was read last, as it stands there.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.line
    }

    /// The next line; `None` at the end. NaN and infinities may stand as bare words, as Python writes them.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.lines).take(self.bytes_max + 1).read_until(b'\n', &mut self.line);
        read.map_err(|e| self.refuse(e))?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.len() as u64 > self.bytes_max {
            return Err(self.refuse(format!("longer than {} bytes", self.bytes_max)));
        }
        let text = std::str::from_utf8(&self.line).map_err(|e| self.refuse(e))?;
        let quoted = quote_bare_words(text).map(|(quoted, _)| quoted);
        let value = serde_json::from_str(quoted.as_deref().unwrap_or(text));
        value.map(Some).map_err(|e| self.refuse(without_line(&e)))
    }
}

/// What serde_json says, with the column alone: the line that it counts is always the first.
fn without_line(error: &serde_json::Error) -> String {
    let told = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    told.strip_suffix(&place).map_or(told.clone(), |what| format!("{what} (column {})", error.column()))
}
