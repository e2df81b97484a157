//! `driftprobe run --shard`: a part of the prompts in a run of its own, which says of what it is a part.

use crate::failure::Failure;
use driftprobe::digest::Shard;
use driftprobe_trace::{Manifest, PromptInfo, ShardInfo, xxh3_128_text};

/// A shard's folder within that of all shards.
pub fn shard_folder(index: u32, of: u32) -> String {
    format!("shard-{index}-of-{of}")
}

/// The prompts of a shard; the manifest is told of all of them, so that a missing shard is missed.
pub fn shard_of(shard: Shard, prompts: &[PromptInfo], manifest: &mut Manifest) -> Result<Vec<PromptInfo>, Failure> {
    let all: Vec<String> = prompts.iter().map(|prompt| prompt.id.clone()).collect();
    let count = all.len();
    let tokens: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.tokens.as_slice()).collect();
    let tokens = Some(xxh3_128_text(format!("{tokens:?}").as_bytes()));
    manifest.shard = Some(ShardInfo { index: shard.index, of: shard.of, prompts: all, tokens });
    let own = prompts.iter().enumerate().filter(|(place, _)| shard.holds(*place));
    let own: Vec<PromptInfo> = own.map(|(_, prompt)| prompt.clone()).collect();
    match own.is_empty() {
        true => {
            let what = format!("shard {shard} holds none of the {count} prompts");
            Err(Failure::new(what, "take no more shards than there are prompts"))
        }
        false => Ok(own),
    }
}
