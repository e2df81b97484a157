//! `drift.json`, version 1: the types that are written, apart from those that the analysis works with, so that either can
//! change without the other.
//!
//! Rules for readers: unknown fields may be added within a version; hashes are decimal strings; numbers that JSON cannot
//! hold are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`; `null` means "not known" or "not given", never zero.
//! `not_judged` names the fields that only a model can fill: where none was given, their zeros and empty lists claim nothing.

mod attention;
mod cause;
mod compare;
pub mod gate;
pub mod logprobs;
pub mod reach;
mod row;
pub mod sweep;

pub use attention::{
    AttentionEntry, DriftEntry, EvidenceEntry, HypothesesEntry, IndicatorEntry, KvRowsEntry, ModeRowEntry, ProbsEntry,
    ProjectionEntry, ProjectionRowEntry, ScoresEntry, StatisticsEntry,
};
pub use cause::{
    CandidateEntry, CauseEntry, ContractEntry, EndToEndEntry, PlaceDriftEntry, PowerEntry, SmallestEntry, SuspectEntry,
};
pub use compare::{CompareReport, ComparedPhaseEntry, ComparedRowEntry, OfRun};
pub use row::{CacheEntry, FindingEntry, LogitsEntry, NumbersEntry, RowEntry, SideEntry, StatisticEntry};

use crate::judge::left_out::LeftOut;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeMap;

/// Version of the format.
pub const SCHEMA: u32 = 1;

/// A number; non-finite ones are written as strings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Num(pub f64);

impl Serialize for Num {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            value if value.is_nan() => serializer.serialize_str("NaN"),
            f64::INFINITY => serializer.serialize_str("Infinity"),
            f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
            value => serializer.serialize_f64(value),
        }
    }
}

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Num, D::Error> {
        driftprobe_trace::Num::deserialize(deserializer).map(|number| Num(number.0))
    }
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct DriftReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Program and version that wrote it.
    pub generator: String,
    /// Title, if one was given.
    pub title: Option<String>,
    /// Date, if one was given.
    pub date: Option<String>,
    /// `PASS`, `FAIL` or `INCONCLUSIVE`.
    pub verdict: &'static str,
    /// `BIT_IDENTICAL` or `STRUCTURAL_DRIFT` for a PASS, else null.
    pub sub_verdict: Option<&'static str>,
    /// Exit status of a program that reports this: 0, 1 or 3.
    pub exit_code: u8,
    /// Why it is no PASS.
    pub reasons: Vec<ReasonEntry>,
    /// What was noticed and does not bear on the verdict.
    pub notes: Vec<ReasonEntry>,
    /// A failure code, where the evidence carries a cause; else null.
    pub root_cause: Option<&'static str>,
    /// Why that cause, or why none.
    pub root_cause_why: String,
    /// The first stage at fault or not finite by (prompt, position, layer, point); where none is known, where the phases
    /// first part. Null for a PASS.
    pub first_failure: Option<FirstFailureEntry>,
    /// Where the phases first part, whatever that means.
    pub first_difference: Option<FirstFailureEntry>,
    /// The bug that explains the first failure.
    pub cause: Option<CauseEntry>,
    /// The first fault of each phase, and what explains it.
    pub causes: Vec<CauseEntry>,
    /// Arithmetics that the contract does not declare and the record shows.
    pub contract_findings: Vec<ContractEntry>,
    /// What this run would have shown of each bug of the catalogue.
    pub power: Vec<PowerEntry>,
    /// The usual suspects of attention, each tested in each phase.
    pub suspects: Vec<SuspectEntry>,
    /// Whether the phases are further apart than rounding makes them.
    pub end_to_end: Option<EndToEndEntry>,
    /// H₀ "the drift is structural" against H₁ "a real mismatch": every piece of evidence, and the conclusion.
    pub hypotheses: HypothesesEntry,
    /// Every tensor in both modes; empty where there is only one.
    pub tensors: Vec<ModeRowEntry>,
    /// What each mode of the run gave, by mode (`as_designed`, `kv_aligned` or `not_recorded`).
    pub modes: BTreeMap<&'static str, ModeEntry>,
    /// Names of the fields that claim nothing of this run, since no model was given.
    pub not_judged: Vec<&'static str>,
    /// Pairs by verdict.
    pub pairs: PairsEntry,
    /// Failing rows by failure code, in the order of the codes: rows at fault or not finite; without a model, rows that part.
    pub codes: Vec<CodeEntry>,
    /// What was promised, found and paired.
    pub coverage: CoverageEntry,
    /// What was left out of the run on purpose, to save room; null where nothing was.
    pub left_out: Option<LeftOut>,
    /// Each phase against its self-repeats.
    pub repeats: Vec<RepeatEntry>,
    /// What the run says of itself: engine, model, contract, environment.
    pub run: Value,
    /// What reading the run noticed.
    pub reading_notes: Vec<String>,
    /// What the verdict rests on.
    pub rests_on: Vec<String>,
    /// What to do next.
    pub recommendations: Vec<String>,
    /// What cannot be claimed.
    pub limits: Vec<String>,
    /// One entry a pair, in the order of the search for the first failure.
    pub rows: Vec<RowEntry>,
    /// Events without a partner.
    pub unpaired: Vec<UnpairedEntry>,
    /// Promised rows that were not found.
    pub missing: Vec<MissingEntry>,
    /// Events that were not promised.
    pub unexpected: Vec<UnexpectedEntry>,
    /// Points that only one phase can give: expected of neither.
    pub one_phase: Vec<OnePhaseEntry>,
    /// Events of points that this version does not know.
    pub unmapped: Vec<UnmappedEntry>,
}

