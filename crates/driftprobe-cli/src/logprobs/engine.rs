//! Log-probabilities of an engine that this program runs.

use super::generate::{Generated, Sampling, generate};
use super::trace::Tracer;
use super::{print, write};
use crate::args::LogprobsArgs;
use crate::engine;
use crate::failure::Failure;
use crate::output;
use crate::prompts;
use crate::run;
use driftprobe::logprobs::{Judged, Link, Mismatch, Origin, Score};
use driftprobe_engine::record::{Plan, check};
use driftprobe_engine::{Engine, EngineError};
use driftprobe_import::{LogprobLine, logprob_line};
use driftprobe_model::Model;
use driftprobe_trace::{Phase, PromptInfo, REPORT_DIR};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that prefill's logits of one sequence may take.
const LOGITS_BYTES_MAX: usize = 8 << 30;

/// Generates, scores, compares and traces; returns the exit status.
pub fn run(args: LogprobsArgs) -> Result<u8, Failure> {
    let asked = args.engine.clone();
    engine::in_threads(&asked, || run_here(args))
}

fn run_here(mut args: LogprobsArgs) -> Result<u8, Failure> {
    if args.engine.steps != 1 {
        return Err(Failure::new("--steps is no option of logprobs", "say with --tokens how many are to be generated"));
    }
    let model = Model::open(&args.engine.model)?;
    let prompts = prompts::asked(&args.engine, &model)?;
    let sampling = Sampling { tokens: args.tokens, temperature: args.temperature, seed: args.seed };
    // Room for all of them, where the engine must know beforehand.
    args.engine.steps = args.tokens;
    // One token's rows are few.
    args.engine.layers.get_or_insert_with(|| "all".to_owned());
    let engine = engine::open(&args.engine, args.fault.as_ref(), &model, &prompts)?;
    let engine = engine.as_ref();
    refuse_what_does_not_fit(engine, &args, &prompts, &model)?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => run::new_folder(Path::new("logprobs"), &model)?,
    };
    let generated = generate(engine, &prompts, &sampling).map_err(|e| match e {
        EngineError::Interrupted => Failure::stopped(),
        e => e.into(),
    })?;
    let [prefill, decode] = Phase::ALL.map(|phase| scores(&generated, phase));
    let mismatch = Mismatch::of(&prefill, &decode);
    let mut written = vec![put(&out, &prefill, Phase::Prefill)?, put(&out, &decode, Phase::Decode)?];
    let tracer = Tracer {
        engine,
        model: &model,
        args: &args.engine,
        manifest: run::manifest(&args.engine.model, args.seed, &model),
        overwrite: args.overwrite,
    };
    let links = links(&tracer, &mismatch, &generated, (&out, args.trace_worst))?;
    let [prefill, decode] =
        [0, 1].map(|at| written.get(at).map_or_else(String::new, |path| path.display().to_string()));
    let origin = Origin { prefill, decode, engine: Some(says(engine, &args)), sampling: Some(sampling.says()) };
    let judged = Judged::of(origin, mismatch, &args.limits(), links);
    written.extend(write(&judged, &out.join(REPORT_DIR))?);
    print(&judged, &args, &written, "")?;
    Ok(judged.exit_code())
}

/// Everything that is known to be impossible is said before any work.
fn refuse_what_does_not_fit(
    engine: &dyn Engine,
    args: &LogprobsArgs,
    prompts: &[PromptInfo],
    model: &Model,
) -> Result<(), Failure> {
    if args.tokens == 0 {
        return Err(Failure::new("--tokens 0 generates nothing", "give a number of tokens from 1"));
    }
    let plan = Plan {
        steps: args.tokens,
        layers: run::layers(&args.engine, engine.layers())?,
        points: run::points(&args.engine, engine)?,
        ..Plan::everything(engine, prompts.to_vec())
    };
    check(engine, &plan)?;
    run::check_context(&plan, model)?;
    if args.tokens.saturating_mul(engine.vocab()).saturating_mul(size_of::<f32>()) > LOGITS_BYTES_MAX {
        let what =
            format!("prefill's logits of {} tokens, {} each, do not fit into 8 GiB", args.tokens, engine.vocab());
        return Err(Failure::new(what, "give fewer --tokens"));
    }
    let Some(out) = &args.out else { return Ok(()) };
    let path = out.join(file_of(Phase::Prefill));
    if !args.overwrite && path.exists() {
        let what = format!("{} lies there already", path.display());
        return Err(Failure::new(what, "name another folder with --out, or replace it with --overwrite"));
    }
    Ok(())
}

fn file_of(phase: Phase) -> String {
    format!("{}.jsonl", phase.id())
}

/// A phase's scores, in the order of the prompts.
fn scores(generated: &[Generated], phase: Phase) -> Vec<Score> {
    let of = |one: &Generated| {
        let sequence: Arc<str> = Arc::from(one.id.as_str());
        let logprobs = if phase == Phase::Prefill { &one.prefill } else { &one.decode };
        let tokens = one.tokens.iter().enumerate().skip(one.prompt);
        let score = |((index, token), logprob): ((usize, &u32), &f64)| Score {
            sequence: sequence.clone(),
            index: index as u64,
            token_id: *token,
            logprob: *logprob,
        };
        tokens.zip(logprobs).map(score).collect::<Vec<_>>()
    };
    generated.iter().flat_map(of).collect()
}

/// Writes a phase's scores; where.
fn put(out: &Path, scores: &[Score], phase: Phase) -> Result<PathBuf, Failure> {
    let line = |score: &Score| {
        let Score { sequence, index, token_id, logprob } = score.clone();
        logprob_line(&LogprobLine { sequence: sequence.to_string(), index, token_id, logprob }, phase)
    };
    let text: String = scores.iter().map(line).collect();
    output::into_folder(out, [(file_of(phase).as_str(), text)])?;
    Ok(out.join(file_of(phase)))
}

/// Traces the worst tokens.
fn links(
    tracer: &Tracer<'_>,
    mismatch: &Mismatch,
    generated: &[Generated],
    (out, count): (&Path, usize),
) -> Result<Vec<Link>, Failure> {
    let mut links = Vec::new();
    for pair in mismatch.worst(count) {
        let Some(one) = generated.iter().find(|one| *one.id == *pair.sequence) else { continue };
        let dir = out.join(format!("worst-{}", links.len() + 1));
        links.push(tracer.trace(pair, one, &dir)?);
    }
    Ok(links)
}

/// The engine in a line, with the mistake that it was asked to make.
fn says(engine: &dyn Engine, args: &LogprobsArgs) -> String {
    let info = engine.info();
    let known = [info.name, info.version, info.backend];
    let name = known.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let model = args.engine.model.display();
    match &args.fault {
        None => format!("{name}, {model}"),
        Some(fault) => format!("{name}, {model}, with the mistake {fault}"),
    }
}
