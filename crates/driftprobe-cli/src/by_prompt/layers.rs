//! `driftprobe analyze --layer-shard`: stages of a part of the layers, so that several machines share one long prompt. They
//! are no verdict: whoever judges the prompt takes them up, and judges himself what is not there.

use super::judge::Judging;
use super::store::Store;
use super::{Task, each};
use crate::args::{AnalyzeArgs, Format};
use crate::failure::Failure;
use crate::output;
use driftprobe::digest::{LayersDigest, Shard, generator};
use serde::Serialize;
use std::sync::{Mutex, PoisonError};

/// The version of the JSON.
const SCHEMA: u32 = 1;

/// What one machine did of the work.
#[derive(Default, Serialize)]
struct LayersDone {
    schema: u32,
    generator: String,
    layer_shard: Option<Shard>,
    prompts: usize,
    known: usize,
    stages: usize,
    without_model: usize,
    folder: String,
    hint: &'static str,
}

impl LayersDone {
    fn to_text(&self) -> String {
        let LayersDone { prompts, known, stages, without_model, folder, hint, .. } = self;
        let shard = self.layer_shard.map(|shard| shard.to_string()).unwrap_or_default();
        let lack =
            if *without_model > 0 { format!(", {without_model} of them without a model") } else { String::new() };
        format!(
            "layers {shard}: {stages} stages of {prompts} prompts judged{lack}, {known} prompts known already, in {folder}\n{hint}\n"
        )
    }
}

/// Refuses what a part of the layers has none of, before any work.
pub fn check_format(format: Format) -> Result<(), Failure> {
    match format {
        Format::Text | Format::Json => Ok(()),
        _ => {
            let hint =
                "take text or json here; the report is that of the prompts: driftprobe analyze --by-prompt --format md";
            Err(Failure::new("stages of some layers have no report of their own", hint))
        }
    }
}

/// Judges this part of the layers of each prompt, and says so.
pub fn run(
    tasks: &[Task<'_>],
    (judging, store): (&Judging, &Store),
    shard: Shard,
    args: &AnalyzeArgs,
) -> Result<(), Failure> {
    let known = |task: &&Task<'_>| !args.fresh && (store.read(task).is_some() || store.has_layers(task, shard));
    let open: Vec<&Task<'_>> = tasks.iter().filter(|task| !known(task)).collect();
    let done = Mutex::new(LayersDone {
        schema: SCHEMA,
        generator: generator(),
        layer_shard: Some(shard),
        prompts: open.len(),
        known: tasks.len() - open.len(),
        folder: store.shown(),
        hint: "the verdict is that of the prompts: driftprobe analyze --by-prompt, with the same --out",
        ..LayersDone::default()
    });
    each(&open, args.jobs, "judging layers", |task| {
        let found = task.subject.parts.get(task.part).map(|part| judging.layers(part, task.prompt, shard));
        let found: Option<LayersDigest> = found.transpose()?.flatten();
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        match &found {
            Some(found) => done.stages += found.len(),
            None => done.without_model += 1,
        }
        drop(done);
        found.map_or(Ok(()), |found| store.write_layers(task, shard, &found))
    })?;
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let json = || serde_json::to_string_pretty(&done).unwrap_or_default() + "\n";
    output::print(&if args.format == Format::Json { json() } else { done.to_text() })
}
