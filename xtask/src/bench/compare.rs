//! Comparing two rows beside numpy and torch, on one core, with a plain read of the same bytes as the limit.

use super::python::ask;
use super::{Args, median, seconds};
use anyhow::{Context, Result, ensure};
use driftprobe::evidence::metrics::{Numbers, Scope, Tally};
use driftprobe_trace::{Dtype, Row};
use serde_json::Value;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;

/// Sizes of one row, in MB; the last is larger than any cache.
const ROW_MB: [usize; 3] = [16, 64, 256];
/// Size of the rows of other types than f32.
const OTHER_MB: usize = 64;
/// Least share of the bandwidth at which the memory is read, and least ratio to numpy on the same numbers.
const BOUNDS: (f64, f64) = (0.7, 5.0);
const MB: usize = 1_000_000;

/// The tables; what misses its bound goes to `exceeded` too.
pub fn table(args: &Args, exceeded: &mut Vec<String>) -> Result<String> {
    let mut text = String::from("| f32 rows of | read GB/s | driftprobe | of the read | scalar | numpy, f64 |");
    text +=
        " ratio | torch, f64 | ratio | numpy in f32, no ulp | ratio |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
    let mut versions = String::new();
    let (mut kernels, mut memory) = (Vec::new(), f64::NAN);
    for mb in ROW_MB {
        let (p, d) = rows(Dtype::F32, mb * MB)?;
        let speed = Speed::of(&p, &d, args)?;
        write!(text, "| {mb} MB | {} |", speed.cells())?;
        kernels.push((mb, speed.kernel));
        // The rows that lie in no cache tell what the memory gives.
        memory = speed.read;
        match &args.python {
            None => text += " | | | | | |",
            Some(python) => {
                let answer = peers(python, (&p, &d), args)?;
                versions = answer["versions"].to_string().replace(['{', '}', '"'], "").replace([':', ','], " ");
                for way in ["numpy", "torch", "numpy_f32"] {
                    check(&answer[way]["numbers"], &speed.numbers).with_context(|| way.to_owned())?;
                    let peer = gigabytes(&p, median(&floats(&answer[way]["seconds"])?));
                    let ratio = speed.kernel / peer;
                    write!(text, " {peer:.2} | {ratio:.1} |")?;
                    let within = way != "numpy" || ratio >= BOUNDS.1;
                    if !within {
                        exceeded.push(format!("{mb} MB: {ratio:.1} times numpy, at least {}", BOUNDS.1));
                    }
                }
            }
        }
        text.push('\n');
    }
    for (mb, kernel) in kernels {
        let share = kernel / memory;
        let within = share >= BOUNDS.0;
        if !within {
            exceeded.push(format!("{mb} MB: {share:.2} of the memory's bandwidth, at least {}", BOUNDS.0));
        }
    }
    writeln!(text, "\nBytes of both rows over the time, median of {} rounds, one thread. {versions}.\n", args.rounds)?;
    text += "| rows of 64 MB | read GB/s | driftprobe | of the read | scalar |\n|---|---|---|---|---|\n";
    for dtype in [Dtype::F64, Dtype::F16, Dtype::Bf16] {
        let (p, d) = rows(dtype, OTHER_MB * MB)?;
        writeln!(text, "| {dtype} | {} |", Speed::of(&p, &d, args)?.cells())?;
    }
    text.push('\n');
    Ok(text)
}

/// GB/s of the bytes of both rows.
struct Speed {
    read: f64,
    kernel: f64,
    scalar: f64,
    numbers: Numbers,
}

impl Speed {
    fn of(p: &Row, d: &Row, args: &Args) -> Result<Speed> {
        let (mut read, mut kernel) = (Vec::new(), Vec::new());
        let mut numbers = None;
        for _ in 0..args.rounds {
            // The faster of two ways to read: one row after the other, and both side by side.
            let apart = seconds(|| {
                black_box(sum(black_box(p.bytes())).wrapping_add(sum(black_box(d.bytes()))));
                Ok(())
            })?;
            let beside = seconds(|| {
                black_box(sum_both(black_box(p.bytes()), black_box(d.bytes())));
                Ok(())
            })?;
            read.push(apart.min(beside));
            kernel.push(seconds(|| {
                let tally = Tally::of(p.dtype, black_box(p.bytes()), black_box(d.bytes()));
                numbers = tally.and_then(|tally| tally.finish(Scope::Whole));
                Ok(())
            })?);
        }
        // The definition of the same sums, one value after the other: slow enough that one round tells.
        let scalar = seconds(|| {
            let mut tally = Tally::default();
            for (at, (one, other)) in p.values().zip(d.values()).enumerate() {
                tally.add(at as u64, one, other, Some(p.dtype));
            }
            ensure!(tally.finish(Scope::Whole) == numbers, "the kernel's numbers are not the scalar program's");
            Ok(())
        })?;
        let numbers = numbers.context("no numbers")?;
        let speed = |times: &[f64]| gigabytes(p, median(times));
        Ok(Speed { read: speed(&read), kernel: speed(&kernel), scalar: gigabytes(p, scalar), numbers })
    }

