//! The command line.

mod analyze;
mod compare;
mod doctor;
mod export;
mod gate;
mod import;
mod logprobs;
mod merge;
mod reach;
mod remote;
pub mod report;
mod sweep;
mod volume;

pub use analyze::AnalyzeArgs;
pub use compare::{CompareArgs, ComparedPhase};
pub use doctor::DoctorArgs;
pub use export::ExportArgs;
pub use gate::GateArgs;
pub use import::ImportArgs;
pub use logprobs::{LogprobsArgs, LogprobsFormat};
pub use merge::MergeArgs;
pub use reach::{ReachArgs, ReachFormat};
pub use remote::RemoteArgs;
pub use sweep::Axis;
pub use volume::VolumeArgs;

use clap::{Args, Parser, Subcommand};
use driftprobe::digest::Shard;
use driftprobe::judge::examine::Oracle;
use driftprobe_engine::faulty::{Fault, FaultKind};
use driftprobe_engine::{DecodeAttention, PrefillAttention, QuantisedMatmul, Storage};
use std::path::PathBuf;

const TOP_EXAMPLES: &str = "\
Examples:
  driftprobe                                    the main job on the embedded model
  driftprobe run --model models/qwen2.5-0.5b    a Hugging Face folder
  driftprobe run --model llama.gguf --layers all --steps 4
  driftprobe analyze runs/greta                 traces that another engine wrote

Exit status: 0 PASS, 1 FAIL, 2 could not run, 3 INCONCLUSIVE, 130 interrupted";

const RUN_EXAMPLES: &str = "\
Examples:
  driftprobe run
  driftprobe run --dtype bf16 --prefill-attention blocked:16
  driftprobe run --prompts 'The quick brown fox' --steps 4 --layers all
  driftprobe run --model llama.gguf --prompts prompts/ --out runs/llama
  driftprobe run --remote me@mi300x --model /models/llama.gguf --out runs/mi300x
  driftprobe run --model llama.gguf --engine llama-cpp --flash-attention on
  driftprobe run --sweep prefill-attention=blocked:64,blocked:16 --steps 24
  driftprobe run --shard 1/3 --out runs/parts --record-only
  driftprobe run --budget 50MB --steps 4 --compress
  driftprobe run --two-pass --mode as_designed

Honoured environment variables (an option given here comes first):
  GRETA_TRACE_LAYERS, GRETA_TRACE_STAGE_LAYERS   as --layers
  GRETA_TRACE_STAGE_POINTS                       as --points
  GRETA_SEED                                     as --seed
  RAYON_NUM_THREADS                              threads of the embedded engine";

const POWER_EXAMPLES: &str = "\
Examples:
  driftprobe power
  driftprobe power --dtype bf16 --phase both --faults ROPE_THETA NORM_EPS:attn:0.001

Every fault is real: the engine computes with it, and it propagates. A fault counts
as seen if the run FAILs, as placed if the first failure is where the fault is, and
as named if the cause is it. The exit status is 0 whatever is seen.";

/// Do an LLM engine's prefill and decode compute the same tokens? Traces both, pairs their tensors strictly, finds the
/// first stage that parts, and says what the evidence carries. Without a command: run, on the embedded model.
#[derive(Parser)]
#[command(name = "driftprobe", version, after_help = TOP_EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// When to colour [default: on a terminal, unless NO_COLOR is set]
    #[arg(long, global = true, value_enum, value_name = "WHEN", display_order = 900)]
    pub color: Option<clap::ColorChoice>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a model in both phases, trace them, and report. Without options: the embedded model.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Report on a run that lies on disk, whichever engine wrote it.
    #[command(after_help = analyze::EXAMPLES)]
    Analyze(AnalyzeArgs),
    /// Merge what analyze --shard found on several machines into one verdict.
    #[command(after_help = merge::EXAMPLES)]
    Merge(MergeArgs),
    /// Write the reports of a run once more, or draw one picture of it.
    #[command(after_help = report::REPORT_EXAMPLES)]
    Report(report::ReportArgs),
    /// Compare one phase of two runs: two engines, or two settings of one.
    #[command(after_help = compare::EXAMPLES)]
    Compare(CompareArgs),
    /// Gate runs for CI: the noise model's verdict, other tools' gates beside it, a baseline, a matrix.
    #[command(after_help = gate::EXAMPLES)]
    Gate(Box<GateArgs>),
    /// Log-probabilities of whole generations: decode's, as a rollout has them, against prefill's, as a trainer has.
    #[command(after_help = logprobs::EXAMPLES)]
    Logprobs(Box<LogprobsArgs>),
    /// Which evaluation orders give the recorded bits of clean stages that differ? Blocks, splits, lanes, fused roundings.
    #[command(after_help = reach::EXAMPLES)]
    Reach(ReachArgs),
    /// Make every mistake of the catalogue in the model at hand, and say which of them this probe sees.
    #[command(after_help = POWER_EXAMPLES)]
    Power(Box<PowerArgs>),
    /// Make a run of a dump that another tool wrote; analyze judges it.
    #[command(after_help = import::EXAMPLES)]
    Import(Box<ImportArgs>),
    /// Put runs into a partitioned Parquet dataset, which DuckDB, pandas and Polars open, and analyze judges.
    #[command(after_help = export::EXAMPLES)]
    Export(ExportArgs),
    /// Look at this machine: what can run here, and is the model readable?
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(DoctorArgs),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Examples:\n  driftprobe completions bash > driftprobe.bash\n  driftprobe completions zsh > _driftprobe"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    #[command(after_help = "Examples:\n  driftprobe man > driftprobe.1\n  driftprobe man gate > driftprobe-gate.1")]
    Man {
        /// The command that it is of [default: the program]
        command: Option<String>,
    },
}

