//! `gate.json`, version 1.

use super::Num;
use serde::Serialize;

/// `gate.json`.
#[derive(Debug, Serialize)]
pub struct GateReport<'a> {
    /// 1.
    pub schema: u32,
    /// Program and version that wrote it.
    pub generator: String,
    /// `PASS`, `FAIL` or `INCONCLUSIVE`.
    pub verdict: &'static str,
    /// Exit status: 0, 1 or 3.
    pub exit_code: u8,
    /// What decided: `noise`, `preset`, `baseline`.
    pub decided_by: Vec<&'static str>,
    /// A sentence for each thing that decided.
    pub why: &'a [String],
    /// The guardrail on all runs; null if it was not asked for.
    pub guardrail: Option<&'static str>,
    /// The runs.
    pub runs: Vec<GatedRunEntry<'a>>,
    /// The matrix, if one was given.
    pub matrix: Option<GateMatrixEntry<'a>>,
}

/// `runs`: a run, or two dumps of logits.
#[derive(Debug, Serialize)]
pub struct GatedRunEntry<'a> {
    /// Where it lies, as given.
    pub name: &'a str,
    /// What decided on it.
    pub decided_by: Vec<&'static str>,
    /// The noise model; null: logits alone.
    pub noise: Option<GateNoiseEntry<'a>>,
    /// The presets, mode by mode.
    pub presets: Vec<GatePresetEntry<'a>>,
    /// Against the baseline, if one was given.
    pub baseline: Option<GateBaselineEntry<'a>>,
}

/// `noise`: the noise model's verdict, as `drift.json` has it.
#[derive(Debug, Serialize)]
pub struct GateNoiseEntry<'a> {
    /// The verdict on both modes.
    pub verdict: &'static str,
    /// What kind of PASS.
    pub sub_verdict: Option<&'static str>,
    /// A failure code.
    pub root_cause: Option<&'static str>,
    /// Why.
    pub why: &'a str,
    /// Its place.
    pub first_failure: Option<&'a str>,
    /// Why it is no PASS.
    pub reasons: Vec<GateReasonEntry>,
}

/// `reasons` of `noise`.
#[derive(Debug, Serialize)]
pub struct GateReasonEntry {
    /// Reason code.
    pub code: &'static str,
    /// How often.
    pub count: u64,
}

/// `presets`: a preset on one mode.
#[derive(Debug, Serialize)]
pub struct GatePresetEntry<'a> {
    /// `as_designed`, `kv_aligned`, or null: not recorded.
    pub mode: Option<&'static str>,
    /// Its name.
    pub preset: &'static str,
    /// `PASS`, `FAIL` or `INCONCLUSIVE`.
    pub verdict: &'static str,
    /// The guardrail's own name for it.
    pub guardrail: Option<&'static str>,
    /// The band of llama.cpp's script.
    pub band: Option<&'static str>,
    /// Whether it counts where presets decide: `EXPECTED_DRIFT` does not.
    pub counts: bool,
    /// What passes.
    pub formula: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Why it is INCONCLUSIVE, or could not PASS.
    pub reasons: &'a [String],
    /// Its conditions.
    pub checks: Vec<GateCheckEntry<'a>>,
}

/// `checks`: one condition of a preset.
#[derive(Debug, Serialize)]
pub struct GateCheckEntry<'a> {
    /// What was measured.
    pub measure: &'static str,
    /// The worst value; null: nothing was compared.
    pub value: Option<Num>,
    /// `≤`, `<`, `≥` or `>`.
    pub comparison: &'static str,
    /// The limit, at the worst place.
    pub limit: f64,
    /// Pairs, tokens, or phases of layers.
    pub compared: u64,
    /// How many of them fail.
    pub failed: u64,
    /// Where it is worst.
    pub worst_at: Option<&'a str>,
}

/// `baseline`.
#[derive(Debug, Serialize)]
pub struct GateBaselineEntry<'a> {
    /// PASS: no worse.
    pub verdict: &'static str,
    /// Stages compared.
    pub stages: usize,
    /// Tests for a rise.
    pub tests: usize,
    /// What is worse.
    pub worse: Vec<GateWorseEntry<'a>>,
    /// Why the two cannot be compared.
    pub reasons: &'a [String],
}

/// `worse`: one thing in which the run is worse.
#[derive(Debug, Serialize)]
pub struct GateWorseEntry<'a> {
    /// The stage, and the phase.
    pub place: &'a str,
    /// What is worse.
    pub what: &'a str,
}

/// `matrix`.
#[derive(Debug, Serialize)]
pub struct GateMatrixEntry<'a> {
    /// Whether every cell is filled.
    pub complete: bool,
    /// Every cell.
    pub cells: Vec<GateCellEntry<'a>>,
    /// What is in no cell.
    pub extra: Vec<GateExtraEntry<'a>>,
}

/// `cells`.
#[derive(Debug, Serialize)]
pub struct GateCellEntry<'a> {
    /// The combination.
    pub cell: String,
    /// `MISSING`, `FILLED` or `DOUBLE`.
    pub status: &'static str,
    /// Runs that fill it.
    pub runs: &'a [String],
    /// The worst of their noise verdicts.
    pub noise: Option<&'static str>,
    /// The worst of each preset.
    pub presets: Vec<GateCellPresetEntry>,
}

/// `presets` of a cell.
#[derive(Debug, Serialize)]
pub struct GateCellPresetEntry {
    /// Its name.
    pub preset: &'static str,
    /// The verdict.
    pub verdict: &'static str,
    /// The guardrail's own name.
    pub guardrail: Option<&'static str>,
}

/// `extra`: a prompt of a run that is in no cell.
#[derive(Debug, Serialize)]
pub struct GateExtraEntry<'a> {
    /// The run.
    pub run: &'a str,
    /// What it says of itself.
    pub says: String,
}
