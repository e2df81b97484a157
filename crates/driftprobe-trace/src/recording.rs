//! What a recording left out on purpose: which rows are kept whole, and which are known by samples, statistics and hashes.

use crate::Point;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The version of [`Recording`] that this crate reads and writes.
pub const RECORDING_VERSION: u32 = 1;

/// Why rows were left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutBy {
    /// The run was to take no more than so many bytes.
    Budget,
    /// The run is the first of two passes: what it shows is recorded whole by the second.
    FirstPass,
}

/// Points of layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowGroup {
    /// The layers, from 0; empty for points that have none.
    pub layers: Vec<i32>,
    /// The points.
    pub points: Vec<Point>,
}

/// Which rows were planned to be kept whole and which not, in all prompts, phases and repeats alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// [`RECORDING_VERSION`].
    pub version: u32,
    /// Why rows were left out.
    pub by: LeftOutBy,
    /// Bytes that the recording may take in all its modes, repeats and shards, if it was limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes that all of these take at most by its plan.
    pub planned_bytes: u64,
    /// Rows that are kept whole.
    pub whole: Vec<RowGroup>,
    /// Rows that are not.
    pub sampled: Vec<RowGroup>,
    /// Values of a row that is not kept whole which its event holds, at most; of a cache at least one of each position.
    pub samples: u64,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the second of two passes records whole, in `search-1/`: promised when the first one has been judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondPass {
    /// The prompt; none: the phases part nowhere, and there is nothing to record again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_id: Option<String>,
    /// The layers, from 0.
    pub layers: Vec<i32>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl SecondPass {
    /// What contradicts itself: the key and why. `is_prompt`: whether the run has a prompt of this id.
    pub(crate) fn fault(&self, is_prompt: impl Fn(&str) -> bool) -> Option<(String, String)> {
        let refuse = |key: &str, what: String| Some((format!("second_pass.{key}"), what));
        match &self.prompt_id {
            Some(id) if !is_prompt(id) => refuse("prompt_id", format!("`{id}` is no prompt of this run")),
            Some(_) if self.layers.is_empty() => refuse("layers", "a prompt stands without layers".to_owned()),
            None if !self.layers.is_empty() => refuse("layers", "layers stand without a prompt".to_owned()),
            _ => {
                self.layers.iter().find(|layer| **layer < 0).and_then(|l| refuse("layers", format!("{l} is negative")))
            }
        }
    }
}

impl Recording {
    /// Whether rows of this place were left out. `layer` is ignored for points that have none.
    pub fn is_left_out(&self, point: Point, layer: i32) -> bool {
        self.sampled
            .iter()
            .any(|group| group.points.contains(&point) && (!point.layered() || group.layers.contains(&layer)))
    }

    /// What contradicts itself: the key and why.
    pub(crate) fn fault(&self) -> Option<(String, String)> {
        if self.version != RECORDING_VERSION {
            let what = format!("expected {RECORDING_VERSION}, found {}", self.version);
            return Some(("recording.version".to_owned(), what));
        }
        let mut seen = BTreeSet::new();
        for group in self.whole.iter().chain(&self.sampled) {
            let layers = if group.layers.is_empty() { &[-1][..] } else { group.layers.as_slice() };
            for (point, layer) in group.points.iter().flat_map(|point| layers.iter().map(move |layer| (point, layer))) {
                if point.layered() != (*layer >= 0) {
                    let what =
                        format!("`{point}` beside layer {layer}: points of layers stand with layers, others not");
                    return Some(("recording".to_owned(), what));
                }
                if !seen.insert((*point, *layer)) {
                    return Some(("recording".to_owned(), format!("`{point}` of layer {layer} stands there twice")));
                }
            }
        }
        None
    }
}

/// What compressing the payloads of a run came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compression {
    /// `zstd`.
    pub algorithm: String,
    /// Files that are compressed.
    pub files: u64,
    /// Files that are not, since it would have saved less than a tenth.
    pub files_left_plain: u64,
    /// Bytes that all of them would take.
    pub plain_bytes: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for Compression {
    /// Of no file yet.
    fn default() -> Compression {
        let algorithm = "zstd".to_owned();
        Compression { algorithm, files: 0, files_left_plain: 0, plain_bytes: 0, bytes: 0, extra: Map::new() }
    }
}

/// Places as groups: layers that have the same points stand together.
pub fn grouped(places: &BTreeSet<(i32, Point)>) -> Vec<RowGroup> {
    let layers: BTreeSet<i32> = places.iter().map(|(layer, _)| *layer).collect();
    let mut groups: Vec<RowGroup> = Vec::new();
    for layer in layers {
        let points: Vec<Point> = places.iter().filter(|place| place.0 == layer).map(|place| place.1).collect();
        match groups.iter_mut().find(|group| layer >= 0 && group.points == points && !group.layers.is_empty()) {
            Some(group) => group.layers.push(layer),
            None => groups.push(RowGroup { layers: Some(layer).filter(|l| *l >= 0).into_iter().collect(), points }),
        }
    }
    groups
}

/// The indices at which a row of this shape is sampled: spread over the whole of it, `wanted` at most and one value in
/// eight at most (but eight); of a cache `[heads, positions, width]` at least one of each position. Ascending, each once.
pub fn sampled_at(point: Point, shape: &[u64], wanted: u64) -> Vec<u64> {
    let Some(elements) = crate::element_count(shape) else { return Vec::new() };
    let is_cache = point.is_cache();
    if let (true, &[heads, positions, width]) = (is_cache, shape)
        && elements > 0
    {
        let slot = |slot: u64| ((slot % heads) * positions + slot) * width + (slot * 7) % width;
        let at: BTreeSet<u64> = (0..positions).map(slot).collect();
        return at.into_iter().collect();
    }
    let count = wanted.min((elements / ONE_IN).max(LEAST)).min(elements);
    // Within its stretch each index lies elsewhere, so that heads of one width are not always met at one channel.
    let one = |number: u64| {
        let (start, end) = (number * elements / count, (number + 1) * elements / count);
        start + (number * 7919) % (end - start).max(1)
    };
    (0..count).map(one).collect()
}

/// A sample holds no more than one value in so many.
const ONE_IN: u64 = 8;
/// But at least so many, where the row has them.
const LEAST: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_and_every_slot_of_a_cache_is_met() {
        let at = sampled_at(Point::MlpOut, &[4096], 64);
        assert_eq!(at.len(), 64);
        assert!(at.windows(2).all(|two| two[0] < two[1]) && at[63] >= 4032 && at[0] < 64);
        assert_eq!(sampled_at(Point::MlpOut, &[64], 64).len(), 8);
        assert_eq!(sampled_at(Point::MlpOut, &[3], 64), [0, 1, 2]);
        assert_eq!(sampled_at(Point::MlpOut, &[0], 64), Vec::<u64>::new());
        let at = sampled_at(Point::KCache, &[2, 100, 16], 8);
        let slots: BTreeSet<u64> = at.iter().map(|i| i / 16 % 100).collect();
        assert_eq!((slots.len(), at.len()), (100, 100));
        assert!(at.iter().all(|i| *i < 3200) && at.windows(2).all(|two| two[0] < two[1]));
        let channels: BTreeSet<u64> = sampled_at(Point::QPreRope, &[64, 64], 64).iter().map(|i| i % 64).collect();
        assert!(channels.len() > 32, "{channels:?}");
    }

    #[test]
    fn groups_say_each_place_once_and_back() {
        let places = BTreeSet::from([(-1, Point::Logits), (0, Point::MlpOut), (2, Point::MlpOut), (1, Point::AttnOut)]);
        let groups = grouped(&places);
        assert_eq!(groups.len(), 3);
        let recording = Recording {
            version: 1,
            by: LeftOutBy::Budget,
            bytes: Some(9),
            planned_bytes: 8,
            whole: vec![],
            sampled: groups,
            samples: 64,
            extra: Map::new(),
        };
        assert!(recording.is_left_out(Point::Logits, -1) && recording.is_left_out(Point::Logits, 7));
        assert!(recording.is_left_out(Point::MlpOut, 2) && !recording.is_left_out(Point::MlpOut, 1));
        assert!(recording.fault().is_none());
        let twice = Recording { whole: recording.sampled.clone(), ..recording.clone() };
        assert!(twice.fault().is_some());
        assert_eq!(Recording { version: 2, ..recording }.fault().unwrap().0, "recording.version");
    }
}
