//! `driftprobe analyze`: reports on a run that lies on disk.

use crate::args::{AnalyzeArgs, Format};
use crate::failure::Failure;
use crate::output;
use crate::progress::PairsBar;
use driftprobe::{Options, analyze_with};
use driftprobe_trace::Run;
use std::path::{Path, PathBuf};

/// Runs the command and returns the exit status.
pub fn run(args: &AnalyzeArgs) -> Result<u8, Failure> {
    report(&args.run, args.out.as_deref(), args.format)
}

/// Judges the run in `path`, writes its report and prints it.
pub fn report(path: &Path, out: Option<&Path>, format: Format) -> Result<u8, Failure> {
    let run = Run::open(path)?;
    let mut bar = PairsBar::new();
    let analysis = analyze_with(&run, &run, Options::default(), &mut |done, total| bar.show(done, total));
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
