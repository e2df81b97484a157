//! Two files of log-probabilities, of whoever wrote them.

use super::trace;
use crate::failure::Failure;
use crate::same_file::same_file;
use driftprobe::logprobs::{Judged, Limits, Mismatch, Origin, Pair, Score};
use driftprobe::report::escape::visible;
use driftprobe_import::{LogprobFile, read_logprobs};
use driftprobe_trace::Phase;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Token ids that are spelled out on the terminal.
const TOKENS_SHOWN: usize = 16;

/// What is known of two files besides what stands in them.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The engine that wrote both.
    pub engine: Option<String>,
    /// How it chose its tokens.
    pub sampling: Option<String>,
    /// Tokens that were traced: sequence, index, and where the run lies.
    pub traced: Vec<(String, u64, PathBuf)>,
}

/// Judges prefill's file against decode's.
///
/// # Errors
/// If a file or a run cannot be read, or a file is said to be of the other phase: with line and hint.
pub fn judge_files(prefill: &Path, decode: &Path, limits: &Limits, known: Known) -> Result<Judged, Failure> {
    let [ours, theirs] = [read_logprobs(prefill, Phase::Prefill)?, read_logprobs(decode, Phase::Decode)?];
    let named = ours.names_phase && theirs.names_phase;
    let same = match (same_file(prefill, decode), ours.content == theirs.content) {
        (true, _) => Some("both files are one and the same"),
        (false, true) => Some("the files are alike to the byte"),
        (false, false) => None,
    };
    if let Some(e) = [&ours.other_phase, &theirs.other_phase].into_iter().flatten().next().filter(|_| same.is_none()) {
        return Err(Failure::new(e.to_string(), e.hint()));
    }
    let mut mismatch = Mismatch::of(&scores(ours), &scores(theirs));
    if let Some(same) = same {
        mismatch.not_independent(format!("{same}: {}, {}", prefill.display(), decode.display()));
    } else if !named && !mismatch.pairs.is_empty() && mismatch.pairs.iter().all(|pair| pair.delta() == 0.0) {
        // One recording written twice has all scores equal, and so have two phases that agree: only the lines can tell.
        let what = "all scores are equal, and not all lines of both files name their phase";
        mismatch.not_independent(format!("{what}: {}, {}", prefill.display(), decode.display()));
    }
    let [prefill, decode] = [prefill, decode].map(|path| path.display().to_string());
    let mut links = Vec::new();
    for (sequence, index, run) in &known.traced {
        let of = |pair: &&Pair| *pair.sequence == **sequence && pair.index == *index;
        if let Some(pair) = mismatch.pairs.iter().chain(&mismatch.unsound).find(of) {
            links.push(trace::lying(pair, run)?);
        }
    }
    let origin = Origin { prefill, decode, engine: known.engine, sampling: known.sampling };
    Ok(Judged::of(origin, mismatch, limits, links))
}

/// Lines as scores; names that are alike are held once.
fn scores(file: LogprobFile) -> Vec<Score> {
    let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
    let score = |line: driftprobe_import::LogprobLine| {
        let sequence = names.get(line.sequence.as_str()).cloned().unwrap_or_else(|| {
            let name: Arc<str> = Arc::from(line.sequence.as_str());
            names.insert(name.clone());
            name
        });
        Score { sequence, index: line.index, token_id: line.token_id, logprob: line.logprob }
    };
    file.lines.into_iter().map(score).collect()
}

/// How the worst token can be traced by who has the engine.
pub fn how_to_trace(judged: &Judged) -> String {
    let Some(worst) = judged.mismatch.worst(1).first().copied() else {
        return String::new();
    };
    let (name, index) = (visible(&worst.sequence), worst.index);
    let Some((first, ids)) = judged.mismatch.tokens_before(&worst.sequence, index) else {
        return String::new();
    };
    let mut list: Vec<String> = ids.iter().take(TOKENS_SHOWN).map(u32::to_string).collect();
    if ids.len() > TOKENS_SHOWN {
        list.push(format!("… ({} in all)", ids.len()));
    }
    let prompt = if first > 0 { format!("the {first} tokens before index {first}, then ") } else { String::new() };
    let known = if list.is_empty() { "no more".to_owned() } else { list.join(", ") };
    format!(
        "\nTo see which tensor parts first at token {index} of {name}, trace it:\n  \
         driftprobe run --model MODEL --prompts worst.json\nworst.json: \
         [{{\"id\": \"worst\", \"tokens\": [ALL]}}], ALL: {prompt}{known}\n"
    )
}
