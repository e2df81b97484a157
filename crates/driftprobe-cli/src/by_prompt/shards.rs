//! `driftprobe run --shard`: a part of the prompts in a run of its own, which says of what it is a part.

use crate::failure::Failure;
use driftprobe::digest::Shard;
use driftprobe_trace::{Manifest, PromptInfo};
use serde_json::{Value, json};

/// The key of a manifest under which a shard says what it is a part of.
const KEY: &str = "shard";

/// A shard's folder within that of all shards.
pub fn shard_folder(shard: Shard) -> String {
    format!("shard-{}-of-{}", shard.index, shard.of)
}

/// The prompts of a shard; the manifest is told of all of them, so that a missing shard is missed.
pub fn shard_of(shard: Shard, prompts: Vec<PromptInfo>, manifest: &mut Manifest) -> Result<Vec<PromptInfo>, Failure> {
    let all: Vec<&str> = prompts.iter().map(|prompt| prompt.id.as_str()).collect();
    let (count, told) = (all.len(), json!({"index": shard.index, "of": shard.of, "prompts": all}));
    manifest.extra.insert(KEY.to_owned(), told);
    let own: Vec<PromptInfo> =
        prompts.into_iter().enumerate().filter(|(place, _)| shard.holds(*place)).map(|(_, prompt)| prompt).collect();
    match own.is_empty() {
        true => {
            let what = format!("shard {shard} holds none of the {count} prompts");
            Err(Failure::new(what, "take no more shards than there are prompts"))
        }
        false => Ok(own),
    }
}

/// What a run is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartOf {
    /// Which part.
    pub shard: Shard,
    /// The prompts of all parts, in their order.
    pub prompts: Vec<String>,
}

impl PartOf {
    /// What a manifest says of it; none for a run that is whole.
    pub fn read(manifest: Option<&Manifest>) -> Result<Option<PartOf>, Failure> {
        let Some(told) = manifest.and_then(|manifest| manifest.extra.get(KEY)) else { return Ok(None) };
        let number = |key: &str| told.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let ids = told.get("prompts").and_then(Value::as_array);
        let ids = ids.and_then(|all| all.iter().map(|id| id.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
        match (number("index"), number("of"), ids) {
            (Some(index), Some(of), Some(prompts)) if (1..=of).contains(&index) => {
                Ok(Some(PartOf { shard: Shard { index, of }, prompts }))
            }
            _ => {
                let what = format!("manifest.json: {KEY}: {told} does not say which part of what the run is");
                Err(Failure::new(
                    what,
                    r#"expected {"index": 1, "of": 3, "prompts": ["id of every prompt of all parts"]}"#,
                ))
            }
        }
    }
}
