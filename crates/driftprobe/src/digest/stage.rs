//! What the rows of one point of one layer came to, in numbers that add up.

use super::mode::add;
use crate::evidence::Bits;
use crate::judge::{JudgedPair, PairVerdict};
use crate::oracle::{Outcome, StageJudgement};
use crate::pair::place::Part;
use crate::report::schema::Num;
use driftprobe_trace::Point;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The rows of one point of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageDigest {
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// The point.
    pub point: Point,
    /// Pairs of rows.
    pub rows: u64,
    /// Of them bit-equal ones.
    pub identical: u64,
    /// Those that rounding parts: here, before, or by an arithmetic that is not declared.
    pub rounding: u64,
    /// Those at fault, or not finite.
    pub fault: u64,
    /// Those of which nothing is known.
    pub open: u64,
    /// Rows that differ, of all verdicts.
    pub differing: u64,
    /// Values of both phases that were held against the model.
    pub noise_values: u64,
    /// RMS of their residuals, in units of the noise that their arithmetic must have.
    pub noise_rms: Option<Num>,
    /// Largest relative L2 distance of decode's row to prefill's; NaN is larger than any.
    pub rel_l2: Option<Num>,
}

/// Where a stage stands in the computation.
pub(super) type StageKey = (Part, i32, Point);

impl StageDigest {
    fn new(layer: i32, point: Point) -> StageDigest {
        StageDigest {
            layer,
            point,
            rows: 0,
            identical: 0,
            rounding: 0,
            fault: 0,
            open: 0,
            differing: 0,
            noise_values: 0,
            noise_rms: None,
            rel_l2: None,
        }
    }

    pub(super) fn key(&self) -> StageKey {
        (Part::of(self.point), self.layer, self.point)
    }

    /// Every stage of these pairs, in the order of the computation.
    pub(super) fn of(pairs: &[JudgedPair]) -> Vec<StageDigest> {
        let mut all: BTreeMap<StageKey, StageDigest> = BTreeMap::new();
        for pair in pairs {
            let mut one = StageDigest::new(pair.prefill.layer, pair.prefill.point);
            one.rows = 1;
            let count = match pair.verdict {
                PairVerdict::Identical => &mut one.identical,
                PairVerdict::Structural | PairVerdict::Inherited | PairVerdict::Contract => &mut one.rounding,
                PairVerdict::Fault | PairVerdict::NonFinite => &mut one.fault,
                PairVerdict::Missing | PairVerdict::Undecided => &mut one.open,
            };
            *count = 1;
            one.differing = u64::from(matches!(pair.bits, Bits::Differ { .. }));
            one.rel_l2 = pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2).map(Num);
            pair.stages.iter().flatten().for_each(|stage| one.add_noise(noise_of(stage)));
            let total = all.entry(one.key()).or_insert_with(|| StageDigest::new(one.layer, one.point));
            total.add(&one);
        }
        all.into_values().collect()
    }

    /// Adds the rows of another unit.
    pub(super) fn add(&mut self, other: &StageDigest) {
        add!(self, other; rows, identical, rounding, fault, open, differing);
        self.rel_l2 = largest(self.rel_l2, other.rel_l2);
        if let Some(Num(rms)) = other.noise_rms {
            self.add_noise(Some((other.noise_values, rms)));
        }
    }

    /// √((n·r² + m·s²) / (n + m)).
    fn add_noise(&mut self, noise: Option<(u64, f64)>) {
        let Some((values, rms)) = noise.filter(|(values, _)| *values > 0) else { return };
        let all = self.noise_values.saturating_add(values);
        let own = self.noise_rms.map_or(0.0, |Num(own)| own * own * self.noise_values as f64);
        self.noise_rms = Some(Num(((own + rms * rms * values as f64) / all as f64).sqrt()));
        self.noise_values = all;
    }
}

/// Values that were held against the model, and the RMS of their residuals in units of noise.
fn noise_of(stage: &StageJudgement) -> Option<(u64, f64)> {
    match &stage.outcome {
        Outcome::Clean(statistics) | Outcome::Flagged { statistics, .. } => {
            Some((statistics.compared as u64, statistics.rms))
        }
        Outcome::Exact { .. } | Outcome::Mismatch { .. } | Outcome::Unjudged(_) => None,
    }
}

/// The larger of two distances; NaN is larger than any.
pub(super) fn largest(ours: Option<Num>, theirs: Option<Num>) -> Option<Num> {
    match (ours, theirs) {
        (Some(Num(a)), Some(Num(b))) if b > a || b.is_nan() => Some(Num(b)),
        (ours, theirs) => ours.or(theirs),
    }
}
