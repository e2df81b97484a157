//! `cargo xtask train`: trains the embedded model and writes it as a Hugging Face folder and as GGUF.
//!
//! Trained weights have the peaked attention and the outliers that random ones lack, so the demo needs a trained model.
//! Everything is seeded; the text is `xtask/data/devils-dictionary.txt`, of which the last twentieth is held out.

mod export;
mod net;
mod tokenizer;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, loss};
use driftprobe_testkit::Dice;
pub use export::gguf_name;
use net::{Net, Shape};
use std::{fs, path::PathBuf, time::Instant};

#[derive(clap::Args)]
pub struct Args {
    /// Where the model goes.
    #[arg(long, default_value = "crates/driftprobe-model/demo")]
    out: PathBuf,
    /// The text to train on.
    #[arg(long, default_value = "xtask/data/devils-dictionary.txt")]
    text: PathBuf,
    /// Optimiser steps.
    #[arg(long, default_value_t = 2000)]
    steps: usize,
    /// Seed of the weights and of the batches.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const BATCH_ROWS: usize = 8;
const CONTEXT_TOKENS: usize = 256;
const LEARNING_RATE_MAX: f64 = 4e-3;
const WARMUP_STEPS: usize = 100;

pub fn run(args: Args) -> Result<()> {
    let text = fs::read_to_string(&args.text).with_context(|| args.text.display().to_string())?;
    fs::create_dir_all(&args.out)?;
    let split = text.floor_char_boundary(text.len() - text.len() / 20);
    let tokenizer = tokenizer::train(&text[..split])?;
    let train = tokenizer::ids(&tokenizer, &text[..split])?;
    let held_out = tokenizer::ids(&tokenizer, &text[split..])?;
    println!("{} tokens to train on, {} held out, vocabulary {}", train.len(), held_out.len(), tokenizer::VOCAB);
    ensure!(train.len() > CONTEXT_TOKENS + 1, "the text is too short");

    let mut rng = Dice(args.seed);
    let net = Net::random(Shape::DEMO, &mut rng)?;
    let vars: Vec<Var> = net.vars().into_iter().map(|(_, v)| v).collect();
    let params = ParamsAdamW { lr: 0.0, beta2: 0.95, weight_decay: 0.05, ..Default::default() };
    let mut optimiser = AdamW::new(vars, params)?;
    let started = Instant::now();
    let mut recent = Vec::new();
    for step in 0..args.steps {
        optimiser.set_learning_rate(learning_rate(step, args.steps));
        let loss = batch_loss(&net, &train, |bound| rng.below(bound))?;
        optimiser.backward_step(&loss)?;
        recent.push(loss.to_scalar::<f32>()? as f64);
        if step % 50 == 49 {
            let mean = recent.drain(..).sum::<f64>() / 50.0;
            println!("step {:5}  loss {mean:.4}  {:.0} s", step + 1, started.elapsed().as_secs_f64());
        }
    }
    let train_loss = evaluate(&net, &train)?;
    let held_out_loss = evaluate(&net, &held_out)?;
    println!("loss per token: {train_loss:.4} on the text, {held_out_loss:.4} held out");
    let record = export::Record { steps: args.steps, seed: args.seed, train_loss, held_out_loss };
    export::write(&args.out, &net, &tokenizer, &record)
}

fn learning_rate(step: usize, steps: usize) -> f64 {
    if step < WARMUP_STEPS {
        return LEARNING_RATE_MAX * (step + 1) as f64 / WARMUP_STEPS as f64;
    }
    let done = (step - WARMUP_STEPS) as f64 / (steps.max(WARMUP_STEPS + 1) - WARMUP_STEPS) as f64;
    LEARNING_RATE_MAX * (0.02 + 0.98 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
}

fn batch_loss(net: &Net, ids: &[u32], mut start: impl FnMut(usize) -> usize) -> Result<Tensor> {
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..BATCH_ROWS {
        let at = start(ids.len() - CONTEXT_TOKENS - 1);
        // Every row begins as prompts do, with the start token.
        inputs.push(tokenizer::BOS);
        inputs.extend_from_slice(&ids[at..at + CONTEXT_TOKENS - 1]);
        targets.extend_from_slice(&ids[at..at + CONTEXT_TOKENS]);
    }
    let inputs = Tensor::from_vec(inputs, (BATCH_ROWS, CONTEXT_TOKENS), &Device::Cpu)?;
    let targets = Tensor::from_vec(targets, BATCH_ROWS * CONTEXT_TOKENS, &Device::Cpu)?;
    let logits = net.logits(&inputs)?.flatten_to(1)?;
    Ok(loss::cross_entropy(&logits, &targets)?.to_dtype(DType::F32)?)
}

/// Mean loss per token over consecutive stretches of the text (at most 20 batches).
fn evaluate(net: &Net, ids: &[u32]) -> Result<f64> {
    let (mut sum, mut batches, mut at) = (0.0, 0, 0);
    while at + BATCH_ROWS * CONTEXT_TOKENS < ids.len().saturating_sub(1) && batches < 20 {
        sum += batch_loss(net, ids, |_| {
            at += CONTEXT_TOKENS;
            at - CONTEXT_TOKENS
        })?
        .to_scalar::<f32>()? as f64;
        batches += 1;
    }
    Ok(sum / batches.max(1) as f64)
}
