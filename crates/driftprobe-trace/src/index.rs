//! Where each prompt's events lie in a run's files, so that a run can be read prompt by prompt in bounded memory.
//!
//! One pass finds the ranges of bytes that hold a prompt's lines; lines of one prompt that follow each other are one range.
//! [`ByPrompt::prompt`] then reads one prompt as strictly as [`Run::open`] reads all of them: the same refusals with the same
//! file and line, the same notes, and a manifest that promises this prompt's rows only.

mod scan;

use crate::by_prompt::{ByPrompt, Promises};
use crate::hash::xxh3_128;
use crate::lines::Lines;
use crate::manifest::Manifest;
use crate::notes::{Note, Notes};
use crate::reading::Reading;
use crate::run::{Layout, TENSORS_DIR, TraceFile, check_repeat, each_line, layout, repeat_dirs};
use crate::seen::Seen;
use crate::{Run, ShardInfo, TraceError};
use scan::{Entry, LinesHash, Scan};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A run of which only the places of its events are in memory.
pub struct RunIndex {
    dir: PathBuf,
    promises: Promises,
    files: Vec<TraceFile>,
    entries: BTreeMap<Arc<str>, Entry>,
    /// Notes of lines that are no prompt's.
    notes: Notes,
    more_notes: Vec<Note>,
    events: u64,
    /// Names, sizes and times of the payload files.
    tensors: u128,
    seen: Seen,
    repeats: Vec<RunIndex>,
}

impl RunIndex {
    /// Finds the prompts of the run at `path`: what [`Run::open`] takes, but for compressed files.
    ///
    /// # Errors
    /// As [`Run::open`] for what is no line of any prompt; [`TraceError::Compressed`].
    pub fn open(path: &Path) -> Result<RunIndex, TraceError> {
        let mut index = open_one(path)?;
        if path.is_dir() {
            for (number, dir) in repeat_dirs(path)? {
                match open_one(&dir) {
                    Ok(repeat) => {
                        check_repeat(&repeat.dir, repeat.manifest(), number)?;
                        index.repeats.push(repeat);
                    }
                    Err(TraceError::NotARun { .. }) => index.more_notes.push(Note::EmptyRepeat { number }),
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(index)
    }

    /// Events of the run, those of its repeats left out.
    pub fn events(&self) -> u64 {
        self.events
    }

    fn read(&self, id: &str) -> Result<Run, TraceError> {
        let (manifest, complete) = (self.promises.of(id), self.promises.complete());
        let mut reading = Reading::new(complete.unwrap_or(false));
        reading.notes = self.notes.clone();
        let ranges = self.entries.get(id).map(|entry| entry.ranges.as_slice()).unwrap_or_default();
        let mut open: Option<(u32, File)> = None;
        for range in ranges {
            let Some(file) = usize::try_from(range.file).ok().and_then(|at| self.files.get(at)) else { continue };
            let handle = match open.take() {
                Some((of, handle)) if of == range.file => handle,
                _ => File::open(&file.path).map_err(TraceError::io("open", &file.path))?,
            };
            let changed = TraceError::Changed { path: file.path.clone(), line: range.line };
            let mut lines = Lines::part(&handle, (range.start, range.len), range.line)
                .map_err(TraceError::io("read", &file.path))?;
            let mut hasher = LinesHash::default();
            let torn = each_line(file, &mut lines, &mut |line, source, _| {
                hasher.add(line);
                reading.line(line, source)
            })?;
            if torn.is_some() || hasher.digest() != range.hash {
                return Err(changed);
            }
            open = Some((range.file, handle));
        }
        let of_another = reading.events.iter().map(|event| (&event.prompt_id, &event.source));
        let of_another = of_another.chain(reading.unmapped.iter().map(|event| (&event.prompt_id, &event.source)));
        if let Some((_, source)) = of_another.into_iter().find(|(prompt, _)| &***prompt != id) {
            let file = self.files.iter().find(|file| file.name == source.file);
            let path = file.map_or_else(|| self.dir.clone(), |file| file.path.clone());
            return Err(TraceError::Changed { path, line: source.line });
        }
        let mut run = reading.into_run(self.dir.clone(), manifest);
        run.notes.extend(self.more_notes.iter().cloned());
        Ok(run)
    }
}

impl ByPrompt for RunIndex {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn manifest(&self) -> Option<&Manifest> {
        self.promises.manifest()
    }

    fn shard(&self) -> Option<&ShardInfo> {
        self.promises.shard()
    }

    fn prompts(&self) -> Vec<Arc<str>> {
        self.promises.prompts(std::iter::once(self).chain(&self.repeats).flat_map(|one| one.entries.keys()))
    }

    fn prompt(&self, id: &str) -> Result<Run, TraceError> {
        let mut run = self.read(id)?;
        for repeat in &self.repeats {
            run.repeats.push(repeat.read(id)?);
        }
        Ok(run)
    }

    fn fingerprint(&self, id: &str) -> u128 {
        let mut bytes = self.recorded(id).to_le_bytes().to_vec();
        for index in std::iter::once(self).chain(&self.repeats) {
            bytes.extend(format!("{:?}", (&index.notes, &index.more_notes)).into_bytes());
            bytes.extend(index.tensors.to_le_bytes());
        }
        xxh3_128(&bytes)
    }

    fn recorded(&self, id: &str) -> u128 {
        let mut bytes = Vec::new();
        for index in std::iter::once(self).chain(&self.repeats) {
            // A manifest that was read can be written: its keys are texts.
            bytes.extend(serde_json::to_vec(&index.promises.of(id)).unwrap_or_default());
            bytes.extend(index.entries.get(id).map_or(0, |entry| entry.hash).to_le_bytes());
        }
        xxh3_128(&bytes)
    }

    fn unchanged(&self) -> Result<(), TraceError> {
        std::iter::once(self).chain(&self.repeats).try_for_each(|index| index.seen.unchanged())
    }
}

fn open_one(path: &Path) -> Result<RunIndex, TraceError> {
    let Layout { dir, manifest, seen, files, ignored } = layout(path)?;
    let complete = manifest.as_ref().is_some_and(|manifest| manifest.complete);
    let mut scan = Scan::new(complete);
    for (number, file) in (0u32..).zip(&files) {
        scan.file(number, file)?;
    }
    seen.unchanged()?;
    let listed = fs::read_dir(dir.join(TENSORS_DIR)).into_iter().flatten().flatten();
    let tensors = stamp(listed.map(|entry| entry.path()).chain(scan.elsewhere.iter().map(|file| dir.join(file))), &dir);
    Ok(RunIndex {
        dir,
        promises: Promises::new(manifest),
        files,
        entries: scan.entries,
        notes: scan.unowned.notes,
        more_notes: ignored.into_iter().map(|name| Note::IgnoredFile { name }).collect(),
        events: scan.events,
        tensors,
        seen,
        repeats: Vec::new(),
    })
}

/// A hash over names, sizes and times of files, wherever links lead; of what cannot be looked at, over its name.
fn stamp(files: impl Iterator<Item = PathBuf>, dir: &Path) -> u128 {
    let told = |path: PathBuf| {
        let told = fs::metadata(&path).map(|found| (found.len(), found.modified().ok()));
        format!("{:?} {:?}", path.strip_prefix(dir).unwrap_or(&path), told.ok())
    };
    let mut all: Vec<String> = files.map(told).collect();
    all.sort();
    xxh3_128(all.join("\n").as_bytes())
}
