//! A token of a generation traced in both phases, down to the first tensor that drifts.

use super::generate::Generated;
use crate::analyze;
use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::output;
use crate::progress::TerminalWatcher;
use crate::run;
use driftprobe::judge::examine::Oracle;
use driftprobe::logprobs::{Link, Pair, logprob, shows};
use driftprobe_engine::record::{Plan, record};
use driftprobe_engine::{Engine, EngineError};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Mode, Phase, Point, PromptInfo, Rows, Run};
use std::path::{Path, PathBuf};

/// What tokens are traced with.
pub struct Tracer<'a> {
    /// The engine that has generated.
    pub engine: &'a dyn Engine,
    /// Its model.
    pub model: &'a Model,
    /// What to trace.
    pub args: &'a EngineArgs,
    /// What the manifest says of model and machine.
    pub manifest: Manifest,
    /// Whether runs may be replaced.
    pub overwrite: bool,
}

impl Tracer<'_> {
    /// Records a token's forward pass by prefill and by decode, whose cache is built as it was in the generation, in `dir`,
    /// and judges it. Prefill takes the tokens before it; where the run does not show what was measured, all that were scored,
    /// with every step from the token on, in a folder of its own.
    ///
    /// # Errors
    /// If the run cannot be recorded or read.
    pub fn trace(&self, pair: &Pair, generated: &Generated, dir: &Path) -> Result<Link, Failure> {
        let scored = generated.tokens.len().saturating_sub(1);
        let index = usize::try_from(pair.index).unwrap_or(usize::MAX).min(scored);
        let (mut dir, mut plan) = (dir.to_owned(), self.record(generated, (index, index), dir)?);
        if !shows(run_delta(&dir, pair.token_id)?, pair.delta()) && index < scored {
            let whole = whole(&dir);
            let other = self.record(generated, (index, scored), &whole)?;
            if shows(run_delta(&whole, pair.token_id)?, pair.delta()) {
                (dir, plan) = (whole, other);
            }
        }
        let oracle = Oracle { budget_flops: self.args.simulate, ..Oracle::new(self.model) };
        let judged = run::judge_and_search(self.engine, &plan, (&dir, &oracle))?;
        output::files(&judged, &analyze::beside(&dir))?;
        Ok(Link::of(pair, &judged.analysis, dir.display().to_string(), run_delta(&dir, pair.token_id)?))
    }

    /// Records the first `fed` tokens, with a step for each from the one before `index` on.
    fn record(&self, generated: &Generated, (index, fed): (usize, usize), dir: &Path) -> Result<Plan, Failure> {
        let tokens = generated.tokens.get(..fed).unwrap_or_default().to_vec();
        let decoded = index.saturating_sub(generated.prompt);
        let mut prompt = PromptInfo { id: generated.id.clone(), tokens, ..Default::default() };
        prompt.extra.insert("decoded".to_owned(), decoded.into());
        let plan = Plan {
            steps: fed + 1 - index,
            forced: true,
            decoded,
            layers: run::layers(self.args, self.engine.layers())?,
            points: run::points(self.args, self.engine)?,
            unwatched: true,
            overwrite: self.overwrite,
            mode: Mode::AsDesigned,
            ..Plan::everything(self.engine, vec![prompt])
        };
        let mut watcher = TerminalWatcher::new();
        let recorded = record(self.engine, &plan, dir, self.manifest.clone(), &mut watcher);
        watcher.finish();
        match recorded {
            Ok(_) => Ok(plan),
            Err(EngineError::Interrupted) => Err(Failure::interrupted(dir)),
            Err(e) => Err(e.into()),
        }
    }
}

/// The folder of the run of a whole sequence.
fn whole(dir: &Path) -> PathBuf {
    let name = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    dir.with_file_name(name + "-whole")
}

/// What a run that lies on disk, recorded of a token by whoever has the engine, says of it.
///
/// # Errors
/// If the run cannot be read.
pub fn lying(pair: &Pair, dir: &Path) -> Result<Link, Failure> {
    let analysis = analyze::judge_lying(dir, None, None, None)?;
    Ok(Link::of(pair, &analysis, dir.display().to_string(), run_delta(dir, pair.token_id)?))
}

/// Δ of a token by the logits of the first step in the run that lies in `dir`; `None` where a phase has none.
///
/// # Errors
/// If the run cannot be read.
pub fn run_delta(dir: &Path, token_id: u32) -> Result<Option<f64>, Failure> {
    let run = Run::open(dir)?;
    let of = |phase: Phase| {
        let all = run.events.iter().filter(|event| event.phase == phase && event.point == Point::Logits);
        let row = run.row(all.min_by_key(|event| event.logical_tok_idx)?).ok()??;
        let logits: Vec<f32> = row.values().map(|value| value as f32).collect();
        Some(logprob(&logits, token_id))
    };
    Ok(of(Phase::Decode).zip(of(Phase::Prefill)).map(|(decode, prefill)| decode - prefill))
}
