//! The whole of `driftprobe run`: over plain inference of the same tokens, with a figure a part, and beside hooks in Python.

use super::python::ask;
use super::{Args, Quantisation, median, model, seconds, tokens};
use anyhow::{Context, Result, ensure};
use driftprobe::judge::examine::Oracle;
use driftprobe::{Options, analyze_against};
use driftprobe_engine::record::{Plan, Unwatched, record_both};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings, Tap};
use driftprobe_model::Model;
use driftprobe_trace::{ALIGNED_DIR, Manifest, PromptInfo, Run};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most that a run may take over plain inference.
const BOUND: f64 = 6.0;
/// Least ratio of the Python scripts' time to that of a run, of the models whose passes are not most of it.
const BOUND_HOOKS: f64 = 5.0;
/// Widest of these models.
const BOUND_HOOKS_HIDDEN: usize = 256;
/// Layers that are traced.
const LAYERS: [usize; 5] = [0, 1, 2, 4, 8];
/// Prompts' tokens and decode steps.
const WORK: [(usize, usize); 2] = [(64, 32), (256, 1)];
/// Layers and width of the models that hooks are held beside, and tokens of the prompt.
const BESIDE_HOOKS: [((usize, usize), usize); 4] =
    [((12, 256), 32), ((12, 256), 128), ((28, 1024), 32), ((28, 1024), 128)];

/// Seconds of each part of a run.
const PARTS: [&str; 5] = ["model and engine", "recorded", "judged", "aligned judged", "start, pages, rest"];

/// Both tables; what is over its bound goes to `exceeded` too.
pub fn table(args: &Args, exceeded: &mut Vec<String>) -> Result<String> {
    let first = over_inference(args, exceeded)?;
    eprint!("{first}");
    Ok(first + &beside_hooks(args, exceeded)?)
}

fn program(args: &Args) -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("driftprobe");
    let program = args.driftprobe.clone().unwrap_or(beside);
    ensure!(program.is_file(), "{} is not there: cargo build --release", program.display());
    Ok(program)
}

fn over_inference(args: &Args, exceeded: &mut Vec<String>) -> Result<String> {
    let path = model::ensure(&args.dir, args.layers, Quantisation::F32)?;
    let mut text =
        "| prompt + steps | plain inference s | `driftprobe run` s | over plain, each round | median | at most |"
            .to_owned();
    for part in PARTS {
        write!(text, " {part} s |")?;
    }
    text += "\n|---|---|---|---|---|---|---|---|---|---|---|\n";
    for (prompt, steps) in WORK {
        let work = Work::new(args, prompt, steps)?;
        let (mut plain, mut whole, mut parts) = (vec![], vec![], vec![]);
        for _ in 0..args.rounds {
            plain.push(work.plain(&path)?);
            whole.push(work.run(&program(args)?, &path, &["--mode", "both", "--simulate", "0"])?.0);
            parts.push(work.parts(&path)?);
        }
        let ratios: Vec<f64> = whole.iter().zip(&plain).map(|(whole, plain)| whole / plain).collect();
        let each = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" ");
        let (ratio, whole) = (median(&ratios), median(&whole));
        write!(text, "| {prompt} + {steps} | {:.2} | {whole:.2} | {each} | {ratio:.2} | {BOUND} |", median(&plain))?;
        let mut rest = whole;
        for part in 0..PARTS.len() - 1 {
            let time = median(&parts.iter().map(|parts| parts[part]).collect::<Vec<f64>>());
            rest -= time;
            write!(text, " {time:.2} |")?;
        }
        writeln!(text, " {rest:.2} |")?;
        let within = ratio <= BOUND;
        if !within {
            exceeded
                .push(format!("run of {prompt} + {steps} tokens: {ratio:.2} over plain inference, at most {BOUND}"));
        }
    }
    writeln!(text, "\nMedian of {} rounds.\n", args.rounds)?;
    Ok(text)
}

/// One prompt and its steps.
struct Work {
    tokens: Vec<u32>,
    steps: usize,
    prompts: PathBuf,
    dir: PathBuf,
}

