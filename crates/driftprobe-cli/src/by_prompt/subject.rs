//! The runs that are to be judged: found in folders, named, and put together from their parts.

use super::shards::shard_folder;
use crate::below::runs_below;
use crate::failure::Failure;
use crate::lying::{self, Index, Inner};
use driftprobe_trace::{ALIGNED_DIR, Manifest, SEARCH_PREFIX, check_rounds, xxh3_128_text};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One run: whole, or all of its parts that are here.
pub struct Subject {
    /// Its name: as much of its path as tells it from the others.
    pub name: String,
    /// All prompts, in the order of the search, those of missing parts among them.
    pub prompts: Vec<String>,
    /// What is here.
    pub parts: Vec<Part>,
    by_prompt: BTreeMap<String, usize>,
}

/// One folder of a run.
pub struct Part {
    /// Where its events lie.
    pub index: Index,
    /// The same with prefill's cache under decode.
    pub aligned: Option<Index>,
    /// Where layers were recorded again.
    pub rounds: Vec<Round>,
}

/// One round of a search for a fault between recorded layers.
pub struct Round {
    /// Where it lies.
    pub run: Inner,
    /// The prompts that it recorded again.
    pub prompts: Vec<String>,
    /// Over all that was recorded.
    pub fingerprint: u128,
    /// The same wherever its files lie, and whenever they were written.
    recorded: u128,
    /// Where its events lie, by mode.
    modes: Vec<Index>,
}

impl Part {
    fn indices(&self) -> impl Iterator<Item = &Index> {
        std::iter::once(&self.index).chain(&self.aligned).chain(self.rounds.iter().flat_map(|round| &round.modes))
    }
}

impl Subject {
    /// Refuses a run that was written anew since it was opened.
    pub fn unchanged(&self) -> Result<(), Failure> {
        Ok(self.parts.iter().flat_map(Part::indices).try_for_each(|index| index.unchanged())?)
    }

    /// What of it was recorded, by part: wherever its files lie, and whenever they were written.
    pub fn recorded(&self) -> BTreeMap<String, String> {
        let of = |part: &Part| {
            let all = std::iter::once(&part.index).chain(&part.aligned);
            let prompts = all.flat_map(|index| index.prompts().into_iter().map(move |id| index.recorded(&id)));
            let rounds = part.rounds.iter().map(|round| round.recorded);
            let all: Vec<u8> = prompts.chain(rounds).flat_map(u128::to_le_bytes).collect();
            let name = part.index.shard().map_or_else(String::new, |shard| format!("{}/{}", shard.index, shard.of));
            (name, xxh3_128_text(&all))
        };
        self.parts.iter().map(of).collect()
    }

    /// Which part holds a prompt.
    pub fn part_of(&self, prompt: &str) -> Option<usize> {
        self.by_prompt.get(prompt).copied()
    }
}