/// What computes the model.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineKind {
    /// The engine of this program.
    Embedded,
    /// llama.cpp.
    LlamaCpp,
}

impl EngineKind {
    /// Name on the command line.
    pub const fn id(self) -> &'static str {
        match self {
            EngineKind::Embedded => "embedded",
            EngineKind::LlamaCpp => "llama-cpp",
        }
    }
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Switch {
    /// Whether it is on.
    #[cfg_attr(not(feature = "llama-cpp"), expect(dead_code, reason = "only llama.cpp has switches"))]
    pub fn is_on(self) -> bool {
        self == Switch::On
    }
}

/// What decode reads as K and V of earlier positions.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Modes {
    /// The rows that decode wrote itself.
    AsDesigned,
    /// Prefill's rows.
    KvAligned,
    /// One after the other.
    Both,
}

/// What the terminal shows.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A summary of at most 80 columns.
    Text,
    /// As data: what the command's JSON file holds.
    Json,
    /// As Markdown.
    Md,
    /// As a table, tab-separated.
    Tsv,
    /// JUnit XML.
    Junit,
    /// GitHub's annotations; the Markdown goes to $GITHUB_STEP_SUMMARY.
    Github,
}

#[derive(Args, Clone)]
pub struct RunArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// What decode's attention reads of earlier positions: the rows it wrote itself (as_designed), prefill's (kv_aligned), or
    /// one after the other (both)
    #[arg(long, value_enum, default_value = "both", value_name = "MODE")]
    pub mode: Modes,
    /// Make one real mistake, for the curious: an id of the catalogue, its parameters, @ phase and layer, such as
    /// ROPE_POSITION_OFFSET:+1@decode:layer2 (docs/numerics.md has them all)
    #[arg(long, value_name = "FAULT")]
    pub fault: Option<Fault>,
    /// How often each phase is run again, to see whether it repeats itself bit for bit
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub repeats: u32,
    /// Run and judge once for each value of a setting, and say from where on rows part: prefill-chunk, batch, threads,
    /// prefill-attention, decode-attention, flash-attention, kv-cache, dtype, ubatch, or context (tokens of the prompts)
    #[arg(long, value_name = "SETTING=V1,V2,…", conflicts_with_all = ["record_only", "remote"])]
    pub sweep: Option<Axis>,
    /// Record this part of the prompts only, such as 1/3: into shard-1-of-3 in --out. `analyze --by-prompt` takes all parts
    /// as one run
    #[arg(long, value_name = "I/N", requires = "out", conflicts_with_all = ["sweep", "remote"])]
    pub shard: Option<Shard>,
    /// Seed to record; the embedded engine draws no random numbers
    #[arg(long, env = "GRETA_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Keep hashes, statistics and eight values of each row, but not the rows themselves
    #[arg(long)]
    pub no_payloads: bool,
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// Record only; `driftprobe analyze` judges the run later, here or elsewhere
    #[arg(long)]
    pub record_only: bool,
    /// Folder of the run [default: runs/NAME-NNN, a new one]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace the run that lies in --out
    #[arg(long, requires = "out")]
    pub overwrite: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// The command line as it was given.
    #[arg(skip)]
    pub command_line: Vec<String>,
    /// This program as a file that can be copied to another machine.
    #[arg(skip)]
    pub binary: Option<PathBuf>,
}

