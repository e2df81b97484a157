//! Recording again what lies around a fault, or around the place at which the phases part.

use crate::analyze;
use crate::failure::Failure;
use crate::output;
use crate::progress::TerminalWatcher;
use driftprobe::Analysis;
use driftprobe::judge::examine::Oracle;
use driftprobe::search::{Between, around, between};
use driftprobe_engine::record::{Budget, Plan, RowPlan, record};
use driftprobe_engine::{Engine, EngineError};
use driftprobe_trace::{ALIGNED_DIR, LeftOutBy, Manifest, Mode, Run, SEARCH_PREFIX, SecondPass, Seen, write_manifest};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Rounds of the search for a fault between recorded layers; each narrows them down to at most an eighth.
const ROUNDS_MAX: usize = 8;

/// Records the layers between which a fault lies, until it is found in one of them. Where the run is the first of two passes,
/// the first round is the second pass: it is recorded whether there is a fault or not.
pub fn search(
    engine: &dyn Engine,
    plan: &Plan,
    analysis: &Analysis,
    (dir, oracle): (&Path, &Oracle<'_>),
) -> Result<Vec<Arc<Analysis>>, Failure> {
    let second_pass = is_first_pass(plan);
    let mut rounds: Vec<Arc<Analysis>> = Vec::new();
    let mut open = match second_pass {
        true => second_pass_of(engine, analysis),
        false => between(analysis, engine.layers()),
    };
    while let Some(found) = open.take().filter(|_| rounds.len() < ROUNDS_MAX) {
        let folder = dir.join(format!("{SEARCH_PREFIX}{}", rounds.len() + 1));
        // A budget is that of the whole folder; a shard has its part of it.
        let left = plan
            .rows
            .as_ref()
            .and_then(RowPlan::bytes)
            .map(|bytes| Ok::<_, Failure>(bytes.saturating_sub(size_of(dir)?)));
        if !record_again(engine, plan, &found, (dir, &folder), left.transpose()?)? {
            break;
        }
        if second_pass && analysis.aligned.is_some() {
            let aligned = Plan { mode: Mode::KvAligned, ..plan.clone() };
            record_again(engine, &aligned, &found, (dir, &folder.join(ALIGNED_DIR)), None)?;
        }
        let analysis = analyze::judge(&Run::open(&folder)?, Some(oracle))?;
        open = between(&analysis, engine.layers()).filter(|next| *next != found);
        rounds.push(Arc::new(analysis));
    }
    Ok(rounds)
}

fn is_first_pass(plan: &Plan) -> bool {
    plan.rows.as_ref().is_some_and(|rows| rows.recording().by == LeftOutBy::FirstPass)
}

fn second_pass_of(engine: &dyn Engine, analysis: &Analysis) -> Option<Between> {
    between(analysis, engine.layers()).or_else(|| around(analysis, engine.layers()))
}

/// Where the run was the first of two passes: its manifest says from now on what the second is to be, so that it is missed
/// where it is not there. `seen` is the manifest that was judged; returned is the one that lies there now.
pub fn promise(
    engine: &dyn Engine,
    plan: &Plan,
    analysis: &mut Analysis,
    (dir, seen): (&Path, Seen),
) -> Result<Seen, Failure> {
    if !is_first_pass(plan) {
        return Ok(seen);
    }
    let found = second_pass_of(engine, analysis);
    let Some(manifest) = analysis.manifest.as_mut() else { return Ok(seen) };
    let layers = found.iter().flat_map(Between::layers).filter_map(|layer| i32::try_from(layer).ok()).collect();
    let prompt_id = found.map(|found| found.prompt_id.to_string());
    manifest.second_pass = Some(SecondPass { prompt_id, layers, ..SecondPass::default() });
    seen.unchanged()?;
    Ok(write_manifest(dir, manifest)?)
}

/// Records these layers of a run again, with all points, in `left` bytes at most; `false`: there is no room for it.
fn record_again(
    engine: &dyn Engine,
    plan: &Plan,
    found: &Between,
    (run, folder): (&Path, &Path),
    left: Option<u64>,
) -> Result<bool, Failure> {
    let prompts = plan.prompts.iter().filter(|prompt| *prompt.id == *found.prompt_id).cloned().collect();
    // Whatever was asked for, to tell one stage from the next takes all points.
    let Plan { steps, forced, decoded, mode, compress, .. } = *plan;
    let everything = Plan::everything(engine, prompts);
    let mut plan =
        Plan { layers: found.layers(), steps, forced, decoded, mode, compress, overwrite: true, ..everything };
    if let Some(bytes) = left {
        match RowPlan::within(engine, &plan, &Manifest::default(), Budget { bytes, modes: 1 }) {
            Ok(rows) => plan.rows = Some(rows),
            Err(EngineError::Request { what, .. }) => {
                output::tell(format_args!("hint: the layers around the fault were not recorded again: {what}"));
                return Ok(false);
            }
            Err(e) => return Err(e.into()),
        }
    }
    let mut watcher = TerminalWatcher::new();
    let recorded = record(engine, &plan, folder, Manifest::default(), &mut watcher);
    watcher.finish();
    match recorded {
        Ok(_) => Ok(true),
        Err(EngineError::Interrupted) => Err(Failure::interrupted(run)),
        Err(e) => Err(e.into()),
    }
}

/// Bytes of all files in a folder and those within it.
fn size_of(dir: &Path) -> Result<u64, Failure> {
    let mut bytes = 0u64;
    for entry in fs::read_dir(dir).map_err(|e| Failure::io("list", dir, &e))? {
        let entry = entry.map_err(|e| Failure::io("list", dir, &e))?;
        let path = entry.path();
        let metadata = entry.metadata().map_err(|e| Failure::io("look at", &path, &e))?;
        let here = if metadata.is_dir() { size_of(&path)? } else { metadata.len() };
        bytes = bytes.saturating_add(here);
    }
    Ok(bytes)
}
