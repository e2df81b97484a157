//! The entry of one pair in `drift.json`.

use super::Num;
use serde::Serialize;

/// One pair.
#[derive(Clone, Debug, Serialize)]
pub struct RowEntry {
    /// The prompt.
    pub prompt_id: String,
    /// The position.
    pub pos_id: Option<u64>,
    /// Index of the token in the prompt.
    pub logical_tok_idx: Option<u64>,
    /// The token.
    pub token_id: Option<u32>,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// The point's stable id.
    pub point: &'static str,
    /// The point as it was spelled.
    pub point_spelling: String,
    /// The id of a [`PairVerdict`](crate::judge::PairVerdict).
    pub verdict: &'static str,
    /// The failure code, if the rows differ or are not finite.
    pub code: Option<&'static str>,
    /// The phase that the finding is about, if only one.
    pub phase: Option<&'static str>,
    /// `equal`, `equal_as_sampled`, `differ` or `incomparable`.
    pub bits: &'static str,
    /// `payload`, `hash`, `sample` or `statistics`.
    pub by: Option<&'static str>,
    /// Values that a sampled equality covers.
    pub sampled: Option<u64>,
    /// Values in the row.
    pub values: Option<u64>,
    /// Key fields absent on a side.
    pub weak: Vec<&'static str>,
    /// The prefill event.
    pub prefill: SideEntry,
    /// The decode event.
    pub decode: SideEntry,
    /// How far they are apart.
    pub numbers: Option<NumbersEntry>,
    /// Next token by phase.
    pub logits: Option<LogitsEntry>,
    /// Which positions of a cache are equal.
    pub cache: Option<CacheEntry>,
    /// Statistics that differ.
    pub statistics: Vec<StatisticEntry>,
    /// `all_zero` or `constant` in both phases.
    pub vacuous: Option<&'static str>,
    /// Why the verdict is not better, and what else was noticed.
    pub findings: Vec<FindingEntry>,
}

/// One event of a pair.
#[derive(Clone, Debug, Serialize)]
pub struct SideEntry {
    /// The phase as it was spelled.
    pub phase: String,
    /// The step.
    pub step: Option<u64>,
    /// Tokens in the forward pass.
    pub seq_len: Option<u64>,
    /// Hash algorithm.
    pub hash_algo: Option<&'static str>,
    /// Hash, as a decimal string.
    pub hash: Option<String>,
    /// Storage type.
    pub dtype: Option<&'static str>,
    /// Shape.
    pub shape: Option<Vec<u64>>,
    /// Smallest finite value.
    pub min: Option<Num>,
    /// Largest finite value.
    pub max: Option<Num>,
    /// Mean of the finite values.
    pub mean: Option<Num>,
}

/// Distances between two rows; formulas are those of `driftprobe::evidence::metrics::Numbers`.
#[derive(Clone, Debug, Serialize)]
pub struct NumbersEntry {
    /// `whole`, `columns` (0 … own position) or `sample`.
    pub scope: &'static str,
    /// Values compared.
    pub compared: u64,
    /// Values whose bits differ.
    pub differing: u64,
    /// max |d − p|.
    pub max_abs: Num,
    /// Index of it.
    pub max_abs_at: u64,
    /// ‖d − p‖ / ‖p‖.
    pub rel_l2: Option<Num>,
    /// Largest distance in units in the last place.
    pub max_ulp: Option<u64>,
    /// Cosine of the angle.
    pub cosine: Option<Num>,
    /// Σ(p − d)² / Σp².
    pub nmse: Option<Num>,
}

/// Next token by phase.
#[derive(Clone, Debug, Serialize)]
pub struct LogitsEntry {
    /// Top token in prefill.
    pub top1_prefill: Option<u32>,
    /// Top token in decode.
    pub top1_decode: Option<u32>,
    /// Whether they are the same.
    pub top1_agree: Option<bool>,
    /// Gap to the second in prefill.
    pub gap_prefill: Option<Num>,
    /// Gap to the second in decode.
    pub gap_decode: Option<Num>,
    /// KL(prefill ‖ decode) in nats.
    pub kl: Option<Num>,
}

/// Positions of a cache row.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CacheEntry {
    /// Positions compared.
    pub positions: u64,
    /// Bit-equal ones.
    pub equal: u64,
    /// First that differs.
    pub first_differing: Option<u64>,
    /// Last that differs.
    pub last_differing: Option<u64>,
}

/// A statistic that differs.
#[derive(Clone, Debug, Serialize)]
pub struct StatisticEntry {
    /// Its name in an event.
    pub name: &'static str,
    /// Prefill's value.
    pub prefill: Num,
    /// Decode's value.
    pub decode: Num,
}

/// Something noticed about a pair.
#[derive(Clone, Debug, Serialize)]
pub struct FindingEntry {
    /// Reason code.
    pub code: &'static str,
    /// What exactly.
    pub detail: String,
}
