//! What `driftprobe analyze --shard` says when its part is judged: counts, and that they are no verdict.

use super::Judged;
use crate::args::Format;
use crate::failure::Failure;
use driftprobe::Verdict;
use driftprobe::digest::{Shard, generator};
use serde::Serialize;
use std::path::Path;

/// The version of the JSON.
const SCHEMA: u32 = 1;

/// Refuses what a part of the prompts has none of, before any work.
pub fn check_format(format: Format) -> Result<(), Failure> {
    match format {
        Format::Text | Format::Json => Ok(()),
        _ => {
            let hint = "take text or json here; the report is that of all shards: driftprobe merge DIR… --format md";
            Err(Failure::new("a shard has no report of its own", hint))
        }
    }
}

/// What one machine did of the work.
#[derive(Serialize)]
pub struct ShardDone {
    schema: u32,
    generator: String,
    shard: Shard,
    judged: usize,
    known: usize,
    pass: usize,
    fail: usize,
    inconclusive: usize,
    folder: String,
    /// None in any case.
    verdict: Option<Verdict>,
    hint: &'static str,
}

impl ShardDone {
    /// These prompts, with their results in `folder`.
    pub fn new(shard: Shard, folder: &Path, verdicts: &[Judged]) -> ShardDone {
        let count = |verdict: Verdict| verdicts.iter().filter(|one| one.verdict == verdict).count();
        let judged = verdicts.iter().filter(|one| one.now).count();
        ShardDone {
            schema: SCHEMA,
            generator: generator(),
            shard,
            judged,
            known: verdicts.len() - judged,
            pass: count(Verdict::Pass),
            fail: count(Verdict::Fail),
            inconclusive: count(Verdict::Inconclusive),
            folder: folder.to_string_lossy().into_owned(),
            verdict: None,
            hint: "the verdict is that of all shards: driftprobe merge DIR…",
        }
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let ShardDone { shard, folder, judged, known, pass, fail, inconclusive, .. } = self;
        format!(
            "shard {shard}: {judged} prompts judged, {known} known already, in {folder}\n{pass} PASS, {fail} FAIL, \
             {inconclusive} INCONCLUSIVE here; the verdict is that of all {} shards: driftprobe merge DIR…\n",
            shard.of
        )
    }

    /// As data.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}
