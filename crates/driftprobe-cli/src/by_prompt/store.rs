//! Results on disk: one file a unit, whole or not there, and what was to be judged.

use super::Task;
use crate::failure::Failure;
use driftprobe::digest::{Digest, Plan, generator};
use driftprobe_trace::{UNITS_DIR, is_plan_name, read_file, replace_file, xxh3_64};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

mod layers;

/// Largest result of a unit that is read: its size does not grow with the prompt.
const UNIT_BYTES_MAX: u64 = 64 << 20;

/// Largest plan that is read.
const PLAN_BYTES_MAX: u64 = 4 << 30;

/// Characters of a prompt's id that a file's name begins with.
const NAME_CHARS_MAX: usize = 40;

/// A unit's file.
#[derive(Serialize, Deserialize)]
struct UnitFile {
    /// Over everything that the verdict depends on.
    fingerprint: String,
    /// What was found.
    digest: Digest,
}

/// A folder of results.
pub struct Store {
    folder: PathBuf,
    /// Stages that were judged beforehand, as they lay there when they were first asked for.
    layers: OnceLock<layers::Listed>,
}

impl Store {
    /// The results in a folder, which need not be there yet.
    pub fn new(folder: &Path) -> Store {
        Store { folder: folder.to_owned(), layers: OnceLock::new() }
    }

    /// The folder, as it was named.
    pub fn shown(&self) -> String {
        self.folder.to_string_lossy().into_owned()
    }

    /// Where a unit lies.
    fn path(&self, run: &str, prompt: &str) -> PathBuf {
        self.folder.join(UNITS_DIR).join(name(run, prompt) + ".json")
    }

    /// The result of a task, if it is there, whole, of this version, and of the same inputs.
    pub(super) fn read(&self, task: &Task<'_>) -> Option<Digest> {
        self.read_unit(&task.subject.name, task.prompt, &task.fingerprint)
    }

    /// The result of a unit, if it is there, whole, of this version, and of this fingerprint.
    pub fn read_unit(&self, run: &str, prompt: &str, fingerprint: &str) -> Option<Digest> {
        let text = read_file(&self.path(run, prompt), UNIT_BYTES_MAX).ok()?;
        let found: UnitFile = serde_json::from_slice(&text).ok()?;
        let digest = found.digest;
        let right = found.fingerprint == fingerprint
            && (digest.run.as_str(), digest.prompt.as_str()) == (run, prompt)
            && digest.generator == generator()
            && digest.contradiction().is_none();
        right.then_some(digest)
    }

    /// What lies in a unit's place, as it is called in the folder, if anything does: whether it can be used or not.
    pub fn lying(&self, run: &str, prompt: &str) -> Option<String> {
        let path = self.path(run, prompt);
        let name = path.file_name().filter(|_| path.exists())?;
        Some(format!("{UNITS_DIR}/{}", name.to_string_lossy()))
    }

    /// Writes a unit's result.
    pub fn write(&self, digest: &Digest, fingerprint: &str) -> Result<(), Failure> {
        let path = self.path(&digest.run, &digest.prompt);
        let file = UnitFile { fingerprint: fingerprint.to_owned(), digest: digest.clone() };
        replace(&path, &text(&file))
    }

    /// Writes the plan. Plans that it takes the place of are deleted: of other shards only those of the same number stay.
    pub fn write_plan(&self, plan: &Plan) -> Result<(), Failure> {
        for path in self.plan_files()? {
            let parts = |plan: &Plan| plan.shard.map(|shard| shard.of);
            // One that this version cannot read is of another.
            if read_plan(&path).ok().is_none_or(|other| parts(&other) != parts(plan)) {
                fs::remove_file(&path).map_err(|e| Failure::io("delete", &path, &e))?;
            }
        }
        let name = match plan.shard {
            None => "plan.json".to_owned(),
            Some(shard) => format!("plan-{}-of-{}.json", shard.index, shard.of),
        };
        replace(&self.folder.join(name), &text(plan))
    }

    /// The plans of all who wrote here.
    pub fn plans(&self) -> Result<Vec<Plan>, Failure> {
        let plans: Vec<Plan> = self.plan_files()?.iter().map(|path| read_plan(path)).collect::<Result<_, _>>()?;
        match plans.is_empty() {
            false => Ok(plans),
            true => {
                let what = format!("{} holds no results of prompts", self.folder.display());
                Err(Failure::new(what, "name a folder that `driftprobe analyze --shard` or --by-prompt wrote"))
            }
        }
    }

    fn plan_files(&self) -> Result<Vec<PathBuf>, Failure> {
        if !self.folder.exists() {
            return Ok(vec![]);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|e| Failure::io("list", &self.folder, &e))? {
            let path = entry.map_err(|e| Failure::io("list", &self.folder, &e))?.path();
            if path.file_name().is_some_and(|name| is_plan_name(&name.to_string_lossy())) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

fn read_plan(path: &Path) -> Result<Plan, Failure> {
    plan_of(path, &read_file(path, PLAN_BYTES_MAX).map_err(|e| Failure::io("read", path, &e))?)
}

/// The plan of these bytes; `path` is what errors call their file.
pub fn plan_of(path: &Path, text: &[u8]) -> Result<Plan, Failure> {
    let refuse = |what: String| {
        let hint = "judge the runs again with this version of driftprobe; what is known is not judged again";
        Failure::new(format!("{}: {what}", path.display()), hint)
    };
    let plan: Plan = serde_json::from_slice(text).map_err(|e| refuse(format!("not a plan: {e}")))?;
    match plan.promise.twice() {
        _ if plan.generator != generator() => {
            Err(refuse(format!("written by {}; this is {}", plan.generator, generator())))
        }
        Some(run) => Err(refuse(format!("run {run} has a prompt twice"))),
        None => Ok(plan),
    }
}

/// What a unit's files are called: ids are any text, so that a hash tells them apart.
fn name(run: &str, prompt: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    let readable: String = prompt.chars().take(NAME_CHARS_MAX).map(plain).collect();
    let hash = xxh3_64(format!("{run}\0{prompt}").as_bytes());
    format!("{hash:016x}-{readable}")
}

/// JSON in one line: these types are made of texts and numbers, which can be written.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// Writes a whole file and renames it into place.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Failure::io("make the folder", folder, &e))?;
    replace_file(path, |file| file.write_all(text.as_bytes())).map_err(|e| Failure::io("write", path, &e))
}
