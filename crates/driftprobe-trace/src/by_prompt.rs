//! Runs that are read prompt by prompt: what such a run offers, and its manifest as that of a run of one prompt.

use crate::manifest::Manifest;
use crate::{PromptInfo, Run, ShardInfo, TraceError};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// A run of which one prompt at a time is in memory.
pub trait ByPrompt: Send + Sync {
    /// The run's folder.
    fn dir(&self) -> &Path;

    /// The manifest without its prompts, slots and shard.
    fn manifest(&self) -> Option<&Manifest>;

    /// Of what the run is a part, if it is one.
    fn shard(&self) -> Option<&ShardInfo>;

    /// Ids of all prompts: the manifest's in its order, then those that only events name, by id.
    fn prompts(&self) -> Vec<Arc<str>>;

    /// Reads one prompt, and its repeats: a run with a manifest that promises this prompt's rows only. A prompt that the
    /// manifest does not name is promised nothing.
    ///
    /// # Errors
    /// As [`Run::open`]; also if what lies there is not what was there when the run was opened.
    fn prompt(&self, id: &str) -> Result<Run, TraceError>;

    /// A hash over everything that [`ByPrompt::prompt`] reads; of payloads, over names, sizes and times.
    fn fingerprint(&self, id: &str) -> u128;

    /// Whether the run that was opened is still the one that lies there.
    ///
    /// # Errors
    /// [`TraceError::Changed`] if it is not.
    fn unchanged(&self) -> Result<(), TraceError>;
}

/// A manifest that can be cut down to one prompt's.
pub struct Promises {
    /// Without prompts, slots and shard, which grow with the run.
    manifest: Option<Manifest>,
    prompts: Option<BTreeMap<String, PromptInfo>>,
    order: Vec<Arc<str>>,
    slots: Option<Value>,
    shard: Option<ShardInfo>,
}

impl Promises {
    /// Of a run's manifest.
    pub fn new(mut manifest: Option<Manifest>) -> Promises {
        let prompts = manifest.as_mut().and_then(|manifest| manifest.prompts.take());
        let slots = manifest.as_mut().and_then(|manifest| manifest.slots.take());
        let shard = manifest.as_mut().and_then(|manifest| manifest.shard.take());
        Promises {
            manifest,
            order: prompts.iter().flatten().map(|prompt| Arc::from(prompt.id.as_str())).collect(),
            prompts: prompts.map(|all| all.into_iter().map(|prompt| (prompt.id.clone(), prompt)).collect()),
            slots,
            shard,
        }
    }

    /// What the manifest says of `complete`, if there is one.
    pub fn complete(&self) -> Option<bool> {
        self.manifest.as_ref().map(|manifest| manifest.complete)
    }

    /// The manifest without its prompts, slots and shard.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Of what the run is a part, if it is one.
    pub fn shard(&self) -> Option<&ShardInfo> {
        self.shard.as_ref()
    }

    /// Ids of all prompts: the manifest's in its order, then those of `found` that it does not name, by id.
    pub fn prompts<'a>(&self, found: impl Iterator<Item = &'a Arc<str>>) -> Vec<Arc<str>> {
        let named: BTreeSet<&Arc<str>> = self.order.iter().collect();
        let others: BTreeSet<&Arc<str>> = found.filter(|id| !named.contains(id)).collect();
        self.order.iter().chain(others).cloned().collect()
    }

    /// The manifest as that of a run of one prompt.
    pub fn of(&self, id: &str) -> Option<Manifest> {
        let mut manifest = self.manifest.clone()?;
        manifest.prompts = self.prompts.as_ref().map(|all| all.get(id).cloned().into_iter().collect());
        // A table that is of no prompt of the run is everyone's, as a finding.
        let is_other = |name: &str| self.prompts.as_ref().is_some_and(|all| all.contains_key(name));
        manifest.slots = match &self.slots {
            Some(Value::Object(tables)) => {
                let kept = tables.iter().filter(|(name, _)| *name == id || !is_other(name));
                Some(Value::Object(kept.map(|(name, table)| (name.clone(), table.clone())).collect()))
            }
            other => other.clone(),
        };
        Some(manifest)
    }
}
