//! `driftprobe run`: a model goes in; prefill and decode are traced, paired and reported.

use crate::analyze;
use crate::args::{EngineArgs, Modes, RunArgs};
use crate::by_prompt;
use crate::engine;
use crate::environment;
use crate::failure::Failure;
use crate::output::{self, Judged};
use crate::progress::TerminalWatcher;
use crate::prompts;
use crate::remote;
use crate::search::{promise, search};
use crate::sweep;
use driftprobe::judge::examine::Oracle;
use driftprobe::search::with_search;
use driftprobe_engine::record::{self, Budget, Plan, RowPlan, record, record_both};
use driftprobe_engine::{Engine, EngineError};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Mode, Phase, Point, PromptInfo, Run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers that are traced when none are named.
const LAYERS_BY_DEFAULT: &[usize] = &[0, 1, 2, 4, 8];
/// Runs of one name that a folder may hold.
const RUNS_MAX: usize = 100_000;

/// Runs the command and returns the exit status.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    if let Some(destination) = &args.remote.remote {
        return remote::run(args, destination);
    }
    if let Some(axis) = &args.sweep {
        return sweep::run(args, axis);
    }
    let Some(Made { dir, judged }) = make(args)? else { return Ok(driftprobe::EXIT_PASS) };
    output::write(&judged, &analyze::beside(&dir), args.format)?;
    Ok(judged.analysis.exit_code())
}

/// A run that was recorded and judged.
pub struct Made {
    /// Its folder.
    pub dir: PathBuf,
    /// What is said of it.
    pub judged: Judged,
}

/// Makes a run, and judges it unless it was only to be recorded.
pub fn make(args: &RunArgs) -> Result<Option<Made>, Failure> {
    engine::in_threads(&args.engine, || make_here(args))
}

fn make_here(args: &RunArgs) -> Result<Option<Made>, Failure> {
    if args.shard.is_some() && args.volume.two_pass {
        let what = "--two-pass with --shard: each shard would record around a first divergence of its own";
        return Err(Failure::new(what, "record the shards whole or by --budget, which is that of all shards together"));
    }
    let model = Model::open(&args.engine.model)?;
    let all = prompts::asked(&args.engine, &model)?;
    let mut base = manifest(&args.engine.model, args.seed, &model);
    let prompts = match args.shard {
        Some(shard) => by_prompt::shard_of(shard, &all, &mut base)?,
        None => all.clone(),
    };
    // What its settings depend on must be the same in all shards: those of one run.
    let engine = engine::open(&args.engine, args.fault.as_ref(), &model, &all)?;
    let engine = engine.as_ref();
    let mode = if args.mode == Modes::KvAligned { Mode::KvAligned } else { Mode::AsDesigned };
    let volume = &args.volume;
    let everywhere = volume.two_pass || volume.budget.is_some();
    let mut plan = Plan {
        prompts,
        steps: args.engine.steps,
        layers: match everywhere {
            true => layers_or(&args.engine, engine.layers(), (0..engine.layers()).collect())?,
            false => layers(&args.engine, engine.layers())?,
        },
        points: points(&args.engine, engine)?,
        repeats: args.repeats,
        forced: false,
        decoded: 0,
        unwatched: true,
        payloads: !args.no_payloads,
        rows: None,
        compress: volume.compress,
        overwrite: args.overwrite,
        mode,
    };
    record::check(engine, &plan)?;
    check_context(&plan, &model)?;
    let modes = if args.mode == Modes::Both { 2 } else { 1 };
    if let Some(size) = volume.budget {
        plan.rows = Some(RowPlan::share_within(engine, (&plan, &all), &base, Budget { bytes: size.0, modes })?);
    } else if volume.two_pass {
        plan.rows = Some(RowPlan::first_pass(engine, &plan, &base, modes)?);
    }
    let dir = match &args.out {
        Some(dir) => {
            args.shard.map_or_else(|| dir.clone(), |shard| dir.join(by_prompt::shard_folder(shard.index, shard.of)))
        }
        None => new_folder(Path::new("runs"), &model)?,
    };
    let mut watcher = TerminalWatcher::new();
    let record = if args.mode == Modes::Both { record_both } else { record };
    let recorded = record(engine, &plan, &dir, base, &mut watcher);
    watcher.finish();
    match recorded {
        Ok(_) if args.record_only => {
            output::print(&format!("recorded {}; judge it with `driftprobe analyze`\n", dir.display()))?;
            Ok(None)
        }
        Ok(_) => {
            let oracle = Oracle { budget_flops: args.engine.simulate, ..Oracle::new(&model) };
            let judged = judge_and_search(engine, &plan, (&dir, &oracle))?;
            Ok(Some(Made { dir, judged }))
        }
        Err(EngineError::Interrupted) => Err(Failure::interrupted(&dir)),
        Err(e) => Err(e.into()),
    }
}

