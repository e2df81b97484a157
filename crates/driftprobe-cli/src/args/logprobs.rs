//! Arguments of `driftprobe logprobs`.

use super::EngineArgs;
use clap::Args;
use clap::builder::PossibleValuesParser;
use driftprobe::logprobs::{Limits, Measure, PRESETS};
use driftprobe_engine::faulty::Fault;
use std::path::PathBuf;

/// Examples of the command.
pub const EXAMPLES: &str = "\
Examples:
  driftprobe logprobs --model models/qwen2.5-0.5b --tokens 32
  driftprobe logprobs --dtype bf16 --temperature 1 --preset sglang-kl
  driftprobe logprobs prefill.jsonl decode.jsonl --max-k3 2.5e-3

With a model: decode generates and scores each token as it comes, one prefill of the
whole sequence scores them again, and the worst tokens are traced down to the first
tensor that drifts (in all layers, unless --layers says otherwise). With two files: a token a line,
{\"sequence\": \"s0\", \"index\": 17, \"token_id\": 42, \"logprob\": -1.25}
(.jsonl or .jsonl.gz; docs/logprobs.md).

Exit status: 0 all tokens were compared (MEASURED: no limit was given) and limits
hold (PASS); 1 a limit does not hold, or the trace of a worst token finds a fault;
2 could not run; 3 not all tokens could be compared";

/// What is not of two files.
const OF_ENGINES: [&str; 27] = [
    "model",
    "tokenizer",
    "prompts",
    "only",
    "prompt_tokens",
    "layers",
    "points",
    "steps",
    "engine",
    "dtype",
    "kv_cache",
    "prefill_attention",
    "decode_attention",
    "prefill_chunk",
    "batch",
    "quantised_matmul",
    "flash_attention",
    "ubatch",
    "prune",
    "threads",
    "device",
    "simulate",
    "tokens",
    "temperature",
    "seed",
    "fault",
    "trace_worst",
];

/// Whose log-probabilities, and how far apart they may be.
#[derive(Args)]
// How many tokens is --tokens here; --steps is refused, with a hint.
#[command(mut_arg("steps", |steps| steps.hide(true)))]
pub struct LogprobsArgs {
    /// Log-probabilities by prefill and by decode, one token a line; without files a model is run
    #[arg(num_args = 2, value_names = ["PREFILL", "DECODE"], conflicts_with_all = OF_ENGINES)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Tokens to generate behind each prompt; a token that ends a text does not end them
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub tokens: usize,
    /// 0: the likeliest token each time; otherwise tokens are drawn at this temperature. Log-probabilities are those at
    /// temperature 1 in any case
    #[arg(long, default_value_t = 0.0, value_name = "T", value_parser = not_negative)]
    pub temperature: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Make one real mistake, as for run
    #[arg(long, value_name = "FAULT")]
    pub fault: Option<Fault>,
    /// How many of the worst tokens to trace in both phases, down to the first tensor that drifts
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub trace_worst: usize,
    /// FAIL if the mean of abs(Δ) is larger; Δ = ln p(decode) − ln p(prefill)
    #[arg(long, value_name = "X", value_parser = not_negative)]
    pub max_mean_abs: Option<f64>,
    /// FAIL if a token's ratio e^Δ is above X or below 1/X
    #[arg(long, value_name = "X", value_parser = at_least_one)]
    pub max_ratio: Option<f64>,
    /// FAIL if the mean of k3 = e^Δ − 1 − Δ is larger
    #[arg(long, value_name = "X", value_parser = not_negative)]
    pub max_k3: Option<f64>,
    /// Limits that others use, separated by commas (docs/gate.md)
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = PossibleValuesParser::new(PRESETS))]
    pub preset: Vec<String>,
    /// Folder for the scores, the report and the runs of the worst tokens [default: with a model logprobs/NAME-NNN, a new one;
    /// with two files nothing is written]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace what lies in --out
    #[arg(long, requires = "out")]
    pub overwrite: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: LogprobsFormat,
}

impl LogprobsArgs {
    /// The limits that were asked for.
    pub fn limits(&self) -> Limits {
        let own = Limits::default()
            .with(Measure::MeanAbs, self.max_mean_abs, "--max-mean-abs")
            .with(Measure::Ratio, self.max_ratio, "--max-ratio")
            .with(Measure::K3, self.max_k3, "--max-k3");
        self.preset.iter().fold(own, |limits, preset| limits.with_preset(preset))
    }
}

/// What `logprobs` prints.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogprobsFormat {
    /// A summary of at most 80 columns.
    Text,
    /// report/logprobs.json.
    Json,
    /// report/logprobs.md.
    Md,
    /// report/logprobs.tsv: every token.
    Tsv,
}

fn number(text: &str, least: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= least);
    number.ok_or_else(|| format!("expected a number from {least} on"))
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, 0.0)
}

fn at_least_one(text: &str) -> Result<f64, String> {
    number(text, 1.0)
}