/// One reason.
#[derive(Clone, Debug, Serialize)]
pub struct ReasonEntry {
    /// Stable code.
    pub code: &'static str,
    /// How often.
    pub count: u64,
    /// What is the case.
    pub sentence: &'static str,
    /// The first cases.
    pub examples: Vec<String>,
    /// What would settle it.
    pub hint: &'static str,
}

/// Where the phases first part.
#[derive(Clone, Debug, Serialize)]
pub struct FirstFailureEntry {
    /// The prompt.
    pub prompt_id: String,
    /// The position.
    pub pos_id: Option<u64>,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// The point's stable id.
    pub point: &'static str,
    /// The point as it was spelled.
    pub point_spelling: String,
    /// The phase at fault, where the evidence says which.
    pub phase: Option<&'static str>,
    /// The failure code.
    pub code: &'static str,
    /// `fault`, `differs`, `non_finite` or `unpaired`.
    pub parting: &'static str,
    /// Index in `rows`.
    pub row: Option<usize>,
    /// Index in `rows` of the last equal row before it in the same forward pass.
    pub last_equal_row: Option<usize>,
    /// Rows between the two that were not compared.
    pub not_compared: Vec<PlaceEntry>,
    /// First and last of the layers between the two that were not recorded.
    pub skipped_layers: Option<[i32; 2]>,
}

/// A layer and a point.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PlaceEntry {
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// The point's stable id.
    pub point: &'static str,
}

/// What one mode of the run gave.
#[derive(Clone, Debug, Serialize)]
pub struct ModeEntry {
    /// The verdict on it.
    pub verdict: &'static str,
    /// Its pairs.
    pub pairs: PairsEntry,
    /// Projections, scores and caches of attention.
    pub attention: AttentionEntry,
}

/// Pairs by verdict.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PairsEntry {
    /// All pairs.
    pub total: u64,
    /// Bit-equal over the whole row.
    pub identical: u64,
    /// They differ; both phases are clean at this stage, and its inputs are equal.
    pub structural: u64,
    /// They differ; both phases are clean given their own inputs, which differ already.
    pub inherited: u64,
    /// They differ by an arithmetic that the contract does not declare.
    pub contract: u64,
    /// A stage is at fault, in one phase or both.
    pub fault: u64,
    /// Nothing to compare them by.
    pub missing: u64,
    /// NaN, or an infinity on one side.
    pub non_finite: u64,
    /// The trace cannot carry a claim.
    pub undecided: u64,
    /// Rows that differ, of all verdicts.
    pub differing: u64,
    /// Equal recorded hashes.
    pub hash_match: u64,
    /// Different recorded hashes by one algorithm.
    pub hash_differ: u64,
}

