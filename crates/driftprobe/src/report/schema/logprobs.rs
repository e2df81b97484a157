//! `logprobs.json`, version 1.

use super::Num;
use serde::Serialize;

/// `logprobs.json`.
#[derive(Debug, Serialize)]
pub struct LogprobsReport<'a> {
    /// 1.
    pub schema: u32,
    /// Program and version that wrote it.
    pub generator: String,
    /// `MEASURED`, `PASS`, `FAIL` or `INCONCLUSIVE`.
    pub outcome: &'static str,
    /// Exit status: 0, 1 or 3.
    pub exit_code: u8,
    /// Why, a sentence each.
    pub why: &'a [String],
    /// Prefill's file.
    pub prefill: &'a str,
    /// Decode's file.
    pub decode: &'a str,
    /// The engine; null: the files were given.
    pub engine: Option<&'a str>,
    /// How tokens were chosen; null: not known.
    pub sampling: Option<&'a str>,
    /// Lines of tokens, compared or not.
    pub read: usize,
    /// Over all tokens that were compared.
    pub metrics: LogprobsMetricsEntry,
    /// Limits that were asked for.
    pub limits: Vec<LogprobsLimitEntry>,
    /// Why not all was compared.
    pub findings: Vec<LogprobsFindingEntry<'a>>,
    /// Every sequence with tokens that were compared.
    pub sequences: Vec<LogprobsSequenceEntry<'a>>,
    /// The tokens with the largest |Δ|, the worst first.
    pub worst: Vec<LogprobsTokenEntry<'a>>,
}

/// `metrics`.
#[derive(Debug, Serialize)]
pub struct LogprobsMetricsEntry {
    /// Tokens that were compared.
    pub tokens: u64,
    /// Of these, those with Δ = 0.
    pub equal: u64,
    /// Mean of abs(Δ).
    pub mean_abs_delta: Num,
    /// Largest abs(Δ).
    pub max_abs_delta: Num,
    /// Mean of −Δ.
    pub k1: Num,
    /// Mean of Δ²/2.
    pub k2: Num,
    /// Mean of e^Δ − 1 − Δ.
    pub k3: Num,
    /// Smallest ratio e^Δ.
    pub ratio_min: Num,
    /// Median ratio.
    pub ratio_p50: Num,
    /// 99th percentile of the ratio.
    pub ratio_p99: Num,
    /// Largest ratio.
    pub ratio_max: Num,
    /// Share of tokens with a ratio outside of 0.5 to 2.
    pub ratio_outside: Num,
    /// Mean of the squared ratio, less 1.
    pub chi2: Num,
    /// e to the mean of −ln p by prefill.
    pub perplexity_prefill: Num,
    /// The same by decode.
    pub perplexity_decode: Num,
    /// Decode's over prefill's.
    pub perplexity_ratio: Num,
    /// Pearson's correlation of the probabilities; `NaN` where one side has one value.
    pub correlation: Num,
}

/// `limits`.
#[derive(Debug, Serialize)]
pub struct LogprobsLimitEntry {
    /// `mean_abs`, `ratio` or `k3`.
    pub measure: &'static str,
    /// At most so much.
    pub limit: Num,
    /// The option or preset that it comes from.
    pub from: &'static str,
    /// What was measured.
    pub value: Num,
    /// `PASS`, `FAIL` or `INCONCLUSIVE`.
    pub verdict: &'static str,
}

/// `findings`.
#[derive(Debug, Serialize)]
pub struct LogprobsFindingEntry<'a> {
    /// The code.
    pub code: &'static str,
    /// How many tokens.
    pub count: u64,
    /// What is the case.
    pub sentence: &'static str,
    /// What would settle it.
    pub hint: &'static str,
    /// The first of them.
    pub examples: &'a [String],
}

/// `sequences`.
#[derive(Debug, Serialize)]
pub struct LogprobsSequenceEntry<'a> {
    /// The sequence.
    pub sequence: &'a str,
    /// Over its tokens.
    pub metrics: LogprobsMetricsEntry,
    /// Σ Δ: the logarithm of the sequence's importance ratio.
    pub sum_delta: Num,
    /// Index of its token with the largest abs(Δ).
    pub worst_index: u64,
}

/// `worst`.
#[derive(Debug, Serialize)]
pub struct LogprobsTokenEntry<'a> {
    /// The sequence.
    pub sequence: &'a str,
    /// Index of the token in it.
    pub index: u64,
    /// The token.
    pub token_id: u32,
    /// ln p by prefill.
    pub prefill_logprob: Num,
    /// ln p by decode.
    pub decode_logprob: Num,
    /// Decode's less prefill's.
    pub delta: Num,
    /// e^Δ.
    pub ratio: Num,
    /// What a trace of it says; null: it was not traced.
    pub trace: Option<LogprobsTraceEntry<'a>>,
}

/// `trace`.
#[derive(Debug, Serialize)]
pub struct LogprobsTraceEntry<'a> {
    /// Where the run lies.
    pub run: &'a str,
    /// The verdict on it, as in `drift.json`.
    pub verdict: &'static str,
    /// What kind of PASS.
    pub sub_verdict: Option<&'static str>,
    /// In a sentence.
    pub says: &'a str,
    /// The first tensor that drifts or is at fault; null: all are bit-equal.
    pub first: Option<&'a str>,
    /// Its layer; −1 where the point has none.
    pub layer: Option<i32>,
    /// Its point.
    pub point: Option<&'a str>,
    /// The phase at fault, where the evidence says which.
    pub phase: Option<&'static str>,
    /// `FAULT`, `STRUCTURAL`, or what else the pair is.
    pub kind: Option<&'static str>,
    /// Ids of the bugs that explain the first fault.
    pub hypotheses: &'a [&'static str],
    /// Causes in words.
    pub causes: &'a [String],
    /// Δ of the token in the run; null: its logits were not recorded.
    pub run_delta: Option<Num>,
    /// Whether that is half of what was measured at least.
    pub reproduced: Option<bool>,
}
