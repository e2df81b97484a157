//! Makes a run out of an engine: both phases of every prompt, each as often as asked, written as they are computed.

mod budget;
mod choose;
mod cost;
mod output;
mod plan;
mod rows;
mod sizes;
mod unwatched;

pub use budget::{Budget, RowPlan};
pub use choose::greedy;
pub use plan::{Plan, check};

use crate::tap::{Selection, Tap};
use crate::{Engine, EngineError, Session};
use driftprobe_trace::RunWriter;
use driftprobe_trace::{ALIGNED_DIR, Manifest, Mode, ObserverEffect, Phase, Point, PointSet, PromptInfo, RowHash};
use output::Output;
use rows::Rows;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

/// Where a recording has got to.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The prompt.
    pub prompt_id: &'a str,
    /// The phase.
    pub phase: Phase,
    /// 0 for the run itself, 1 … for its repeats.
    pub repeat: u32,
    /// The layer that begins.
    pub layer: usize,
    /// Token-layers computed so far (of all prompts, phases and repeats).
    pub done: u64,
    /// Token-layers in all.
    pub total: u64,
}

/// Somebody who watches a recording and may stop it.
pub trait Watcher {
    /// Called when a layer begins. `false` stops the recording.
    fn go_on(&mut self, progress: &Progress<'_>) -> bool;
}

/// A watcher that only lets things go on.
pub struct Unwatched;

impl Watcher for Unwatched {
    fn go_on(&mut self, _: &Progress<'_>) -> bool {
        true
    }
}

/// Prompt, what computed it, point, layer, position.
type RowKey = (usize, Pass, Point, i32, usize);

/// What computes rows. Prefill does the same in both modes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Pass {
    Prefill,
    Decode(Mode),
}

impl Pass {
    fn phase(self) -> Phase {
        match self {
            Pass::Prefill => Phase::Prefill,
            Pass::Decode(_) => Phase::Decode,
        }
    }
}

struct Recorder<'a> {
    engine: &'a dyn Engine,
    plan: &'a Plan,
    /// Whether both modes are recorded, the plan's own aside.
    both: bool,
    watcher: &'a mut dyn Watcher,
    /// Hashes of one prompt's rows, which its repeats are compared with.
    hashes: HashMap<RowKey, RowHash>,
    /// Logits with and without tracing.
    observer: ObserverEffect,
    /// Hashes of the logits of each prompt's untraced decode, where choosing its tokens computed them.
    chosen: Vec<Vec<u64>>,
    done: u64,
    total: u64,
}

/// Records a run in `dir`. `base` brings what only the caller knows (model, host, environment, seed).
///
/// An interrupted run keeps what was recorded, is marked incomplete, and gives [`EngineError::Interrupted`].
///
/// # Errors
/// When the plan does not fit the model, the engine fails, or the run cannot be written.
pub fn record(
    engine: &dyn Engine,
    plan: &Plan,
    dir: &Path,
    base: Manifest,
    watcher: &mut dyn Watcher,
) -> Result<Manifest, EngineError> {
    record_in(engine, plan, vec![(plan.mode, dir.to_owned())], base, watcher)
}

/// Records a run in `dir` as the engine is designed, and inside it the same with prefill's cache under decode. Prefill, which is
/// the same in both, is computed once and stands in both; so are the engine's own choices of tokens.
///
/// # Errors
/// As [`record`].
pub fn record_both(
    engine: &dyn Engine,
    plan: &Plan,
    dir: &Path,
    base: Manifest,
    watcher: &mut dyn Watcher,
) -> Result<Manifest, EngineError> {
    let dirs = vec![(Mode::AsDesigned, dir.to_owned()), (Mode::KvAligned, dir.join(ALIGNED_DIR))];
    record_in(engine, plan, dirs, base, watcher)
}

