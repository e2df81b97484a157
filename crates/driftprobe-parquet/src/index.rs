//! A run of a dataset read prompt by prompt: which row groups hold which prompts, and those of one prompt read alone.

use crate::layout::name_of;
use crate::leaf::{Leaf, Lying};
use crate::recordings::Recordings;
use crate::store::Payloads;
use crate::table::Table;
use driftprobe_trace::{
    ByPrompt, Manifest, Note, Promises, RawEvent, Reading, Run, ShardInfo, Source, Text, TraceError, xxh3_128,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A run of a dataset of which one prompt at a time is in memory.
pub struct Index {
    dir: PathBuf,
    own: One,
    repeats: Vec<(u32, One)>,
    empty_repeats: Vec<Note>,
}

/// One partition.
struct One {
    leaf: Leaf,
    promises: Promises,
    tables: Vec<Arc<Table>>,
    /// For each prompt the row groups that hold rows of it: index of the table, and of the group.
    groups: BTreeMap<Arc<str>, Vec<(usize, usize)>>,
    /// Kinds of rows that are no prompt's.
    others: Vec<String>,
    /// Over the files' contents, payloads left out, and names.
    recorded: u128,
    /// Over that, and the files' sizes and times.
    stamp: u128,
    /// Sizes and times of the tables' files.
    told: Vec<Told>,
}

/// Size and time of a file, if it is there.
type Told = Option<(u64, Option<SystemTime>)>;

fn told(path: &Path) -> Told {
    fs::metadata(path).map(|found| (found.len(), found.modified().ok())).ok()
}

impl Index {
    /// The recording of this round and mode.
    ///
    /// # Errors
    /// Whatever is refused of any row of it.
    pub fn open(recordings: &Recordings, search: u32, mode: &str) -> Result<Index, TraceError> {
        let own = One::open(recordings.leaf(search, mode, 0)?)?;
        let mut repeats = Vec::new();
        for repeat in recordings.repeats(search, mode) {
            repeats.push((repeat, One::open(recordings.leaf(search, mode, repeat)?)?));
        }
        let empty_repeats = recordings.empty_repeats(search, mode);
        Ok(Index { dir: recordings.dir(search, mode)?, own, repeats, empty_repeats })
    }

    /// A file that stands for itself.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn of_file(path: &Path) -> Result<Index, TraceError> {
        let leaf = Leaf::of_file(path);
        let tables = leaf.tables()?;
        Index::of_tables(leaf, tables)
    }

    /// Files that stand for themselves, open.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn of_tables(leaf: Leaf, tables: Vec<Arc<Table>>) -> Result<Index, TraceError> {
        let (dir, own) = (leaf.dir.clone(), One::of_tables(leaf, tables)?);
        Ok(Index { dir, own, repeats: Vec::new(), empty_repeats: Vec::new() })
    }

    fn all(&self) -> impl Iterator<Item = &One> {
        std::iter::once(&self.own).chain(self.repeats.iter().map(|(_, one)| one))
    }
}

impl One {
    fn open(leaf: Leaf) -> Result<One, TraceError> {
        let tables = leaf.tables()?;
        One::of_tables(leaf, tables)
    }

    /// Reads all rows, strictly, a row group at a time, and keeps which prompts they are of.
    fn of_tables(mut leaf: Leaf, tables: Vec<Arc<Table>>) -> Result<One, TraceError> {
        let promises = Promises::new(leaf.manifest.take());
        let complete = promises.complete().unwrap_or(false);
        let (mut groups, mut others) = (BTreeMap::<Arc<str>, Vec<(usize, usize)>>::new(), Vec::new());
        let seen: Vec<Told> = tables.iter().map(|table| told(&table.path)).collect();
        let (mut recorded, mut stamp) = (Vec::new(), Vec::new());
        for (at, table) in tables.iter().enumerate() {
            for group in 0..table.groups() {
                let found = table.read(group, complete, None)?;
                let ids = found.reading.events().iter().map(|event| &event.prompt_id);
                let ids = ids.chain(found.reading.unmapped().iter().map(|event| &event.prompt_id));
                for id in ids.collect::<BTreeSet<_>>() {
                    groups.entry(id.clone()).or_default().push((at, group));
                }
                others.extend(found.others);
            }
            recorded.push(format!("{} {:?}", name_of(&table.path), table.content()?));
            stamp.push(format!("{:?}", seen.get(at)));
        }
        let recorded = xxh3_128(recorded.join("\n").as_bytes());
        let stamp = xxh3_128(format!("{recorded} {}", stamp.join("\n")).as_bytes());
        Ok(One { leaf, promises, tables, groups, others, recorded, stamp, told: seen })
    }

