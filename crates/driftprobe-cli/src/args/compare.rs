//! Arguments of `driftprobe compare`.

use super::Format;
use clap::Args;
use driftprobe::examine::Oracle;
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
    /// The model of both runs [default: what each manifest names, where it lies there; without one, rows are compared and not
    /// judged]
    #[arg(long, value_name = "DEMO|PATH")]
    pub model: Option<PathBuf>,
    /// The second run's model, if it is another file of the same weights
    #[arg(long, value_name = "DEMO|PATH")]
    pub second_model: Option<PathBuf>,
    /// The arithmetic that the first engine claims, in place of its manifest's: a JSON file, or a preset by name
    #[arg(long, value_name = "FILE|PRESET")]
    pub contract: Option<String>,
    /// The same of the second
    #[arg(long, value_name = "FILE|PRESET")]
    pub second_contract: Option<String>,
    /// Operations that simulating the prompts from their tokens may take
    #[arg(long, default_value_t = Oracle::BUDGET_FLOPS, value_name = "FLOPS")]
    pub simulate: f64,
    /// Folder for compare.json
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}
