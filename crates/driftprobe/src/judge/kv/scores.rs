//! Attention before and after softmax: extremes, means, entropy and what lies on the first token, by layer and phase.
//!
//! Recorded scores and probabilities are taken as they are. Where a phase has none (fused attention) they are computed in
//! float64 from what it recorded: probabilities from scores; both from queries, cached keys and the model's config.

use crate::oracle::stats::is_masked;
use driftprobe_model::Config;
use driftprobe_model::reference::{AttentionShape, Cached, head_scores, softmax};
use driftprobe_trace::{Event, Phase, Point, Row, Rows};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Scores and probabilities of one layer in one phase, over all prompts, positions and heads.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionStatistics {
    /// The layer.
    pub layer: i32,
    /// The phase.
    pub phase: Phase,
    /// Before softmax: scaled scores of visible keys.
    pub before: Measured<Distribution>,
    /// After softmax.
    pub after: Measured<ProbsSummary>,
}

/// A measurement and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured<T> {
    /// Of recorded values.
    Recorded(T),
    /// Of values computed in float64 from what was recorded.
    Computed(T),
    /// Not there, and why.
    Absent(String),
}

impl<T> Measured<T> {
    /// The measurement, if it is there.
    pub fn value(&self) -> Option<&T> {
        match self {
            Measured::Recorded(value) | Measured::Computed(value) => Some(value),
            Measured::Absent(_) => None,
        }
    }

    /// `recorded`, `computed`, or why it is not there.
    pub fn source(&self) -> &str {
        match self {
            Measured::Recorded(_) => "recorded",
            Measured::Computed(_) => "computed",
            Measured::Absent(why) => why,
        }
    }
}

/// Extremes and mean of values; NaN where one of them is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distribution {
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// Values.
    pub values: u64,
}

/// Probabilities of visible keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbsSummary {
    /// Their extremes and mean.
    pub values: Distribution,
    /// −Σ p ln p in nats, the mean over rows and heads.
    pub entropy: f64,
    /// The part that position 0 gets, the mean over rows and heads.
    pub first_mass: f64,
}

#[derive(Clone, Copy)]
struct Tally {
    min: f64,
    max: f64,
    sum: f64,
    values: u64,
    entropy: f64,
    first: f64,
    heads: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0, values: 0, entropy: 0.0, first: 0.0, heads: 0 }
    }
}

impl Tally {
    fn add(&mut self, value: f64) {
        // A NaN shows in the sum.
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.values += 1;
    }

    /// Scores of one head; hidden keys count for nothing.
    fn scores(&mut self, scores: &[f64]) {
        // A NaN is no mask.
        scores.iter().filter(|score| !is_masked(**score)).for_each(|score| self.add(*score));
    }

    /// Probabilities of one head from the key at `first_pos` on; `visible` says which keys are seen.
    fn probs(&mut self, probs: &[f64], first_pos: u64, visible: impl Fn(usize) -> bool) {
        self.heads += 1;
        for (_, p) in probs.iter().enumerate().filter(|(key, _)| visible(*key)) {
            self.add(*p);
            self.entropy -= if *p == 0.0 { 0.0 } else { p * p.ln() };
        }
        self.first += if first_pos == 0 { probs.first().copied().unwrap_or(0.0) } else { 0.0 };
    }

    fn distribution(&self) -> Option<Distribution> {
        let nan = self.sum.is_nan();
        let of = |value: f64| if nan { f64::NAN } else { value };
        let mean = self.sum / self.values as f64;
        (self.values > 0).then(|| Distribution { min: of(self.min), max: of(self.max), mean, values: self.values })
    }

    fn summary(&self) -> Option<ProbsSummary> {
        let heads = self.heads as f64;
        let values = self.distribution()?;
        Some(ProbsSummary { values, entropy: self.entropy / heads, first_mass: self.first / heads })
    }
}

/// The rows of one forward pass in one layer and phase that attention has to do with.
#[derive(Default)]
struct Parts<'a> {
    scores: Option<&'a Event>,
    probs: Option<&'a Event>,
    queries: Option<&'a Event>,
    keys: Option<&'a Event>,
}

/// By layer and phase.
pub(super) fn of(events: &[&Event], rows: &dyn Rows, config: Option<&Config>) -> Vec<AttentionStatistics> {
    type Pass = (Arc<str>, Option<u64>);
    let mut all: BTreeMap<(i32, Phase), BTreeMap<Pass, Parts<'_>>> = BTreeMap::new();
    for &event in events {
        use Point::{AttnOut, AttnProbs, AttnScores, KCache, QPostRope, VCache};
        if !matches!(event.point, AttnScores | AttnProbs | QPostRope | KCache | VCache | AttnOut) {
            continue;
        }
        let pass = (event.prompt_id.clone(), event.token_index());
        let layer = all.entry((event.layer, event.phase)).or_default().entry(pass).or_default();
        match event.point {
            AttnScores => layer.scores = Some(event),
            AttnProbs => layer.probs = Some(event),
            QPostRope => layer.queries = Some(event),
            KCache => layer.keys = Some(event),
            _ => {}
        }
    }
    let one = |((layer, phase), passes): ((i32, Phase), BTreeMap<Pass, Parts<'_>>)| {
        let shape = config.and_then(|config| Some(AttentionShape::of(config, usize::try_from(layer).ok()?)));
        let mut sums = Sums::default();
        for ((_, pos), parts) in &passes {
            sums.add(parts, (rows, shape.as_ref()), *pos);
        }
        let why = absent(&passes, config.is_some());
        AttentionStatistics {
            layer,
            phase,
            before: measured(sums.scores.map(|tally| tally.distribution()), &why),
            after: measured(sums.probs.map(|tally| tally.summary()), &why),
        }
    };
    all.into_iter().map(one).collect()
}