    fn read(&self, id: &str) -> Result<Run, TraceError> {
        let complete = self.promises.complete().unwrap_or(false);
        let mut whole = Reading::new(complete);
        for kind in &self.others {
            let event = Some(Some(Text(Cow::Borrowed(kind.as_str()))));
            let nowhere = Source { file: Arc::from(""), line: 0 };
            // Of a kind that is none of ours there is a note, and no refusal.
            let _ = whole.take(RawEvent { event, ..RawEvent::default() }, nowhere);
        }
        self.leaf.note_torn(&mut whole);
        let mut payloads = Payloads::default();
        let held = self.groups.get(id).map(Vec::as_slice).unwrap_or_default();
        for (at, table) in self.tables.iter().enumerate() {
            let mut places = Vec::new();
            for (_, group) in held.iter().filter(|(of, _)| *of == at) {
                let found = table.read(*group, complete, Some(id))?;
                whole.append(found.reading);
                places.extend(found.payloads);
            }
            payloads.add(table.clone(), places);
        }
        let store = Arc::new(Lying::new(payloads, None));
        let mut run = whole.into_stored(self.leaf.dir.clone(), self.promises.of(id), store);
        run.notes.extend(self.leaf.ignored());
        Ok(run)
    }
}

impl ByPrompt for Index {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn manifest(&self) -> Option<&Manifest> {
        self.own.promises.manifest()
    }

    fn shard(&self) -> Option<&ShardInfo> {
        self.own.promises.shard()
    }

    fn prompts(&self) -> Vec<Arc<str>> {
        self.own.promises.prompts(self.all().flat_map(|one| one.groups.keys()))
    }

    fn prompt(&self, id: &str) -> Result<Run, TraceError> {
        let mut run = self.own.read(id)?;
        for (number, repeat) in &self.repeats {
            run.push_repeat(*number, repeat.read(id)?)?;
        }
        run.notes.extend(self.empty_repeats.iter().cloned());
        run.dir.clone_from(&self.dir);
        Ok(run)
    }

    fn fingerprint(&self, id: &str) -> u128 {
        let mut bytes = self.recorded(id).to_le_bytes().to_vec();
        for one in self.all() {
            bytes.extend(format!("{:?}", one.leaf.part).into_bytes());
            bytes.extend(one.stamp.to_le_bytes());
        }
        xxh3_128(&bytes)
    }

    /// Events lie in compressed pages, those of one prompt beside those of others: of what the run promises of the prompt, and of
    /// all tables.
    fn recorded(&self, id: &str) -> u128 {
        let mut bytes = Vec::new();
        for one in self.all() {
            // A manifest that was read can be written: its keys are texts.
            bytes.extend(serde_json::to_vec(&one.promises.of(id)).unwrap_or_default());
            bytes.extend(one.recorded.to_le_bytes());
        }
        xxh3_128(&bytes)
    }

    fn unchanged(&self) -> Result<(), TraceError> {
        let files = self.all().flat_map(|one| one.tables.iter().zip(&one.told));
        match files.into_iter().find(|(table, seen)| told(&table.path) != **seen) {
            Some((table, _)) => Err(TraceError::Changed { path: table.path.clone(), line: 1 }),
            None => Ok(()),
        }
    }
}
