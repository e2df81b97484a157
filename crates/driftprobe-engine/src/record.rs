//! Makes a run out of an engine: both phases of every prompt, each as often as asked, written as they are computed.

mod plan;

pub use plan::{Plan, check};

use crate::tap::{Receiver, Selection, Tap, TappedRow};
use crate::{Engine, EngineError, Session};
use driftprobe_trace::{HashAlgo, Manifest, Mode, Phase, Point, PointSet, PromptInfo, RowHash, RowRecord, RunWriter};
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
    check(engine, plan)?;
    let mut recorder = Recorder { engine, plan, watcher, hashes: HashMap::new(), done: 0, total: 0 };
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
            ..base
        }
    }

    /// Token-layers of the whole recording: prefill feeds n+k−1 tokens; decode n−1, then k.
    fn work(&self) -> u64 {
        let extra = self.plan.steps - 1;
        let once: usize = self.plan.prompts.iter().map(|p| 2 * (p.tokens.len() + extra)).sum();
        let choosing: usize =
            if extra > 0 { self.plan.prompts.iter().map(|p| p.tokens.len() + extra - 1).sum() } else { 0 };
        let all = once * (1 + self.plan.repeats as usize) + choosing;
        (all * self.engine.layers()) as u64
    }

    /// Each prompt with the k − 1 tokens that the engine itself chooses behind it.
    fn extended_prompts(&mut self) -> Result<Vec<PromptInfo>, EngineError> {
        let mut prompts = self.plan.prompts.clone();
        if self.plan.steps == 1 {
            return Ok(prompts);
        }
        for prompt in &mut prompts {
            let session = &mut *self.engine.session()?;
            let n = prompt.tokens.len();
            let mut logits = {
                let mut rows = self.rows(None, &prompt.id, (Phase::Prefill, 0));
                session.prefill(&prompt.tokens, n - 1..n, &mut Tap::watched(&mut rows))?
            };
            for step in 1..self.plan.steps {
                let token = greedy(&logits);
                prompt.tokens.push(token);
                if step + 1 < self.plan.steps {
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
        }
    }

    fn run_all(&mut self, writer: &mut RunWriter, dir: &Path, manifest: &Manifest) -> Result<(), EngineError> {
        self.run(writer, manifest, 0)?;
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
        for (index, prompt) in manifest.prompts.iter().flatten().enumerate() {
            let steps = self.plan.steps;
            let first = prompt.tokens.len() - steps;
            writer.begin(&prompt.id, Phase::Prefill)?;
            let engine = self.engine;
            let mut prefilled = engine.session()?;
            self.prefill(&mut *prefilled, writer, (index, prompt), (first, repeat))?;
            // Only alignment needs prefill's cache beyond this point.
            let aligned = (self.plan.mode == Mode::KvAligned).then_some(prefilled);
            writer.begin(&prompt.id, Phase::Decode)?;
            self.decode(aligned.as_deref(), writer, (index, prompt), (first, repeat))?;
            writer.flush_prompt()?;
        }
        Ok(())
    }

    fn prefill(
        &mut self,
        session: &mut dyn Session,
        writer: &mut RunWriter,
        (index, prompt): (usize, &PromptInfo),
        (first, repeat): (usize, u32),
    ) -> Result<(), EngineError> {
        let selection = self.selection(Phase::Prefill);
        let positions = first..prompt.tokens.len();
        let mut rows = self.rows(Some(writer), &prompt.id, (Phase::Prefill, repeat));
        rows.prompt = (index, &prompt.id, &prompt.tokens);
        let mut tap = Tap::open(&selection, positions.clone(), &mut rows);
        session.prefill(&prompt.tokens, positions, &mut tap)?;
        Ok(())
    }

    fn decode(
        &mut self,
        aligned: Option<&dyn Session>,
        writer: &mut RunWriter,
        (index, prompt): (usize, &PromptInfo),
        (first, repeat): (usize, u32),
    ) -> Result<(), EngineError> {
        let selection = self.selection(Phase::Decode);
        let engine = self.engine;
        let session = &mut *engine.session()?;
        if first > 0 {
            let mut rows = self.rows(None, &prompt.id, (Phase::Decode, repeat));
            session.prefill(&prompt.tokens[..first], 0..0, &mut Tap::watched(&mut rows))?;
        }
        let mut own = 0;
        for (pos, token) in prompt.tokens.iter().enumerate().skip(first) {
            if let Some(prefilled) = aligned {
                align(session, prefilled, own..pos, engine.layers())?;
                own = pos;
            }
            let mut rows = self.rows(Some(writer), &prompt.id, (Phase::Decode, repeat));
            rows.prompt = (index, &prompt.id, &prompt.tokens);
            rows.step = (pos - first) as u64 + 1;
            session.decode(*token, &mut Tap::open(&selection, pos..pos + 1, &mut rows))?;
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

/// The token with the largest logit; the first of equals.
fn greedy(logits: &[f32]) -> u32 {
    let best =
        logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, l)| if *l > best.1 { (i, *l) } else { best });
    u32::try_from(best.0).unwrap_or(u32::MAX)
}

/// Receives one forward pass.
struct Rows<'r> {
    writer: Option<&'r mut RunWriter>,
    watcher: &'r mut dyn Watcher,
    hashes: &'r mut HashMap<RowKey, RowHash>,
    done: &'r mut u64,
    total: u64,
    prompt: (usize, &'r str, &'r [u32]),
    /// Phase and repeat.
    pass: (Phase, u32),
    step: u64,
    payloads: bool,
}

impl Rows<'_> {
    /// Whether a row's bytes are kept: a repeat keeps only what differs from the run itself.
    fn keeps(&mut self, row: &TappedRow) -> Result<bool, EngineError> {
        let (phase, repeat) = self.pass;
        let key = (self.prompt.0, phase, row.point, row.layer, row.pos);
        let hash = hash_of(row);
        if repeat == 0 {
            self.hashes.insert(key, hash);
            return Ok(self.payloads);
        }
        Ok(self.payloads && self.hashes.get(&key) != Some(&hash))
    }
}

fn hash_of(row: &TappedRow) -> RowHash {
    RowHash { algo: HashAlgo::Xxh3_64, value: driftprobe_trace::xxh3_64(&row.bytes) }
}

impl Receiver for Rows<'_> {
    fn row(&mut self, row: TappedRow) -> Result<(), EngineError> {
        let payload = self.keeps(&row)?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let token_id = self.prompt.2.get(row.pos).copied().unwrap_or_default();
        writer.record(RowRecord {
            point: row.point,
            layer: row.layer,
            step: self.step,
            pos_id: row.pos as u64,
            logical_tok_idx: row.pos as u64,
            token_id,
            seq_len: row.seq_len as u64,
            kv_len: Some(row.pos as u64 + 1),
            dtype: row.dtype,
            stored_dtype: None,
            shape: row.shape,
            bytes: row.bytes,
            logits_top: None,
            payload,
        })?;
        Ok(())
    }

    fn layer(&mut self, layer: usize, tokens: usize) -> Result<(), EngineError> {
        let (phase, repeat) = self.pass;
        let progress = Progress { prompt_id: self.prompt.1, phase, repeat, layer, done: *self.done, total: self.total };
        *self.done += tokens as u64;
        if self.watcher.go_on(&progress) { Ok(()) } else { Err(EngineError::Interrupted) }
    }
}
