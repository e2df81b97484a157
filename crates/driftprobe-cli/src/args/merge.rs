//! The options of `driftprobe merge`.

use super::Format;
use clap::Args;
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
Examples:
  driftprobe merge results/                       parts that share a folder
  driftprobe merge node-1/ node-2/ --out merged/  parts from several machines

Takes the folders that `driftprobe analyze --shard` wrote, in any order. A prompt
that no part has judged makes the verdict INCONCLUSIVE: a missing part never passes.
See docs/scale.md.";

#[derive(Args)]
pub struct MergeArgs {
    /// Folders of reports
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// Folder of the merged report [default: the first of the folders]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}
