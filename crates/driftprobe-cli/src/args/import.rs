//! Arguments of `driftprobe import`.

use clap::Args;
use std::path::PathBuf;

/// Examples of the command.
pub const EXAMPLES: &str = "\
Examples:
  driftprobe import dump/ --out runs/sglang --model models/qwen3-8b
  driftprobe import --prefill a/ --decode b/ --out runs/hf --tokens tokens.json
  driftprobe import nodes/ --from folder --map own.toml --out runs/nodes
  driftprobe import greta/ --from greta --tokens tokens.json --positions-from 0 --out runs/logits
  driftprobe analyze runs/sglang

In a dump of both phases, passes of many tokens are prefill and passes of one are decode. What a dump does not tell stays
unknown. docs/import.md says what each format tells.";

/// What is imported, and what is said of it.
#[derive(Args)]
pub struct ImportArgs {
    /// The dump: a folder, or one file, with both phases
    pub source: Option<PathBuf>,
    /// Folder of the run
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// Dumps of prefill, where the phases lie apart
    #[arg(long, num_args = 1.., value_name = "DIR")]
    pub prefill: Vec<PathBuf>,
    /// Dumps of decode, in the order of its steps
    #[arg(long, num_args = 1.., value_name = "DIR")]
    pub decode: Vec<PathBuf>,
    /// The tool that wrote it
    #[arg(long, default_value = "auto", value_name = "TOOL",
        value_parser = ["auto", "sglang", "sglang-hook", "msprobe", "huggingface", "llama-cpp", "folder", "greta"])]
    pub from: String,
    /// What its names mean: a TOML file, or transformers, vllm, sglang, llama-cpp or greta [default: the tool's own]
    #[arg(long, value_name = "FILE|NAME")]
    pub map: Option<String>,
    /// The model: its sizes split fused tensors and check shapes, and analyze finds it by the run
    #[arg(long, value_name = "DEMO|PATH")]
    pub model: Option<PathBuf>,
    /// The arithmetic that the engine claims: a JSON file, or a preset by name
    #[arg(long, value_name = "FILE|PRESET")]
    pub contract: Option<String>,
    /// The prompt's id in the run
    #[arg(long, default_value = "imported", value_name = "ID")]
    pub prompt_id: String,
    /// The ids of all tokens that were fed, those of the decode steps included: a JSON list, or llama.cpp's -tokens.bin
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// The position of the first of --tokens, where the dump holds no positions and you know it (0, as a rule)
    #[arg(long, value_name = "N")]
    pub positions_from: Option<u64>,
    /// The rank to read, of a dump of several
    #[arg(long, value_name = "N")]
    pub rank: Option<u32>,
    /// The passes to read, counted from 1 in the dump's order, such as 2,5-9 [default: all]
    #[arg(long, value_name = "LIST")]
    pub passes: Option<String>,
    /// Replace the run that lies in --out
    #[arg(long)]
    pub overwrite: bool,
}