    fn share(&self) -> f64 {
        self.kernel / self.read
    }

    fn cells(&self) -> String {
        format!("{:.1} | {:.1} | {:.0} % | {:.2}", self.read, self.kernel, 100.0 * self.share(), self.scalar)
    }
}

fn gigabytes(row: &Row, seconds: f64) -> f64 {
    2.0 * row.bytes().len() as f64 / seconds / 1e9
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.as_chunks::<8>().0.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

fn sum_both(one: &[u8], other: &[u8]) -> u64 {
    let words = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
    words.fold(0, |sum: u64, (one, other)| sum.wrapping_add(u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other)))
}

/// Two rows of `bytes` bytes that differ in most of their values, by some units in the last place.
fn rows(dtype: Dtype, bytes: usize) -> Result<(Row, Row)> {
    let count = bytes / dtype.size_bytes();
    let mut state = 88_172_645_463_325_252u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    let (mut p, mut d) = (Vec::with_capacity(bytes), Vec::with_capacity(bytes));
    let unit = match dtype {
        Dtype::F64 => f64::EPSILON,
        Dtype::F32 => f64::from(f32::EPSILON),
        Dtype::F16 => half::f16::EPSILON.to_f64(),
        Dtype::Bf16 => half::bf16::EPSILON.to_f64(),
    };
    for _ in 0..count {
        let value = random();
        for (row, value) in [(&mut p, value), (&mut d, value * (1.0 + 4.0 * unit * random()))] {
            match dtype {
                Dtype::F64 => row.extend(value.to_le_bytes()),
                Dtype::F32 => row.extend((value as f32).to_le_bytes()),
                Dtype::F16 => row.extend(half::f16::from_f64(value).to_le_bytes()),
                Dtype::Bf16 => row.extend(half::bf16::from_f64(value).to_le_bytes()),
            }
        }
    }
    let row = |bytes| Row::new(dtype, vec![count as u64], bytes);
    Ok((row(p)?, row(d)?))
}

/// The same rows given to numpy and torch.
fn peers(python: &Path, (p, d): (&Row, &Row), args: &Args) -> Result<Value> {
    let files = [args.dir.join("p.f32"), args.dir.join("d.f32")];
    for (file, row) in files.iter().zip([p, d]) {
        std::fs::write(file, row.bytes())?;
    }
    let [one, other] = files.map(|file| file.display().to_string());
    ask(python, "compare.py", &[&one, &other, &args.rounds.to_string()])
}

fn floats(list: &Value) -> Result<Vec<f64>> {
    let list = list.as_array().context("no list in the answer")?;
    list.iter().map(|value| value.as_f64().context("not a number")).collect()
}

/// Whether a peer computed the same numbers, as closely as its arithmetic goes.
fn check(theirs: &Value, ours: &Numbers) -> Result<()> {
    let close = |name: &str, ours: Option<f64>| {
        let (ours, theirs) = (ours.unwrap_or(f64::NAN), theirs[name].as_f64().unwrap_or(f64::NAN));
        ensure!((ours - theirs).abs() <= 1e-3 * ours.abs(), "{name}: {ours} here and {theirs} there");
        Ok(())
    };
    close("max_abs", Some(ours.max_abs))?;
    close("rel_l2", ours.rel_l2)?;
    close("nmse", ours.nmse)?;
    close("cosine", ours.cosine)?;
    close("differing", Some(ours.differing as f64))?;
    if theirs.get("max_ulp").is_some() {
        close("max_abs_at", Some(ours.max_abs_at as f64))?;
        close("max_ulp", ours.max_ulp.map(|ulp| ulp as f64))?;
    }
    Ok(())
}
