//! Attention evidence, the modes side by side, and H₀ against H₁, in `drift.json`.

use super::Num;
use serde::Serialize;

/// What attention works on, in one mode.
#[derive(Clone, Debug, Serialize)]
pub struct AttentionEntry {
    /// Hashes of the Q, K and V projections: by layer, prompt and tensor.
    pub projections: Vec<ProjectionEntry>,
    /// Scores and probabilities: by layer and phase.
    pub attention_statistics: Vec<StatisticsEntry>,
    /// Whether both phases hold the same cache: by layer.
    pub indicators: Vec<IndicatorEntry>,
}

/// One projection of one prompt in one layer.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectionEntry {
    /// `q_proj`, `k_proj` or `v_proj`.
    pub tensor: &'static str,
    /// The point that was recorded of it.
    pub point: &'static str,
    /// The layer.
    pub layer: i32,
    /// The prompt.
    pub prompt_id: String,
    /// What the hashes say.
    pub note: String,
    /// By position.
    pub hashes: Vec<ProjectionRowEntry>,
}

/// The hashes of one row.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectionRowEntry {
    /// The position.
    pub pos_id: Option<u64>,
    /// Hash of prefill's row, as a decimal string.
    pub prefill: Option<String>,
    /// Of decode's.
    pub decode: Option<String>,
    /// Whether they are equal; null where one is not known.
    pub equal: Option<bool>,
}

/// Attention of one layer in one phase, over all prompts, positions and heads.
#[derive(Clone, Debug, Serialize)]
pub struct StatisticsEntry {
    /// The layer.
    pub layer: i32,
    /// The phase.
    pub phase: &'static str,
    /// Where the scores are from: `recorded`, `computed`, or why there are none.
    pub scores_source: String,
    /// Scaled scores of visible keys, before softmax.
    pub scores: Option<ScoresEntry>,
    /// Where the probabilities are from.
    pub probs_source: String,
    /// After softmax.
    pub probs: Option<ProbsEntry>,
}

/// Scores of visible keys.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ScoresEntry {
    /// Smallest.
    pub min: Num,
    /// Largest.
    pub max: Num,
    /// Mean.
    pub mean: Num,
    /// Values.
    pub values: u64,
}

/// Probabilities of visible keys.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ProbsEntry {
    /// Smallest.
    pub min: Num,
    /// Largest.
    pub max: Num,
    /// Mean.
    pub mean: Num,
    /// Values.
    pub values: u64,
    /// −Σ p ln p in nats, mean over rows and heads.
    pub entropy: Num,
    /// What position 0 gets, mean over rows and heads.
    pub first_mass: Num,
}

/// Whether both phases hold the same K and V in one layer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct IndicatorEntry {
    /// The layer.
    pub layer: i32,
    /// K.
    pub k: KvRowsEntry,
    /// V.
    pub v: KvRowsEntry,
    /// Whether both are consistent; null: not known.
    pub kv_aligned: Option<bool>,
}

/// Cached rows that both phases hold.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KvRowsEntry {
    /// Whether all are bit-equal; null: not known.
    pub consistent: Option<bool>,
    /// Caches compared: one a prompt and recorded position.
    pub caches: u64,
    /// Of them, those that differ.
    pub differing_caches: u64,
    /// Of them, those in which a row of an earlier position differs.
    pub earlier_caches: u64,
    /// Rows that both phases hold, as far as they are counted.
    pub held: u64,
    /// Of them, bit-equal ones.
    pub equal: u64,
    /// The lowest position whose row differs.
    pub first_differing: Option<u64>,
}

/// One tensor in both modes, over all prompts and positions.
#[derive(Clone, Debug, Serialize)]
pub struct ModeRowEntry {
    /// The point.
    pub point: &'static str,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// Decode reading the cache that it built.
    pub as_designed: DriftEntry,
    /// Decode reading prefill's.
    pub kv_aligned: DriftEntry,
    /// `none`, `cache`, `mostly_cache`, `step`, `only_aligned` or `unknown`.
    pub drift_from: &'static str,
    /// The same in words.
    pub says: &'static str,
}

/// How far a tensor's rows are apart in one mode.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DriftEntry {
    /// Pairs.
    pub pairs: u64,
    /// Pairs that differ.
    pub differing: u64,
    /// Largest relative L2 distance, where known.
    pub rel_l2: Option<Num>,
}

/// H₀ against H₁.
#[derive(Clone, Debug, Serialize)]
pub struct HypothesesEntry {
    /// H₀.
    pub h0: &'static str,
    /// H₁.
    pub h1: &'static str,
    /// Whether H₀ is rejected; null: the evidence carries neither.
    pub h0_rejected: Option<bool>,
    /// What follows.
    pub conclusion: String,
    /// The evidence.
    pub evidence: Vec<EvidenceEntry>,
}

/// One piece of evidence.
#[derive(Clone, Debug, Serialize)]
pub struct EvidenceEntry {
    /// What was looked at.
    pub what: &'static str,
    /// What was found, or what is missing.
    pub measured: String,
    /// `H0`, `H1`, `neither` or `not_measured`.
    pub supports: &'static str,
    /// Why.
    pub why: String,
}
