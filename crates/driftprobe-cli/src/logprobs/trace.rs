//! A token of a generation traced in both phases, down to the first tensor that drifts.

use super::generate::Generated;
use crate::analyze;
use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::output;
use crate::progress::TerminalWatcher;
use crate::run;
use driftprobe::examine::Oracle;
use driftprobe::logprobs::{Link, Pair, logprob};
use driftprobe::search::with_search;
use driftprobe_engine::record::{Plan, record};
use driftprobe_engine::{Engine, EngineError};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Mode, Phase, Point, PromptInfo, Rows, Run};
use std::path::Path;

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
    /// and judges it.
    ///
    /// # Errors
    /// If the run cannot be recorded or read.
    pub fn trace(&self, pair: &Pair, generated: &Generated, dir: &Path) -> Result<Link, Failure> {
        let index = usize::try_from(pair.index).unwrap_or(usize::MAX).min(generated.tokens.len());
        let tokens = generated.tokens.get(..index).unwrap_or_default().to_vec();
        // The last of them is the one that is traced.
        let decoded = index.saturating_sub(generated.prompt);
        let mut prompt = PromptInfo { id: generated.id.clone(), tokens, ..Default::default() };
        prompt.extra.insert("decoded".to_owned(), decoded.into());
        let plan = Plan {
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
            Ok(_) => {}
            Err(EngineError::Interrupted) => return Err(Failure::interrupted(dir)),
            Err(e) => return Err(e.into()),
        }
        let oracle = Oracle { budget_flops: self.args.simulate, ..Oracle::new(self.model) };
        let recorded = Run::open(dir)?;
        let analysis = analyze::judge(&recorded, Some(&oracle))?;
        let rounds = run::search(self.engine, &plan, &analysis, (dir, &oracle))?;
        let analysis = with_search(analysis, rounds);
        output::files(&analysis, &analyze::beside(dir))?;
        Ok(Link::of(pair, &analysis, dir.display().to_string(), delta(&recorded, pair)))
    }
}

/// What a run that lies on disk, recorded of a token by whoever has the engine, says of it.
///
/// # Errors
/// If the run cannot be read.
pub fn lying(pair: &Pair, dir: &Path) -> Result<Link, Failure> {
    let analysis = analyze::judge_lying(dir, None, None, None)?;
    Ok(Link::of(pair, &analysis, dir.display().to_string(), delta(&Run::open(dir)?, pair)))
}

/// Δ of the token by the logits in the run; `None` where a phase has none.
fn delta(run: &Run, pair: &Pair) -> Option<f64> {
    let of = |phase: Phase| {
        let event = run.events.iter().find(|event| event.phase == phase && event.point == Point::Logits)?;
        let row = run.row(event).ok()??;
        let logits: Vec<f32> = row.values().map(|value| value as f32).collect();
        Some(logprob(&logits, pair.token_id))
    };
    Some(of(Phase::Decode)? - of(Phase::Prefill)?)
}
