//! Reading, pairing and comparing generated events, beside a Python script that does the same by `json` and dicts.

use super::python::ask;
use super::{Args, median, seconds};
use anyhow::{Context, Result, ensure};
use driftprobe::evidence::{HashRelation, Side, compare};
use driftprobe::pair::{Link, pair};
use driftprobe::{Analysis, Options, analyze};
use driftprobe_trace::{Dtype, Event, HashAlgo, Phase, Point, RowHash, RowStats, Run, Sample, TRACES_DIR};
use rayon::prelude::*;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

/// Least ratio to the script.
const BOUND: f64 = 20.0;
/// Layers of the generated trace.
const LAYERS: u64 = 50;
/// Points of each layer.
const POINTS: [Point; 10] = [
    Point::ResidualPreAttn,
    Point::AttnNormOut,
    Point::QProjOut,
    Point::KProjOut,
    Point::QPostRope,
    Point::AttnOut,
    Point::ResidualPostAttn,
    Point::FfnNormOut,
    Point::MlpOut,
    Point::ResidualPostMlp,
];
/// Tokens of each prompt.
const TOKENS: u64 = 125;
/// One pair in so many differs.
const DIFFERS: u64 = 10;
/// Sampled values of an event, as many as a run records unless told otherwise.
const SAMPLED: u64 = driftprobe_trace::SAMPLE_VALUES as u64;

/// The table; what misses its bound goes to `exceeded` too.
pub fn table(args: &Args, exceeded: &mut Vec<String>) -> Result<String> {
    let mut text = String::from("| events | | read s | pair s | compare s | together s | over driftprobe |\n");
    text += "|---|---|---|---|---|---|---|\n";
    let mut version = String::new();
    for samples in [false, true] {
        let dir = args.dir.join(if samples { "events-samples" } else { "events" });
        let (bytes, pairs, differing) = generate(&dir, args.events, samples)?;
        let found = format!("{} {}", 2 * pairs, if samples { "with samples" } else { "without samples" });
        let found = format!("{found}, {:.0} MB", bytes as f64 / 1e6);
        let mut own = Vec::new();
        let mut scripts = [("", Vec::new()), ("without garbage collection", Vec::new())];
        for _ in 0..args.rounds {
            own.push(in_a_process(&dir, pairs, differing)?);
            for (how, times) in &mut scripts {
                let Some(python) = &args.python else { continue };
                let answer = ask(python, "events.py", &[&dir.join(TRACES_DIR).display().to_string(), how])?;
                let counts = ["pairs", "differing", "unpaired"].map(|name| answer[name].as_u64());
                ensure!(counts == [Some(pairs), Some(differing), Some(0)], "the script counted otherwise: {answer}");
                version = answer["python"].as_str().unwrap_or_default().to_owned();
                times.push(parts(&answer)?);
            }
        }
        writeln!(text, "| {found} | | | | | | |")?;
        let [read, pair, compare, analysis] = medians(&own);
        let together = read + pair + compare;
        for (how, times) in scripts.iter().filter(|(_, times)| !times.is_empty()) {
            let [read, pair, compare, _] = medians(times);
            let sum = read + pair + compare;
            let ratio = sum / together;
            let name = format!("Python {version} {how}").trim_end().to_owned();
            writeln!(text, "| | {name} | {read:.2} | {pair:.2} | {compare:.2} | {sum:.2} | {ratio:.1} |")?;
            let within = !how.is_empty() || ratio >= BOUND;
            if !within {
                exceeded.push(format!("events, samples {samples}: {ratio:.1} times the script, at least {BOUND}"));
            }
        }
        writeln!(text, "| | driftprobe | {read:.3} | {pair:.3} | {compare:.3} | {together:.3} | 1 |")?;
        let whole = read + analysis;
        writeln!(text, "| | with all else that `analyze` does | | | | {whole:.3} | {:.2} |", together / whole)?;
    }
    writeln!(text, "\nMedian of {} rounds.\n", args.rounds)?;
    Ok(text)
}

/// Seconds of reading, pairing, comparing, and of the whole analysis.
type Parts = [f64; 4];

/// Measures in a process of its own, as the script has one: memory that was used before is faster.
fn in_a_process(dir: &Path, pairs: u64, differing: u64) -> Result<Parts> {
    let output =
        Command::new(std::env::current_exe()?).args(["bench", "--part", "events", "--once"]).arg(dir).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (found, parts): ((u64, u64), Parts) = serde_json::from_slice(&output.stdout)?;
    ensure!(found == (pairs, differing), "{found:?}: not the pairs, or those that differ");
    Ok(parts)
}

/// Reads and compares a trace once, and prints how many pairs there are and differ, and what each part took.
pub fn once(dir: &Path) -> Result<()> {
    println!("{}", serde_json::to_string(&measure(dir)?)?);
    Ok(())
}

