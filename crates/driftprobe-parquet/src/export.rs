//! A run's folder made into partitions of a dataset: whole, or not there at all.

use crate::columns::Entry;
use crate::error::fault;
use crate::layout::{INVENTORY, Inventory, MANIFEST, Part, Partition, mode_of};
use crate::place::Place;
use crate::table::Table;
use crate::write::Writer;
use driftprobe_trace::{
    ALIGNED_DIR, Folder, Given, Mode, Row, Run, SEARCH_PREFIX, Text, TraceError, check_rounds, each_event, repeat_dirs,
    xxh3_128_text,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What is exported, and how.
pub struct Export<'a> {
    /// The run's folder, or whatever else [`Run::open`] takes.
    pub run: &'a Path,
    /// Its name in the dataset.
    pub name: &'a str,
    /// The dataset's folder, which is made if it is not there.
    pub dataset: &'a Path,
    /// Whether the rows' bytes go along.
    pub payloads: bool,
    /// Whether a run of this name that lies there is replaced.
    pub force: bool,
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// The run's folder in the dataset.
    pub folder: PathBuf,
    /// Rows of the table, of all its partitions.
    pub rows: u64,
    /// Of them rows with a payload.
    pub payloads: u64,
    /// Bytes of the Parquet files.
    pub bytes: u64,
    /// Partitions.
    pub parts: usize,
}

/// The name of a partition's file.
const FILE: &str = "part-0.parquet";

/// Exports one run: its own recording, the other mode, self-repeats and rounds of a search.
///
/// # Errors
/// Whatever [`Run::open`] would refuse, a payload that cannot be read, no name, a run that lies there already, and what
/// the system says. Nothing is left behind then.
pub fn export(wanted: &Export<'_>) -> Result<Exported, TraceError> {
    if wanted.name.trim().is_empty() {
        let hint = "give it a --name, or leave --name out: a run is called by its folder";
        return Err(fault(wanted.dataset, "", "a run without a name has no place in a dataset", hint));
    }
    // Hidden from readers until it is whole.
    let place = Place::begin(wanted.dataset, wanted.name, wanted.force)?;
    let mut exporting = Exporting {
        wanted,
        part: place.part.clone(),
        inventory: Inventory::new(wanted.name),
        exported: Exported { folder: place.target.clone(), ..Exported::default() },
    };
    exporting.all()?;
    place.put()?;
    Ok(exporting.exported)
}

struct Exporting<'a> {
    wanted: &'a Export<'a>,
    part: PathBuf,
    inventory: Inventory,
    exported: Exported,
}