impl Work {
    fn new(args: &Args, prompt: usize, steps: usize) -> Result<Work> {
        let dir = args.dir.join("whole");
        fs::create_dir_all(&dir)?;
        let tokens = tokens(prompt, 32_000);
        let prompts = dir.join("prompts.json");
        fs::write(&prompts, json!([{"id": "bench", "tokens": tokens}]).to_string())?;
        Ok(Work { tokens, steps, prompts, dir: dir.join("run") })
    }

    /// Loading and both phases of the same tokens, once: prefill of all; prefill of the prompt but for its last token, and
    /// decode of that and of what is chosen behind it.
    fn plain(&self, path: &Path) -> Result<f64> {
        seconds(|| {
            let model = Model::open(path)?;
            let engine = EmbeddedEngine::new(&model, Settings::default())?;
            let (last, before) = self.tokens.split_last().context("a prompt")?;
            let mut session = engine.session()?;
            session.prefill(before, 0..0, &mut Tap::closed())?;
            let mut all = self.tokens.clone();
            let mut token = *last;
            for _ in 0..self.steps {
                let logits = session.decode(token, &mut Tap::closed())?;
                token = driftprobe_engine::record::greedy(&logits);
                all.push(token);
            }
            all.pop();
            engine.session()?.prefill(&all, self.tokens.len() - 1..all.len(), &mut Tap::closed())?;
            Ok(())
        })
    }

