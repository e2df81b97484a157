//! What has been read of a run so far, out of lines of JSON or of rows that lie elsewhere: all of it passes here.

use crate::accept::{Accepted, Interner, Unmapped, accept};
use crate::json::Located;
use crate::lines::Lines;
use crate::notes::Notes;
use crate::payload::Payloads;
use crate::raw::{RawEvent, parse_line};
use crate::run::{Store, TraceFile, each_line};
use crate::seen::Seen;
use crate::{Event, Manifest, Run, Source, TraceError};
use std::path::PathBuf;
use std::sync::Arc;

/// What has been read so far. Each event is accepted, noted or refused by the same code, wherever it lay.
pub struct Reading {
    complete: bool,
    pub(crate) events: Vec<Event>,
    pub(crate) unmapped: Vec<Unmapped>,
    pub(crate) notes: Notes,
    names: Interner,
}

impl Reading {
    /// Nothing yet of a run whose manifest says this of `complete`.
    pub fn new(complete: bool) -> Reading {
        Reading {
            complete,
            events: Vec::new(),
            unmapped: Vec::new(),
            notes: Notes::default(),
            names: Interner::default(),
        }
    }

    /// Takes one event.
    ///
    /// # Errors
    /// The key that is missing or makes no sense, and why.
    pub fn take(&mut self, raw: RawEvent<'_>, source: Source) -> Result<(), (String, String)> {
        self.accept(raw, source).map_err(|e| (e.key, e.message))
    }

    /// Notes that the last line of a file was cut off when the run was put elsewhere.
    pub fn note_torn(&mut self, source: Source) {
        self.notes.torn.push(source);
    }

    /// Adds what was read behind it.
    pub fn append(&mut self, mut behind: Reading) {
        self.events.append(&mut behind.events);
        self.unmapped.append(&mut behind.unmapped);
        self.notes.append(behind.notes);
    }

    /// The events so far, in the order in which they were taken.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Events so far of points that this version does not know.
    pub fn unmapped(&self) -> &[Unmapped] {
        &self.unmapped
    }

    /// The run that was read, out of the folder `dir`.
    pub fn into_run(self, dir: PathBuf, manifest: Option<Manifest>) -> Run {
        let notes = self.notes.into_list(manifest.as_ref().map(|manifest| manifest.complete));
        let (events, unmapped) = (self.events, self.unmapped);
        let payloads = Payloads::default();
        Run {
            dir,
            manifest,
            events,
            unmapped,
            notes,
            repeats: Vec::new(),
            payloads,
            store: None,
            seen: Seen::default(),
        }
    }

    /// The run that was read out of `store`, which lies at `dir`.
    pub fn into_stored(self, dir: PathBuf, manifest: Option<Manifest>, store: Arc<dyn Store>) -> Run {
        Run { store: Some(store), ..self.into_run(dir, manifest) }
    }

    /// Reads all lines of a file, or of a part of it.
    pub(crate) fn lines(&mut self, file: &TraceFile, lines: &mut Lines) -> Result<(), TraceError> {
        match each_line(file, lines, &mut |line, source, _| self.line(line, source))? {
            None => Ok(()),
            Some(line) => self.torn(file, line),
        }
    }

    pub(crate) fn torn(&mut self, file: &TraceFile, line: u64) -> Result<(), TraceError> {
        if self.complete {
            return Err(TraceError::Torn { path: file.path.clone(), line });
        }
        self.notes.torn.push(Source { file: file.name.clone(), line });
        Ok(())
    }

    pub(crate) fn line(&mut self, line: &[u8], source: Source) -> Result<(), (String, String)> {
        match text_of(line, &source)? {
            "" => Ok(()),
            text => parse_line(text, |raw| self.accept(raw, source)).map_err(|e| (e.key, e.message)),
        }
    }

    fn accept(&mut self, raw: RawEvent<'_>, source: Source) -> Result<(), Located> {
        match accept(raw, source, &mut self.names, &mut self.notes)? {
            Accepted::Event(event) => self.events.push(event),
            Accepted::Unmapped(event) => {
                self.notes.unknown_point(&event.point);
                self.unmapped.push(event);
            }
            Accepted::Other => {}
        }
        Ok(())
    }
}

/// A line's text without what surrounds its JSON.
pub(crate) fn text_of<'a>(line: &'a [u8], source: &Source) -> Result<&'a str, (String, String)> {
    let text = std::str::from_utf8(line).map_err(|e| (String::new(), format!("not UTF-8: {e}")))?;
    Ok(if source.line == 1 { text.trim_start_matches('\u{feff}') } else { text }.trim())
}
