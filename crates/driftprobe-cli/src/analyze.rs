//! `driftprobe analyze`: reports on a run that lies on disk.

use crate::args::{AnalyzeArgs, Format};
use crate::failure::Failure;
use crate::output;
use crate::progress::PairsBar;
use driftprobe::examine::Oracle;
use driftprobe::modes::combine;
use driftprobe::{Options, analyze_against};
use driftprobe_model::Model;
use driftprobe_trace::{ALIGNED_DIR, Run};
use std::path::{Path, PathBuf};

/// Runs the command and returns the exit status.
pub fn run(args: &AnalyzeArgs) -> Result<u8, Failure> {
    let model = args.model.as_deref().map(Model::open).transpose()?;
    report(&args.run, model.as_ref(), args.out.as_deref(), args.format)
}

/// Judges the run in `path`, against the model if there is one, writes its report and prints it.
pub fn report(path: &Path, model: Option<&Model>, out: Option<&Path>, format: Format) -> Result<u8, Failure> {
    let run = Run::open(path)?;
    let aligned = path.join(ALIGNED_DIR).is_dir().then(|| Run::open(&path.join(ALIGNED_DIR))).transpose()?;
    let mut bar = PairsBar::new();
    let oracle = model.map(|model| Oracle { model, contract: None });
    let progress = &mut |done, total| bar.show(done, total);
    let analysis = analyze_against((&run, &run), oracle.as_ref(), Options::default(), progress);
    let analysis = match &aligned {
        None => analysis,
        Some(aligned) => {
            combine(analysis, analyze_against((aligned, aligned), oracle.as_ref(), Options::default(), progress))
        }
    };
    bar.finish();
    let folder = out.map_or_else(|| beside(path), Path::to_owned);
    output::write(&analysis, &folder, format)?;
    Ok(analysis.exit_code())
}

/// `report/` inside the run's folder, or beside a single file.
fn beside(path: &Path) -> PathBuf {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    folder.join("report")
}
