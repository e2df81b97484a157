//! `driftprobe doctor`: what this machine has, whether the model can be read, and whether a run could be written here.

use crate::args::{DoctorArgs, TextOrJson};
use crate::environment::host;
use crate::failure::Failure;
use crate::output;
use driftprobe::report::escape::visible;
use driftprobe_model::Model;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Columns that no line exceeds.
const WIDTH: usize = 80;
/// Room that is little: a run of a large model takes more.
const DISK_BYTES_FEW: u64 = 1 << 30;
const GIB: f64 = (1u64 << 30) as f64;

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    Warn,
    Fail,
}

impl Status {
    const fn id(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }

    const fn color(self) -> anstyle::AnsiColor {
        match self {
            Status::Ok => anstyle::AnsiColor::Green,
            Status::Warn => anstyle::AnsiColor::Yellow,
            Status::Fail => anstyle::AnsiColor::Red,
        }
    }
}

/// One thing that was looked at.
struct Check {
    status: Status,
    name: &'static str,
    told: String,
    hint: Option<String>,
}

fn ok(name: &'static str, told: impl Into<String>) -> Check {
    Check { status: Status::Ok, name, told: told.into(), hint: None }
}

fn warn(name: &'static str, told: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { status: Status::Warn, name, told: told.into(), hint: Some(hint.into()) }
}

fn fail(name: &'static str, told: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { status: Status::Fail, name, told: told.into(), hint: Some(hint.into()) }
}

/// Runs the command and returns the exit status: 2 if a check fails.
pub fn run(args: &DoctorArgs) -> Result<u8, Failure> {
    let mut checks = vec![
        ok("driftprobe", concat!(env!("CARGO_PKG_VERSION"), ", reports schema 1, traces schema 1")),
        cpu(),
        memory(),
    ];
    checks.push(gpu());
    checks.extend(engines());
    checks.extend(model(&args.model));
    checks.push(disk(&args.out));
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    output::print(&match args.format {
        TextOrJson::Text => text(&checks),
        TextOrJson::Json => as_json(&checks),
    })?;
    Ok(if failed { driftprobe::EXIT_COULD_NOT_RUN } else { driftprobe::EXIT_PASS })
}

fn as_json(checks: &[Check]) -> String {
    let entry = |check: &Check| -> Value {
        json!({"name": check.name, "status": check.status.id(), "told": check.told, "hint": check.hint})
    };
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    let report = json!({"schema": 1, "fit": !failed, "checks": checks.iter().map(entry).collect::<Vec<_>>()});
    format!("{report:#}\n")
}

fn text(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let style = check.status.color().on_default();
        let mut lines = wrap(&visible(&check.told), WIDTH - 24).into_iter();
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(out, "{style}{:<5}{style:#}{:<18} {first}", check.status.id(), check.name);
        for line in lines {
            let _ = writeln!(out, "{:24}{line}", "");
        }
        for (number, line) in check.hint.iter().flat_map(|hint| wrap(&visible(hint), WIDTH - 30)).enumerate() {
            let _ = writeln!(out, "{:24}{:<6}{line}", "", if number == 0 { "hint:" } else { "" });
        }
    }
    out
}

/// Words on lines of at most `width` characters; a longer word is broken.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let used = lines.last().map_or(0, |line| line.chars().count());
            let gap = usize::from(used > 0);
            if used + gap + rest.len() <= width || used == 0 {
                let part: String = rest.drain(..rest.len().min(width)).collect();
                if let Some(line) = lines.last_mut() {
                    line.push_str(&" ".repeat(gap));
                    line.push_str(&part);
                }
            } else {
                lines.push(String::new());
            }
        }
    }
    lines
}

fn cpu() -> Check {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let name = host().cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let (features, wanted) = features();
    let there: Vec<&str> = features.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    let told = format!("{name}, {cores} cores for this process; {}", there.join(" "));
    let lacking: Vec<&str> = wanted.iter().copied().filter(|name| !there.contains(name)).collect();
    match lacking.is_empty() {
        true => ok("cpu", told.trim_end_matches("; ")),
        false => warn("cpu", told, format!("without {} the engines are several times slower", lacking.join(" and "))),
    }
}

type Features = (Vec<(&'static str, bool)>, Vec<&'static str>);

/// What the processor says of itself, and what the kernels want.
#[cfg(target_arch = "x86_64")]
fn features() -> Features {
    use std::arch::is_x86_feature_detected as has;
    let all = vec![
        ("avx2", has!("avx2")),
        ("fma", has!("fma")),
        ("f16c", has!("f16c")),
        ("avx512f", has!("avx512f")),
        ("avx512bf16", has!("avx512bf16")),
        ("avx512vnni", has!("avx512vnni")),
    ];
    (all, vec!["avx2", "fma"])
}

#[cfg(target_arch = "aarch64")]
fn features() -> Features {
    use std::arch::is_aarch64_feature_detected as has;
    let all = vec![
        ("neon", has!("neon")),
        ("fp16", has!("fp16")),
        ("dotprod", has!("dotprod")),
        ("bf16", has!("bf16")),
        ("i8mm", has!("i8mm")),
    ];
    (all, vec!["neon"])
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Features {
    (vec![], vec![])
}

fn memory() -> Check {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024.0 / GIB)
    };
    match (gib("MemTotal:"), gib("MemAvailable:")) {
        (Some(total), Some(free)) if free < 1.0 => {
            let told = format!("{free:.1} of {total:.1} GiB are free");
            warn("memory", told, "weights are mapped, but activations and reports need room")
        }
        (Some(total), Some(free)) => ok("memory", format!("{free:.1} of {total:.1} GiB are free (/proc/meminfo)")),
        _ => warn("memory", "not known", "/proc/meminfo cannot be read on this system"),
    }
}

