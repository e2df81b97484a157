//! `driftprobe run --sweep`: one run for each value of a setting, side by side.

use crate::args::{Axis, EngineArgs, Format, RunArgs};
use crate::failure::Failure;
use crate::output;
use crate::picture;
use crate::progress::JudgingBar;
use crate::run::{Made, make, new_folder};
use driftprobe::report::plot::sweep_picture;
use driftprobe::report::sweep::{to_json, to_markdown, to_terminal, to_tsv};
use driftprobe::sweep::{Step, Sweep};
use driftprobe_model::Model;
use driftprobe_trace::Run;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The sweep's own file.
const TABLE: &str = "sweep.json";

/// Runs the command and returns the exit status: that of the worst run.
pub fn run(args: &RunArgs, axis: &Axis) -> Result<u8, Failure> {
    let setting = axis.setting.id();
    if matches!(args.format, Format::Junit | Format::Github) {
        let hint = "gate the runs of the sweep: driftprobe gate SWEEP --format junit";
        return Err(Failure::new("a sweep has no JUnit and no annotations of its own", hint));
    }
    // What cannot be done is said before the work.
    if let Some(option) = axis.setting.given(&args.engine) {
        let what = format!("--sweep {setting} gives {option} its values, and {option} is given too");
        return Err(Failure::new(what, format!("leave out {option}, or name its value among those of --sweep")));
    }
    let of = |value: &String| {
        let hint = "driftprobe run --help has the values of each option";
        axis.setting.at(value, &args.engine).map_err(|why| Failure::new(format!("--sweep {setting}: {why}"), hint))
    };
    let engines: Vec<EngineArgs> = axis.values.iter().map(of).collect::<Result<_, _>>()?;
    let folder = match &args.out {
        Some(folder) => folder.clone(),
        None => new_folder(Path::new("sweeps"), &Model::open(&args.engine.model)?)?,
    };
    if folder.join(TABLE).exists() && !args.overwrite {
        let what = format!("{}: a sweep lies there already", folder.display());
        return Err(Failure::new(what, "name another folder with --out, or replace it with --overwrite"));
    }
    let mut sweep = Sweep { axis: setting.clone(), unit: axis.setting.unit(), steps: vec![] };
    let mut first: Option<Run> = None;
    for (engine, value) in engines.into_iter().zip(&axis.values) {
        output::tell(format_args!("{setting} = {value} ({} of {})", sweep.steps.len() + 1, axis.values.len()));
        let one = RunArgs { engine, out: Some(folder.join(folder_name(value))), sweep: None, ..args.clone() };
        let Some(Made { dir, judged }) = make(&one)? else { continue };
        let own = Run::open(&dir)?;
        let mut step = Step::of(value, &judged.analysis);
        output::files(&judged, &crate::analyze::beside(&dir))?;
        if let Some(first) = first.as_ref().filter(|_| axis.setting.keeps_sequences()) {
            let mut bar = JudgingBar::new();
            step.hold_against((first, &axis.values[0]), &own, &mut |progress| bar.show(progress));
            bar.finish();
        }
        first.get_or_insert(own);
        sweep.steps.push(step);
    }
    let written = write(&sweep, &folder)?;
    let shown = match args.format {
        Format::Json => to_json(&sweep),
        Format::Md => to_markdown(&sweep),
        Format::Tsv => to_tsv(&sweep),
        _ => {
            let mut text = to_terminal(&sweep).ansi() + "\n";
            written.iter().for_each(|path| {
                let _ = writeln!(text, "wrote {}", path.display());
            });
            text
        }
    };
    output::print(&shown)?;
    Ok(sweep.verdict().exit_code())
}

/// A run's folder: its value, in characters that every file system takes.
fn folder_name(value: &str) -> String {
    value.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' }).collect()
}

fn write(sweep: &Sweep, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("sweep.md", to_markdown(sweep).into_bytes()),
        ("sweep.tsv", to_tsv(sweep).into_bytes()),
        (TABLE, to_json(sweep).into_bytes()),
    ];
    // Where nothing parts under any value there is no picture; the summary says that nothing does.
    if let Ok(drawn) = sweep_picture(sweep) {
        let svg = drawn.to_svg(&format!("Sweep of {}", sweep.axis));
        files.push(("sweep.png", picture::png(&svg, picture::PNG_SCALE)?));
        files.push(("sweep.svg", svg.into_bytes()));
    }
    output::into_folder(folder, files)
}
