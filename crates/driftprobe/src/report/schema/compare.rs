//! The types of `compare.json`.

use super::{CauseEntry, ContractEntry, NumbersEntry, ReasonEntry};
use serde::Serialize;

/// The file.
#[derive(Clone, Debug, Serialize)]
pub struct CompareReport<'a> {
    /// Version of this format.
    pub schema: u32,
    /// `PASS`, `FAIL` or `INCONCLUSIVE`: the worst of the phases.
    pub verdict: &'static str,
    /// Names of the two runs.
    pub runs: &'a [String; 2],
    /// Each phase that was asked for.
    pub phases: Vec<ComparedPhaseEntry<'a>>,
}

/// One phase of both runs.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedPhaseEntry<'a> {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// `PASS`, `FAIL` or `INCONCLUSIVE`.
    pub verdict: &'static str,
    /// `BIT_IDENTICAL` or `STRUCTURAL_DRIFT` for a PASS, else null.
    pub sub_verdict: Option<&'static str>,
    /// Why, in a sentence.
    pub why: &'a str,
    /// Whether both runs were held against a model.
    pub judged: bool,
    /// Why it is no PASS.
    pub reasons: Vec<ReasonEntry>,
    /// What was noticed and does not bear on the verdict.
    pub notes: Vec<ReasonEntry>,
    /// Index in `rows` of the first failure; without one, of the first row in which the runs part.
    pub first: Option<usize>,
    /// What explains the first fault, by run.
    pub causes: Vec<OfRun<'a, CauseEntry>>,
    /// Arithmetics that a run's contract does not declare and its record shows.
    pub contract_findings: Vec<OfRun<'a, ContractEntry>>,
    /// One entry a pair, in the order of the search for the first failure.
    pub rows: Vec<ComparedRowEntry<'a>>,
}

/// Something of one of the runs.
#[derive(Clone, Debug, Serialize)]
pub struct OfRun<'a, T> {
    /// The run's name.
    pub run: &'a str,
    /// The rest, as in `drift.json`.
    #[serde(flatten)]
    pub entry: T,
}

/// A row of the first run and the same row of the second.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedRowEntry<'a> {
    /// The prompt.
    pub prompt_id: &'a str,
    /// Index of the token in the prompt.
    pub logical_tok_idx: Option<u64>,
    /// The position.
    pub pos_id: Option<u64>,
    /// The token.
    pub token_id: Option<u32>,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// The point's stable id.
    pub point: &'static str,
    /// The verdict on the pair.
    pub verdict: &'static str,
    /// The run at fault, or `both`; null where none is.
    pub at_fault: Option<&'a str>,
    /// How far the two are apart.
    pub numbers: Option<NumbersEntry>,
    /// Why the verdict is not better, and what else was noticed.
    pub findings: Vec<String>,
}
