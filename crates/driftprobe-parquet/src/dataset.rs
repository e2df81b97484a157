//! Opening a run of a dataset: its partitions found, held against its inventory, and read as the run's folder would be.

use crate::error::{EXPORT_AGAIN, fault, io_error};
use crate::layout::{
    Content, ENDING, INVENTORY, Inventory, MANIFEST, Part, Partition, name_of, parquet_files, partitions, run_folders,
};
use crate::store::Payloads;
use crate::table::Table;
use driftprobe_trace::{
    ALIGNED_DIR, Event, Manifest, Mode, Note, Reading, Row, Rows, Run, SEARCH_PREFIX, Source, Store, TraceError,
};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of runs that an error lists.
const NAMED_MAX: usize = 5;

/// Whether what lies at `path` is a dataset, a run or a partition of one, or a file of one: anything but a folder of JSON.
pub fn is_dataset(path: &Path) -> bool {
    if path.is_file() {
        return name_of(path).ends_with(ENDING);
    }
    let partitioned = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let folder = ["run=", "search=", "mode=", "repeat="].iter().any(|key| name.starts_with(key));
        (folder && entry.path().is_dir()) || name == MANIFEST || name.ends_with(ENDING)
    };
    fs::read_dir(path).is_ok_and(|mut all| all.any(|entry| entry.is_ok_and(partitioned)))
}

/// Folders of the runs at `path`: those of a dataset, or the one that it is itself.
///
/// # Errors
/// If the folder cannot be listed.
pub fn runs(path: &Path) -> Result<Vec<PathBuf>, TraceError> {
    let all = if path.is_dir() { run_folders(path)? } else { vec![] };
    Ok(if all.is_empty() { vec![path.to_owned()] } else { all })
}

/// Opens the run at `path`: a dataset of one run, a run's folder in a dataset, one partition, or one file.
///
/// # Errors
/// Whatever [`Run::open`] would refuse of the same events; a part that is missing; a file that is damaged or of other
/// columns; a dataset of several runs.
pub fn open(path: &Path) -> Result<Run, TraceError> {
    let folders = runs(path)?;
    match folders.as_slice() {
        [one] if one.is_file() => {
            let read = Leaf { files: vec![one.clone()], dir: one.clone(), manifest: None, part: None };
            read.open(None)
        }
        [one] => Recordings::open(one)?.main(),
        several => {
            let names: Vec<String> = several.iter().take(NAMED_MAX).map(|folder| name_of(folder)).collect();
            let more = if several.len() > NAMED_MAX { ", …" } else { "" };
            let what = format!("holds {} runs: {}{more}", several.len(), names.join(", "));
            Err(fault(path, "", what, "name one of these folders, or judge all of them with --by-prompt"))
        }
    }
}

/// The recordings of one run.
#[derive(Debug)]
struct Recordings {
    folder: PathBuf,
    found: BTreeMap<Partition, PathBuf>,
    inventory: Option<Inventory>,
}

impl Recordings {
    fn open(folder: &Path) -> Result<Arc<Recordings>, TraceError> {
        fs::metadata(folder).map_err(io_error("open", folder))?;
        let found = partitions(folder)?;
        let inventory = Inventory::read(folder)?;
        if let Some(inventory) = &inventory {
            inventory.check(folder, &found)?;
        }
        if found.is_empty() {
            return Err(TraceError::NotARun { path: folder.to_owned() });
        }
        Ok(Arc::new(Recordings { folder: folder.to_owned(), found, inventory }))
    }

    /// Modes of a round (0: the run itself): that of the recording, and the other one that lies inside it.
    fn modes(&self, search: u32) -> Result<Option<(&str, Option<&str>)>, TraceError> {
        let of = self.found.keys().filter(|partition| partition.search == search);
        let all: BTreeSet<&str> = of.map(|partition| partition.mode.as_str()).collect();
        let aligned = Mode::KvAligned.id();
        let others: Vec<&str> = all.iter().copied().filter(|mode| *mode != aligned).collect();
        match (others.as_slice(), all.contains(aligned)) {
            ([], false) => Ok(None),
            ([], true) => Ok(Some((aligned, None))),
            ([own], inside) => Ok(Some((own, inside.then_some(aligned)))),
            (several, _) => {
                let what = format!("search={search} has the modes {}: one run has one", several.join(", "));
                Err(fault(&self.folder, "", what, EXPORT_AGAIN))
            }
        }
    }

    fn main(self: Arc<Recordings>) -> Result<Run, TraceError> {
        match self.modes(0)? {
            Some((mode, _)) => self.recording(0, mode),
            None => Err(fault(&self.folder, "", "the partition search=0, the run itself, is missing", EXPORT_AGAIN)),
        }
    }

