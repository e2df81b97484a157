//! The options of `driftprobe analyze`.

use super::{Format, JudgingArgs};
use clap::Args;
use driftprobe::digest::Shard;
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
Examples:
  driftprobe analyze runs/DEMO-001
  driftprobe analyze traces/ --out report/ --format json
  driftprobe analyze runs/old runs/new --by-prompt --out results/
  driftprobe analyze runs/whole --shard 1/3
  driftprobe analyze runs/whole --layer-shard 1/2 --out results/

A run is a folder with manifest.json and traces/; a folder of *.jsonl files, or
one such file, is read too. See docs/trace-format.md.

By prompt, each prompt is judged by itself, as many at once as there are cores, and
only these are in memory. What was judged lies in report/units and is not judged
again. With --shard the exit status is 0 once the part was judged, whatever was
found: the verdict is that of `driftprobe merge`. With --layer-shard stages of some
layers are judged beforehand, so that several machines share a long prompt; their
results are no verdict, and who then judges the prompt takes them up. See docs/scale.md.";

#[derive(Args)]
pub struct AnalyzeArgs {
    /// A run's folder, a folder of *.jsonl files, or one such file; by prompt, any number of runs and folders of runs
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    #[command(flatten)]
    pub judging: JudgingArgs,
    /// Judge prompt by prompt, in memory that does not grow with the run, and merge
    #[arg(long)]
    pub by_prompt: bool,
    /// Judge this part of the prompts only, such as 1/3, by prompt; `driftprobe merge` merges all parts
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Judge the stages of this part of the layers only, of every prompt, for whoever judges the prompts with the same --out
    #[arg(long, value_name = "I/N")]
    pub layer_shard: Option<Shard>,
    /// By prompt: judge all of them, also those whose results, or those of whose layers, are there
    #[arg(long)]
    pub fresh: bool,
    /// By prompt: how many prompts are judged at once [default: one a core]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Folder of the report [default: report/ inside the run's folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}
