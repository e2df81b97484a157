//! GRETA's traces, and its dumps of logits: a line a token.

use super::{files, name_of};
use crate::error::{ImportError, Result};
use crate::logits::{LogitsLines, metadata};
use crate::tensor::{Kind, Tensor};
use driftprobe_trace::{Dtype, Phase, Run};
use std::path::{Path, PathBuf};

/// Whether a file holds lines of JSON.
pub fn is_lines(path: &Path) -> bool {
    name_of(path).ends_with(".jsonl") || name_of(path).ends_with(".jsonl.gz")
}

fn is_logits(path: &Path) -> bool {
    matches!(name_of(path), "logits.jsonl" | "logits.jsonl.gz")
}

/// The logits of one token.
pub struct LogitsRow {
    /// The phase that folder, metadata or user tell.
    pub phase: Phase,
    /// Index of the token.
    pub index: u64,
    /// The token that the line names: fed or drawn, that is not told.
    pub token: Option<u32>,
    /// The logits.
    pub values: Tensor,
}

/// What was found: traces, which say themselves what they are, and rows of logits.
#[derive(Default)]
pub struct Loose {
    /// The traces.
    pub runs: Vec<Run>,
    /// The logits, and the file of each list.
    pub logits: Vec<LogitsRow>,
    /// The files that were read.
    pub read: Vec<PathBuf>,
}

/// Reads the traces and logits below a folder, or one file.
///
/// # Errors
/// If a line is refused, or logits do not tell their phase.
pub fn loose(path: &Path, phase: Option<Phase>) -> Result<Loose> {
    let mut found = Loose::default();
    for file in files(path)?.into_iter().filter(|file| is_lines(file)) {
        match is_logits(&file) {
            true => logits(path, &file, phase, &mut found.logits)?,
            false => {
                let run = Run::open(&file)?;
                if let Some(event) = run.events.iter().find(|event| phase.is_some_and(|phase| phase != event.phase)) {
                    let hint = "events say their phase themselves: give all of them as one source";
                    return Err(ImportError::file(&file, format!("{} is of {}", event.source, event.phase), hint));
                }
                found.runs.push(run);
            }
        }
        found.read.push(file);
    }
    Ok(found)
}

/// The phase of a dump of logits: the user's word, its metadata's, or a folder's name.
fn phase_of(root: &Path, file: &Path, asked: Option<Phase>) -> Result<Phase> {
    let folder = file.parent().unwrap_or(root);
    let metadata = metadata(folder)?;
    let stated = ["phase", "mode"].iter().find_map(|key| Phase::parse(metadata.as_ref()?.get(*key)?.as_str()?));
    let named = folder.ancestors().take_while(|dir| dir.starts_with(root)).find_map(|dir| Phase::parse(name_of(dir)));
    match (asked, stated.or(named)) {
        (Some(asked), Some(stated)) if asked != stated => {
            let what = format!("its metadata or folder says {stated}, it was given as {asked}");
            Err(ImportError::file(file, what, "give it as what it is"))
        }
        (Some(phase), _) | (None, Some(phase)) => Ok(phase),
        (None, None) => {
            let hint = "give the two dumps by --prefill DIR --decode DIR, or name their folders prefill and decode";
            Err(ImportError::file(file, "nothing tells which phase these logits are of", hint))
        }
    }
}

fn logits(root: &Path, file: &Path, asked: Option<Phase>, found: &mut Vec<LogitsRow>) -> Result<()> {
    let phase = phase_of(root, file, asked)?;
    for line in LogitsLines::open(file)? {
        let line = line?;
        let bytes = line.logits.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = vec![line.logits.len() as u64];
        let hint = "copy the dump again if it is cut off";
        let values = Tensor::new(Kind::Float(Dtype::F32), shape, bytes);
        let values = values.map_err(|what| ImportError::file(file, what, hint))?;
        found.push(LogitsRow { phase, index: line.index, token: line.token, values });
    }
    Ok(())
}
