//! `cargo xtask scale`: memory and time of judging as runs grow: to ten million events, whole and by prompt; by generated payloads of
//! a hundred gigabytes; and in each dimension by itself.

mod generate;
mod growth;
mod plot;
mod rows;

use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Most memory that judging by prompt may take, whatever the run.
const RSS_MAX_BYTES: u64 = 1 << 30;

/// Events of runs beyond which they are not judged whole: that would take more memory than it shows.
const WHOLE_MAX: u64 = 1_000_000;

#[derive(clap::Args)]
pub struct Args {
    /// Sizes of the runs, in events.
    #[arg(long, value_delimiter = ',', default_value = "100000,300000,1000000,3000000,10000000")]
    events: Vec<u64>,
    /// Where the runs are generated, one at a time; ten million events take 5 GB.
    #[arg(long, default_value = "target/scale")]
    dir: PathBuf,
    /// The program [default: the one beside this]
    #[arg(long)]
    driftprobe: Option<PathBuf>,
    /// Draw the memory over the events, or over the payloads, into this file.
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
    /// Instead: payloads of so many GB, made when they are asked for.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_missing_value = "1,3,10,30,100")]
    volume: Option<Vec<u64>>,
    /// Instead: how time grows in prompts, layers, tokens and values; the best of so many rounds.
    #[arg(long, num_args = 0..=1, default_missing_value = "3")]
    growth: Option<usize>,
    /// Judge one generated run in this process.
    #[arg(long, hide = true, value_delimiter = ',')]
    once: Option<Vec<usize>>,
}

/// What judging one run took.
#[derive(Clone, Copy)]
pub struct Taken {
    events: u64,
    prompts: u64,
    bytes: u64,
    by_prompt: Cost,
    whole: Option<Cost>,
}

/// Time and memory of one command.
#[derive(Clone, Copy)]
pub struct Cost {
    seconds: f64,
    rss_bytes: u64,
}

pub fn run(args: Args) -> Result<()> {
    if let Some(shape) = &args.once {
        return growth::once(shape);
    }
    if let Some(rounds) = args.growth {
        return growth::table(rounds).map(drop);
    }
    if let Some(gigabytes) = &args.volume {
        return volume(gigabytes, args.plot.as_deref());
    }
    let beside = std::env::current_exe()?.with_file_name("driftprobe");
    let program = args.driftprobe.unwrap_or(beside);
    ensure!(program.is_file(), "{} is not there: cargo build --release", program.display());
    let mut all = Vec::new();
    for events in args.events {
        let dir = args.dir.join(format!("run-{events}"));
        let made = generate::run(&dir, events)?;
        let whole = match events <= WHOLE_MAX {
            true => Some(measure(&program, &["analyze"], &dir)?),
            false => None,
        };
        let by_prompt = measure(&program, &["analyze", "--by-prompt", "--fresh"], &dir)?;
        std::fs::remove_dir_all(&dir)?;
        let taken = Taken { events: made.events, prompts: made.prompts, bytes: made.bytes, by_prompt, whole };
        eprintln!("{}", line(&taken));
        all.push(taken);
    }
    print!("{}", table(&all)?);
    if let Some(path) = &args.plot {
        plot::draw(&all, path)?;
    }
    let over = all.iter().find(|taken| taken.by_prompt.rss_bytes >= RSS_MAX_BYTES);
    ensure!(over.is_none(), "more than 1 GiB");
    Ok(())
}

/// Memory over generated payloads.
fn volume(gigabytes: &[u64], plot: Option<&Path>) -> Result<()> {
    let all = growth::volumes(gigabytes)?;
    let mut text = "| payloads GB | seconds | peak memory MB |\n|---|---|---|\n".to_owned();
    for (bytes, judged) in &all {
        let (gb, mb) = (*bytes as f64 / 1e9, judged.rss_bytes as f64 / 1e6);
        writeln!(text, "| {gb:.0} | {:.1} | {mb:.0} |", judged.seconds)?;
    }
    print!("{text}");
    match plot {
        None => Ok(()),
        Some(path) => plot::volume(&all, path),
    }
}

/// Runs the program on a run that must pass, and looks at its memory until it ends.
fn measure(program: &Path, arguments: &[&str], dir: &Path) -> Result<Cost> {
    let report = dir.join("report");
    let started = Instant::now();
    let mut child =
        Command::new(program).args(arguments).arg(dir).arg("--out").arg(&report).stdout(Stdio::null()).spawn()?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut rss_bytes = 0;
    let status = loop {
        // The high-water mark only rises: the last look counts.
        if let Some(high) = high_water(&status_file) {
            rss_bytes = high;
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    ensure!(status.success(), "{arguments:?} on {}: {status}, expected PASS", dir.display());
    ensure!(rss_bytes > 0, "{status_file} told nothing");
    std::fs::remove_dir_all(&report)?;
    Ok(Cost { seconds: started.elapsed().as_secs_f64(), rss_bytes })
}

/// VmHWM in bytes.
fn high_water(status_file: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status_file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn line(taken: &Taken) -> String {
    let cost = |cost: Cost| (format!("{:.0}", cost.rss_bytes as f64 / 1e6), format!("{:.1}", cost.seconds));
    let (rss, seconds) = cost(taken.by_prompt);
    let (whole_rss, whole_seconds) = taken.whole.map_or_else(|| ("-".to_owned(), "-".to_owned()), cost);
    let Taken { events, prompts, bytes, .. } = taken;
    let mb = bytes / 1_000_000;
    format!("| {events} | {prompts} | {mb} | {rss} | {seconds} | {whole_rss} | {whole_seconds} |")
}

fn table(all: &[Taken]) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "| events | prompts | trace MB | by prompt: MB | s | whole: MB | s |\n|---|---|---|---|---|---|---|"
    )?;
    all.iter().try_for_each(|taken| writeln!(text, "{}", line(taken)))?;
    let first = all.first().context("no sizes")?;
    let last = all.last().context("no sizes")?;
    if last.events > first.events {
        let decades = (last.events as f64 / first.events as f64).ln();
        let exponent = |of: fn(&Taken) -> f64| (of(last) / of(first)).ln() / decades;
        writeln!(
            text,
            "\nFrom the first to the last: memory by prompt grows as events to the power {:.2}, time to the power {:.2}.",
            exponent(|taken| taken.by_prompt.rss_bytes as f64),
            exponent(|taken| taken.by_prompt.seconds),
        )?;
    }
    Ok(text)
}
