//! `driftprobe gate`: runs and dumps of logits held against the noise model, presets, a baseline and a matrix.

mod dumps;
mod found;
mod runs;

use crate::analyze::contract;
use crate::args::{Format, GateArgs};
use crate::failure::Failure;
use crate::output;
use crate::same_file::same_file;
use driftprobe::gate::decide::{Deciding, Gate};
use driftprobe::gate::matrix::{Matrix, Unit};
use driftprobe::gate::{Preset, Subject};
use driftprobe::report::ci;
use driftprobe::report::gate::{cases, to_json, to_markdown, to_terminal, to_tsv};
use found::Found;
use std::fs;
use std::path::Path;

/// What was gated: what reports show, and what fills a matrix.
type Gated = (Subject, Vec<Unit>);

/// Runs the command and returns the exit status.
pub fn run(args: &GateArgs) -> Result<u8, Failure> {
    let presets = presets(&args.preset);
    let deciding = deciding(args)?;
    let matrix = args.matrix.as_deref().map(matrix).transpose()?;
    let contract = args.judging.contract.as_deref().map(contract).transpose()?;
    let found = Found::below(&args.runs)?;
    let settings = runs::Settings {
        presets: &presets,
        model: args.judging.model.as_deref(),
        contract: contract.as_ref(),
        budget_flops: args.judging.simulate,
        by_prompt: matrix.is_some(),
    };
    if let Some(path) = &args.baseline
        && let Some(own) = found.runs.iter().find(|run| same_file(run, path))
    {
        let what = format!("{}: the run is its own baseline, {}", own.display(), path.display());
        return Err(Failure::new(what, "give an earlier run as --baseline"));
    }
    let baseline = args.baseline.as_deref().map(|path| runs::judge(path, &settings)).transpose()?;
    let mut gated: Vec<Gated> = Vec::new();
    for path in &found.runs {
        gated.push(runs::gate(path, &settings, baseline.as_ref())?);
    }
    gated.extend(dumps::gate(&found.dumps, &presets)?);
    let (subjects, units): (Vec<Subject>, Vec<Vec<Unit>>) = gated.into_iter().unzip();
    let matrix =
        matrix.map(|(path, matrix)| matrix.fill(&units.concat()).map_err(|e| refuse(&path, &e))).transpose()?;
    let gate = Gate::decide(subjects, &deciding, matrix);
    write(&gate, args)?;
    Ok(gate.exit_code())
}

/// The presets by these names, each once; the command line knows no others.
fn presets(names: &[String]) -> Vec<&'static Preset> {
    let mut all: Vec<&'static Preset> = Vec::new();
    for preset in names.iter().filter_map(|name| Preset::by_id(name)) {
        if !all.contains(&preset) {
            all.push(preset);
        }
    }
    all
}

/// What decides, as asked for or by default.
fn deciding(args: &GateArgs) -> Result<Vec<Deciding>, Failure> {
    let there = [
        (Deciding::Noise, true),
        (Deciding::Presets, !args.preset.is_empty()),
        (Deciding::Baseline, args.baseline.is_some()),
    ];
    let all = there.iter().filter(|(_, there)| *there).map(|(one, _)| *one);
    if args.decide.iter().any(|name| name == "all") {
        return Ok(all.collect());
    }
    if args.decide.is_empty() {
        return Ok(all.filter(|one| *one != Deciding::Presets).collect());
    }
    if let Some((one, _)) = there.iter().find(|(one, there)| !there && args.decide.iter().any(|name| name == one.id()))
    {
        let what = format!("--decide {} and no --{}", one.id(), one.id());
        return Err(Failure::new(what, format!("give --{}, or let something else decide", one.id())));
    }
    Ok(all.filter(|one| args.decide.iter().any(|name| name == one.id())).collect())
}

fn refuse(path: &str, what: &str) -> Failure {
    let hint = "such as: prompts = [\"p0\"], seeds = [0, 1], kv_aligned = [0, 1], dtype = \"bf16\" (docs/gate.md)";
    Failure::new(format!("{path}: {what}"), hint)
}

/// A matrix from a TOML file, or a JSON one.
fn matrix(path: &Path) -> Result<(String, Matrix), Failure> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    let matrix = matrix_of(&name, &text)?;
    Ok((name, matrix))
}

/// A matrix of this text; `name` is what errors call its file.
pub(crate) fn matrix_of(name: &str, text: &str) -> Result<Matrix, Failure> {
    let matrix: Matrix = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text).map_err(|e| refuse(name, &e.to_string()))?,
        false => toml::from_str(text).map_err(|e| refuse(name, &e.to_string()))?,
    };
    matrix.cells().map_err(|e| refuse(name, &e))?;
    Ok(matrix)
}

fn write(gate: &Gate, args: &GateArgs) -> Result<(), Failure> {
    if let Some(folder) = &args.out {
        let files = [
            ("gate.md", to_markdown(gate)),
            ("gate.tsv", to_tsv(gate)),
            ("gate.json", to_json(gate)),
            ("junit.xml", ci::to_junit(&cases(gate))),
        ];
        output::into_folder(folder, files)?;
    }
    output::print(&match args.format {
        Format::Text => to_terminal(gate).ansi(),
        Format::Json => to_json(gate),
        Format::Md => to_markdown(gate),
        Format::Tsv => to_tsv(gate),
        Format::Junit => ci::to_junit(&cases(gate)),
        Format::Github => output::github(&cases(gate), &to_markdown(gate))?,
    })
}
