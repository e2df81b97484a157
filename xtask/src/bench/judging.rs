//! Judging over the traced run itself: the oracle, the fit, the cause and the power table on the sampled layers; and what
//! simulating a prompt from its tokens takes.

use super::tracing::{folder, plan};
use super::{Args, median, seconds, tokens};
use anyhow::{Result, ensure};
use driftprobe::judge::examine::Oracle;
use driftprobe::simulate::cost_flops;
use driftprobe::{Options, analyze_against};
use driftprobe_engine::record::{Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Run};
use std::fmt::Write as _;

/// Tokens of the prompt that is simulated.
const SIMULATED_TOKENS: usize = 32;
/// Most that judging may take of the traced run's time.
const BOUND: f64 = 1.0;

/// The table; what is over its bound goes to `exceeded` too.
pub fn table(model: &Model, engine: &EmbeddedEngine, args: &Args, exceeded: &mut Vec<String>) -> Result<String> {
    let dir = folder(args);
    let prompt = tokens(args.prompt_tokens, engine.vocab());
    let (mut traced, mut judged, mut stages) = (Vec::new(), Vec::new(), 0);
    for _ in 0..args.rounds {
        let plan = plan(engine, &prompt);
        traced.push(seconds(|| Ok(record(engine, &plan, &dir, Manifest::default(), &mut Unwatched).map(drop)?))?);
        judged.push(seconds(|| {
            stages = judge(model, &dir, 0.0)?;
            Ok(())
        })?);
    }
    let ratios: Vec<f64> = judged.iter().zip(&traced).map(|(j, t)| j / t).collect();
    let each = ratios.iter().map(|r| format!("{r:.3}")).collect::<Vec<_>>().join(" ");
    let ratio = median(&ratios);
    let mut text =
        String::from("| judging, layers 0,1,2,4,8 | time s | over the traced run, each round | median | at most |\n");
    text += "|---|---|---|---|---|\n";
    let (traced, judged) = (median(&traced), median(&judged));
    writeln!(text, "| the traced run itself | {traced:.2} | | 1 | |")?;
    writeln!(text, "| {stages} stages: oracle, fit, cause, power | {judged:.2} | {each} | {ratio:.3} | {BOUND} |")?;
    if ratio.is_nan() || ratio > BOUND {
        exceeded.push(format!("judging: {ratio:.3} over the traced run, at most {BOUND}"));
    }
    let short = plan(engine, &tokens(SIMULATED_TOKENS, engine.vocab()));
    record(engine, &short, &dir, Manifest::default(), &mut Unwatched)?;
    let without = seconds(|| judge(model, &dir, 0.0).map(drop))?;
    let with = seconds(|| judge(model, &dir, f64::INFINITY).map(drop))?;
    let flops = cost_flops(&model.config, SIMULATED_TOKENS, 16);
    writeln!(
        text,
        "\nSimulating {SIMULATED_TOKENS} tokens of all layers, exactly and in 16 draws: {:.1} s for {:.1e} operations.\n",
        with - without,
        flops
    )?;
    Ok(text)
}

fn judge(model: &Model, dir: &std::path::Path, budget_flops: f64) -> Result<usize> {
    let run = Run::open(dir)?;
    let oracle = Oracle { budget_flops, ..Oracle::new(model) };
    let analysis = analyze_against((&run, &run), Some(&oracle), Options::default(), &mut |_| {});
    let examination = analysis.examination.as_ref();
    let stages = examination.map_or(0, |e| e.phases.iter().map(|phase| phase.stages.len()).sum());
    let faults = examination.map_or(1, |e| e.faults().count());
    ensure!(stages > 0 && faults == 0, "{stages} stages judged, {faults} at fault");
    Ok(stages)
}