/// Recorded where there is any, else computed.
fn measured<T>([recorded, computed]: [Option<T>; 2], why: &str) -> Measured<T> {
    match (recorded, computed) {
        (Some(value), _) => Measured::Recorded(value),
        (None, Some(value)) => Measured::Computed(value),
        (None, None) => Measured::Absent(why.to_owned()),
    }
}

/// What is missing.
fn absent<K>(passes: &BTreeMap<K, Parts<'_>>, model: bool) -> String {
    let any = |of: fn(&Parts<'_>) -> bool| passes.values().any(of);
    let lacking: Vec<&str> = [
        ("no payload of `attn_scores` or `attn_probs`", any(|p| p.scores.is_some() || p.probs.is_some())),
        ("no `attn_scores` or `attn_probs` recorded", !any(|p| p.scores.is_some() || p.probs.is_some())),
    ]
    .into_iter()
    .filter_map(|(what, is)| is.then_some(what))
    .collect();
    let inputs = any(|p| p.queries.is_some() && p.keys.is_some());
    let more = match (model, inputs) {
        (_, false) => "no `q_post_rope` and `k_cache` to compute them from",
        (false, true) => "no model was given to compute them",
        (true, true) => "`q_post_rope` and `k_cache` have no payload of the model's shape",
    };
    format!("{}, {more}", lacking.join(", "))
}

/// Recorded and computed, before and after softmax.
#[derive(Default)]
struct Sums {
    scores: [Tally; 2],
    probs: [Tally; 2],
}

impl Sums {
    fn add(&mut self, parts: &Parts<'_>, (rows, shape): (&dyn Rows, Option<&AttentionShape>), pos: Option<u64>) {
        let load = |event: Option<&Event>| rows.row(event?).ok().flatten();
        let Some(pos) = pos else { return };
        let [recorded, computed] = &mut self.scores;
        let [recorded_probs, computed_probs] = &mut self.probs;
        let scores = load(parts.scores).and_then(|row| columns(&row, pos));
        let probs = load(parts.probs).and_then(|row| columns(&row, pos));
        for head in scores.iter().flatten() {
            recorded.scores(head);
        }
        // Keys that the row does not see, by the scores' mask or by kv_len.
        let hidden = parts.probs.and_then(|event| event.kv_len).map_or(0, |seen| (pos + 1).saturating_sub(seen));
        for (at, head) in probs.iter().flatten().enumerate() {
            let masked = |key: usize| scores.as_ref().and_then(|s| s.get(at)?.get(key)).is_some_and(|s| is_masked(*s));
            recorded_probs.probs(head, 0, |key| key as u64 >= hidden && !masked(key));
        }
        if scores.is_some() && probs.is_some() {
            return;
        }
        let exact = match &scores {
            Some(scores) => Some((scores.iter().map(|head| unmasked(head)).collect(), 0)),
            None => shape.and_then(|shape| computed_scores(shape, (load(parts.queries)?, load(parts.keys)?), pos)),
        };
        let Some((all, first_pos)) = exact else { return };
        for head in &all {
            if scores.is_none() {
                computed.scores(head);
            }
            if probs.is_none() {
                let seen = |key: usize| head.get(key).is_some_and(|score| *score != f64::NEG_INFINITY);
                computed_probs.probs(&softmax(head), first_pos, seen);
            }
        }
    }
}

/// Columns 0 … position of each head of `[heads, columns]`.
fn columns(row: &Row, pos: u64) -> Option<Vec<Vec<f64>>> {
    let &[_, columns] = row.shape.as_slice() else { return None };
    let (columns, seen) = (usize::try_from(columns).ok()?, usize::try_from(pos).ok()?.checked_add(1)?);
    let values = row.to_f64();
    (columns >= seen)
        .then(|| values.chunks_exact(columns).filter_map(|head| Some(head.get(..seen)?.to_vec())).collect())
}

/// What stands in for −∞ becomes it.
fn unmasked(scores: &[f64]) -> Vec<f64> {
    scores.iter().map(|score| if is_masked(*score) { f64::NEG_INFINITY } else { *score }).collect()
}

/// Scores of every head, and the position of their first column.
fn computed_scores(shape: &AttentionShape, (q, k): (Row, Row), pos: u64) -> Option<(Vec<Vec<f64>>, u64)> {
    let (q, k) = (q.to_f64(), k.to_f64());
    let pos = usize::try_from(pos).ok()?;
    let width = (shape.kv_heads * shape.head_dim).max(1);
    let rows = k.len() / width;
    let fits = q.len() == shape.heads * shape.head_dim && rows > 0 && rows <= pos + 1 && k.len() == rows * width;
    let cached = Cached { values: &k, rows, first_pos: (pos + 1).saturating_sub(rows) };
    let of = |head: usize| head_scores(shape, &q, &cached, (head, pos)).scores;
    fits.then(|| ((0..shape.heads).map(of).collect(), cached.first_pos as u64))
}

#[cfg(test)]
mod tests;
