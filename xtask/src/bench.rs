//! `cargo xtask bench`: what tracing and judging cost, and how fast the embedded engine is beside llama.cpp. Ratios in one run.

mod judging;
mod model;
mod peer;
mod tracing;

use anyhow::{Context, Result, ensure};
use driftprobe_engine::{EmbeddedEngine, Settings};
use driftprobe_model::Model;
use model::Quantisation;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// Where the random models, the runs and the results go.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// A Python with llama-cpp-python, to measure llama.cpp on the same files.
    #[arg(long)]
    llama_cpp_python: Option<PathBuf>,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 256)]
    prompt_tokens: usize,
    /// Times that each measurement is taken; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Layers of the random model (28 make 0.5 billion parameters).
    #[arg(long, default_value_t = 28)]
    layers: usize,
    /// Put the tables into this file, between its lines `<!-- bench:begin -->` and `<!-- bench:end -->`.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.rounds > 0 && args.prompt_tokens > 1, "at least one round and two tokens are needed");
    std::fs::create_dir_all(&args.dir)?;
    let (mut text, mut exceeded) = (String::new(), Vec::new());
    writeln!(text, "{}\n", header(&args))?;
    for quantisation in [Quantisation::F32, Quantisation::Q8_0] {
        let path = model::ensure(&args.dir, args.layers, quantisation)?;
        let model = Model::open(&path)?;
        let engine = EmbeddedEngine::new(&model, Settings::default())?;
        writeln!(text, "### {} weights\n", quantisation.id())?;
        let parameters: usize = driftprobe_model::expected_weights(&model.config)
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        writeln!(text, "{:.3} billion parameters, {} layers.\n", parameters as f64 / 1e9, args.layers)?;
        text += &tracing::table(&engine, &args, &mut exceeded)?;
        text += &judging::table(&model, &engine, &args, &mut exceeded)?;
        text += &peer::table(&engine, &path, &args)?;
    }
    print!("{text}");
    if let Some(path) = &args.write {
        put_between_markers(path, &text)?;
    }
    ensure!(exceeded.is_empty(), "over the bound:\n{}", exceeded.join("\n"));
    Ok(())
}

fn put_between_markers(path: &Path, text: &str) -> Result<()> {
    let page = std::fs::read_to_string(path)?;
    let (begin, end) = ("<!-- bench:begin -->\n", "<!-- bench:end -->");
    let parts = page.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.with_context(|| format!("{} has no bench markers", path.display()))?;
    std::fs::write(path, format!("{before}{begin}\n{text}{end}{after}"))?;
    Ok(())
}

fn header(args: &Args) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("", |l| l.trim_start_matches([' ', '\t', ':']));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    format!("{threads} threads, {cpu}; prompt of {} tokens; median of {} rounds.", args.prompt_tokens, args.rounds)
}

/// Runs `work` and returns how long it took in seconds.
fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Token ids that look like text to nobody, but are the same every time.
fn tokens(count: usize, vocab: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % vocab as u32).collect()
}
