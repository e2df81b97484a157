//! One run of an engine: recorded, read back and judged as a user's would be.

use anyhow::Result;
use driftprobe::judge::examine::Oracle;
use driftprobe::{Analysis, Options, analyze_against};
use driftprobe_engine::Engine;
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_model::Model;
use driftprobe_testkit::Dice;
use driftprobe_trace::{Manifest, PromptInfo, Rows, Run};
use std::path::Path;
use tempfile::TempDir;

/// A recorded run; its files live as long as it does.
pub struct Recorded {
    pub run: Run,
    _dir: TempDir,
}

/// What is recorded: lengths of the prompts, decode steps, and the seed of the tokens.
#[derive(Clone)]
pub struct Shape {
    pub lengths: Vec<usize>,
    pub steps: usize,
    pub seed: u64,
}

/// Token ids that begin with 0, the token that random models have massive activations for.
fn tokens(length: usize, vocab: usize, dice: &mut Dice) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..length).map(|_| dice.below(vocab) as u32).collect();
    tokens[0] = 0;
    tokens
}

fn plan(engine: &dyn Engine, shape: &Shape) -> Plan {
    let mut dice = Dice(shape.seed * 7919 + 13);
    let prompt = |(i, n): (usize, &usize)| PromptInfo {
        id: format!("p{i}"),
        tokens: tokens(*n, engine.vocab(), &mut dice),
        ..PromptInfo::default()
    };
    let prompts = shape.lengths.iter().enumerate().map(prompt).collect();
    Plan { steps: shape.steps, ..Plan::everything(engine, prompts) }
}

/// Records all points of all layers.
pub fn recorded(engine: &dyn Engine, shape: &Shape, scratch: &Path) -> Result<Recorded> {
    let dir = TempDir::new_in(scratch)?;
    let path = dir.path().join("run");
    record(engine, &plan(engine, shape), &path, Manifest::default(), &mut Unwatched)?;
    Ok(Recorded { run: Run::open(&path)?, _dir: dir })
}

/// The whole judgement, simulating what `budget_flops` allows.
pub fn judged(model: &Model, run: &Run, rows: &dyn Rows, budget_flops: f64) -> Analysis {
    let oracle = Oracle { budget_flops, power: false, ..Oracle::new(model) };
    analyze_against((run, rows), Some(&oracle), Options::default(), &mut |_| {})
}
