//! What to record, and whether that fits the engine.

use super::RowPlan;
use crate::{Engine, EngineError};
use driftprobe_trace::{Mode, Phase, Point, PromptInfo};
use std::collections::BTreeSet;

/// What to record.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The prompts; every one has at least one token.
    pub prompts: Vec<PromptInfo>,
    /// What decode reads as K and V of earlier positions.
    pub mode: Mode,
    /// Decode steps to trace, from 1. Tokens of further steps are the engine's own greedy choice, fed to both phases.
    pub steps: usize,
    /// Whether the prompts hold the tokens of further steps already, so that the engine chooses none.
    pub forced: bool,
    /// How many of the tokens before the traced ones decode feeds one by one, untraced, as it does where it has generated
    /// them; those before these it takes by one prefill. 0: all of them.
    pub decoded: usize,
    /// Layers to trace.
    pub layers: BTreeSet<usize>,
    /// Points to trace; those that a phase cannot show are left out of it, and the manifest says so.
    pub points: BTreeSet<Point>,
    /// How often each phase is run again to see whether it repeats itself.
    pub repeats: u32,
    /// Whether each phase is run once more without a tap, and its logits held against the traced ones.
    pub unwatched: bool,
    /// Whether whole rows are kept.
    pub payloads: bool,
    /// Which of the rows are kept whole, where not all are.
    pub rows: Option<RowPlan>,
    /// Whether payloads are compressed where that pays.
    pub compress: bool,
    /// Whether a run that lies in the folder already may be replaced.
    pub overwrite: bool,
}

impl Plan {
    /// All points of all layers of these prompts, as the engine is designed: one decode step, no repeats.
    pub fn everything(engine: &dyn Engine, prompts: Vec<PromptInfo>) -> Plan {
        Plan {
            prompts,
            mode: Mode::AsDesigned,
            steps: 1,
            forced: false,
            decoded: 0,
            layers: (0..engine.layers()).collect(),
            points: Phase::ALL.into_iter().flat_map(|phase| engine.points(phase)).collect(),
            repeats: 0,
            unwatched: false,
            payloads: true,
            rows: None,
            compress: false,
            overwrite: false,
        }
    }
}

impl Plan {
    /// Tokens that the engine itself appends to each prompt.
    pub fn chosen(&self) -> usize {
        if self.forced { 0 } else { self.steps.saturating_sub(1) }
    }
}

/// Says what in a plan does not fit the model. [`super::record`] does so too; a caller who makes folders first asks before.
///
/// # Errors
/// Names the prompt, token, layer or number at fault.
pub fn check(engine: &dyn Engine, plan: &Plan) -> Result<(), EngineError> {
    let refuse = |what: String, hint: &str| Err(EngineError::request(what, hint));
    if plan.prompts.is_empty() {
        return refuse("there is no prompt".to_owned(), "give a text, a file or a folder with --prompts");
    }
    let mut ids = BTreeSet::new();
    if let Some(prompt) = plan.prompts.iter().find(|p| !ids.insert(&p.id)) {
        return refuse(format!("prompt {} is there twice", prompt.id), "give every prompt an id of its own");
    }
    if let Some(prompt) = plan.prompts.iter().find(|p| p.tokens.is_empty()) {
        return refuse(format!("prompt {} has no tokens", prompt.id), "give a prompt of at least one token");
    }
    for prompt in &plan.prompts {
        if let Some(token) = prompt.tokens.iter().find(|t| **t as usize >= engine.vocab()) {
            let what = format!("prompt {}: token {token} is not in the vocabulary of {}", prompt.id, engine.vocab());
            return refuse(what, "tokenise the prompt with the model's own tokenizer");
        }
    }
    if plan.steps == 0 {
        return refuse(
            "0 decode steps are to be traced".to_owned(),
            "trace at least one decode step, for instance --steps 1",
        );
    }
    if let Some(prompt) = plan.prompts.iter().find(|p| plan.forced && p.tokens.len() < plan.steps) {
        let what =
            format!("prompt {} is to hold {} steps and has {} tokens", prompt.id, plan.steps, prompt.tokens.len());
        return refuse(what, "give a token for each step, and trace no more steps than that");
    }
    if plan.layers.is_empty() || plan.points.is_empty() {
        return refuse("no layer or no point is selected".to_owned(), "for instance --layers 0,1,2 --points all");
    }
    if let Some(layer) = plan.layers.iter().find(|l| **l >= engine.layers()) {
        let what = format!(
            "layer {layer} does not exist: the model has {} layers, 0 to {}",
            engine.layers(),
            engine.layers() - 1
        );
        return refuse(what, "select existing layers with --layers, or all of them with --layers all");
    }
    Ok(())
}
