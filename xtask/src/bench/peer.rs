//! Tokens a second beside llama.cpp's, on the same file, in the same run.

use super::python::ask;
use super::{Args, median, seconds, tokens};
use anyhow::{Context, Result};
use driftprobe_engine::{EmbeddedEngine, Engine, Tap};
use std::fmt::Write as _;
use std::path::Path;

/// Tokens that are decoded behind the prompt.
const DECODED_TOKENS: usize = 16;

struct Speed {
    prefill: f64,
    decode: f64,
}

pub fn table(engine: &EmbeddedEngine, model: &Path, args: &Args) -> Result<String> {
    let mut text = String::from("| engine | prefill tokens/s | decode tokens/s |\n|---|---|---|\n");
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    let mut version = String::new();
    for _ in 0..args.rounds {
        own.push(embedded(engine, args.prompt_tokens)?);
        if let Some(python) = &args.llama_cpp_python {
            let (found, speed) = llama_cpp(python, model, args.prompt_tokens)?;
            version = found;
            peer.push(speed);
        }
    }
    let of = |speeds: &[Speed], pick: fn(&Speed) -> f64| median(&speeds.iter().map(pick).collect::<Vec<_>>());
    let (prefill, decode) = (of(&own, |s| s.prefill), of(&own, |s| s.decode));
    writeln!(text, "| embedded | {prefill:.1} | {decode:.1} |")?;
    if !peer.is_empty() {
        let (their_prefill, their_decode) = (of(&peer, |s| s.prefill), of(&peer, |s| s.decode));
        writeln!(text, "| llama.cpp ({version}) | {their_prefill:.1} | {their_decode:.1} |")?;
        writeln!(text, "| embedded / llama.cpp | {:.2} | {:.2} |", prefill / their_prefill, decode / their_decode)?;
    }
    text.push('\n');
    Ok(text)
}

fn embedded(engine: &EmbeddedEngine, prompt_tokens: usize) -> Result<Speed> {
    let all = tokens(prompt_tokens + DECODED_TOKENS, engine.vocab());
    let mut session = engine.session()?;
    let (prompt, rest) = all.split_at(prompt_tokens);
    let prefill = seconds(|| {
        session.prefill(prompt, prompt.len() - 1..prompt.len(), &mut Tap::closed())?;
        Ok(())
    })?;
    let decode = seconds(|| {
        for token in rest {
            session.decode(*token, &mut Tap::closed())?;
        }
        Ok(())
    })?;
    Ok(Speed { prefill: prompt_tokens as f64 / prefill, decode: DECODED_TOKENS as f64 / decode })
}

fn llama_cpp(python: &Path, model: &Path, prompt_tokens: usize) -> Result<(String, Speed)> {
    let threads = std::thread::available_parallelism()?.get();
    let args =
        [model.display().to_string(), prompt_tokens.to_string(), DECODED_TOKENS.to_string(), threads.to_string()];
    let value = ask(python, "llama_cpp_speed.py", &args.each_ref().map(String::as_str))?;
    let number = |key: &str| value[key].as_f64().with_context(|| format!("no {key} in the answer"));
    let version = value["version"].as_str().context("no version in the answer")?.to_owned();
    Ok((version, Speed { prefill: number("prefill_tokens_per_s")?, decode: number("decode_tokens_per_s")? }))
}