/// Whether there is an accelerator, as the system's drivers show it, and whether this build can use it.
fn gpu() -> Check {
    let signs = [
        (
            "/proc/driver/nvidia/version",
            "NVIDIA",
            "cuda, or llama-cpp-cuda",
            cfg!(feature = "cuda") || cfg!(feature = "llama-cpp-cuda"),
        ),
        (
            "/dev/nvidia0",
            "NVIDIA",
            "cuda, or llama-cpp-cuda",
            cfg!(feature = "cuda") || cfg!(feature = "llama-cpp-cuda"),
        ),
        ("/dev/kfd", "AMD", "llama-cpp-rocm", cfg!(feature = "llama-cpp-rocm")),
        ("/dev/dri/renderD128", "a GPU with a render node", "llama-cpp-vulkan", cfg!(feature = "llama-cpp-vulkan")),
    ];
    if cfg!(target_os = "macos") {
        let built = cfg!(feature = "metal") || cfg!(feature = "llama-cpp-metal");
        let hint = "build with --features metal, or llama-cpp-metal";
        return if built { ok("gpu", "Metal, built in") } else { warn("gpu", "Metal, not built in", hint) };
    }
    match signs.iter().find(|(path, ..)| Path::new(path).exists()) {
        Some((path, name, _, true)) => ok("gpu", format!("{name} (there is {path}), built in")),
        Some((path, name, features, false)) => {
            let hint = format!("to use it, build with --features {features}");
            warn("gpu", format!("{name} (there is {path}), not built in"), hint)
        }
        None => {
            let looked: Vec<&str> = signs.iter().map(|(path, ..)| *path).collect();
            ok("gpu", format!("none: there is no {}", looked.join(", ")))
        }
    }
}

fn engines() -> [Check; 2] {
    let on = |devices: &[(&str, bool)]| {
        let built = devices.iter().filter(|(_, built)| *built).map(|(name, _)| *name);
        std::iter::once("cpu").chain(built).collect::<Vec<_>>().join(", ")
    };
    let embedded = on(&[("cuda", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))]);
    let llama = on(&[
        ("cuda", cfg!(feature = "llama-cpp-cuda")),
        ("rocm", cfg!(feature = "llama-cpp-rocm")),
        ("vulkan", cfg!(feature = "llama-cpp-vulkan")),
        ("metal", cfg!(feature = "llama-cpp-metal")),
    ]);
    let threads =
        std::env::var("RAYON_NUM_THREADS").ok().map_or_else(String::new, |n| format!("; RAYON_NUM_THREADS={n}"));
    let llama = match cfg!(feature = "llama-cpp") {
        true => ok("engine llama-cpp", format!("built in, on {llama}")),
        false => {
            let hint = "cargo install --path crates/driftprobe-cli --features llama-cpp (docs/llama-cpp.md)";
            warn("engine llama-cpp", "not built in; everything else works without it", hint)
        }
    };
    [ok("engine embedded", format!("built in, on {embedded}{threads}")), llama]
}

fn model(path: &Path) -> Vec<Check> {
    let shown = path.display();
    let model = match Model::open(path) {
        Ok(model) => model,
        Err(e) => {
            let hint = e.hint().unwrap_or_else(|| "give a Hugging Face folder, a GGUF file, or DEMO".to_owned());
            // Messages of models name the file; a path is told once.
            let told = if e.to_string().contains(&shown.to_string()) { e.to_string() } else { format!("{shown}: {e}") };
            return vec![fail("model", told, hint)];
        }
    };
    let config = &model.config;
    let told = format!(
        "{shown}: {}, {}, {} layers, width {}, {} tokens",
        config.architecture.id(),
        model.format.id(),
        config.num_hidden_layers,
        config.hidden_size,
        config.vocab_size
    );
    let tokenizer = match &model.tokenizer {
        Ok(_) => ok("tokenizer", "readable"),
        Err(e) => warn("tokenizer", e.to_string(), "give one with --tokenizer, or prompts as token ids"),
    };
    vec![ok("model", told), tokenizer]
}

/// Whether a run could be written: the nearest folder that is there takes a file, and has room.
fn disk(out: &Path) -> Check {
    let absolute = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let nearest =
        absolute.ancestors().find(|folder| folder.exists()).map_or_else(|| PathBuf::from("/"), Path::to_owned);
    if let Err(e) = tempfile::tempfile_in(&nearest) {
        let told = format!("{}: nothing can be written to {}: {e}", out.display(), nearest.display());
        return fail("disk", told, "name another place with --out");
    }
    let Some(free) = free_bytes(&nearest) else {
        return warn(
            "disk",
            format!("{} can be written to; room is not known", out.display()),
            "see that there is room",
        );
    };
    let told = format!("{:.1} GiB are free at {}", free as f64 / GIB, out.display());
    if free < DISK_BYTES_FEW {
        return warn("disk", told, "make room, name another place with --out, or trace fewer layers");
    }
    ok("disk", told)
}

#[cfg(unix)]
fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_wide_as_asked_and_nothing_is_lost() {
        let text = "a bb ccc dddddddddddddddddddd e";
        let lines = wrap(text, 8);
        assert!(lines.iter().all(|line| line.chars().count() <= 8), "{lines:?}");
        assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""));
    }
}
