//! `sweep.json`, version 1.

use super::Num;
use super::gate::GateNoiseEntry;
use serde::Serialize;

/// `sweep.json`.
#[derive(Debug, Serialize)]
pub struct SweepReport<'a> {
    /// 1.
    pub schema: u32,
    /// Program and version that wrote it.
    pub generator: String,
    /// The setting.
    pub axis: &'a str,
    /// What its numbers count.
    pub unit: Option<&'static str>,
    /// The worst of the runs' verdicts.
    pub verdict: &'static str,
    /// One entry a value, in the order in which they were asked for.
    pub values: Vec<SweepValueEntry<'a>>,
}

/// `values`: what one value gave.
#[derive(Debug, Serialize)]
pub struct SweepValueEntry<'a> {
    /// The value as it was given.
    pub value: &'a str,
    /// The value as a number, if it is one.
    pub number: Option<Num>,
    /// The run's verdict, as `drift.json` has it.
    pub noise: GateNoiseEntry<'a>,
    /// Prefill against decode.
    pub phases: PartingEntry,
    /// Prefill against prefill under the first value; null for the first value and where the sequences are others.
    pub prefill_against_first: Option<PartingEntry>,
    /// Decode against decode under the first value.
    pub decode_against_first: Option<PartingEntry>,
}

/// How far two sets of rows part.
#[derive(Debug, Serialize)]
pub struct PartingEntry {
    /// Rows that were compared over their whole length.
    pub compared: u64,
    /// Of these, those that are bit-equal.
    pub equal: u64,
    /// Rows that could not be compared whole.
    pub not_compared: u64,
    /// Where they part first; null: nowhere.
    pub onset: Option<OnsetEntry>,
    /// Relative L2 distances of attention's output.
    pub attn_out: Option<SpreadEntry>,
    /// Relative L2 distances of the logits.
    pub logits: Option<SpreadEntry>,
    /// At the stage of the onset: number of keys that a row sees, and the largest relative L2 distance of such rows.
    pub along: Vec<(u64, Num)>,
}

/// `onset`: the first stage in which rows part, and the shortest row that does.
#[derive(Debug, Serialize)]
pub struct OnsetEntry {
    /// The point's stable id.
    pub point: &'static str,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// Keys that the shortest row which parts there can see.
    pub kv_len: u64,
    /// Keys of the longest row below it, which is bit-equal there as are all shorter ones; null: none was recorded.
    pub equal_to: Option<u64>,
    /// Longer rows that are bit-equal nevertheless.
    pub equal_beyond: u64,
}

/// Distances of several rows.
#[derive(Debug, Serialize)]
pub struct SpreadEntry {
    /// Rows.
    pub rows: u64,
    /// The middle one.
    pub median: Num,
    /// The largest.
    pub max: Num,
}
