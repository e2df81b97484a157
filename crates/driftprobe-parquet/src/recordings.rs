//! The recordings of one run of a dataset: found, held against the inventory, and put together as the run's folder is.

use crate::error::{EXPORT_AGAIN, fault};
use crate::layout::{INVENTORY, Inventory, MANIFEST, Part, Partition, parquet_files, partitions};
use crate::leaf::Leaf;
use driftprobe_trace::{
    ALIGNED_DIR, MANIFEST_BYTES_MAX, Manifest, Mode, Note, Run, SEARCH_PREFIX, TraceError, read_file, xxh3_128_text,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The recordings of one run.
#[derive(Debug)]
pub struct Recordings {
    folder: PathBuf,
    found: BTreeMap<Partition, PathBuf>,
    inventory: Option<Inventory>,
}

impl Recordings {
    /// Finds the recordings in `folder`.
    ///
    /// # Errors
    /// If there are none, or not those that the inventory lists.
    pub fn open(folder: &Path) -> Result<Arc<Recordings>, TraceError> {
        fs::metadata(folder).map_err(TraceError::io("open", folder))?;
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

    /// Round and mode of the run itself.
    ///
    /// # Errors
    /// If it is not there.
    pub fn own(&self) -> Result<(u32, String), TraceError> {
        match self.modes(0)? {
            Some((mode, _)) => Ok((0, mode.to_owned())),
            None => Err(fault(&self.folder, "", "the partition search=0, the run itself, is missing", EXPORT_AGAIN)),
        }
    }

    /// Round and mode of what a folder of this name in the run's folder would be, if it is there.
    ///
    /// # Errors
    /// If a round has more modes than one run can.
    pub fn inside(&self, name: &str) -> Result<Option<(u32, String)>, TraceError> {
        if name == ALIGNED_DIR {
            return self.aligned(0);
        }
        let other_mode = name.strip_suffix(ALIGNED_DIR).and_then(|name| name.strip_suffix('/'));
        let round =
            other_mode.unwrap_or(name).strip_prefix(SEARCH_PREFIX).and_then(|number| number.parse::<u32>().ok());
        match round.filter(|round| *round > 0) {
            Some(round) if other_mode.is_some() => self.aligned(round),
            Some(round) => Ok(self.modes(round)?.map(|(mode, _)| (round, mode.to_owned()))),
            None => Ok(None),
        }
    }

    /// Round and mode of the other mode that lies inside a round, if it is there.
    ///
    /// # Errors
    /// As [`Recordings::inside`].
    pub fn aligned(&self, search: u32) -> Result<Option<(u32, String)>, TraceError> {
        Ok(self.modes(search)?.and_then(|(_, inside)| inside).map(|mode| (search, mode.to_owned())))
    }

    /// The run itself.
    ///
    /// # Errors
    /// Whatever is refused.
    pub fn main(self: &Arc<Recordings>) -> Result<Run, TraceError> {
        let (search, mode) = self.own()?;
        self.recording(search, &mode)
    }

    /// A recording with its repeats.
    ///
    /// # Errors
    /// Whatever is refused.
    pub fn recording(self: &Arc<Recordings>, search: u32, mode: &str) -> Result<Run, TraceError> {
        // What lies inside a run lies inside none of its repeats.
        let mut run = self.leaf(search, mode, 0)?.open(Some((self.clone(), search, mode)))?;
        for repeat in self.repeats(search, mode) {
            run.push_repeat(repeat, self.leaf(search, mode, repeat)?.open(None)?)?;
        }
        run.notes.extend(self.empty_repeats(search, mode));
        run.dir = self.dir(search, mode)?;
        Ok(run)
    }

    /// Numbers of a recording's repeats.
    pub fn repeats(&self, search: u32, mode: &str) -> Vec<u32> {
        let of = self.found.keys().filter(|at| at.search == search && at.mode == mode && at.repeat > 0);
        of.map(|partition| partition.repeat).collect()
    }

    /// Notes of repeats of which nothing was recorded.
    pub fn empty_repeats(&self, search: u32, mode: &str) -> Vec<Note> {
        let own = Partition { search, mode: mode.to_owned(), repeat: 0 };
        let empty = self.part(&own).into_iter().flat_map(|part| &part.empty_repeats);
        empty.map(|number| Note::EmptyRepeat { number: *number }).collect()
    }

    /// What stands for a recording's folder: the run's, or its partition's.
    ///
    /// # Errors
    /// As [`Recordings::inside`].
    pub fn dir(&self, search: u32, mode: &str) -> Result<PathBuf, TraceError> {
        let own = search == 0 && self.modes(0)?.is_some_and(|(own, _)| own == mode);
        let partition = Partition { search, mode: mode.to_owned(), repeat: 0 };
        Ok(if own { self.folder.clone() } else { self.folder.join(partition.folder()) })
    }

    /// One partition, not read yet.
    ///
    /// # Errors
    /// If it is not there, or its manifest is refused.
    pub fn leaf(&self, search: u32, mode: &str, repeat: u32) -> Result<Leaf, TraceError> {
        let partition = Partition { search, mode: mode.to_owned(), repeat };
        let Some(dir) = self.found.get(&partition) else {
            let dir = self.folder.join(partition.folder());
            return Err(fault(&dir, "", "the partition is missing", EXPORT_AGAIN));
        };
        let path = dir.join(MANIFEST);
        let manifest = match path.is_file() {
            true => {
                let text = read_file(&path, MANIFEST_BYTES_MAX).map_err(TraceError::io("read", &path))?;
                let text = String::from_utf8(text).map_err(|e| fault(&path, "", e.to_string(), EXPORT_AGAIN))?;
                let written = self.part(&partition).and_then(|part| part.manifest.as_ref());
                if written.is_some_and(|hash| *hash != xxh3_128_text(text.as_bytes())) {
                    let what = format!("it is not the one that was written: {INVENTORY} has another hash");
                    return Err(fault(&path, "", what, EXPORT_AGAIN));
                }
                Some(Manifest::parse(&text, &path)?)
            }
            false => None,
        };
        Ok(Leaf { files: parquet_files(dir)?, dir: dir.clone(), manifest, part: self.part(&partition).cloned() })
    }

    fn part(&self, partition: &Partition) -> Option<&Part> {
        self.inventory.as_ref()?.parts.iter().find(|part| part.partition == *partition)
    }
}
