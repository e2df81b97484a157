//! Arguments of `driftprobe compare`.

use super::{Format, JudgingArgs};
use clap::Args;
use std::path::PathBuf;

/// Examples of the command.
pub const EXAMPLES: &str = "\
Examples:
  driftprobe compare runs/transformers runs/llama-cpp --model model/
  driftprobe compare runs/whole runs/chunked --phase prefill

Each run is judged by itself, with its own contract; rows of one phase are paired
across the two. Exit status as for run.";

/// Which phase of two runs is compared.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ComparedPhase {
    /// The whole prompt at once.
    Prefill,
    /// One token against the KV cache.
    Decode,
    /// One after the other.
    Both,
}

#[derive(Args)]
pub struct CompareArgs {
    /// A run's folder
    pub first: PathBuf,
    /// Another run of the same prompts
    pub second: PathBuf,
    /// The phase
    #[arg(long, value_enum, default_value = "both", value_name = "PHASE")]
    pub phase: ComparedPhase,
    /// Of both runs, but for the contract, which is the first's alone.
    #[command(flatten)]
    pub judging: JudgingArgs,
    /// The second run's model, if it is another file of the same weights; --model is that of both otherwise
    #[arg(long, value_name = "DEMO|PATH")]
    pub second_model: Option<PathBuf>,
    /// The arithmetic that the second engine claims; --contract is that of the first alone
    #[arg(long, value_name = "FILE|PRESET")]
    pub second_contract: Option<String>,
    /// Folder for compare.json
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}