fn record_in(
    engine: &dyn Engine,
    plan: &Plan,
    dirs: Vec<(Mode, std::path::PathBuf)>,
    base: Manifest,
    watcher: &mut dyn Watcher,
) -> Result<Manifest, EngineError> {
    check(engine, plan)?;
    let mut recorder = Recorder {
        engine,
        plan,
        both: dirs.len() > 1,
        watcher,
        hashes: HashMap::new(),
        chosen: Vec::new(),
        observer: ObserverEffect::default(),
        done: 0,
        total: 0,
    };
    recorder.total = recorder.work(dirs.len());
    let manifest = recorder.manifest(base);
    // The folders are taken before the tokens of further steps are chosen: that is work already, and may be interrupted.
    let mut outputs: Vec<Output> = vec![];
    let modes: Vec<Mode> = dirs.iter().map(|(mode, _)| *mode).collect();
    for (mode, dir) in dirs {
        // The outer one says what lies inside, so that it is missed where it is gone.
        let modes = (outputs.is_empty() && modes.len() > 1).then(|| modes.clone());
        outputs.push(Output::start(mode, dir, Manifest { modes, ..manifest.clone() }, plan.overwrite)?);
    }
    let outcome = recorder.extended_prompts().and_then(|prompts| {
        outputs.iter_mut().try_for_each(|output| output.promise(prompts.clone()))?;
        recorder.run_all(&mut outputs)
    });
    // `complete` is written last, when the repeats have ended too; that of the run that holds the others at the very last.
    let mut finished = None;
    for output in outputs.into_iter().rev() {
        finished = Some(output.finish(outcome.is_ok())?);
    }
    outcome?;
    finished.ok_or_else(|| EngineError::request("there is no folder to record into", "name one"))
}

/// Bytes of payloads and events that each of these has written, with its mode.
fn written<'o>(outputs: impl Iterator<Item = &'o Output>) -> Vec<(Mode, u64)> {
    outputs.map(|output| (output.mode, output.writer.written())).collect()
}

