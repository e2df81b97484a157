//! Arguments of `driftprobe reach`.

use clap::Args;
use std::path::PathBuf;

/// Examples of the command.
pub const EXAMPLES: &str = "\
Examples:
  driftprobe reach runs/whole
  driftprobe reach runs/whole --layers 0,1 --points attn_out --seconds 10 --format json

Rows of clean stages that differ between the phases are computed again in every
order of a catalogue; an order is named if it gives all recorded bits, on more than
one row, and most others do not. Exit status: 0 searched, whatever was found;
2 could not run; 3 nothing could be searched.";

#[derive(Args)]
pub struct ReachArgs {
    /// A run's folder
    pub run: PathBuf,
    /// The model that the run was made with [default: the one that the run's manifest names, where it lies there]
    #[arg(long, value_name = "DEMO|PATH")]
    pub model: Option<PathBuf>,
    /// The arithmetic that the engine claims, in place of the manifest's: a JSON file, or a preset by name
    #[arg(long, value_name = "FILE|PRESET")]
    pub contract: Option<String>,
    /// Layers to search, or `all` [default: all that were recorded]
    #[arg(long, value_name = "LIST|all")]
    pub layers: Option<String>,
    /// Points to search, or `all` [default: all]
    #[arg(long, value_name = "LIST|all")]
    pub points: Option<String>,
    /// Seconds that trying orders may take; what is not reached by then is said
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    pub seconds: f64,
    /// Folder for reach.json and reach.md [default: report/ inside the run's folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: ReachFormat,
}

/// How `reach` prints what it found.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReachFormat {
    /// At most 80 columns.
    Text,
    /// As data.
    Json,
    /// As Markdown.
    Md,
}
