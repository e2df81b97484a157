//! What `driftprobe analyze --shard` says when its part is judged: counts, and that they are no verdict.

use crate::args::Format;
use crate::failure::Failure;
use driftprobe::Verdict;
use driftprobe::digest::{Digest, Shard, generator};
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
    pass: u64,
    fail: u64,
    inconclusive: u64,
    missing: u64,
    folder: String,
    /// None in any case.
    verdict: Option<Verdict>,
    hint: &'static str,
}

impl ShardDone {
    /// So many prompts judged now, and so many known already, with their results in `folder`.
    pub fn new(shard: Shard, folder: &Path, (judged, known): (usize, usize)) -> ShardDone {
        ShardDone {
            schema: SCHEMA,
            generator: generator(),
            shard,
            judged,
            known,
            pass: 0,
            fail: 0,
            inconclusive: 0,
            missing: 0,
            folder: folder.to_string_lossy().into_owned(),
            verdict: None,
            hint: "the verdict is that of all shards: driftprobe merge DIR…",
        }
    }

    /// Counts the result of one prompt. `None`: it is gone again.
    pub fn count(&mut self, digest: Option<&Digest>) {
        let counted = match digest.map(|digest| digest.verdict) {
            Some(Verdict::Pass) => &mut self.pass,
            Some(Verdict::Fail) => &mut self.fail,
            Some(Verdict::Inconclusive) => &mut self.inconclusive,
            None => &mut self.missing,
        };
        *counted += 1;
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let ShardDone { shard, folder, judged, known, pass, fail, inconclusive, missing, .. } = self;
        let gone = if *missing > 0 { format!(", {missing} missing") } else { String::new() };
        format!(
            "shard {shard}: {judged} prompts judged, {known} known already, in {folder}\n{pass} PASS, {fail} FAIL, \
             {inconclusive} INCONCLUSIVE{gone} here; the verdict is that of all {} shards: driftprobe merge DIR…\n",
            shard.of
        )
    }

    /// As data.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}
