//! `driftprobe import`: a run out of a dump that another tool wrote.

use crate::analyze::contract;
use crate::args::ImportArgs;
use crate::environment::model_info;
use crate::failure::Failure;
use crate::output;
use crate::progress::ImportBar;
use driftprobe_import::{Format, Request, Told, import};
use driftprobe_model::Model;
use driftprobe_trace::Manifest;
use std::path::Path;

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
    Ok(Manifest {
        contract,
        model: Some(model_info(path, &model)),
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
