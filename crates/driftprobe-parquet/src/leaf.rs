//! One partition: its files held against the inventory, its events read, its payloads there when they are asked for.

use crate::error::{EXPORT_AGAIN, fault};
use crate::layout::{Content, INVENTORY, Part, name_of};
use crate::recordings::Recordings;
use crate::store::Payloads;
use crate::table::Table;
use driftprobe_trace::{ALIGNED_DIR, Event, Manifest, Note, Reading, Row, Rows, Run, Source, Store, TraceError};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One partition, not read yet.
pub struct Leaf {
    /// Its folder.
    pub dir: PathBuf,
    /// Its files.
    pub files: Vec<PathBuf>,
    /// Its manifest.
    pub manifest: Option<Manifest>,
    /// What the inventory says of it.
    pub part: Option<Part>,
}

/// Of which recordings a run is one, and which: round and mode.
type Of<'a> = Option<(Arc<Recordings>, u32, &'a str)>;

impl Leaf {
    /// A file that stands for itself.
    pub fn of_file(path: &Path) -> Leaf {
        Leaf { files: vec![path.to_owned()], dir: path.to_owned(), manifest: None, part: None }
    }

    /// Opens its files.
    ///
    /// # Errors
    /// If one is damaged, of other columns, or not the one that the inventory lists.
    pub fn tables(&self) -> Result<Vec<Arc<Table>>, TraceError> {
        let open = |path: &PathBuf| {
            let name = name_of(path);
            let table = Table::open(path, &name)?;
            if let Some(listed) = self.part.as_ref().and_then(|part| part.files.get(&name)) {
                check_content(path, listed, &table)?;
            }
            Ok(Arc::new(table))
        };
        self.files.iter().map(open).collect()
    }

    /// Notes of files in the folder that it was made of, which no reader reads.
    pub fn ignored(&self) -> Vec<Note> {
        let names = self.part.iter().flat_map(|part| part.ignored.clone());
        names.map(|name| Note::IgnoredFile { name }).collect()
    }

    /// Notes what was cut off when it was exported.
    pub fn note_torn(&self, reading: &mut Reading) {
        for (file, line) in self.part.iter().flat_map(|part| &part.torn) {
            reading.note_torn(Source { file: Arc::from(file.as_str()), line: *line });
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// Whatever is refused.
    pub fn open(self, of: Of<'_>) -> Result<Run, TraceError> {
        let tables = self.tables()?;
        self.read(tables, of)
    }

    /// Reads it from its open files.
    ///
    /// # Errors
    /// Whatever is refused.
    pub fn read(self, tables: Vec<Arc<Table>>, of: Of<'_>) -> Result<Run, TraceError> {
        let complete = self.manifest.as_ref().is_some_and(|manifest| manifest.complete);
        let mut whole = Reading::new(complete);
        let mut payloads = Payloads::default();
        for table in tables {
            let read = |group| table.read(group, complete, None);
            let groups: Vec<_> = (0..table.groups()).into_par_iter().map(read).collect();
            let mut places = Vec::new();
            for group in groups {
                let group = group?;
                whole.append(group.reading);
                places.extend(group.payloads);
            }
            payloads.add(table, places);
        }
        self.note_torn(&mut whole);
        let ignored = self.ignored();
        let mut run = whole.into_stored(self.dir, self.manifest, Arc::new(Lying::new(payloads, of)));
        run.notes.extend(ignored);
        Ok(run)
    }
}

/// Holds a file against what the run's inventory says of it.
fn check_content(path: &Path, listed: &Content, table: &Table) -> Result<(), TraceError> {
    let found = table.content()?;
    let what = if found.rows != listed.rows {
        format!("expected {} rows, as {INVENTORY} says, found {}", listed.rows, found.rows)
    } else if found.hash != listed.hash {
        format!("not the bytes that were written: {INVENTORY} says {}, found {}", listed.hash, found.hash)
    } else {
        return Ok(());
    };
    Err(fault(path, "", what, EXPORT_AGAIN))
}

/// What a run of a dataset reads on demand.
#[derive(Debug)]
pub struct Lying {
    payloads: Payloads,
    of: Option<(Arc<Recordings>, u32, String)>,
}

impl Lying {
    /// Payloads, and the recordings of which the run is one.
    pub fn new(payloads: Payloads, of: Of<'_>) -> Lying {
        Lying { payloads, of: of.map(|(recordings, search, mode)| (recordings, search, mode.to_owned())) }
    }
}

impl Rows for Lying {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        self.payloads.row(event)
    }
}

impl Store for Lying {
    fn inner(&self, name: &str) -> Result<Option<Run>, TraceError> {
        let Some((recordings, search, mode)) = &self.of else { return Ok(None) };
        let found = match (search, name) {
            (search, ALIGNED_DIR) => recordings.aligned(*search)?.filter(|(_, inside)| inside != mode),
            (0, name) if recordings.own()?.1 == *mode => recordings.inside(name)?,
            _ => None,
        };
        found.map(|(search, mode)| recordings.recording(search, &mode)).transpose()
    }
}
