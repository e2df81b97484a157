//! `driftprobe analyze`: reports on a run that lies on disk.

use crate::args::{AnalyzeArgs, Format};
use crate::failure::Failure;
use crate::output;
use crate::progress::PairsBar;
use driftprobe::examine::Oracle;
use driftprobe::modes::combine;
use driftprobe::presets;
use driftprobe::search::{Round, with_search};
use driftprobe::{Analysis, Options, analyze_against};
use driftprobe_model::Model;
use driftprobe_trace::{ALIGNED_DIR, Contract, Run, SEARCH_PREFIX};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs the command and returns the exit status.
pub fn run(args: &AnalyzeArgs) -> Result<u8, Failure> {
    let run = Run::open(&args.run)?;
    let model = match &args.model {
        Some(path) => Some(Model::open(path)?),
        None => named_model(&run),
    };
    let contract = args.contract.as_deref().map(contract).transpose()?;
    let oracle = model.as_ref().map(|model| Oracle {
        contract: contract.as_ref(),
        budget_flops: args.simulate,
        ..Oracle::new(model)
    });
    report(&args.run, oracle.as_ref(), args.out.as_deref(), args.format)
}

/// The model that the run's manifest names, where it lies there. A path is relative to the run.
fn named_model(run: &Run) -> Option<Model> {
    let path = run.manifest.as_ref()?.model.as_ref()?.path.as_ref()?;
    let path = if path == "DEMO" { PathBuf::from(path) } else { run.dir.join(path) };
    Model::open(&path).ok()
}

/// A contract from a file, or a preset by name.
fn contract(name: &str) -> Result<Contract, Failure> {
    if let Some(preset) = presets::contract(name) {
        return Ok(preset);
    }
    let path = Path::new(name);
    let text = fs::read(path).map_err(|e| {
        let hint = format!("give a JSON file, or one of {}", presets::NAMES.join(", "));
        Failure::new(format!("contract {name} cannot be read: {e}"), hint)
    })?;
    serde_json::from_slice(&text).map_err(|e| {
        let hint = "the fields are those of manifest.contract in docs/trace-format.md";
        Failure::new(format!("{name}: not a contract: {e}"), hint)
    })
}

/// Judges the run in `path`, against the model if there is one, writes its report and prints it.
pub fn report(path: &Path, oracle: Option<&Oracle<'_>>, out: Option<&Path>, format: Format) -> Result<u8, Failure> {
    let analysis = judge(path, oracle)?;
    let folder = out.map_or_else(|| beside(path), Path::to_owned);
    output::write(&analysis, &folder, format)?;
    Ok(analysis.exit_code())
}

/// Judges the run in `path`, and its other mode if that lies inside.
pub fn judge(path: &Path, oracle: Option<&Oracle<'_>>) -> Result<Analysis, Failure> {
    let run = Run::open(path)?;
    let aligned = path.join(ALIGNED_DIR).is_dir().then(|| Run::open(&path.join(ALIGNED_DIR))).transpose()?;
    let mut bar = PairsBar::new();
    let progress = &mut |done, total| bar.show(done, total);
    let analysis = analyze_against((&run, &run), oracle, Options::default(), progress);
    let analysis = match &aligned {
        None => analysis,
        Some(aligned) => combine(analysis, analyze_against((aligned, aligned), oracle, Options::default(), progress)),
    };
    bar.finish();
    Ok(with_search(analysis, searched(path, oracle)?))
}

/// The runs inside a run in which a fault between recorded layers was searched for.
fn searched(path: &Path, oracle: Option<&Oracle<'_>>) -> Result<Vec<Round>, Failure> {
    let mut rounds = Vec::new();
    for folder in (1..).map(|number| path.join(format!("{SEARCH_PREFIX}{number}"))).take_while(|folder| folder.is_dir())
    {
        let run = Run::open(&folder)?;
        let layers = run.manifest.iter().flat_map(|manifest| manifest.layers.iter().flatten().copied());
        let layers = layers.filter_map(|layer| usize::try_from(layer).ok()).collect();
        let analysis = analyze_against((&run, &run), oracle, Options::default(), &mut |_, _| {});
        rounds.push(Round { layers, analysis: Arc::new(analysis) });
    }
    Ok(rounds)
}

/// `report/` inside the run's folder, or beside a single file.
pub fn beside(path: &Path) -> PathBuf {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    folder.join("report")
}
