//! Arguments of `driftprobe gate`.

use super::{Format, JudgingArgs};
use clap::Args;
use clap::builder::PossibleValuesParser;
use driftprobe::gate::PRESETS;
use std::path::PathBuf;

/// Examples of the command.
pub const EXAMPLES: &str = "\
Examples:
  driftprobe gate runs/DEMO-001
  driftprobe gate runs/DEMO-001 --preset sglang,guardrail --format junit
  driftprobe gate runs/new --baseline runs/old --decide baseline
  driftprobe gate runs/nightly --matrix matrix.toml --out gate/
  driftprobe gate logits/prefill logits/decode --preset guardrail

The noise model's verdict decides; presets stand beside it and are shown with
measured value, limit and place. --decide says otherwise. Formulas and sources are
in docs/gate.md.

Exit status: 0 PASS, 1 FAIL, 2 could not run, 3 INCONCLUSIVE: nothing was compared,
a cell of the matrix is missing, or the evidence carries neither";

/// What is gated, and by what.
#[derive(Args)]
pub struct GateArgs {
    /// Runs, folders of runs, or dumps of logits (logits.jsonl.gz and metadata.json, prefill's and decode's)
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    #[command(flatten)]
    pub judging: JudgingArgs,
    /// Gates that others use, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',',
        value_parser = PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.id)))]
    pub preset: Vec<String>,
    /// What decides the exit status: noise, preset, baseline, separated by commas, or all [default: noise, and baseline where
    /// one is given; of dumps of logits, which have no stages, preset in place of noise]
    #[arg(long, value_name = "LIST", value_delimiter = ',',
        value_parser = PossibleValuesParser::new(["noise", "preset", "baseline", "all"]))]
    pub decide: Vec<String>,
    /// A run that each run must not be worse than: same model, prompts, layers, points and contract
    #[arg(long, value_name = "RUN")]
    pub baseline: Option<PathBuf>,
    /// A TOML (or JSON) file that says which runs must be there: prompts, seeds, kv_aligned, dtype, engine, context, steps
    #[arg(long, value_name = "FILE")]
    pub matrix: Option<PathBuf>,
    /// Folder for gate.md, gate.tsv, gate.json and junit.xml
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}