/// The model, how it is computed, and what is traced of it.
#[derive(Args, Clone)]
pub struct EngineArgs {
    /// A Hugging Face folder, a GGUF file, or DEMO for the embedded model
    #[arg(long, default_value = "DEMO", value_name = "DEMO|PATH")]
    pub model: PathBuf,
    /// A tokenizer.json, where the model brings none
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Prompts: texts, files or folders of files (*.txt, or *.json with ids and tokens) [default: four built-in ones]
    #[arg(long, num_args = 1.., value_name = "DIR|FILE|TEXT")]
    pub prompts: Vec<String>,
    /// Of these prompts, the ones with these ids only
    #[arg(long, num_args = 1.., value_name = "ID")]
    pub only: Vec<String>,
    /// Cut or repeat each prompt to so many tokens
    #[arg(long, value_name = "N")]
    pub prompt_tokens: Option<usize>,
    /// Layers to trace, or `all` [default: 0,1,2,4,8, as far as the model has them]
    #[arg(long, value_name = "LIST|all")]
    pub layers: Option<String>,
    /// Points to trace, or `all` [default: all]
    #[arg(long, value_name = "LIST|all")]
    pub points: Option<String>,
    /// Decode steps to trace; later ones feed the engine's own greedy tokens to both phases
    #[arg(long, default_value_t = 1, value_name = "K")]
    pub steps: usize,
    /// What computes the model: embedded (this program), or llama-cpp (GGUF files; as built in by the feature llama-cpp)
    #[arg(long, value_enum, default_value = "embedded", value_name = "ENGINE")]
    pub engine: EngineKind,
    /// Embedded: type in which values are stored between stages (sums are always f32): f32, f16 or bf16 [default: f32]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Storage>,
    /// Type in which the KV cache holds its rows. Embedded: f32, f16 or bf16 [default: as --dtype]; llama-cpp: f32, f16 or,
    /// with flash attention, q8_0 [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub kv_cache: Option<String>,
    /// Embedded: attention of the prefill: naive, or blocked:KEYS (online softmax) [default: naive]
    #[arg(long, value_name = "KIND")]
    pub prefill_attention: Option<PrefillAttention>,
    /// Embedded: attention of the decode: naive, or split-k:PARTS [default: naive]
    #[arg(long, value_name = "KIND")]
    pub decode_attention: Option<DecodeAttention>,
    /// Embedded: prefill in chunks of so many tokens [default: the whole prompt at once]
    #[arg(long, value_name = "TOKENS")]
    pub prefill_chunk: Option<usize>,
    /// Embedded: sequences that a pass computes at once, this one and copies of it: from 2 on, decode multiplies matrices by
    /// the kernel for many rows [default: 1]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Embedded: quantised weights: integer (activations are quantised too) or dequantise [default: integer]
    #[arg(long, value_name = "HOW")]
    pub quantised_matmul: Option<QuantisedMatmul>,
    /// llama-cpp: whether attention is fused [default: off]
    #[arg(long, value_enum, value_name = "on|off")]
    pub flash_attention: Option<Switch>,
    /// llama-cpp: tokens a micro-batch; longer prompts are split [default: 512]
    #[arg(long, value_name = "TOKENS")]
    pub ubatch: Option<usize>,
    /// llama-cpp: compute the last layer's end and the logits of traced rows only, as in ordinary use. Otherwise all rows
    /// go through them, and so through the kernels of many rows
    #[arg(long)]
    pub prune: bool,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Device: cpu, cuda or metal, and with llama-cpp rocm or vulkan (as built in by features)
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Operations that simulating the prompts from their tokens may take; prompts beyond it are left out, and the report says
    /// what that leaves open
    #[arg(long, default_value_t = Oracle::BUDGET_FLOPS, value_name = "FLOPS")]
    pub simulate: f64,
}

#[derive(Args)]
pub struct PowerArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Faults to make, such as ROPE_THETA or KV_STALE_SLOT:1 [default: the whole catalogue]
    #[arg(long, num_args = 1.., value_name = "FAULT")]
    pub faults: Vec<FaultKind>,
    /// The phase that makes them: prefill, decode or both
    #[arg(long, default_value = "decode", value_parser = ["prefill", "decode", "both"], value_name = "PHASE")]
    pub phase: String,
    /// The layer that makes them, or `all` [default: the middle one of those traced]
    #[arg(long, value_name = "LAYER|all")]
    pub layer: Option<String>,
    /// What to print: text or json
    #[arg(long, value_enum, default_value = "text")]
    pub format: TextOrJson,
}

/// How what is told is printed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TextOrJson {
    /// A table of at most 80 columns.
    Text,
    /// The same as data.
    Json,
}

impl RunArgs {
    /// What `driftprobe` without any argument does.
    pub fn default_demo() -> Box<RunArgs> {
        match Cli::parse_from(["driftprobe", "run"]).command {
            Some(Command::Run(args)) => args,
            // `run` parses to Run; there is no other way here.
            _ => std::process::exit(i32::from(driftprobe::EXIT_COULD_NOT_RUN)),
        }
    }
}

/// What a run that lies on disk is held against.
#[derive(Args)]
pub struct JudgingArgs {
    /// The model that the run was made with: a Hugging Face folder, a GGUF file, or DEMO [default: the one that the run's
    /// manifest names, where it lies there; without a model, rows are compared and not judged]
    #[arg(long, value_name = "DEMO|PATH")]
    pub model: Option<PathBuf>,
    /// The arithmetic that the engine claims, in place of the manifest's: a JSON file, or a preset by name
    #[arg(long, value_name = "FILE|PRESET")]
    pub contract: Option<String>,
    /// Operations that simulating the prompts from their tokens may take; prompts beyond it are left out, and the report says
    /// what that leaves open
    #[arg(long, default_value_t = Oracle::BUDGET_FLOPS, value_name = "FLOPS")]
    pub simulate: f64,
}