/// Judges the run in a folder that was recorded by this plan, and records again what lies around its fault.
pub fn judge_and_search(
    engine: &dyn Engine,
    plan: &Plan,
    (dir, oracle): (&Path, &Oracle<'_>),
) -> Result<Judged, Failure> {
    let run = Run::open(dir)?;
    let seen = run.seen();
    let mut analysis = analyze::judge(&run, Some(oracle))?;
    drop(run);
    let seen = promise(engine, plan, &mut analysis, (dir, seen))?;
    let rounds = search(engine, plan, &analysis, (dir, oracle))?;
    Ok(Judged { analysis: with_search(analysis, rounds), seen })
}

/// Refuses sequences that are longer than the model was made for: what it computes there means little.
pub fn check_context(plan: &Plan, model: &Model) -> Result<(), Failure> {
    let Some(context) = model.config.max_position_embeddings else { return Ok(()) };
    let tokens = |prompt: &PromptInfo| prompt.tokens.len() + plan.chosen();
    match plan.prompts.iter().find(|prompt| tokens(prompt) > context) {
        None => Ok(()),
        Some(prompt) => {
            let what = format!(
                "prompt {} and its steps take {} tokens; the model's context is {context}",
                prompt.id,
                tokens(prompt)
            );
            Err(Failure::new(what, "take a shorter prompt or fewer --steps"))
        }
    }
}

/// A list that was asked for by option or environment variable, and the name of whichever it was.
fn asked(option: (&'static str, &Option<String>), variables: &[&'static str]) -> Option<(&'static str, String)> {
    let set = |name: &&'static str| environment::set(name).map(|value| (*name, value));
    option.1.clone().map(|value| (option.0, value)).or_else(|| variables.iter().find_map(set))
}

/// The layers to trace, of `count`: those asked for, or some.
pub fn layers(args: &EngineArgs, count: usize) -> Result<BTreeSet<usize>, Failure> {
    layers_or(args, count, LAYERS_BY_DEFAULT.iter().copied().filter(|layer| *layer < count).collect())
}

/// The layers to trace: those asked for, or `others`.
fn layers_or(args: &EngineArgs, count: usize, others: BTreeSet<usize>) -> Result<BTreeSet<usize>, Failure> {
    let Some((by, list)) = asked(("--layers", &args.layers), &["GRETA_TRACE_LAYERS", "GRETA_TRACE_STAGE_LAYERS"])
    else {
        return Ok(others);
    };
    if list.trim() == "all" {
        return Ok((0..count).collect());
    }
    let layer = |name: &str| {
        let hint = format!("expected numbers from 0 to {} separated by commas, or all", count.saturating_sub(1));
        name.trim().parse().map_err(|_| Failure::new(format!("{by} {list}: {name:?} is no layer"), hint))
    };
    list.split(',').map(layer).collect()
}

pub fn points(args: &EngineArgs, engine: &dyn Engine) -> Result<BTreeSet<Point>, Failure> {
    let phases = Phase::ALL;
    let offered: BTreeSet<Point> = phases.into_iter().flat_map(|phase| engine.points(phase)).collect();
    let Some((by, list)) = asked(("--points", &args.points), &["GRETA_TRACE_STAGE_POINTS"]) else {
        return Ok(offered);
    };
    if list.trim() == "all" {
        return Ok(offered);
    }
    let point = |name: &str| {
        let known = offered.iter().map(|p| p.id()).collect::<Vec<_>>().join(", ");
        let what = format!("{by} {list}: this model has no point {name:?}");
        let found = Point::parse(name.trim()).filter(|p| offered.contains(p));
        found.ok_or_else(|| Failure::new(what, format!("expected all, or some of {known}")))
    };
    list.split(',').map(point).collect()
}

/// What only this program knows of a run: the model, given as `given`, the seed, and the machine.
pub fn manifest(given: &Path, seed: u64, model: &Model) -> Manifest {
    Manifest {
        model: Some(environment::model_info(given, model)),
        config: Some(model.config.to_hugging_face()),
        seed: Some(seed),
        env: environment::variables(),
        host: Some(environment::host()),
        ..Default::default()
    }
}

/// The first of NAME-001, NAME-002 … in a folder that does not exist there, made.
pub fn new_folder(runs: &Path, model: &Model) -> Result<PathBuf, Failure> {
    // A folder's name may hold a dot that begins no ending.
    let named = if model.path.is_dir() { model.path.file_name() } else { model.path.file_stem() };
    let name = named.map_or_else(|| "run".to_owned(), |s| s.to_string_lossy().into_owned());
    fs::create_dir_all(runs).map_err(|e| Failure::io("make the folder", runs, &e))?;
    for n in 1..RUNS_MAX {
        let dir = runs.join(format!("{name}-{n:03}"));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Failure::io("make the folder", &dir, &e)),
        }
    }
    Err(Failure::new(format!("{} holds too many runs", runs.display()), "name a folder with --out"))
}
