//! `driftprobe analyze`: reports on a run that lies on disk.

use crate::args::{AnalyzeArgs, JudgingArgs};
use crate::by_prompt;
use crate::failure::Failure;
use crate::lying;
use crate::output::{self, Judged};
use crate::progress::JudgingBar;
use driftprobe::judge::examine::Oracle;
use driftprobe::presets;
use driftprobe::search::with_search;
use driftprobe::verdict::modes::{alone, combine};
use driftprobe::{Analysis, Options, analyze_against};
use driftprobe_model::Model;
use driftprobe_trace::{ALIGNED_DIR, Contract, Manifest, REPORT_DIR, Run, SEARCH_PREFIX, check_rounds};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Events of a run beyond which it is said that there is a way to judge it in less memory.
const EVENTS_AT_ONCE_MAX: usize = 500_000;

/// Runs the command and returns the exit status.
pub fn run(args: &AnalyzeArgs) -> Result<u8, Failure> {
    if args.by_prompt || args.shard.is_some() || args.layer_shard.is_some() {
        return by_prompt::run(args);
    }
    let [run] = args.runs.as_slice() else {
        return Err(Failure::new("several runs are judged prompt by prompt only", "add --by-prompt"));
    };
    let judged = judge_asked(run, &args.judging)?;
    output::write(&judged, &args.out.clone().unwrap_or_else(|| beside(run)), args.format)?;
    Ok(judged.analysis.exit_code())
}

/// Judges the run at `path` as the command line asks for.
pub fn judge_asked(path: &Path, asked: &JudgingArgs) -> Result<Judged, Failure> {
    let contract = asked.contract.as_deref().map(contract).transpose()?;
    judge_seen(path, asked.model.as_deref(), contract.as_ref(), Some(asked.simulate))
}

/// Judges the run at `path` as `driftprobe analyze` does: against the model at `model`, or else the one that the run's manifest
/// names where it lies there; under `contract` in place of the manifest's; simulating in at most `budget_flops` operations.
///
/// # Errors
/// If the run or the model cannot be read, with file, place and hint; if the run was written anew meanwhile.
pub fn judge_lying(
    path: &Path,
    model: Option<&Path>,
    contract: Option<&Contract>,
    budget_flops: Option<f64>,
) -> Result<Analysis, Failure> {
    let Judged { analysis, seen } = judge_seen(path, model, contract, budget_flops)?;
    seen.unchanged()?;
    Ok(analysis)
}

fn judge_seen(
    path: &Path,
    model: Option<&Path>,
    contract: Option<&Contract>,
    budget_flops: Option<f64>,
) -> Result<Judged, Failure> {
    let run = lying::open(path)?;
    if run.events.len() > EVENTS_AT_ONCE_MAX {
        let count = run.events.len();
        output::tell(format_args!(
            "hint: all {count} events are in memory; with --by-prompt only those of a prompt would be"
        ));
    }
    let model = model_of(&run, model)?;
    let budget_flops = budget_flops.unwrap_or(Oracle::BUDGET_FLOPS);
    let oracle = model.as_ref().map(|model| Oracle { contract, budget_flops, ..Oracle::new(model) });
    Ok(Judged { analysis: judge_all(&run, oracle.as_ref())?, seen: run.seen() })
}

/// The model at `named`, or else the one that the run's manifest names, where it lies there.
pub fn model_of(run: &Run, named: Option<&Path>) -> Result<Option<Model>, Failure> {
    match named {
        Some(path) => Ok(Some(Model::open(path)?)),
        None => Ok(model_path(run.manifest.as_ref(), &run.dir).and_then(|path| Model::open(&path).ok())),
    }
}

/// Where the manifest of the run in `dir` says that its model lies. A path is relative to the run.
pub fn model_path(manifest: Option<&Manifest>, dir: &Path) -> Option<PathBuf> {
    let path = manifest?.model.as_ref()?.path.as_ref()?;
    Some(if path == "DEMO" { PathBuf::from(path) } else { dir.join(path) })
}

/// A contract from a file, or a preset by name.
///
/// # Errors
/// If there is neither, or the file holds no contract.
pub fn contract(name: &str) -> Result<Contract, Failure> {
    if let Some(preset) = presets::contract(name) {
        return Ok(preset);
    }
    let path = Path::new(name);
    let text = fs::read(path).map_err(|e| {
        let hint = format!("give a JSON file, or one of {}", presets::NAMES.join(", "));
        Failure::new(format!("contract {name} cannot be read: {e}"), hint)
    })?;
    serde_json::from_slice(&text).map_err(|e| {
        let hint = "the fields are those of manifest.contract in docs/trace-format.md";
        Failure::new(format!("{name}: not a contract: {e}"), hint)
    })
}

/// Judges a run, the other mode of it if that lies inside, and the rounds of the search that followed.
pub fn judge_all(run: &Run, oracle: Option<&Oracle<'_>>) -> Result<Analysis, Failure> {
    let rounds = search_rounds(run, oracle)?;
    Ok(with_search(judge(run, oracle)?, rounds))
}

/// Judges a run, and the other mode of it if that lies inside.
pub fn judge(run: &Run, oracle: Option<&Oracle<'_>>) -> Result<Analysis, Failure> {
    let (analysis, aligned) = judge_modes(run, oracle)?;
    Ok(match aligned {
        None => alone(analysis),
        Some((_, aligned)) => combine(analysis, aligned),
    })
}

/// Judges a run, and by itself the other mode of it if that lies inside.
pub fn judge_modes(run: &Run, oracle: Option<&Oracle<'_>>) -> Result<(Analysis, Option<(Run, Analysis)>), Failure> {
    let aligned = run.inner(ALIGNED_DIR)?;
    let mut bar = JudgingBar::new();
    let mut judge = |run: &Run| analyze_against((run, run), oracle, Options::default(), &mut |step| bar.show(step));
    let analysis = judge(run);
    let aligned = aligned.map(|aligned| {
        let analysis = judge(&aligned);
        (aligned, analysis)
    });
    bar.finish();
    Ok((analysis, aligned))
}

/// The rounds of the search that followed a run, judged.
pub fn search_rounds(run: &Run, oracle: Option<&Oracle<'_>>) -> Result<Vec<Arc<Analysis>>, Failure> {
    let mut rounds = Vec::new();
    let ours = prompts_of(run);
    if run.manifest.is_some() {
        check_rounds(&run.dir)?;
    }
    loop {
        let name = format!("{SEARCH_PREFIX}{}", rounds.len() + 1);
        let Some(round) = run.inner(&name)? else { break };
        by_prompt::foreign_round((&run.dir, &name), &ours, &prompts_of(&round))?;
        rounds.push(Arc::new(judge(&round, oracle)?));
    }
    Ok(rounds)
}

/// Ids that the manifest or an event names.
fn prompts_of(run: &Run) -> BTreeSet<Arc<str>> {
    let promised = run.manifest.iter().flat_map(|manifest| manifest.prompts.iter().flatten());
    promised
        .map(|prompt| Arc::from(&*prompt.id))
        .chain(run.events.iter().map(|event| event.prompt_id.clone()))
        .collect()
}

/// `report/` inside the run's folder, or beside a single file; `_report/` in a dataset.
pub fn beside(path: &Path) -> PathBuf {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    // Readers of whole datasets pass over names that begin so.
    folder.join(if driftprobe_parquet::is_dataset(path) { "_report" } else { REPORT_DIR })
}