/// Rows of one failure code.
#[derive(Clone, Debug, Serialize)]
pub struct CodeEntry {
    /// The code.
    pub code: &'static str,
    /// How many.
    pub count: u64,
}

/// What was promised, found and paired.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CoverageEntry {
    /// Rows promised, both phases together; null: not known.
    pub expected: Option<u64>,
    /// Events read of known points, both phases together.
    pub found: u64,
    /// Of them in prefill.
    pub found_prefill: u64,
    /// Of them in decode.
    pub found_decode: u64,
    /// Promised rows not found.
    pub missing: u64,
    /// Pairs.
    pub paired: u64,
    /// Pairs with absent key fields.
    pub weakly_keyed: u64,
    /// Events without a partner.
    pub unpaired: u64,
    /// Events not promised.
    pub unexpected: u64,
    /// Events whose key was already there.
    pub duplicates: u64,
    /// Events of unknown points.
    pub unmapped: u64,
}

/// One phase against one repeat.
#[derive(Clone, Debug, Serialize)]
pub struct RepeatEntry {
    /// Number of the repeat.
    pub repeat: u32,
    /// The phase.
    pub phase: &'static str,
    /// Rows that pair.
    pub paired: u64,
    /// Bit-equal rows.
    pub equal: u64,
    /// Rows equal as far as sampled.
    pub equal_as_sampled: u64,
    /// Differing rows.
    pub differing: u64,
    /// Rows that could not be compared.
    pub not_comparable: u64,
    /// Rows that the repeat lacks.
    pub lacking: u64,
    /// Rows that only the repeat has.
    pub extra: u64,
    /// The first differing row.
    pub first_differing: Option<String>,
    /// Largest max |d − p| of differing rows.
    pub noise_max_abs: Option<Num>,
    /// Largest relative L2 distance of differing rows.
    pub noise_rel_l2: Option<Num>,
}

/// An event without a partner.
#[derive(Clone, Debug, Serialize)]
pub struct UnpairedEntry {
    /// The phase.
    pub phase: &'static str,
    /// The phase as it was spelled.
    pub phase_spelling: String,
    /// The prompt.
    pub prompt_id: String,
    /// The position.
    pub pos_id: Option<u64>,
    /// Index of the token in the prompt.
    pub logical_tok_idx: Option<u64>,
    /// The token.
    pub token_id: Option<u32>,
    /// The layer.
    pub layer: i32,
    /// The point.
    pub point: &'static str,
    /// Hash, as a decimal string.
    pub hash: Option<String>,
    /// Count of NaNs, if any.
    pub nan: u64,
    /// Why it has no partner.
    pub why: String,
    /// Whether none was to be expected, since only one phase gives the point.
    pub one_phase: bool,
    /// File and line.
    pub source: String,
}

/// A promised row that was not found.
#[derive(Clone, Debug, Serialize)]
pub struct MissingEntry {
    /// The phase.
    pub phase: &'static str,
    /// The prompt.
    pub prompt_id: String,
    /// Index of the token.
    pub logical_tok_idx: u64,
    /// The token.
    pub token_id: u32,
    /// The layer.
    pub layer: i32,
    /// The point.
    pub point: &'static str,
}

/// An event that was not promised.
#[derive(Clone, Debug, Serialize)]
pub struct UnexpectedEntry {
    /// Where it stands.
    pub place: String,
    /// Why it was not promised.
    pub why: String,
}

/// A point that only one phase can give.
#[derive(Clone, Debug, Serialize)]
pub struct OnePhaseEntry {
    /// The point.
    pub point: &'static str,
    /// The phase that gives it.
    pub phase: &'static str,
}

/// An event of an unknown point.
#[derive(Clone, Debug, Serialize)]
pub struct UnmappedEntry {
    /// File and line.
    pub source: String,
    /// The point's name.
    pub point: String,
}
