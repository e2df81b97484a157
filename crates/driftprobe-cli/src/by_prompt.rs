//! `driftprobe analyze --by-prompt`: any number of runs, prompt by prompt, in memory that does not grow with them.
//!
//! Each prompt is judged by itself and leaves a small file; what lies there already is not judged again. The verdict is made
//! of these files alone, so that it does not matter which machine made which of them.

mod done;
mod judge;
mod layers;
mod shards;
mod store;
mod subject;

pub use shards::{shard_folder, shard_of};
pub use store::{Store, plan_of};
pub use subject::{folders, foreign_round, names};

use crate::analyze::{beside, contract};
use crate::args::{AnalyzeArgs, Format};
use crate::failure::Failure;
use crate::merge;
use crate::output;
use crate::progress::SharedBar;
use done::ShardDone;
use driftprobe::Verdict;
use driftprobe::digest::{Digest, Plan, PlannedUnit, Promise, Seen};
use judge::{Judging, Models};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use subject::Subject;

/// One unit and where it comes from.
struct Task<'a> {
    subject: &'a Subject,
    part: usize,
    prompt: &'a str,
    fingerprint: String,
    stages_fingerprint: String,
}

/// Runs the command and returns the exit status: that of the verdict; of a shard, which has none, that of work done.
pub fn run(args: &AnalyzeArgs) -> Result<u8, Failure> {
    merge::check_format(args.format)?;
    match (args.layer_shard, args.shard) {
        (Some(_), _) => layers::check_format(args.format)?,
        (None, Some(_)) => done::check_format(args.format)?,
        (None, None) => {}
    }
    let out = folder(args)?;
    let contract = args.judging.contract.as_deref().map(contract).transpose()?;
    let subjects = subject::open(&args.runs)?;
    let mut models = Models::new(args.judging.model.as_deref())?;
    for part in subjects.iter().flat_map(|subject| &subject.parts) {
        models.open(part);
    }
    let judging = Judging { models, contract, budget_flops: args.judging.simulate };
    let mut promise = Promise::default();
    for subject in &subjects {
        promise.add(&subject.name, &subject.prompts).map_err(merge::refused)?;
    }
    let by_name: BTreeMap<&str, &Subject> = subjects.iter().map(|subject| (subject.name.as_str(), subject)).collect();
    let mut tasks = Vec::new();
    for (place, (run, prompt)) in promise.units().enumerate() {
        if args.shard.is_some_and(|shard| !shard.holds(place)) {
            continue;
        }
        let Some(&subject) = by_name.get(run) else { continue };
        // A part of the run that is not here: somebody else's, or nobody's.
        let Some(part) = subject.part_of(prompt) else { continue };
        let stages_fingerprint = judging.stages_fingerprint(subject, part, prompt);
        let fingerprint = judging.fingerprint(subject, part, prompt, &stages_fingerprint);
        tasks.push(Task { subject, part, prompt, fingerprint, stages_fingerprint });
    }
    let store = Store::new(&out);
    if let Some(shard) = args.layer_shard {
        layers::run(&tasks, (&judging, &store), shard, args)?;
        subjects.iter().try_for_each(Subject::unchanged)?;
        return Ok(driftprobe::EXIT_PASS);
    }
    let planned = tasks.iter().map(|task| PlannedUnit {
        run: task.subject.name.clone(),
        prompt: task.prompt.to_owned(),
        fingerprint: task.fingerprint.clone(),
    });
    let mut seen = Seen::default();
    subjects.iter().for_each(|subject| seen.insert(&subject.name, judging.seen(subject)));
    store.write_plan(&Plan::new(args.shard, promise.clone(), planned.collect()).with_seen(seen))?;
    let verdicts = judge_all(&tasks, &judging, &store, args)?;
    subjects.iter().try_for_each(Subject::unchanged)?;
    match args.shard {
        None => {
            let merged = merge::collect(&[out.as_path()])?;
            merge::write(&merged, &out, args.format)?;
            Ok(merged.exit_code)
        }
        Some(shard) => {
            let done = ShardDone::new(shard, &out, &verdicts);
            output::print(&if args.format == Format::Json { done.to_json() } else { done.to_text() })?;
            Ok(driftprobe::EXIT_PASS)
        }
    }
}

/// Where the results go.
fn folder(args: &AnalyzeArgs) -> Result<PathBuf, Failure> {
    match (&args.out, args.runs.as_slice()) {
        (Some(out), _) => Ok(out.clone()),
        (None, [run]) => Ok(beside(run)),
        _ => Err(Failure::new("several runs have no folder of their own", "name one for the report with --out")),
    }
}

/// The verdict on a prompt, and whether it was made just now.
struct Judged {
    verdict: Verdict,
    now: bool,
}

/// The verdict on every unit; those whose result is not there are judged.
fn judge_all(tasks: &[Task<'_>], judging: &Judging, store: &Store, args: &AnalyzeArgs) -> Result<Vec<Judged>, Failure> {
    let (mut verdicts, mut open) = (Vec::new(), Vec::new());
    for task in tasks {
        match store.read(task).filter(|_| !args.fresh) {
            Some(digest) => verdicts.push(Judged { verdict: digest.verdict, now: false }),
            None => open.push(task),
        }
    }
    let judged = Mutex::new(Vec::new());
    each(&open, args.jobs, "judging prompts", |task| {
        let Some(part) = task.subject.parts.get(task.part) else { return Ok(()) };
        let beforehand = if args.fresh { None } else { store.layers(task) };
        let analysis = judging.judge(part, task.prompt, beforehand)?;
        let verdict = analysis.verdict.verdict;
        store.write(&Digest::of(&task.subject.name, task.prompt, &analysis), &task.fingerprint)?;
        judged.lock().unwrap_or_else(PoisonError::into_inner).push(Judged { verdict, now: true });
        Ok(())
    })?;
    verdicts.extend(judged.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(verdicts)
}

/// Does `work` for each, `jobs` at once, until one fails.
fn each<T: Sync>(
    all: &[T],
    jobs: Option<usize>,
    what: &'static str,
    work: impl Fn(&T) -> Result<(), Failure> + Sync,
) -> Result<(), Failure> {
    let bar = SharedBar::new(all.len() as u64, what);
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let threads = jobs.map_or_else(rayon::current_num_threads, |jobs| jobs.max(1)).min(all.len());
    // Threads of our own and not a pool's: a pool's thread that waits takes up the next prompt, and then both are in memory.
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(e) = work(one) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                        next.store(all.len(), Ordering::Relaxed);
                    }
                    bar.done();
                }
            });
        }
    });
    bar.finish();
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
