//! Makes a run out of an engine: both phases of every prompt, each as often as asked, written as they are computed.

mod budget;
mod cost;
mod plan;
mod rows;
mod sizes;
mod unwatched;

pub use budget::{Budget, RowPlan};
pub use plan::{Plan, check};

use crate::tap::{Selection, Tap};
use crate::{Engine, EngineError, Session};
use driftprobe_trace::{Manifest, Mode, ObserverEffect, Phase, Point, PointSet, PromptInfo, RowHash, RunWriter};
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

type RowKey = (usize, Phase, Point, i32, usize);

struct Recorder<'a> {
    engine: &'a dyn Engine,
    plan: &'a Plan,
    watcher: &'a mut dyn Watcher,
    /// Hashes of the run itself, which repeats are compared with.
    hashes: HashMap<RowKey, RowHash>,
    /// Logits with and without tracing.
    observer: ObserverEffect,
    done: u64,
    total: u64,
    /// Bytes of payloads and events that were written.
    written: u64,
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
    check(engine, plan)?;
    let mut recorder = Recorder {
        engine,
        plan,
        watcher,
        hashes: HashMap::new(),
        observer: ObserverEffect::default(),
        done: 0,
        total: 0,
        written: 0,
    };
    recorder.total = recorder.work();
    let mut manifest = recorder.manifest(base);
    let start = if plan.overwrite { RunWriter::overwrite } else { RunWriter::create };
    // The folder is taken before the tokens of further steps are chosen: that is work already, and may be interrupted.
    let writer = start(dir, manifest.clone())?;
    manifest.prompts = match recorder.extended_prompts() {
        Ok(prompts) => Some(prompts),
        Err(e) => {
            writer.finish(false)?;
            return Err(e);
        }
    };
    let mut writer = RunWriter::overwrite(dir, manifest.clone())?;
    // `complete` is written last, when the repeats have ended too.
    match recorder.run_all(&mut writer, dir, &manifest) {
        Ok(()) => Ok(writer.finish(true)?),
        Err(e) => {
            writer.finish(false)?;
            Err(e)
        }
    }
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
            mode: Some(self.plan.mode),
            engine: Some(self.engine.info()),
            contract: Some(self.engine.contract()),
            layers: Some(self.plan.layers.iter().filter_map(|l| i32::try_from(*l).ok()).collect()),
            points: Some(points),
            steps: u32::try_from(self.plan.steps).ok(),
            recording: self.plan.rows.as_ref().map(|rows| rows.recording().clone()),
            ..base
        }
    }

    /// Token-layers of the whole recording: prefill feeds n+k−1 tokens; decode n−1, then k.
    fn work(&self) -> u64 {
        let extra = self.plan.chosen();
        let once: usize = self.plan.prompts.iter().map(|p| 2 * (p.tokens.len() + extra)).sum();
        let choosing: usize =
            if extra > 0 { self.plan.prompts.iter().map(|p| p.tokens.len() + extra - 1).sum() } else { 0 };
        let all = once * (1 + self.plan.repeats as usize + usize::from(self.plan.unwatched)) + choosing;
        (all * self.engine.layers()) as u64
    }

    /// Each prompt with the k − 1 tokens that the engine itself chooses behind it.
    fn extended_prompts(&mut self) -> Result<Vec<PromptInfo>, EngineError> {
        let mut prompts = self.plan.prompts.clone();
        if self.plan.chosen() == 0 {
            return Ok(prompts);
        }
        for prompt in &mut prompts {
            let session = &mut *self.engine.session()?;
            let n = prompt.tokens.len();
            let mut logits = {
                let mut rows = self.rows(None, &prompt.id, (Phase::Prefill, 0));
                session.prefill(&prompt.tokens, n - 1..n, &mut Tap::watched(&mut rows))?
            };
            for step in 1..=self.plan.chosen() {
                let token = greedy(&logits);
                prompt.tokens.push(token);
                if step < self.plan.chosen() {
                    let mut rows = self.rows(None, &prompt.id, (Phase::Decode, 0));
                    logits = session.decode(token, &mut Tap::watched(&mut rows))?;
                }
            }
        }
        Ok(prompts)
    }

    fn rows<'r>(&'r mut self, writer: Option<&'r mut RunWriter>, prompt_id: &'r str, pass: (Phase, u32)) -> Rows<'r> {
        Rows {
            writer,
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

    fn run_all(&mut self, writer: &mut RunWriter, dir: &Path, manifest: &Manifest) -> Result<(), EngineError> {
        self.run(writer, manifest, 0)?;
        writer.manifest_mut().observer = self.plan.unwatched.then(|| self.observer.clone());
        for repeat in 1..=self.plan.repeats {
            let again = Manifest { repeat, ..manifest.clone() };
            let mut writer = RunWriter::overwrite(&dir.join(format!("repeat-{repeat}")), again)?;
            let outcome = self.run(&mut writer, manifest, repeat);
            writer.finish(outcome.is_ok())?;
            outcome?;
        }
        Ok(())
    }

    /// One run: every prompt, prefill and decode.
    fn run(&mut self, writer: &mut RunWriter, manifest: &Manifest, repeat: u32) -> Result<(), EngineError> {
        let limit = self.plan.rows.as_ref().and_then(RowPlan::limit);
        writer.set_compression(self.plan.compress);
        writer.set_limit(limit.map(|limit| limit.saturating_sub(self.written)));
        for (index, prompt) in manifest.prompts.iter().flatten().enumerate() {
            let steps = self.plan.steps;
            let first = prompt.tokens.len() - steps;
            writer.begin(&prompt.id, Phase::Prefill)?;
            let engine = self.engine;
            let mut prefilled = engine.session()?;
            let of_prefill = self.prefill(&mut *prefilled, writer, (index, prompt), (first, repeat))?;
            // Only alignment needs prefill's cache beyond this point.
            let aligned = (self.plan.mode == Mode::KvAligned).then_some(prefilled);
            writer.begin(&prompt.id, Phase::Decode)?;
            let of_decode = self.decode(aligned.as_deref(), Some(writer), (index, prompt), (first, repeat))?;
            writer.flush_prompt()?;
            if repeat == 0 && self.plan.unwatched {
                self.unwatched(aligned.as_deref(), (index, prompt), first, [of_prefill, of_decode])?;
            }
        }
        self.written += writer.written();
        Ok(())
    }

    fn prefill(
        &mut self,
        session: &mut dyn Session,
        writer: &mut RunWriter,
        (index, prompt): (usize, &PromptInfo),
        (first, repeat): (usize, u32),
    ) -> Result<Vec<f32>, EngineError> {
        let selection = self.selection(Phase::Prefill);
        let positions = first..prompt.tokens.len();
        let mut rows = self.rows(Some(writer), &prompt.id, (Phase::Prefill, repeat));
        rows.prompt = (index, &prompt.id, &prompt.tokens);
        let mut tap = Tap::open(&selection, positions.clone(), &mut rows);
        session.prefill(&prompt.tokens, positions, &mut tap)
    }

    /// Decode's steps, and their logits. Without a writer nothing is tapped.
    fn decode(
        &mut self,
        aligned: Option<&dyn Session>,
        mut writer: Option<&mut RunWriter>,
        (index, prompt): (usize, &PromptInfo),
        (first, repeat): (usize, u32),
    ) -> Result<Vec<f32>, EngineError> {
        let selection = self.selection(Phase::Decode);
        let engine = self.engine;
        // Only a watched session lets its cache be replaced.
        let unwatched = writer.is_none() && aligned.is_none();
        let session = &mut *if unwatched { engine.unwatched_session()? } else { engine.session()? };
        let mut logits = Vec::new();
        let (whole, decoded) = prompt.tokens[..first].split_at(first.saturating_sub(self.plan.decoded));
        if !whole.is_empty() {
            let mut rows = self.rows(None, &prompt.id, (Phase::Decode, repeat));
            session.prefill(whole, 0..0, &mut Tap::watched(&mut rows))?;
        }
        for token in decoded {
            let mut rows = self.rows(None, &prompt.id, (Phase::Decode, repeat));
            session.decode(*token, &mut Tap::watched(&mut rows))?;
        }
        let mut own = 0;
        for (pos, token) in prompt.tokens.iter().enumerate().skip(first) {
            if let Some(prefilled) = aligned {
                align(session, prefilled, own..pos, engine.layers())?;
                own = pos;
            }
            let tapped = writer.is_some();
            let mut rows = self.rows(writer.as_deref_mut(), &prompt.id, (Phase::Decode, repeat));
            rows.prompt = (index, &prompt.id, &prompt.tokens);
            rows.step = (pos - first) as u64 + 1;
            let own = pos..pos + 1;
            let mut tap = if tapped { Tap::open(&selection, own, &mut rows) } else { Tap::watched(&mut rows) };
            logits.extend(session.decode(*token, &mut tap)?);
        }
        Ok(logits)
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

/// The token with the largest logit; the first of equals.
pub fn greedy(logits: &[f32]) -> u32 {
    let best =
        logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, l)| if *l > best.1 { (i, *l) } else { best });
    u32::try_from(best.0).unwrap_or(u32::MAX)
}
