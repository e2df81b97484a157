//! The command line of `driftprobe report`.

use super::JudgingArgs;
use clap::Args;
use driftprobe::report::Plot;
use std::path::PathBuf;

/// Examples of the command.
pub const REPORT_EXAMPLES: &str = "\
Examples:
  driftprobe report runs/DEMO-001
  driftprobe report runs/DEMO-001 --plot heatmap -o heatmap.svg
  driftprobe report runs/DEMO-001 --plot growth -o growth.png --scale 3

The exit status is 0 whatever the verdict, once all is written: analyze has it.";

#[derive(Args)]
pub struct ReportArgs {
    /// A run's folder, a folder of *.jsonl files, or one such file
    pub run: PathBuf,
    /// Draw one picture in place of the reports: heatmap (layers by points in units of noise), growth (drift over the layers
    /// with the band of Monte Carlo draws), modes (as designed against aligned) or attention (before and after softmax)
    #[arg(long, value_name = "KIND", value_parser = plot)]
    pub plot: Option<Plot>,
    /// The picture's file, FILE.svg or FILE.png; without --plot the folder of the reports [default: report/ inside the run's
    /// folder, and in it KIND.svg]
    #[arg(short, long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Pixels of a PNG for each pixel of the SVG: 1 to 8
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8), value_name = "N")]
    pub scale: u8,
    #[command(flatten)]
    pub judging: JudgingArgs,
}

fn plot(name: &str) -> Result<Plot, String> {
    let known = || Plot::ALL.map(Plot::id).join(", ");
    Plot::ALL.into_iter().find(|plot| plot.id() == name).ok_or_else(|| format!("expected one of {}", known()))
}
