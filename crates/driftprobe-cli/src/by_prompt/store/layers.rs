//! Stages that were judged beforehand, on disk: a file a unit and part of the layers. What is not whole, or of other inputs, is
//! as if it were not there.

use super::{Store, name, replace};
use crate::by_prompt::Task;
use crate::failure::Failure;
use driftprobe::digest::{LayersDigest, Shard};
use driftprobe::oracle::replay::Beforehand;
use driftprobe_trace::{LAYERS_DIR, read_file, xxh3_128_text};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What stands in a file's name between the unit, which never holds it, and the part of the layers.
const BEFORE_SHARD: char = '.';

/// Largest file that is read: others are as if they were not there.
const LAYERS_BYTES_MAX: u64 = 1 << 30;

/// Files by unit.
pub(super) type Listed = BTreeMap<String, Vec<PathBuf>>;

impl Store {
    fn layers_path(&self, task: &Task<'_>, shard: Shard) -> PathBuf {
        let unit = name(&task.subject.name, task.prompt);
        self.folder.join(LAYERS_DIR).join(format!("{unit}{BEFORE_SHARD}{}-of-{}.json", shard.index, shard.of))
    }

    /// Writes a part of a unit's stages: a line of what they depend on and of the hash of what follows, and then the stages.
    pub(in crate::by_prompt) fn write_layers(
        &self,
        task: &Task<'_>,
        shard: Shard,
        found: &LayersDigest,
    ) -> Result<(), Failure> {
        let stages = super::text(found);
        let text = head(&task.stages_fingerprint, &stages) + &stages;
        replace(&self.layers_path(task, shard), &text)
    }

    /// Whether a part of a unit's stages is there.
    pub(in crate::by_prompt) fn has_layers(&self, task: &Task<'_>, shard: Shard) -> bool {
        read(&self.layers_path(task, shard), &task.stages_fingerprint).is_some()
    }

    /// What is there of a unit's stages, by mode, whoever judged them in whichever parts. None, if nothing is.
    pub(in crate::by_prompt) fn layers(&self, task: &Task<'_>) -> Option<[Beforehand; 2]> {
        // Listed once: of many units there are many files.
        let listed = self.layers.get_or_init(|| list(&self.folder.join(LAYERS_DIR)));
        let paths = listed.get(&name(&task.subject.name, task.prompt))?;
        let mut modes: [Beforehand; 2] = Default::default();
        for found in paths.iter().filter_map(|path| read(path, &task.stages_fingerprint)) {
            found.add_to(task.prompt, &mut modes);
        }
        Some(modes)
    }
}

/// Files by unit, in the order of their names.
fn list(folder: &Path) -> Listed {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|one| one.path()).collect();
    paths.sort();
    let mut listed = Listed::default();
    for path in paths {
        let unit =
            path.file_name().and_then(|name| name.to_str()?.split_once(BEFORE_SHARD)).map(|(unit, _)| unit.to_owned());
        if let Some(unit) = unit {
            listed.entry(unit).or_default().push(path);
        }
    }
    listed
}

fn head(fingerprint: &str, stages: &str) -> String {
    format!("{fingerprint} {}\n", xxh3_128_text(stages.as_bytes()))
}

fn read(path: &Path, fingerprint: &str) -> Option<LayersDigest> {
    let text = String::from_utf8(read_file(path, LAYERS_BYTES_MAX).ok()?).ok()?;
    let (first, stages) = text.split_once('\n')?;
    if head(fingerprint, stages).trim_end() != first {
        return None;
    }
    serde_json::from_str(stages).ok()
}