    /// A recording with its repeats.
    fn recording(self: &Arc<Recordings>, search: u32, mode: &str) -> Result<Run, TraceError> {
        let one = |repeat: u32| {
            let partition = Partition { search, mode: mode.to_owned(), repeat };
            let Some(dir) = self.found.get(&partition) else {
                let dir = self.folder.join(partition.folder());
                return Err(fault(&dir, "", "the partition is missing", EXPORT_AGAIN));
            };
            // What lies inside a run lies inside none of its repeats.
            let of = (repeat == 0).then(|| (self.clone(), search, mode));
            self.leaf(&partition, dir)?.open(of)
        };
        let mut run = one(0)?;
        let repeats = self.found.keys().filter(|at| at.search == search && at.mode == mode && at.repeat > 0);
        for repeat in repeats.map(|partition| partition.repeat) {
            run.push_repeat(repeat, one(repeat)?)?;
        }
        let own = Partition { search, mode: mode.to_owned(), repeat: 0 };
        let empty = self.part(&own).into_iter().flat_map(|part| &part.empty_repeats);
        run.notes.extend(empty.map(|number| Note::EmptyRepeat { number: *number }));
        if search == 0 && self.modes(0)?.is_some_and(|(own, _)| own == mode) {
            run.dir.clone_from(&self.folder);
        }
        Ok(run)
    }

    fn part(&self, partition: &Partition) -> Option<&Part> {
        self.inventory.as_ref()?.parts.iter().find(|part| part.partition == *partition)
    }

    fn leaf(&self, partition: &Partition, dir: &Path) -> Result<Leaf, TraceError> {
        let path = dir.join(MANIFEST);
        let manifest = match path.is_file() {
            true => {
                let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
                Some(Manifest::parse(&text, &path)?)
            }
            false => None,
        };
        Ok(Leaf { files: parquet_files(dir)?, dir: dir.to_owned(), manifest, part: self.part(partition).cloned() })
    }
}

/// One partition on its way to a run.
struct Leaf {
    dir: PathBuf,
    files: Vec<PathBuf>,
    manifest: Option<Manifest>,
    part: Option<Part>,
}

/// Of which recordings a run is one, and which: round and mode.
type Of<'a> = Option<(Arc<Recordings>, u32, &'a str)>;

impl Leaf {
    fn open(self, of: Of<'_>) -> Result<Run, TraceError> {
        let complete = self.manifest.as_ref().is_some_and(|manifest| manifest.complete);
        let mut whole = Reading::new(complete);
        let mut payloads = Payloads::default();
        for path in &self.files {
            let name = name_of(path);
            let table = Table::open(path, &name)?;
            if let Some(listed) = self.part.as_ref().and_then(|part| part.files.get(&name)) {
                check_content(path, listed, &table)?;
            }
            let groups: Vec<_> = (0..table.groups()).into_par_iter().map(|group| table.read(group, complete)).collect();
            let mut places = Vec::new();
            for group in groups {
                let group = group?;
                whole.append(group.reading);
                places.extend(group.payloads);
            }
            payloads.add(table, places);
        }
        let ignored = self.part.iter().flat_map(|part| part.ignored.clone()).map(|name| Note::IgnoredFile { name });
        for (file, line) in self.part.iter().flat_map(|part| &part.torn) {
            whole.note_torn(Source { file: Arc::from(file.as_str()), line: *line });
        }
        let of = of.map(|(recordings, search, mode)| Place { recordings, search, mode: mode.to_owned() });
        let mut run = whole.into_stored(self.dir, self.manifest, Arc::new(Lying { payloads, of }));
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

/// Which recording a run is.
#[derive(Debug)]
struct Place {
    recordings: Arc<Recordings>,
    search: u32,
    mode: String,
}

/// What a run of a dataset reads on demand.
#[derive(Debug)]
struct Lying {
    payloads: Payloads,
    of: Option<Place>,
}

impl Rows for Lying {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        self.payloads.row(event)
    }
}

impl Store for Lying {
    fn inner(&self, name: &str) -> Result<Option<Run>, TraceError> {
        let Some(Place { recordings, search, mode }) = &self.of else { return Ok(None) };
        let Some((own, inside)) = recordings.modes(*search)? else { return Ok(None) };
        if own != mode {
            return Ok(None);
        }
        if name == ALIGNED_DIR {
            return inside.map(|mode| recordings.recording(*search, mode)).transpose();
        }
        let round = name.strip_prefix(SEARCH_PREFIX).and_then(|number| number.parse::<u32>().ok());
        match round.filter(|round| *round > 0 && *search == 0) {
            Some(round) => recordings.modes(round)?.map(|(mode, _)| recordings.recording(round, mode)).transpose(),
            None => Ok(None),
        }
    }
}
