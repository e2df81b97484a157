//! `manifest.json`: what was run, on what, and what was asked for. A missing optional field means "not known" and is
//! never guessed; unknown fields are kept and ignored.

use crate::contract::Contract;
use crate::json::{self, Located};
use crate::observer::ObserverEffect;
use crate::recording::{Compression, Recording, SecondPass};
use crate::{Phase, Point, TraceError};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name of the manifest in a run's folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The version of the format that this crate reads and writes.
pub const SCHEMA: u32 = 1;

/// What decode read as K and V of earlier positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The cache that it built itself.
    AsDesigned,
    /// Prefill's rows.
    KvAligned,
}

impl Mode {
    /// Name as it stands in the manifest.
    pub const fn id(self) -> &'static str {
        match self {
            Mode::AsDesigned => "as_designed",
            Mode::KvAligned => "kv_aligned",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.id())
    }
}

/// Which attention each phase uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttentionInfo {
    /// In prefill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill: Option<String>,
    /// In decode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode: Option<String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The engine that was traced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its backend (`cpu`, `cuda`, `hip`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The device it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Threads it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Sequences that a pass computes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// Tokens beyond which a prefill is split into passes; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_tokens: Option<u64>,
    /// Its attention, by phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionInfo>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The model that was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Where it lies: a hint, relative to the run's folder or absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `safetensors` or `gguf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Its architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// `xxh3-128:` and lower-case hex of the weight files' bytes, shards in file-name order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostInfo {
    /// CPU name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// GPU name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptInfo {
    /// Its id, unique in the run.
    pub id: String,
    /// Its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The whole token sequence: n prompt tokens and k − 1 teacher-forced ones.
    pub tokens: Vec<u32>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Of what a run is a part, where its prompts were shared out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// Which part, from 1.
    pub index: u32,
    /// Of how many.
    pub of: u32,
    /// Ids of the prompts of all parts, in their order.
    pub prompts: Vec<String>,
    /// A hash over the tokens of all of them, in the same order; the same in all parts of one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<String>,
}

/// The points that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PointSet {
    /// The same in both phases.
    Both(Vec<Point>),
    /// By phase: what one phase cannot give (fused attention has no scores).
    PerPhase {
        /// In prefill.
        prefill: Vec<Point>,
        /// In decode.
        decode: Vec<Point>,
    },
}

impl PointSet {
    /// The points asked for in one phase.
    pub fn of(&self, phase: Phase) -> &[Point] {
        match (self, phase) {
            (PointSet::Both(points), _) => points,
            (PointSet::PerPhase { prefill, .. }, Phase::Prefill) => prefill,
            (PointSet::PerPhase { decode, .. }, Phase::Decode) => decode,
        }
    }
}

/// `manifest.json`. Everything but `schema` is optional; `None` means "not known".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format's version: 1.
    pub schema: u32,
    /// Whether the run ended. Anything but `true` in the file is `false` here.
    #[serde(default, deserialize_with = "only_true")]
    pub complete: bool,
    /// The mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// All modes that were recorded together, this one among them; the others lie in folders of this run's. None: this one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modes: Option<Vec<Mode>>,
    /// 0 for a run's own traces, 1, 2 … for a self-repeat of it.
    #[serde(default)]
    pub repeat: u32,
    /// How many self-repeats of it there are, in folders of this run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u32>,
    /// The engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineInfo>,
    /// The model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelInfo>,
    /// The model's shape in `config.json` names, and `rope_layout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
    /// The arithmetic that the engine claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Contract>,
    /// The prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Vec<PromptInfo>>,
    /// The layers asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<i32>>,
    /// The points asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<PointSet>,
    /// k, the decode steps traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// For each prompt the cache slot of each position, by phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<Value>,
    /// Of what the run is a part, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardInfo>,
    /// Which rows were left out on purpose, if any were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<Recording>,
    /// Where the recording was the first of two passes, what the second is to be; none: it was not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_pass: Option<SecondPass>,
    /// What compressing the payloads came to, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Logits with and without tracing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observer: Option<ObserverEffect>,
    /// The seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Determinism variables as set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostInfo>,
    /// Commit of the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for Manifest {
    /// Schema 1, not complete, nothing known.
    fn default() -> Manifest {
        Manifest {
            schema: SCHEMA,
            complete: false,
            mode: None,
            modes: None,
            repeat: 0,
            repeats: None,
            engine: None,
            model: None,
            config: None,
            contract: None,
            prompts: None,
            layers: None,
            points: None,
            steps: None,
            slots: None,
            shard: None,
            recording: None,
            second_pass: None,
            compression: None,
            observer: None,
            seed: None,
            env: BTreeMap::new(),
            host: None,
            git: None,
            extra: Map::new(),
        }
    }
}