impl Exporting<'_> {
    fn all(&mut self) -> Result<(), TraceError> {
        let own = self.recording(self.wanted.run, 0)?;
        if own.manifest.is_some() {
            check_rounds(&own.dir)?;
            for number in 1.. {
                let round = own.dir.join(format!("{SEARCH_PREFIX}{number}"));
                if !round.is_dir() {
                    break;
                }
                self.recording(&round, number)?;
            }
        }
        let path = self.part.join(INVENTORY);
        let text =
            serde_json::to_string_pretty(&self.inventory).map_err(|e| TraceError::io("write", &path)(e.into()))?;
        fs::write(&path, text + "\n").map_err(TraceError::io("write", &path))
    }

    /// A recording, its repeats, and the other mode if that lies inside.
    fn recording(&mut self, path: &Path, search: u32) -> Result<Folder, TraceError> {
        let own = self.with_repeats(path, search, None)?;
        let aligned = own.dir.join(ALIGNED_DIR);
        if own.manifest.is_some() && aligned.is_dir() {
            if mode_of(own.manifest.as_ref()) == Mode::KvAligned.id() {
                let hint = "correct `mode` in the run's manifest: that of the recording inside is kv_aligned";
                return Err(fault(path, "", "two recordings of the mode kv_aligned", hint));
            }
            self.with_repeats(&aligned, search, Some(Mode::KvAligned))?;
        }
        Ok(own)
    }

    fn with_repeats(&mut self, path: &Path, search: u32, mode: Option<Mode>) -> Result<Folder, TraceError> {
        let at = self.inventory.parts.len();
        let own = self.folder(path, Partition { search, mode: String::new(), repeat: 0 }, mode.map(Mode::id))?;
        let Some(called) = self.inventory.parts.get(at).map(|part| part.partition.mode.clone()) else {
            return Ok(own);
        };
        for (number, dir) in if path.is_dir() { repeat_dirs(path)? } else { vec![] } {
            let partition = Partition { search, mode: String::new(), repeat: number };
            match self.folder(&dir, partition, Some(&called)) {
                Ok(repeat) => {
                    // Its manifest must be one of this number.
                    let mut found = Run::default();
                    (found.dir, found.manifest) = (dir, repeat.manifest);
                    Run::default().push_repeat(number, found)?;
                }
                Err(TraceError::NotARun { .. }) => {
                    if let Some(part) = self.inventory.parts.get_mut(at) {
                        part.empty_repeats.push(number);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(own)
    }

    /// One folder's events, those of folders inside it left out; `mode` in place of the manifest's.
    fn folder(&mut self, path: &Path, partition: Partition, mode: Option<&str>) -> Result<Folder, TraceError> {
        let made = self.part.join(format!("{}.part", self.inventory.parts.len()));
        fs::create_dir_all(&made).map_err(TraceError::io("make the folder", &made))?;
        let mut writer = Writer::create(&made.join(FILE))?;
        let mut payloads = 0;
        let with_payloads = self.wanted.payloads;
        let folder = each_event(path, &mut |given| {
            let event = given.event.filter(|_| with_payloads);
            let row = event.map(|event| given.rows.row(event)).transpose()?.flatten();
            payloads += u64::from(row.is_some());
            push(&mut writer, given, row.as_ref(), with_payloads)
        });
        let folder = folder.inspect_err(|_| drop(fs::remove_dir_all(&made)))?;
        let path = made.join(FILE);
        self.exported.bytes += writer.finish()?;
        let content = Table::open(&path, FILE)?.content()?;
        self.exported.rows += content.rows;
        self.exported.payloads += payloads;
        self.exported.parts += 1;
        if let Some(text) = &folder.manifest_text {
            let path = made.join(MANIFEST);
            fs::write(&path, text).map_err(TraceError::io("write", &path))?;
        }
        let mode = mode.unwrap_or_else(|| mode_of(folder.manifest.as_ref())).to_owned();
        let partition = Partition { mode, ..partition };
        let place = self.part.join(partition.folder());
        if let Some(above) = place.parent() {
            fs::create_dir_all(above).map_err(TraceError::io("make the folder", above))?;
        }
        fs::rename(&made, &place).map_err(TraceError::io("write", &place))?;
        self.inventory.parts.push(Part {
            partition,
            manifest: folder.manifest_text.as_ref().map(|text| xxh3_128_text(text.as_bytes())),
            files: BTreeMap::from([(FILE.to_owned(), content)]),
            ignored: folder.ignored.clone(),
            torn: folder.torn.iter().map(|source| (source.file.to_string(), source.line)).collect(),
            empty_repeats: Vec::new(),
        });
        Ok(folder)
    }
}

/// Adds one event to the table.
fn push(writer: &mut Writer, given: Given<'_>, row: Option<&Row>, with_payloads: bool) -> Result<(), TraceError> {
    let Given { mut raw, event, source, .. } = given;
    // Two names of one field.
    if let Some(tensor) = raw.tensor.take().flatten() {
        raw.point.get_or_insert(None).get_or_insert(tensor);
    }
    let payload = raw.payload.take().flatten().filter(|_| with_payloads);
    let prompt = raw.prompt_id.clone().flatten().map(|Text(id)| id.into_owned()).unwrap_or_default();
    let told = |known: bool| row.filter(|_| !known);
    let mut entry = Entry {
        raw,
        source_file: Some(&source.file),
        source_line: Some(source.line),
        payload_file: payload.as_ref().map(|payload| payload.file.0.as_ref()),
        payload_key: payload.as_ref().map(|payload| payload.key.0.as_ref()),
        payload_dtype: told(event.is_some_and(|event| event.dtype.is_some())).map(|row| row.dtype.id()),
        payload_shape: told(event.is_some_and(|event| event.shape.is_some())).map(|row| row.shape.clone()),
        payload: None,
    };
    entry.payload = row.map(Row::bytes);
    writer.push(&entry, &prompt)
}
