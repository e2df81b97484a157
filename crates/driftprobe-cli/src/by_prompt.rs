//! `driftprobe analyze --by-prompt`: any number of runs, prompt by prompt, in memory that does not grow with them.
//!
//! Each prompt is judged by itself and leaves a small file; what lies there already is not judged again. The verdict is made
//! of these files alone, so that it does not matter which machine made which of them.

mod done;
mod judge;
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
}

/// Runs the command and returns the exit status: that of the verdict; of a shard, which has none, that of work done.
pub fn run(args: &AnalyzeArgs) -> Result<u8, Failure> {
    merge::check_format(args.format)?;
    if args.shard.is_some() {
        done::check_format(args.format)?;
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
        let fingerprint = judging.fingerprint(subject, part, prompt);
        tasks.push(Task { subject, part, prompt, fingerprint });
    }
    let store = Store::new(&out);
    let planned = tasks.iter().map(|task| PlannedUnit {
        run: task.subject.name.clone(),
        prompt: task.prompt.to_owned(),
        fingerprint: task.fingerprint.clone(),
    });
    let mut seen = Seen::default();
    subjects.iter().for_each(|subject| seen.insert(&subject.name, judging.seen(subject)));
    store.write_plan(&Plan::new(args.shard, promise.clone(), planned.collect()).with_seen(seen))?;
    let judged = judge_all(&tasks, &judging, &store, args)?;
    subjects.iter().try_for_each(Subject::unchanged)?;
    match args.shard {
        None => {
            let merged = merge::collect(&[out.as_path()])?;
            merge::write(&merged, &out, args.format)?;
            Ok(merged.exit_code)
        }
        Some(shard) => {
            let mut done = ShardDone::new(shard, &out, (judged, tasks.len() - judged));
            for task in &tasks {
                done.count(store.read(&task.subject.name, task.prompt, &task.fingerprint).as_ref());
            }
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

/// Judges every unit whose result is not there; how many they were.
fn judge_all(tasks: &[Task<'_>], judging: &Judging, store: &Store, args: &AnalyzeArgs) -> Result<usize, Failure> {
    let known =
        |task: &&Task<'_>| !args.fresh && store.read(&task.subject.name, task.prompt, &task.fingerprint).is_some();
    let open: Vec<&Task<'_>> = tasks.iter().filter(|task| !known(task)).collect();
    let bar = SharedBar::new(open.len() as u64, "judging prompts");
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let threads = args.jobs.map_or_else(rayon::current_num_threads, |jobs| jobs.max(1)).min(open.len());
    // Threads of our own and not a pool's: a pool's thread that waits takes up the next prompt, and then both are in memory.
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(task) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(e) = judge_one(task, judging, store) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                        next.store(open.len(), Ordering::Relaxed);
                    }
                    bar.done();
                }
            });
        }
    });
    bar.finish();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(e),
        None => Ok(open.len()),
    }
}

fn judge_one(task: &Task<'_>, judging: &Judging, store: &Store) -> Result<(), Failure> {
    let Some(part) = task.subject.parts.get(task.part) else { return Ok(()) };
    let analysis = judging.judge(part, task.prompt)?;
    store.write(&Digest::of(&task.subject.name, task.prompt, &analysis), &task.fingerprint)
}
