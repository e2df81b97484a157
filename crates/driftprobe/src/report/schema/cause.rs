//! What the model says of a run, in `drift.json`.

use super::Num;
use serde::Serialize;
use std::collections::BTreeMap;

/// The first fault of a phase and what explains it.
#[derive(Clone, Debug, Serialize)]
pub struct CauseEntry {
    /// Id of the bug; `UNEXPLAINED` if none fits. The first of `candidates`.
    pub hypothesis: &'static str,
    /// Bugs that explain it equally well, the one named among them.
    pub candidates: Vec<CandidateEntry>,
    /// Parameters of the bug, given, looked for or fitted.
    pub parameters: BTreeMap<String, String>,
    /// The phase at fault.
    pub phase: &'static str,
    /// The prompt of the first faulty row.
    pub prompt_id: String,
    /// Index of its token.
    pub logical_tok_idx: u64,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// All layers in which this point is at fault in this phase.
    pub layers: Vec<i32>,
    /// The point.
    pub point: &'static str,
    /// Whether only all rows together show it.
    pub systematic: bool,
    /// RMS residual in units of noise, before.
    pub noise_rms_before: Num,
    /// And after the bug is taken into account; null if none fits.
    pub noise_rms_after: Option<Num>,
    /// What is known of a fault that nothing explains.
    pub evidence: String,
    /// Everything that was tried, the best first.
    pub tested: Vec<CandidateEntry>,
}

/// A bug that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct CandidateEntry {
    /// Its id.
    pub hypothesis: &'static str,
    /// Its parameters.
    pub parameters: BTreeMap<String, String>,
    /// RMS residual that it leaves, in units of noise.
    pub noise_rms_after: Num,
    /// Whether what it leaves is rounding noise in every row.
    pub accepted: bool,
}

/// An arithmetic that the contract does not declare.
#[derive(Clone, Debug, Serialize)]
pub struct ContractEntry {
    /// The phase.
    pub phase: &'static str,
    /// The point.
    pub point: &'static str,
    /// The layers: all that were recorded.
    pub layers: Vec<i32>,
    /// Rows that it explains.
    pub rows: u64,
    /// The fields of the contract that it sets, as `name=value`.
    pub id: String,
    /// In words.
    pub says: String,
    /// RMS residual in units of noise under the declared contract.
    pub noise_rms_declared: Num,
    /// And under this one.
    pub noise_rms: Num,
}

/// What a run would have shown of a bug.
#[derive(Clone, Debug, Serialize)]
pub struct PowerEntry {
    /// Id of the bug.
    pub hypothesis: &'static str,
    /// The size that was tried.
    pub parameters: BTreeMap<String, String>,
    /// The phase.
    pub phase: &'static str,
    /// The point that it would have changed first.
    pub point: &'static str,
    /// Rows on which it was tried.
    pub rows: u64,
    /// Those in which it would have been found.
    pub seen: u64,
    /// √(Σd²/σ²) of the row that shows least of it; null where only sizes were tried.
    pub effect: Option<Num>,
    /// The smallest size that would have been found.
    pub smallest: Option<SmallestEntry>,
    /// Why nothing would have been seen; empty if it would.
    pub unseen: String,
}

/// The smallest size of a fault that would have been found.
#[derive(Clone, Debug, Serialize)]
pub struct SmallestEntry {
    /// What is measured.
    pub what: &'static str,
    /// In one row alone.
    pub one_row: Num,
    /// In all rows together.
    pub all_rows: Num,
}

/// One suspect in one phase.
#[derive(Clone, Debug, Serialize)]
pub struct SuspectEntry {
    /// The suspect.
    pub suspect: String,
    /// The phase.
    pub phase: &'static str,
    /// `explains`, `excluded`, `partly` or `open`.
    pub outcome: &'static str,
    /// In words.
    pub says: String,
}

/// The difference of the phases against draws of rounding.
#[derive(Clone, Debug, Serialize)]
pub struct EndToEndEntry {
    /// Probability that rounding makes the phases differ so much or more.
    pub p_value: Num,
    /// Observed over expected RMS difference.
    pub observed_over_expected: Num,
    /// Rows compared.
    pub rows: u64,
    /// Pairs of draws.
    pub draws: u64,
    /// The same by point and layer.
    pub places: Vec<PlaceDriftEntry>,
}

/// The difference at one point of one layer.
#[derive(Clone, Debug, Serialize)]
pub struct PlaceDriftEntry {
    /// The point.
    pub point: &'static str,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// Rows compared.
    pub rows: u64,
    /// Observed RMS difference, relative to the rows' size.
    pub observed: Num,
    /// That of the draws.
    pub expected: Num,
    /// Of single pairs of draws, the smallest.
    pub expected_low: Num,
    /// The largest.
    pub expected_high: Num,
}
