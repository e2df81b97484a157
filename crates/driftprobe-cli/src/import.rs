//! `driftprobe import`: a run out of a dump that another tool wrote.

use crate::analyze::contract;
use crate::failure::Failure;
use crate::output;
use crate::progress::ImportBar;
use clap::Args;
use driftprobe_import::{Format, Request, Told, import};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, ModelInfo};
use std::path::{Path, PathBuf};

/// Examples of the command.
pub const IMPORT_EXAMPLES: &str = "\
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

/// Runs the command and returns the exit status.
pub fn run(args: &ImportArgs) -> Result<u8, Failure> {
    let request = Request {
        prefill: args.prefill.clone(),
        decode: args.decode.clone(),
        from: Format::ALL.iter().copied().find(|format| format.id() == args.from),
        map: args.map.clone(),
        prompt_id: args.prompt_id.clone(),
        told: Told { tokens: args.tokens.as_deref().map(tokens).transpose()?, first_position: args.positions_from },
        rank: args.rank,
        passes: args.passes.as_deref().map(ranges).transpose()?,
        overwrite: args.overwrite,
        manifest: manifest(args)?,
        ..Request::new(args.source.clone(), args.out.clone())
    };
    let mut bar = ImportBar::new();
    let outcome = import(&request, &mut |progress| bar.show(&progress));
    bar.finish();
    let text = format!("{}next: driftprobe analyze {}\n", outcome?.to_text(), args.out.display());
    output::print(&text)?;
    Ok(driftprobe::EXIT_PASS)
}

/// What the user says of model and contract.
fn manifest(args: &ImportArgs) -> Result<Manifest, Failure> {
    let contract = args.contract.as_deref().map(contract).transpose()?;
    let Some(path) = &args.model else { return Ok(Manifest { contract, ..Manifest::default() }) };
    let model = Model::open(path)?;
    let own = Path::new("DEMO");
    let absolute = if path == own { path.clone() } else { std::path::absolute(path).unwrap_or_else(|_| path.clone()) };
    Ok(Manifest {
        contract,
        model: Some(ModelInfo {
            path: Some(absolute.to_string_lossy().into_owned()),
            format: Some(model.format.id().to_owned()),
            architecture: Some(model.config.architecture.id().to_owned()),
            fingerprint: Some(model.weights.fingerprint()),
            ..ModelInfo::default()
        }),
        config: Some(model.config.to_hugging_face()),
        ..Manifest::default()
    })
}

/// Token ids from a JSON list (also as `tokens` of an object), or raw 32-bit ones.
fn tokens(path: &Path) -> Result<Vec<u32>, Failure> {
    tokens_of(path, &std::fs::read(path).map_err(|e| Failure::io("read", path, &e))?)
}

/// Token ids of these bytes; the file's name tells which of the two they are.
pub(crate) fn tokens_of(path: &Path, bytes: &[u8]) -> Result<Vec<u32>, Failure> {
    let refuse = |what: String| {
        let hint = "give a JSON list such as [1, 72, 101], {\"tokens\": [1, 72]}, or a file of 32-bit ids called *.bin";
        Failure::new(format!("{}: {what}", path.display()), hint)
    };
    let ids = if path.extension().is_some_and(|extension| extension == "bin") {
        driftprobe_import::token_ids(bytes).map_err(refuse)?
    } else {
        let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| refuse(e.to_string()))?;
        let list = json.get("tokens").unwrap_or(&json).as_array().ok_or_else(|| refuse("no list".to_owned()))?;
        let id = |id: &serde_json::Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = list.iter().map(id).collect();
        ids.ok_or_else(|| refuse("not all entries are token ids".to_owned()))?
    };
    if ids.is_empty() { Err(refuse("no token".to_owned())) } else { Ok(ids) }
}

/// `2,5-9`.
fn ranges(text: &str) -> Result<Vec<(u64, u64)>, Failure> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some((from.trim().parse().ok()?, to.trim().parse().ok()?)).filter(|(from, to)| from <= to)
    };
    let ranges: Option<Vec<(u64, u64)>> = text.split(',').map(range).collect();
    ranges.ok_or_else(|| {
        Failure::new(format!("--passes {text} is no list of passes"), "give numbers from 1, such as 2,5-9")
    })
}
