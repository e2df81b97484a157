//! A run's events one after the other, as they stand there and as they are accepted: for whoever puts them elsewhere.

use crate::accept::{Accepted, Interner, accept};
use crate::json::Located;
use crate::lines::Lines;
use crate::manifest::MANIFEST_FILE;
use crate::notes::Notes;
use crate::raw::{RawEvent, parse_line};
use crate::reading::text_of;
use crate::run::{each_line, layout, manifest_text};
use crate::{Event, Manifest, Rows, Run, Source, TraceError};
use std::path::{Path, PathBuf};

/// What one run's folder holds beside its events, those inside it left out.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The folder; payload paths are relative to it.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: Option<Manifest>,
    /// The same, as it stands there.
    pub manifest_text: Option<String>,
    /// Names of files that are not read.
    pub ignored: Vec<String>,
    /// Last lines that are cut off.
    pub torn: Vec<Source>,
}

/// One event of a run.
pub struct Given<'a> {
    /// As it stands there.
    pub raw: RawEvent<'a>,
    /// As it was accepted; `None`: of a point or a kind that this version does not know.
    pub event: Option<&'a Event>,
    /// Where it stands.
    pub source: &'a Source,
    /// Its row, if it has one, comes from here.
    pub rows: &'a dyn Rows,
}

/// Gives the events at `path` (what [`Run::open`](crate::Run::open) takes, its repeats left out) to `take`, in order.
///
/// # Errors
/// As [`Run::open`](crate::Run::open), and what `take` says.
pub fn each_event(
    path: &Path,
    take: &mut dyn FnMut(Given<'_>) -> Result<(), TraceError>,
) -> Result<Folder, TraceError> {
    let found = layout(path)?;
    let manifest_path = found.dir.join(MANIFEST_FILE);
    let manifest_text = match &found.manifest {
        Some(_) => manifest_text(&manifest_path)?,
        None => None,
    };
    let complete = found.manifest.as_ref().is_some_and(|manifest| manifest.complete);
    let rows = Run { dir: found.dir.clone(), ..Run::default() };
    let (mut names, mut notes, mut torn) = (Interner::default(), Notes::default(), Vec::new());
    for file in &found.files {
        let mut lines = Lines::open(&file.path).map_err(TraceError::io("open", &file.path))?;
        let mut stopped = None;
        let end = each_line(file, &mut lines, &mut |line, source, _| {
            let text = text_of(line, &source)?;
            if text.is_empty() {
                return Ok(());
            }
            let one = |raw: RawEvent<'_>| {
                let accepted = accept(raw.clone(), source.clone(), &mut names, &mut notes)?;
                let event = if let Accepted::Event(event) = &accepted { Some(event) } else { None };
                take(Given { raw, event, source: &source, rows: &rows }).map_err(|e| {
                    stopped = Some(e);
                    Located { line: 1, key: String::new(), message: String::new() }
                })
            };
            parse_line(text, one).map_err(|e| (e.key, e.message))
        });
        if let Some(e) = stopped {
            return Err(e);
        }
        match end? {
            Some(line) if complete => return Err(TraceError::Torn { path: file.path.clone(), line }),
            Some(line) => torn.push(Source { file: file.name.clone(), line }),
            None => {}
        }
    }
    found.seen.unchanged()?;
    Ok(Folder { dir: found.dir, manifest: found.manifest, manifest_text, ignored: found.ignored, torn })
}
