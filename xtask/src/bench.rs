//! `cargo xtask bench`: what tracing and judging cost, and how fast each part is beside its peers. Ratios in one run.

mod compare;
mod events;
mod judging;
mod model;
mod peer;
mod python;
mod tracing;
mod whole;

use anyhow::{Context, Result, ensure};
use driftprobe_engine::{EmbeddedEngine, Settings};
use driftprobe_model::Model;
use model::Quantisation;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is measured.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Part {
    /// Tracing and judging over plain work, and the embedded engine beside llama.cpp.
    Engine,
    /// Comparing two rows, beside numpy and torch and the memory's bandwidth.
    Compare,
    /// Reading, pairing and comparing a million events, beside a Python script.
    Events,
    /// The whole of `driftprobe run`, over plain inference, and beside hooks in Python.
    Whole,
}

impl Part {
    /// The word in the markers of the file that the tables go to.
    fn marker(self) -> &'static str {
        match self {
            Part::Engine => "bench",
            Part::Compare => "bench-compare",
            Part::Events => "bench-events",
            Part::Whole => "bench-whole",
        }
    }
}

#[derive(clap::Args)]
pub struct Args {
    /// What to measure.
    #[arg(long, value_enum, default_value = "engine")]
    part: Part,
    /// A Python with numpy, torch and transformers, for the parts `compare`, `events` and `whole`; without it only driftprobe is
    /// measured.
    #[arg(long)]
    python: Option<PathBuf>,
    /// The program, for the part `whole` [default: the one beside this]
    #[arg(long)]
    driftprobe: Option<PathBuf>,
    /// Events of the part `events`.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Measure one trace once, in this process; for the part `events` itself.
    #[arg(long, hide = true, value_name = "DIR")]
    once: Option<PathBuf>,
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
    /// Put the tables into this file, between its lines `<!-- bench:begin -->` and `<!-- bench:end -->`
    /// (`bench-compare` and so on for the other parts).
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.rounds > 0 && args.prompt_tokens > 1, "at least one round and two tokens are needed");
    if let Some(dir) = &args.once {
        return events::once(dir);
    }
    std::fs::create_dir_all(&args.dir)?;
    let mut exceeded = Vec::new();
    let text = match args.part {
        Part::Engine => engine(&args, &mut exceeded)?,
        Part::Compare => format!("{}\n\n{}", machine(), compare::table(&args, &mut exceeded)?),
        Part::Events => format!("{}\n\n{}", machine(), events::table(&args, &mut exceeded)?),
        Part::Whole => format!("{}\n\n{}", machine(), whole::table(&args, &mut exceeded)?),
    };
    print!("{text}");
    if let Some(path) = &args.write {
        put_between_markers(path, args.part.marker(), &text)?;
    }
    ensure!(exceeded.is_empty(), "beyond the bounds:\n{}", exceeded.join("\n"));
    Ok(())
}

fn engine(args: &Args, exceeded: &mut Vec<String>) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "{}\n", header(args))?;
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
        text += &tracing::table(&engine, args, exceeded)?;
        text += &judging::table(&model, &engine, args, exceeded)?;
        text += &peer::table(&engine, &path, args)?;
    }
    Ok(text)
}

fn put_between_markers(path: &Path, marker: &str, text: &str) -> Result<()> {
    let page = std::fs::read_to_string(path)?;
    let (begin, end) = (format!("<!-- {marker}:begin -->\n"), format!("<!-- {marker}:end -->"));
    let parts = page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = parts.with_context(|| format!("{} has no {marker} markers", path.display()))?;
    std::fs::write(path, format!("{before}{begin}\n{text}{end}{after}"))?;
    Ok(())
}

fn header(args: &Args) -> String {
    format!("{}; prompt of {} tokens; median of {} rounds.", machine(), args.prompt_tokens, args.rounds)
}

/// Threads, processor, and how much else the machine is doing.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("", |l| l.trim_start_matches([' ', '\t', ':']));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().map_or(String::new(), |load| format!(", load {load}"));
    format!("{threads} threads, {cpu}{load}")
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
