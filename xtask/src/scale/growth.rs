//! How judging grows: in events, layers, tokens, prompts and bytes, each by itself, with the fitted exponent.

use super::rows::{Judged, Shape, judge};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::process::Command;

/// Largest exponent that is permitted.
const EXPONENT_MAX: f64 = 1.05;
/// From which all others are grown: one prompt's events are larger than the processor's own cache already.
const BASE: Shape = Shape { prompts: 2, layers: 64, tokens: 64, context: 512, values: 1024 };
/// How much larger each is than the one before.
const FACTORS: [usize; 5] = [1, 2, 4, 8, 16];

/// One thing that grows.
type Grow = fn(Shape, usize) -> Shape;

const AXES: [(&str, Grow); 5] = [
    ("prompts", |base, by| Shape { prompts: base.prompts * by, ..base }),
    ("layers", |base, by| Shape { layers: base.layers * by, ..base }),
    ("traced tokens of a prompt", |base, by| Shape { tokens: base.tokens * by, ..base }),
    ("tokens before the traced ones", |base, by| Shape { context: base.context * by, ..base }),
    ("values of a row", |base, by| Shape { values: base.values * by, ..base }),
];

/// The table of all axes; fails beyond the bound.
pub fn table(rounds: usize) -> Result<String> {
    let mut text =
        "| grown by | events | payloads MB | CPU seconds at 1, 2, 4, 8, 16 times | exponent | peak memory MB |\n"
            .to_owned();
    text += "|---|---|---|---|---|---|\n";
    let mut over = vec![];
    for (name, grow) in AXES {
        let shapes: Vec<Shape> = FACTORS.iter().map(|by| grow(BASE, *by)).collect();
        let mut times = vec![f64::INFINITY; shapes.len()];
        let mut rss_bytes = 0;
        for _ in 0..rounds.max(1) {
            for (time, shape) in times.iter_mut().zip(&shapes) {
                let judged = in_a_process(*shape)?;
                // The least: whatever else the machine does only adds.
                *time = time.min(judged.cpu_seconds);
                rss_bytes = rss_bytes.max(judged.rss_bytes);
            }
        }
        let exponent = fitted(&FACTORS.map(|by| by as f64), &times);
        let (first, last) = (shapes.first().context("none")?, shapes.last().context("none")?);
        let seconds: Vec<String> = times.iter().map(|time| format!("{time:.2}")).collect();
        writeln!(
            text,
            "| {name} | {} to {} | {} to {} | {} | {exponent:.2} | {} |",
            first.events(),
            last.events(),
            first.bytes() / 1_000_000,
            last.bytes() / 1_000_000,
            seconds.join(", "),
            rss_bytes / 1_000_000
        )?;
        let within = exponent <= EXPONENT_MAX;
        if !within {
            over.push(format!("{name}: {exponent:.2}"));
        }
    }
    print!("{text}");
    ensure!(over.is_empty(), "beyond {EXPONENT_MAX}: {}", over.join(", "));
    Ok(text)
}

/// Judges runs of more and more payloads, to so many GB: payloads' bytes, seconds and peak memory.
pub fn volumes(gigabytes: &[u64]) -> Result<Vec<(u64, Judged)>> {
    let of = |gb: u64| {
        let one = Shape { prompts: 1, layers: 32, tokens: 64, context: 40, values: 4096 };
        Shape { prompts: usize::try_from((gb * 1_000_000_000).div_ceil(one.bytes())).unwrap_or(usize::MAX), ..one }
    };
    let judged = gigabytes.iter().map(|gb| {
        let judged = in_a_process(of(*gb))?;
        let (bytes, mb) = (of(*gb).bytes(), judged.rss_bytes / 1_000_000);
        eprintln!(
            "{} GB of payloads, {} events: {:.1} s, {mb} MB",
            bytes / 1_000_000_000,
            of(*gb).events(),
            judged.seconds
        );
        Ok((bytes, judged))
    });
    judged.collect()
}

/// The slope of log time over log size, by least squares.
fn fitted(sizes: &[f64], times: &[f64]) -> f64 {
    let (x, y): (Vec<f64>, Vec<f64>) = sizes.iter().zip(times).map(|(size, time)| (size.ln(), time.ln())).unzip();
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    let (mx, my) = (mean(&x), mean(&y));
    let up: f64 = x.iter().zip(&y).map(|(x, y)| (x - mx) * (y - my)).sum();
    up / x.iter().map(|x| (x - mx) * (x - mx)).sum::<f64>()
}

/// In a process of its own, whose peak of memory is its own too.
fn in_a_process(shape: Shape) -> Result<Judged> {
    let Shape { prompts, layers, tokens, context, values } = shape;
    let text = format!("{prompts},{layers},{tokens},{context},{values}");
    let output = Command::new(std::env::current_exe()?).args(["scale", "--once", &text]).output()?;
    ensure!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
    let (seconds, cpu_seconds, rss_bytes) = serde_json::from_slice(&output.stdout)?;
    Ok(Judged { seconds, cpu_seconds, rss_bytes })
}

/// Judges one run of a shape given as `prompts,layers,tokens,context,values`, and prints what it took.
pub fn once(shape: &[usize]) -> Result<()> {
    let [prompts, layers, tokens, context, values] = *<&[usize; 5]>::try_from(shape)?;
    let judged = judge(Shape { prompts, layers, tokens, context, values })?;
    println!("{}", serde_json::to_string(&(judged.seconds, judged.cpu_seconds, judged.rss_bytes))?);
    Ok(())
}