fn measure(dir: &Path) -> Result<((u64, u64), Parts)> {
    let mut run = Run::default();
    let read = seconds(|| {
        run = Run::open(dir)?;
        Ok(())
    })?;
    let mut links = Vec::new();
    let of = |phase| run.events.iter().filter(|event| event.phase == phase).collect::<Vec<&Event>>();
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let paired = seconds(|| {
        (prefill, decode) = (of(Phase::Prefill), of(Phase::Decode));
        links = pair(&prefill, &decode).links;
        Ok(())
    })?;
    let mut counted = 0;
    let compared = seconds(|| {
        let differs = |link: &Link| {
            let (ours, theirs) = prefill.get(link.reference).copied().zip(decode.get(link.candidate).copied())?;
            Some(compare(&Side::load(ours, &run), &Side::load(theirs, &run)).hash == HashRelation::Differ)
        };
        let all: Option<Vec<bool>> = links.par_iter().map(differs).collect();
        counted = all.context("a link to nothing")?.into_iter().filter(|differs| *differs).count() as u64;
        Ok(())
    })?;
    let found = (links.len() as u64, counted);
    let mut analysis: Option<Analysis> = None;
    let analyzed = seconds(|| {
        analysis = Some(analyze(&run, &run, Options::default()));
        Ok(())
    })?;
    let counts = analysis.context("no analysis")?.counts;
    ensure!((counts.total, counts.hash_differ) == found, "{counts:?}");
    Ok((found, [read, paired, compared, analyzed]))
}

fn parts(answer: &Value) -> Result<Parts> {
    let part = |name: &str| answer[name].as_f64().with_context(|| format!("no {name} in the answer"));
    Ok([part("read_s")?, part("pair_s")?, part("compare_s")?, 0.0])
}

fn medians(all: &[Parts]) -> Parts {
    [0, 1, 2, 3].map(|part| median(&all.iter().map(|parts| parts[part]).collect::<Vec<_>>()))
}

/// Writes a trace of about so many events, and says its bytes, its pairs, and how many of them differ.
fn generate(dir: &Path, events: u64, samples: bool) -> Result<(u64, u64, u64)> {
    let traces = dir.join(TRACES_DIR);
    if traces.exists() {
        std::fs::remove_dir_all(&traces)?;
    }
    std::fs::create_dir_all(&traces)?;
    let prompts = events.div_ceil(2 * LAYERS * TOKENS * POINTS.len() as u64);
    let (mut pairs, mut differing, mut bytes) = (0, 0, 0);
    for prompt in 0..prompts {
        for phase in Phase::ALL {
            let path = traces.join(format!("prompt-{prompt}-{}.jsonl", phase.id()));
            let mut file = BufWriter::new(std::fs::File::create(&path)?);
            for row in 0..TOKENS * LAYERS * POINTS.len() as u64 {
                let number = prompt * TOKENS * LAYERS * POINTS.len() as u64 + row;
                let differs = number.is_multiple_of(DIFFERS);
                if phase == Phase::Decode {
                    pairs += 1;
                    differing += u64::from(differs);
                }
                serde_json::to_writer(&mut file, &event(prompt, phase, (row, number), differs, samples))?;
                file.write_all(b"\n")?;
            }
            file.flush()?;
            bytes += std::fs::metadata(&path)?.len();
        }
    }
    Ok((bytes, pairs, differing))
}

fn event(prompt: u64, phase: Phase, (row, number): (u64, u64), differs: bool, samples: bool) -> Event {
    let points = POINTS.len() as u64;
    let (token, layer) = (row / (LAYERS * points), row / points % LAYERS);
    let point = POINTS[(row % points) as usize];
    let moved = differs && phase == Phase::Decode;
    let value = |n: u64| {
        let bits = (number * 31 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let value = (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
        f64::from(if moved { value * (1.0 + f32::EPSILON) } else { value })
    };
    let [one, other] = [value(100), value(101)];
    Event {
        step: (phase == Phase::Decode).then_some(token),
        pos_id: Some(token),
        logical_tok_idx: Some(token),
        token_id: Some((token * 7919 % 32_000) as u32),
        seq_len: Some(if phase == Phase::Prefill { TOKENS } else { 1 }),
        kv_len: Some(token + 1),
        dtype: Some(Dtype::F32),
        shape: Some(vec![4096]),
        hash: Some(RowHash {
            algo: HashAlgo::Xxh3_64,
            value: (number * 2 + u64::from(moved)).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }),
        stats: RowStats {
            min: Some(one.min(other) - 1.0),
            max: Some(one.max(other) + 1.0),
            mean: Some(value(102) / 64.0),
            abs_sum: Some(2048.0 + 64.0 * value(103)),
            nan: Some(0),
            inf: Some(0),
            nz_count: Some(4096),
        },
        sample: samples.then(|| Sample { values: (0..SAMPLED).map(value).collect(), idx: None }),
        ..Event::at(format!("prompt-{prompt}").into(), phase, point, layer as i32)
    }
}