impl Recorder<'_> {
    fn selection(&self, phase: Phase) -> Selection {
        let offered: BTreeSet<Point> = self.engine.points(phase).into_iter().collect();
        Selection {
            points: self.plan.points.intersection(&offered).copied().collect(),
            layers: self.plan.layers.clone(),
        }
    }

    fn manifest(&self, base: Manifest) -> Manifest {
        let of = |phase| self.selection(phase).points.into_iter().collect::<Vec<_>>();
        let (prefill, decode) = (of(Phase::Prefill), of(Phase::Decode));
        let points = if prefill == decode { PointSet::Both(prefill) } else { PointSet::PerPhase { prefill, decode } };
        Manifest {
            engine: Some(self.engine.info()),
            contract: Some(self.engine.contract()),
            layers: Some(self.plan.layers.iter().filter_map(|l| i32::try_from(*l).ok()).collect()),
            points: Some(points),
            steps: u32::try_from(self.plan.steps).ok(),
            repeats: (self.plan.repeats > 0).then_some(self.plan.repeats),
            recording: self.plan.rows.as_ref().map(|rows| rows.recording().clone()),
            ..base
        }
    }

    /// Token-layers of the whole recording: prefill feeds n+k−1 tokens; decode n−1, then k, in each mode. Choosing tokens is
    /// a decode without a tap, which need not be run again to see what a tap does.
    fn work(&self, modes: usize) -> u64 {
        let extra = self.plan.chosen();
        let once: usize = self.plan.prompts.iter().map(|p| p.tokens.len() + extra).sum();
        let repeats = 1 + self.plan.repeats as usize;
        let untraced = match (self.plan.unwatched, extra > 0) {
            (false, false) => 0,
            (true, true) if !self.decodes_as_chosen() => 3,
            (true, _) => 2,
            (false, true) => 1,
        };
        (once * ((1 + modes) * repeats + untraced) * self.engine.layers()) as u64
    }

    fn rows<'r>(&'r mut self, writers: Vec<&'r mut RunWriter>, prompt_id: &'r str, pass: (Pass, u32)) -> Rows<'r> {
        Rows {
            writers,
            watcher: &mut *self.watcher,
            hashes: &mut self.hashes,
            done: &mut self.done,
            total: self.total,
            prompt: (0, prompt_id, &[]),
            pass,
            step: 0,
            payloads: self.plan.payloads,
            plan: self.plan.rows.as_ref(),
        }
    }

    /// Every prompt in all modes, and its repeats behind it: what is known of a prompt is let go before the next.
    fn run_all(&mut self, outputs: &mut [Output]) -> Result<(), EngineError> {
        // Begun with the first prompt: what is interrupted before leaves no folder.
        let mut repeats = Vec::new();
        let outcome = self.prompts(outputs, &mut repeats);
        // In the other mode prefill is the same, and a cache that is replaced is a watched one.
        if let Some(first) = outputs.first_mut().filter(|_| outcome.is_ok()) {
            first.writer.manifest_mut().observer = self.plan.unwatched.then(|| self.observer.clone());
        }
        for output in repeats.into_iter().flatten() {
            output.finish(outcome.is_ok())?;
        }
        outcome
    }

    fn prompts(&mut self, outputs: &mut [Output], repeats: &mut Vec<Vec<Output>>) -> Result<(), EngineError> {
        let prompts: Vec<PromptInfo> = outputs.first().map(Output::prompts).unwrap_or_default();
        for prompt in prompts.iter().enumerate() {
            self.hashes.clear();
            let elsewhere = written(repeats.iter().flatten());
            self.prompt(outputs, prompt, (0, &elsewhere))?;
            for repeat in 1..=self.plan.repeats {
                let number = repeat as usize - 1;
                if repeats.len() == number {
                    repeats.push(outputs.iter().map(|output| output.repeat(repeat)).collect::<Result<_, _>>()?);
                }
                let others = repeats.iter().enumerate().filter(|(other, _)| *other != number);
                let elsewhere = written(others.flat_map(|(_, outputs)| outputs).chain(&*outputs));
                if let Some(outputs) = repeats.get_mut(number) {
                    self.prompt(outputs, prompt, (repeat, &elsewhere))?;
                }
            }
        }
        Ok(())
    }

    /// One prompt in all modes: prefill and decode. `elsewhere` is what other repeats have written.
    fn prompt(
        &mut self,
        outputs: &mut [Output],
        (index, prompt): (usize, &PromptInfo),
        (repeat, elsewhere): (u32, &[(Mode, u64)]),
    ) -> Result<(), EngineError> {
        let limit = self.plan.rows.as_ref().and_then(RowPlan::limit);
        for output in outputs.iter_mut() {
            output.writer.set_compression(self.plan.compress);
            let elsewhere = elsewhere.iter().filter(|(mode, _)| *mode == output.mode).map(|(_, bytes)| bytes);
            output.writer.set_limit(limit.map(|limit| limit.saturating_sub(elsewhere.sum())));
        }
        let first = prompt.tokens.len() - self.plan.steps;
        let engine = self.engine;
        let mut prefilled = engine.session()?;
        let mut writers = vec![];
        for output in outputs.iter_mut() {
            output.writer.begin(&prompt.id, Phase::Prefill)?;
            writers.push(&mut output.writer);
        }
        let of_prefill = self.prefill(&mut *prefilled, writers, (index, prompt), (first, repeat))?;
        // Only alignment needs prefill's cache beyond this point.
        let needed = outputs.iter().any(|output| output.mode == Mode::KvAligned);
        let prefilled = needed.then_some(prefilled);
        for (number, output) in outputs.iter_mut().enumerate() {
            let aligned = prefilled.as_deref().filter(|_| output.mode == Mode::KvAligned);
            output.writer.begin(&prompt.id, Phase::Decode)?;
            let of_decode = self.decode(aligned, Some(output), (index, prompt), (first, repeat))?;
            output.writer.flush_prompt()?;
            if number == 0 && repeat == 0 && self.plan.unwatched {
                self.unwatched(aligned, (index, prompt), first, [&of_prefill, &of_decode])?;
            }
        }
        Ok(())
    }

    fn prefill(
        &mut self,
        session: &mut dyn Session,
        writers: Vec<&mut RunWriter>,
        (index, prompt): (usize, &PromptInfo),
        (first, repeat): (usize, u32),
    ) -> Result<Vec<f32>, EngineError> {
        let selection = self.selection(Phase::Prefill);
        let positions = first..prompt.tokens.len();
        let mut rows = self.rows(writers, &prompt.id, (Pass::Prefill, repeat));
        rows.prompt = (index, &prompt.id, &prompt.tokens);
        let mut tap = Tap::open(&selection, positions.clone(), &mut rows);
        session.prefill(&prompt.tokens, positions, &mut tap)
    }

    /// Decode's steps, and their logits. Without an output nothing is tapped.
    fn decode(
        &mut self,
        aligned: Option<&dyn Session>,
        mut output: Option<&mut Output>,
        (index, prompt): (usize, &PromptInfo),
        (first, repeat): (usize, u32),
    ) -> Result<Vec<f32>, EngineError> {
        let selection = self.selection(Phase::Decode);
        let engine = self.engine;
        // Only a watched session lets its cache be replaced.
        let unwatched = output.is_none() && aligned.is_none();
        let session = &mut *if unwatched { engine.unwatched_session()? } else { engine.session()? };
        let mut logits = Vec::new();
        self.feed(session, &prompt.id, &prompt.tokens[..first], repeat)?;
        let pass = Pass::Decode(output.as_ref().map_or(self.plan.mode, |output| output.mode));
        let mut own = 0;
        for (pos, token) in prompt.tokens.iter().enumerate().skip(first) {
            if let Some(prefilled) = aligned {
                align(session, prefilled, own..pos, engine.layers())?;
                own = pos;
            }
            let tapped = output.is_some();
            let writers = output.as_deref_mut().map(|output| &mut output.writer).into_iter().collect();
            let mut rows = self.rows(writers, &prompt.id, (pass, repeat));
            rows.prompt = (index, &prompt.id, &prompt.tokens);
            rows.step = (pos - first) as u64 + 1;
            let own = pos..pos + 1;
            let mut tap = if tapped { Tap::open(&selection, own, &mut rows) } else { Tap::watched(&mut rows) };
            logits.extend(session.decode(*token, &mut tap)?);
        }
        Ok(logits)
    }

    /// Feeds what lies before decode's steps: by one prefill, and the last of it one by one if the plan says so.
    fn feed(
        &mut self,
        session: &mut dyn Session,
        prompt_id: &str,
        before: &[u32],
        repeat: u32,
    ) -> Result<(), EngineError> {
        let (whole, decoded) = before.split_at(before.len().saturating_sub(self.plan.decoded));
        let pass = (Pass::Decode(self.plan.mode), repeat);
        if !whole.is_empty() {
            let mut rows = self.rows(vec![], prompt_id, pass);
            session.prefill(whole, 0..0, &mut Tap::watched(&mut rows))?;
        }
        for token in decoded {
            let mut rows = self.rows(vec![], prompt_id, pass);
            session.decode(*token, &mut Tap::watched(&mut rows))?;
        }
        Ok(())
    }
}

/// Replaces decode's cache rows by prefill's, in every layer.
fn align(
    session: &mut dyn Session,
    prefilled: &dyn Session,
    rows: Range<usize>,
    layers: usize,
) -> Result<(), EngineError> {
    if rows.is_empty() {
        return Ok(());
    }
    for layer in 0..layers {
        session.set_kv(layer, rows.start, &prefilled.kv(layer, rows.clone())?)?;
    }
    Ok(())
}
