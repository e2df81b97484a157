//! Arguments of `driftprobe doctor`.

use super::TextOrJson;
use clap::Args;
use std::path::PathBuf;

/// Examples of the command.
pub const EXAMPLES: &str = "\
Examples:
  driftprobe doctor
  driftprobe doctor --model llama.gguf --out runs/llama --format json

Exit status: 0 if nothing fails, warnings included; 2 if something does";

/// What is looked at besides the machine.
#[derive(Args)]
pub struct DoctorArgs {
    /// A model to open: a Hugging Face folder, a GGUF file, or DEMO
    #[arg(long, default_value = "DEMO", value_name = "DEMO|PATH")]
    pub model: PathBuf,
    /// Where runs would be written
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub out: PathBuf,
    /// What to print: text or json
    #[arg(long, value_enum, default_value = "text")]
    pub format: TextOrJson,
}