/// Folders and files of the runs at these paths, shards one by one.
///
/// # Errors
/// If there is no run at one of them.
pub fn folders(paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut found = BTreeSet::new();
    for path in paths {
        let below = runs_below(&canonical(path)?, &mut |_| Ok(()))?;
        if below.is_empty() {
            let what = format!("{}: holds no run", path.display());
            return Err(Failure::new(what, "name runs, or a folder of runs: each has a manifest.json or traces/"));
        }
        found.extend(below.iter().map(|run| canonical(run)).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(found)
}

/// The runs at these paths, by name.
///
/// # Errors
/// If there is no run, or one of them cannot be read.
pub fn open(paths: &[PathBuf]) -> Result<Vec<Subject>, Failure> {
    // Shards lie in the folder of the run that they are parts of.
    let mut parts: BTreeMap<PathBuf, Vec<Part>> = BTreeMap::new();
    for path in folders(paths)? {
        let part = open_part(&path)?;
        let of = part.index.shard().and_then(|of| whole_of(&path, &shard_folder(of.index, of.of)));
        let whole = of.unwrap_or(path);
        parts.entry(whole).or_default().push(part);
    }
    let names = names(&parts.keys().cloned().collect::<Vec<_>>());
    names.into_iter().zip(parts).map(|(name, (path, parts))| put_together(name, &path, parts)).collect()
}

fn canonical(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|e| Failure::io("open", path, &e))
}

fn open_part(path: &Path) -> Result<Part, Failure> {
    let index = lying::index(path)?;
    // A loose file is judged alone, whatever lies beside it.
    if index.manifest().is_none() {
        return Ok(Part { index, aligned: None, rounds: Vec::new() });
    }
    check_rounds(path)?;
    let aligned = Inner::new(path, ALIGNED_DIR).index()?;
    let mut rounds = Vec::new();
    loop {
        let name = format!("{SEARCH_PREFIX}{}", rounds.len() + 1);
        let run = Inner::new(path, &name);
        let Some(round) = run.index()? else { break };
        let [ours, theirs] = [&index, &round].map(|index| index.prompts().into_iter().collect());
        foreign_round((path, &name), &ours, &theirs)?;
        let prompts: Vec<String> = theirs.iter().map(|id| id.to_string()).collect();
        let other_mode = Inner::new(path, &format!("{name}/{ALIGNED_DIR}")).index()?;
        let modes: Vec<Index> = std::iter::once(round).chain(other_mode).collect();
        let over = |of: &dyn Fn(&Index, &str) -> u128| {
            let each = modes.iter().flat_map(|mode| prompts.iter().map(|id| of(mode, id)));
            each.fold(0u128, |all, one| all.rotate_left(1) ^ one)
        };
        let fingerprint = over(&|mode, id| mode.fingerprint(id));
        let recorded = over(&|mode, id| mode.recorded(id));
        rounds.push(Round { run, prompts, fingerprint, recorded, modes });
    }
    Ok(Part { index, aligned, rounds })
}

/// Refuses a round of prompts that are none of its run's: it was recorded of another run.
///
/// # Errors
/// With the round's name and the first such prompt.
pub fn foreign_round(
    (path, name): (&Path, &str),
    ours: &BTreeSet<Arc<str>>,
    theirs: &BTreeSet<Arc<str>>,
) -> Result<(), Failure> {
    match theirs.difference(ours).next() {
        None => Ok(()),
        Some(id) => {
            let what = format!("{}: {name} holds prompt {id}, which is none of this run's", path.display());
            Err(Failure::new(
                what,
                "it was recorded of another run: put back the folder that was recorded with this one",
            ))
        }
    }
}

/// The run that a shard of this name is a part of: its folder lies in the run's, or, in a dataset, its name ends so.
fn whole_of(path: &Path, shard: &str) -> Option<PathBuf> {
    let (parent, name) = (path.parent()?, path.file_name()?.to_str()?);
    if run_name(name) == shard {
        return Some(parent.to_owned());
    }
    let before = name.strip_suffix(shard)?.strip_suffix("%2F")?;
    before.starts_with("run=").then(|| parent.join(before))
}

/// The name that a run's folder gives it: in a dataset without what says that it is a run.
fn run_name(folder: &str) -> String {
    folder.strip_prefix("run=").unwrap_or(folder).to_owned()
}

/// As many of the last parts of each path as make all of them different.
pub fn names(paths: &[PathBuf]) -> Vec<String> {
    let components: Vec<Vec<String>> = paths
        .iter()
        .map(|path| path.components().map(|part| run_name(&part.as_os_str().to_string_lossy())).collect())
        .collect();
    let longest = components.iter().map(Vec::len).max().unwrap_or(1);
    let of = |count: usize| {
        let last = |parts: &Vec<String>| parts.get(parts.len().saturating_sub(count)..).unwrap_or_default().join("/");
        components.iter().map(last).collect::<Vec<String>>()
    };
    let differ = |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    (1..=longest).map(of).find(differ).unwrap_or_else(|| of(longest))
}

fn put_together(name: String, path: &Path, parts: Vec<Part>) -> Result<Subject, Failure> {
    let refuse = |what: String, hint: &str| Err(Failure::new(format!("{}: {what}", path.display()), hint));
    let ids = |part: &Part| {
        let mut ids: Vec<String> = part.index.prompts().iter().map(|id| id.to_string()).collect();
        let known: BTreeSet<String> = ids.iter().cloned().collect();
        let aligned = part.aligned.iter().flat_map(|aligned| aligned.prompts()).map(|id| id.to_string());
        ids.extend(aligned.filter(|id| !known.contains(id)));
        ids
    };
    let mut promised: Vec<String> = Vec::new();
    if let Some(first) = parts.first() {
        for part in &parts {
            let whole =
                |part: &Part| part.index.shard().map(|shard| (shard.of, shard.prompts.clone(), shard.tokens.clone()));
            let modes = part.aligned.is_some() != first.aligned.is_some();
            let other = settings(part.index.manifest()) != settings(first.index.manifest());
            if whole(part) != whole(first) || other || modes {
                let what = "its shards are parts of different runs: prompts or settings are not the same".to_owned();
                return refuse(what, "record all shards with the same command but for --shard");
            }
        }
        promised.extend(first.index.shard().iter().flat_map(|of| of.prompts.iter().cloned()));
    }
    let mut by_prompt = BTreeMap::new();
    let mut others = Vec::new();
    let known: BTreeSet<String> = promised.iter().cloned().collect();
    for (at, part) in parts.iter().enumerate() {
        for id in ids(part) {
            if !known.contains(&id) {
                others.push(id.clone());
            }
            if by_prompt.insert(id.clone(), at).is_some() {
                return refuse(format!("prompt {id} stands in two of its shards"), "record each prompt in one shard");
            }
        }
    }
    promised.extend(others);
    Ok(Subject { name, prompts: promised, parts, by_prompt })
}

/// What all shards of a run have in common, wherever they were recorded.
fn settings(manifest: Option<&Manifest>) -> Value {
    let Some(manifest) = manifest else { return Value::Null };
    let model = manifest.model.as_ref().and_then(|model| model.fingerprint.as_ref());
    let engine = manifest.engine.as_ref().map(|engine| (&engine.name, &engine.version));
    json!({
        "mode": manifest.mode, "steps": manifest.steps, "layers": manifest.layers, "points": manifest.points,
        "contract": manifest.contract, "config": manifest.config, "model": model, "engine": engine, "seed": manifest.seed,
        "recording": manifest.recording,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_called_by_what_tells_them_apart() {
        let of = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(of(&["runs/a", "runs/b"]), ["a", "b"]);
        assert_eq!(of(&["x/run", "y/run", "z/other"]), ["x/run", "y/run", "z/other"]);
        assert_eq!(of(&["data/run=a", "data/run=b"]), ["a", "b"]);
        assert_eq!(of(&["run", "run"]), ["run", "run"], "one folder twice");
    }
}