impl Manifest {
    /// Reads a manifest from its text; `path` is what errors call it.
    ///
    /// # Errors
    /// If it is not one JSON object, has a key twice, is of another schema, or has a value of a wrong type.
    pub fn parse(text: &str, path: &Path) -> Result<Manifest, TraceError> {
        let refuse = |at: Located| TraceError::Manifest {
            path: path.to_owned(),
            line: at.line,
            key: at.key,
            message: at.message,
        };
        let value = json::strict_value(text).map_err(&refuse)?;
        match value.get("schema") {
            Some(schema) if schema.as_u64() == Some(u64::from(SCHEMA)) => {}
            found => {
                let found = found.map_or_else(|| "none".to_owned(), Value::to_string);
                return Err(TraceError::Schema { path: path.to_owned(), found });
            }
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(|e| refuse(json::locate_error(text, &e)))?;
        match manifest.fault() {
            None => Ok(manifest),
            Some((key, message)) => Err(refuse(Located { line: json::line_of_key(text, &key), key, message })),
        }
    }

    /// The first key whose value makes no sense, and why.
    fn fault(&self) -> Option<(String, String)> {
        let mut ids = BTreeSet::new();
        for (i, prompt) in self.prompts.iter().flatten().enumerate() {
            if !ids.insert(&prompt.id) {
                return Some((format!("prompts[{i}].id"), format!("`{}` is the id of another prompt", prompt.id)));
            }
            if let Some(steps) = self.steps.filter(|&k| prompt.tokens.len() < k as usize) {
                let count = prompt.tokens.len();
                return Some((format!("prompts[{i}].tokens"), format!("{count} tokens are too few for {steps} steps")));
            }
        }
        if let Some(ShardInfo { index, of, prompts, .. }) = &self.shard {
            if !(1..=*of).contains(index) {
                return Some(("shard.index".to_owned(), format!("{index} is not from 1 to {of}")));
            }
            if prompts.iter().collect::<BTreeSet<_>>().len() < prompts.len() {
                return Some(("shard.prompts".to_owned(), "an id is there twice".to_owned()));
            }
        }
        if let Some(fault) = self.recording.as_ref().and_then(Recording::fault) {
            return Some(fault);
        }
        if let Some(fault) = self.second_pass.as_ref().and_then(|pass| pass.fault(|id| ids.iter().any(|of| *of == id)))
        {
            return Some(fault);
        }
        let mut layers = BTreeSet::new();
        for (i, layer) in self.layers.iter().flatten().enumerate() {
            if *layer < 0 || !layers.insert(layer) {
                return Some((format!("layers[{i}]"), format!("{layer} is negative or there twice")));
            }
        }
        None
    }
}

fn only_true<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Value::deserialize(deserializer)? == Value::Bool(true))
}

impl<'de> Deserialize<'de> for PointSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PointSet, D::Error> {
        struct PointsVisitor;
        impl<'de> de::Visitor<'de> for PointsVisitor {
            type Value = PointSet;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of points, or an object of such lists for `prefill` and `decode`")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<PointSet, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(PointSet::Both)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<PointSet, A::Error> {
                let (mut prefill, mut decode) = (None, None);
                while let Some(phase) = map.next_key::<Phase>()? {
                    let points = Some(map.next_value::<Vec<Point>>()?);
                    match phase {
                        Phase::Prefill => prefill = points,
                        Phase::Decode => decode = points,
                    }
                }
                Ok(PointSet::PerPhase {
                    prefill: prefill.ok_or_else(|| de::Error::missing_field("prefill"))?,
                    decode: decode.ok_or_else(|| de::Error::missing_field("decode"))?,
                })
            }
        }
        deserializer.deserialize_any(PointsVisitor)
    }
}