    /// The program itself: seconds, and its exit status.
    fn run(&self, program: &Path, model: &Path, more: &[&str]) -> Result<(f64, i32)> {
        let mut status = None;
        let layers = LAYERS.map(|layer| layer.to_string()).join(",");
        let steps = self.steps.to_string();
        let time = seconds(|| {
            let mut command = Command::new(program);
            command.args(["run", "--overwrite", "--layers", &layers, "--steps", &steps]).args(more);
            command.arg("--model").arg(model).arg("--prompts").arg(&self.prompts).arg("--out").arg(&self.dir);
            let output = command.output()?;
            status = output.status.code();
            ensure!(matches!(status, Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        })?;
        Ok((time, status.context("killed")?))
    }

    /// What `driftprobe run` does, part by part.
    fn parts(&self, path: &Path) -> Result<[f64; 4]> {
        let mut parts = [0.0; 4];
        let mut model = None;
        parts[0] += seconds(|| {
            model = Some(Model::open(path)?);
            Ok(())
        })?;
        let model = model.context("no model")?;
        let mut engine = None;
        parts[0] += seconds(|| {
            engine = Some(EmbeddedEngine::new(&model, Settings::default())?);
            Ok(())
        })?;
        let engine = engine.context("no engine")?;
        let prompt = PromptInfo { id: "bench".into(), tokens: self.tokens.clone(), ..Default::default() };
        let everything = Plan::everything(&engine, vec![prompt]);
        let layers = LAYERS.into_iter().filter(|layer| *layer < engine.layers()).collect();
        let plan = Plan { layers, steps: self.steps, repeats: 1, unwatched: true, overwrite: true, ..everything };
        let oracle = Oracle { budget_flops: 0.0, ..Oracle::new(&model) };
        parts[1] = seconds(|| {
            record_both(&engine, &plan, &self.dir, Manifest::default(), &mut Unwatched)?;
            Ok(())
        })?;
        for (part, dir) in [(2, self.dir.clone()), (3, self.dir.join(ALIGNED_DIR))] {
            parts[part] = seconds(|| {
                let run = Run::open(&dir)?;
                let analysis = analyze_against((&run, &run), Some(&oracle), Options::default(), &mut |_| {});
                ensure!(analysis.counts.total > 0, "nothing was paired");
                Ok(())
            })?;
        }
        Ok(parts)
    }
}

fn beside_hooks(args: &Args, exceeded: &mut Vec<String>) -> Result<String> {
    let Some(python) = &args.python else { return Ok(String::new()) };
    let mut text = String::new();
    text += "| layers × width, tokens | | rows | start s | load s | passes s | dump s | compare s | together s | over driftprobe |\n";
    text += "|---|---|---|---|---|---|---|---|---|---|\n";
    let mut versions = String::new();
    for ((layers, hidden), prompt) in BESIDE_HOOKS {
        let path = folder(args, python, (layers, hidden))?;
        let work = Work::new(args, prompt, 1)?;
        let (mut answers, mut alike, mut whole) = (vec![], vec![], vec![]);
        for _ in 0..args.rounds {
            answers.push(hooks(python, &path, &work, layers)?);
            alike.push(
                work.run(&program(args)?, &path, &["--mode", "as_designed", "--repeats", "0", "--simulate", "0"])?.0,
            );
            whole.push(work.run(&program(args)?, &path, &["--mode", "both", "--simulate", "0"])?.0);
        }
        let rows = answers.first().and_then(|answer| answer["rows"].as_u64()).context("no rows")?;
        versions = answers[0]["versions"].as_str().unwrap_or_default().to_owned();
        let of = |name: &str| -> Result<f64> {
            let all: Option<Vec<f64>> = answers.iter().map(|answer| answer[name].as_f64()).collect();
            Ok(median(&all.with_context(|| format!("no {name} in the answer"))?))
        };
        let names = ["start_s", "load_s", "passes_s", "dump_s", "compare_s"];
        let parts = names.iter().map(|name| of(name)).collect::<Result<Vec<f64>>>()?;
        let script = of("together_s")?;
        let (alike, whole) = (median(&alike), median(&whole));
        write!(text, "| {layers} × {hidden}, {prompt} | hooks | {rows} |")?;
        parts.iter().try_for_each(|part| write!(text, " {part:.2} |"))?;
        writeln!(text, " {script:.2} | {:.1} |", script / alike)?;
        writeln!(text, "| | driftprobe, one mode, no repeat | | | | | | | {alike:.2} | 1 |")?;
        writeln!(
            text,
            "| | driftprobe, both modes, a repeat of each | | | | | | | {whole:.2} | {:.2} |",
            alike / whole
        )?;
        let within = hidden > BOUND_HOOKS_HIDDEN || script / alike >= BOUND_HOOKS;
        if !within {
            exceeded.push(format!(
                "{layers} layers, {prompt} tokens: {:.1} times hooks, at least {BOUND_HOOKS}",
                script / alike
            ));
        }
    }
    writeln!(text, "\nMedian of {} rounds. {versions}.\n", args.rounds)?;
    Ok(text)
}

/// A random model as transformers writes it.
fn folder(args: &Args, python: &Path, (layers, hidden): (usize, usize)) -> Result<PathBuf> {
    let path = args.dir.join(format!("hooks-{layers}-{hidden}"));
    if !path.join("config.json").exists() {
        ask(python, "hooks.py", &["make", &path.display().to_string(), &layers.to_string(), &hidden.to_string()])?;
    }
    Ok(path)
}

/// The answers of both programs; together: from the start of the first to the end of the second.
fn hooks(python: &Path, model: &Path, work: &Work, layers: usize) -> Result<Value> {
    let dir = work.dir.with_file_name("hooks");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let list = |all: &mut dyn Iterator<Item = String>| all.collect::<Vec<_>>().join(",");
    let traced = list(&mut LAYERS.iter().filter(|layer| **layer < layers).map(usize::to_string));
    let ids = list(&mut work.tokens.iter().map(u32::to_string));
    let (model, dir) = (model.display().to_string(), dir.display().to_string());
    let (mut answer, mut compared) = (Value::Null, Value::Null);
    let together = seconds(|| {
        answer = ask(python, "hooks.py", &["dump", &model, &dir, &traced, &ids, &work.steps.to_string()])?;
        compared = ask(python, "hooks.py", &["compare", &dir])?;
        Ok(())
    })?;
    ensure!(compared["verdict"] == "PASS", "the script found a fault: {compared}");
    for name in ["rows", "compare_s"] {
        answer[name] = compared[name].clone();
    }
    let inside = ["load_s", "passes_s", "dump_s", "compare_s"].iter().filter_map(|name| answer[*name].as_f64());
    answer["start_s"] = json!(together - inside.sum::<f64>());
    answer["together_s"] = json!(together);
    Ok(answer)
}
