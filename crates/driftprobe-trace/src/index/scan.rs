//! The pass over a run's files that finds each prompt's ranges.

use crate::hash::xxh3_128;
use crate::lines::Lines;
use crate::reading::Reading;
use crate::run::{TENSORS_DIR, TraceFile, each_line};
use crate::scalar::Text;
use crate::{Source, TraceError};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// Lines of one prompt that follow each other in one file.
pub struct Range {
    /// Index of the file.
    pub file: u32,
    /// Number of the first line, from 1.
    pub line: u64,
    /// How many lines.
    pub lines: u64,
    /// Offset of the first byte.
    pub start: u64,
    /// Bytes, line feeds included.
    pub len: u64,
    /// Over its lines.
    pub hash: u128,
}

/// A hash over lines.
#[derive(Default)]
pub struct LinesHash(Xxh3);

impl LinesHash {
    pub fn add(&mut self, line: &[u8]) {
        self.0.update(line);
        self.0.update(b"\n");
    }

    pub fn digest(&self) -> u128 {
        self.0.digest128()
    }
}

/// One prompt's lines.
#[derive(Default)]
pub struct Entry {
    /// Where they are, in the order of reading.
    pub ranges: Vec<Range>,
    /// Over their bytes and places.
    pub hash: u128,
}

/// What of a line says whose it is.
#[derive(Deserialize)]
struct Owner<'a> {
    #[serde(borrow, default)]
    event: Option<Text<'a>>,
    #[serde(borrow, default)]
    prompt_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    payload: Option<Kept<'a>>,
}

/// In which file its row lies.
#[derive(Deserialize)]
struct Kept<'a> {
    #[serde(borrow)]
    file: Text<'a>,
}

/// A range that may still grow.
struct Open {
    prompt: Arc<str>,
    range: Range,
    hasher: LinesHash,
}

/// What the pass has found so far.
pub struct Scan {
    pub entries: BTreeMap<Arc<str>, Entry>,
    pub events: u64,
    /// Reads the lines that are no prompt's.
    pub unowned: Reading,
    /// Payload files but for those that lie where they mostly do, in [`TENSORS_DIR`] itself.
    pub elsewhere: BTreeSet<String>,
    complete: bool,
}

impl Scan {
    pub fn new(complete: bool) -> Scan {
        let unowned = Reading::new(complete);
        Scan { entries: BTreeMap::new(), events: 0, unowned, elsewhere: BTreeSet::new(), complete }
    }

    /// Finds the ranges of one file.
    pub fn file(&mut self, number: u32, file: &TraceFile) -> Result<(), TraceError> {
        if file.name.ends_with(".gz") {
            return Err(TraceError::Compressed { path: file.path.clone() });
        }
        let mut lines = Lines::open(&file.path).map_err(TraceError::io("open", &file.path))?;
        let mut open: Option<Open> = None;
        let mut at = 0u64;
        let torn = each_line(file, &mut lines, &mut |line, source, ended| {
            let len = line.len() as u64 + u64::from(ended);
            let (start, number_of_line) = (at, source.line);
            at += len;
            let Some(prompt) = self.owner(line, source, open.as_ref())? else {
                self.close(open.take(), &file.name);
                return Ok(());
            };
            if open.as_ref().is_none_or(|open| open.prompt != prompt) {
                self.close(open.take(), &file.name);
            }
            let grown = open.get_or_insert_with(|| Open {
                prompt,
                range: Range { file: number, line: number_of_line, lines: 0, start, len: 0, hash: 0 },
                hasher: LinesHash::default(),
            });
            grown.hasher.add(line);
            grown.range.len += len;
            grown.range.lines += 1;
            self.events += 1;
            Ok(())
        })?;
        self.close(open, &file.name);
        torn.map_or(Ok(()), |line| self.unowned.torn(file, line))
    }

    /// The prompt that a line is of; `None` for one that is no event of a prompt, which is noted.
    fn owner(
        &mut self,
        line: &[u8],
        source: Source,
        open: Option<&Open>,
    ) -> Result<Option<Arc<str>>, (String, String)> {
        let text = std::str::from_utf8(line).ok();
        let quick = text.and_then(|text| serde_json::from_str::<Owner>(text).ok());
        if let Some(Owner { event: Some(Text(event)), prompt_id: Some(Text(id)), payload }) = &quick
            && matches!(event.as_ref(), "stage_trace" | "stage_logits")
        {
            payload.iter().for_each(|Kept { file: Text(file) }| self.keep(file));
            return Ok(Some(self.shared(id, open)));
        }
        // Empty lines, other kinds of events, bare NaN, and whatever is refused.
        let mut alone = Reading::new(self.complete);
        alone.line(line, source.clone())?;
        alone.events.iter().filter_map(|event| event.payload.as_ref()).for_each(|payload| self.keep(&payload.file));
        let found = alone.events.first().map(|event| &event.prompt_id);
        match found.or(alone.unmapped.first().map(|event| &event.prompt_id)) {
            Some(id) => Ok(Some(self.shared(id, open))),
            None => self.unowned.line(line, source).map(|()| None),
        }
    }

    fn keep(&mut self, file: &str) {
        let usual = file.strip_prefix(TENSORS_DIR).and_then(|rest| rest.strip_prefix('/'));
        if usual.is_none_or(|name| name.contains('/')) && !self.elsewhere.contains(file) {
            self.elsewhere.insert(file.to_owned());
        }
    }

    fn shared(&mut self, id: &str, open: Option<&Open>) -> Arc<str> {
        match open {
            Some(open) if &*open.prompt == id => open.prompt.clone(),
            _ => self.entries.get_key_value(id).map_or_else(|| Arc::from(id), |(known, _)| known.clone()),
        }
    }

    fn close(&mut self, open: Option<Open>, name: &str) {
        let Some(Open { prompt, mut range, hasher }) = open else { return };
        let entry = self.entries.entry(prompt).or_default();
        let mut bytes = entry.hash.to_le_bytes().to_vec();
        range.hash = hasher.digest();
        bytes.extend(range.hash.to_le_bytes());
        bytes.extend(range.line.to_le_bytes());
        bytes.extend(name.as_bytes());
        entry.hash = xxh3_128(&bytes);
        entry.ranges.push(range);
    }
}
