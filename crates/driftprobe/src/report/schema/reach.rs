//! The types of `reach.json`.

use serde::Serialize;

/// The file.
#[derive(Clone, Debug, Serialize)]
pub struct ReachReport<'a> {
    /// Version of this format.
    pub schema: u32,
    /// Whether the time was up before all was tried.
    pub ended_early: bool,
    /// Pairs of the run.
    pub pairs: PairsEntry,
    /// Prefill beside decode, of each point that is named in both.
    pub mechanisms: Vec<MechanismEntry<'a>>,
    /// One entry a search.
    pub findings: Vec<FindingEntry<'a>>,
    /// Rows that were not searched.
    pub skipped: Vec<SkippedEntry<'a>>,
}

/// Pairs, by what they are for the search.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PairsEntry {
    /// All.
    pub all: u64,
    /// Bit-equal.
    pub equal: u64,
    /// Different, both stages clean, with another order possible.
    pub searched: u64,
    /// Different, at fault.
    pub at_fault: u64,
    /// Different, both stages having one result in any order: their inputs differ.
    pub one_result: u64,
    /// All else.
    pub other: u64,
}

/// What both phases do at a point.
#[derive(Clone, Debug, Serialize)]
pub struct MechanismEntry<'a> {
    /// The point's stable id.
    pub point: &'static str,
    /// All of it in a sentence.
    pub says: String,
    /// What prefill does.
    pub prefill: &'a str,
    /// What decode does.
    pub decode: &'a str,
    /// Whether one order gives the rows of both phases: then their inputs part them.
    pub same_order: bool,
    /// The shortest context at which the two cut the keys differently.
    pub onset_kv_len: Option<usize>,
}

/// A search: one point of one phase.
#[derive(Clone, Debug, Serialize)]
pub struct FindingEntry<'a> {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// The point's stable id.
    pub point: &'static str,
    /// Tokens of the passes that it is about; null: all.
    pub pass_tokens: Option<u64>,
    /// `CLAIMED`, `AMBIGUOUS`, `WEAK`, `NOT_REPRODUCED` or `UNFINISHED`.
    pub outcome: &'static str,
    /// What was found, in a sentence.
    pub says: String,
    /// Roundings that these rows leave open.
    pub open: &'a [String],
    /// Ids of orders that give all recorded values, 16 at most.
    pub orders: Vec<String>,
    /// How many orders do.
    pub orders_left: usize,
    /// Orders tried.
    pub orders_tried: u64,
    /// Of them refuted by a value.
    pub orders_refuted: u64,
    /// Of them refuted by eight values and more.
    pub orders_refuted_well: u64,
    /// Values compared with what the orders left give.
    pub values_compared: u64,
    /// Rows that tell most orders apart.
    pub telling_rows: u64,
    /// Keys of the longest row, where it is one of attention.
    pub longest_kv_len: Option<u64>,
    /// Rows looked at.
    pub rows: Vec<RowEntry<'a>>,
}

/// A row.
#[derive(Clone, Debug, Serialize)]
pub struct RowEntry<'a> {
    /// The prompt.
    pub prompt_id: &'a str,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// Index of the token in the prompt.
    pub logical_tok_idx: u64,
}

/// Rows that were not searched.
#[derive(Clone, Debug, Serialize)]
pub struct SkippedEntry<'a> {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// The point's stable id.
    pub point: &'static str,
    /// How many.
    pub rows: u64,
    /// Why.
    pub why: &'a str,
}
