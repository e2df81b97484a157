//! Dumps of other tools, made into runs of driftprobe: what a dump tells goes into the run, what it does not tell stays
//! unknown, and what has no point is listed.
mod blocks;
mod error;
mod events;
mod json_lines;
mod keys;
mod load;
mod logits;
mod logprobs;
mod map;
mod mapped;
pub mod npy;
pub mod pickle;
mod record;
mod report;
mod rows;
mod source;
mod tensor;
mod torch_file;

pub use error::{ImportError, Result};
pub use keys::Told;
pub use logits::{LogitsDump, LogitsLine, LogitsLines};
pub use logprobs::{LogprobFile, LogprobLine, logprob_line, logprobs_of_bytes, read_logprobs};
pub use map::Map;
pub use report::{Report, Unmapped};
pub use source::{Format, hugging_face_tensors, msprobe_tensors, token_ids};
pub use tensor::{Kind, Tensor};
pub use torch_file::TorchFile;

use driftprobe_trace::{EngineInfo, Manifest, Phase};
use std::path::{Path, PathBuf};

/// What is to be imported, and what the user says of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// A dump of both phases.
    pub source: Option<PathBuf>,
    /// Dumps of prefill.
    pub prefill: Vec<PathBuf>,
    /// Dumps of decode, in the order of its steps.
    pub decode: Vec<PathBuf>,
    /// Its format; found out if absent.
    pub from: Option<Format>,
    /// Map by name or file; the format's usual one if absent.
    pub map: Option<String>,
    /// The prompt's id in the run.
    pub prompt_id: String,
    /// What the user says of the tokens.
    pub told: Told,
    /// The rank to read.
    pub rank: Option<u32>,
    /// The passes to read, from 1, in the dump's order; all if absent.
    pub passes: Option<Vec<(u64, u64)>>,
    /// The run's folder.
    pub out: PathBuf,
    /// Whether a run that lies there is replaced.
    pub overwrite: bool,
    /// What is known of model, contract and host.
    pub manifest: Manifest,
}

impl Request {
    /// Of a dump of both phases (or of none yet), into a folder: all of it, and nothing known of it. The prompt is `p`.
    pub fn new(source: Option<PathBuf>, out: PathBuf) -> Request {
        Request {
            source,
            prefill: Vec::new(),
            decode: Vec::new(),
            from: None,
            map: None,
            prompt_id: "p".to_owned(),
            told: Told::default(),
            rank: None,
            passes: None,
            out,
            overwrite: false,
            manifest: Manifest::default(),
        }
    }
}

/// How far an import has got.
pub struct Progress<'a> {
    /// Tensors read.
    pub done: u64,
    /// Of so many.
    pub total: u64,
    /// The one that is read.
    pub name: &'a str,
}

/// Makes a run of a dump.
///
/// # Errors
/// If the dump cannot be read, contradicts itself, or nothing of it is mapped; and if the run cannot be written.
pub fn import(request: &Request, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report> {
    let sources = sources(request)?;
    let format = format(request, &sources)?;
    let mut manifest = request.manifest.clone();
    let engine = manifest.engine.get_or_insert_with(EngineInfo::default);
    engine.name.get_or_insert_with(|| format.id().to_owned());
    let mut report = Report { out: request.out.clone(), format: format.id(), ..Report::default() };
    match format {
        Format::Greta => events::import(request, &sources, manifest, &mut report)?,
        _ => blocks::import(request, (format, &sources), manifest, &mut report, progress)?,
    }
    Ok(report)
}

type Sources<'a> = Vec<(&'a Path, Option<Phase>)>;

fn sources(request: &Request) -> Result<Sources<'_>> {
    let source = request.source.iter().map(|path| (path.as_path(), None));
    let prefill = request.prefill.iter().map(|path| (path.as_path(), Some(Phase::Prefill)));
    let decode = request.decode.iter().map(|path| (path.as_path(), Some(Phase::Decode)));
    let sources: Sources<'_> = source.chain(prefill).chain(decode).collect();
    match (sources.is_empty(), request.source.is_some() && sources.len() > 1) {
        (true, _) => Err(ImportError::new("nothing to import", "name a dump, or --prefill DIR --decode DIR")),
        (_, true) => {
            let hint = "give one dump of both phases, or --prefill DIR --decode DIR";
            Err(ImportError::new("a dump of both phases and dumps by phase", hint))
        }
        _ => Ok(sources),
    }
}

fn format(request: &Request, sources: &Sources<'_>) -> Result<Format> {
    if let Some(format) = request.from {
        return Ok(format);
    }
    let mut found: Option<(Format, &Path)> = None;
    for (path, _) in sources {
        let format = source::detect(path)?;
        match found {
            Some((first, other)) if first != format => {
                let what = format!("{} is of {}, {} of {}", other.display(), first.id(), path.display(), format.id());
                return Err(ImportError::new(what, "import both phases from one tool, or name the format with --from"));
            }
            _ => found = Some((format, path)),
        }
    }
    found.map(|(format, _)| format).ok_or_else(|| ImportError::new("nothing to import", "name a dump"))
}
