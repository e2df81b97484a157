//! One setting swept over its values: how far prefill and decode part under each, how far each parts from the first value,
//! and from where on.
//!
//! Nothing is judged here that a run's own analysis has not judged: against the first value, rows are compared in their bits.

#![expect(clippy::neg_cmp_op_on_partial_ord, reason = "a comparison must fail on NaN")]

use crate::analysis::Analysis;
use crate::compare::{Side, compare};
use crate::evidence::Bits;
use crate::gate::Noise;
use crate::judge::JudgedPair;
use crate::pair::place::Part;
use crate::progress::Watch;
use crate::verdict::Verdict;
use driftprobe_trace::{Phase, Point, Run};
use std::collections::BTreeMap;

/// A setting and what its values gave.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Name of the setting.
    pub axis: String,
    /// What its numbers count, if they are numbers: `tokens`, `threads`.
    pub unit: Option<&'static str>,
    /// One entry a value, in the order in which they were asked for.
    pub steps: Vec<Step>,
}

/// What one value gave.
#[derive(Clone, Debug)]
pub struct Step {
    /// The value.
    pub value: String,
    /// The value as a number, if it is one.
    pub number: Option<f64>,
    /// The verdict on the run.
    pub noise: Noise,
    /// Prefill against decode.
    pub phases: Parting,
    /// Each phase against the same phase under the first value; none where the sequences are others.
    pub against_first: Option<[Parting; 2]>,
}

/// How far two sets of rows part.
#[derive(Clone, Debug, PartialEq)]
pub struct Parting {
    /// Rows that were compared over their whole length.
    pub compared: u64,
    /// Of these, those that are bit-equal.
    pub equal: u64,
    /// Rows that could not be compared whole.
    pub not_compared: u64,
    /// Where they part first.
    pub onset: Option<Onset>,
    /// Relative L2 distances of attention's output.
    pub attn_out: Option<Spread>,
    /// Relative L2 distances of the logits.
    pub logits: Option<Spread>,
    /// At the stage of the onset: the largest relative L2 distance of rows that see so many keys. Empty where nothing parts.
    pub along: Vec<(u64, f64)>,
}

/// The first stage in which rows part, and the shortest row that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onset {
    /// The point.
    pub point: Point,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// Keys that the shortest row which parts there can see: its position and one.
    pub kv_len: u64,
    /// Keys of the longest row below it: this one, and all that are shorter, are bit-equal there. None: no shorter row was
    /// recorded.
    pub equal_to: Option<u64>,
    /// Rows of that stage with as many keys or more that are bit-equal nevertheless.
    pub equal_beyond: u64,
}

/// Distances of several rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Rows.
    pub rows: u64,
    /// The middle one.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Sweep {
    /// The verdict: the worst of the runs'.
    pub fn verdict(&self) -> Verdict {
        Verdict::worst(self.steps.iter().map(|step| step.noise.verdict))
    }
}

impl Step {
    /// What a run under `value` gave.
    pub fn of(value: &str, analysis: &Analysis) -> Step {
        Step {
            value: value.to_owned(),
            number: value.parse().ok().filter(|number: &f64| number.is_finite()),
            noise: Noise::of(analysis),
            phases: Parting::of(&analysis.pairs),
            against_first: None,
        }
    }

    /// Compares the run under this value with that under the first, phase by phase.
    pub fn hold_against(&mut self, (first, name): (&Run, &str), own: &Run, progress: &mut Watch<'_>) {
        let side = |name, run| Side { name, run, rows: run, oracle: None };
        let own_name = self.value.clone();
        let both = compare([side(name, first), side(&own_name, own)], progress);
        let of = |phase: Phase| both.iter().find(|one| one.phase == phase).map(|one| Parting::of(&one.pairs));
        self.against_first = of(Phase::Prefill).zip(of(Phase::Decode)).map(|(prefill, decode)| [prefill, decode]);
    }
}

impl Parting {
    /// Of pairs of rows.
    pub fn of(pairs: &[JudgedPair]) -> Parting {
        let whole = |pair: &&JudgedPair| matches!(pair.bits, Bits::Equal { .. } | Bits::Differ { .. });
        let compared = pairs.iter().filter(whole).count() as u64;
        let onset = Onset::of(pairs);
        let spread = |point: Point| {
            let of_point = pairs.iter().filter(|pair| pair.prefill.point == point);
            Spread::of(of_point.filter_map(|pair| pair.numbers.as_ref()?.rel_l2).collect())
        };
        Parting {
            compared,
            equal: pairs.iter().filter(|pair| matches!(pair.bits, Bits::Equal { .. })).count() as u64,
            not_compared: pairs.len() as u64 - compared,
            along: onset.map(|onset| onset.along(pairs)).unwrap_or_default(),
            onset,
            attn_out: spread(Point::AttnOut),
            logits: spread(Point::Logits),
        }
    }
}

impl Onset {
    fn of(pairs: &[JudgedPair]) -> Option<Onset> {
        // By stage, the rows that were compared: how many keys they see, and whether they part.
        let mut stages: BTreeMap<(Part, i32, Point), Vec<(u64, bool)>> = BTreeMap::new();
        for pair in pairs {
            let parts = match pair.bits {
                Bits::Equal { .. } => false,
                _ if pair.parts() => true,
                _ => continue,
            };
            let Some(keys) = kv_len(pair) else { continue };
            let stage = (Part::of(pair.prefill.point), pair.prefill.layer, pair.prefill.point);
            stages.entry(stage).or_default().push((keys, parts));
        }
        let parted = stages.into_iter().find(|(_, rows)| rows.iter().any(|(_, parts)| *parts));
        let ((_, layer, point), rows) = parted?;
        let kv_len = rows.iter().filter(|(_, parts)| *parts).map(|(keys, _)| *keys).min()?;
        Some(Onset {
            point,
            layer,
            kv_len,
            equal_to: rows.iter().map(|(keys, _)| *keys).filter(|keys| *keys < kv_len).max(),
            equal_beyond: rows.iter().filter(|(keys, parts)| *keys >= kv_len && !parts).count() as u64,
        })
    }
}

impl Onset {
    /// Distances at this stage by length; NaN stays.
    fn along(&self, pairs: &[JudgedPair]) -> Vec<(u64, f64)> {
        let mut all: BTreeMap<u64, f64> = BTreeMap::new();
        for pair in pairs.iter().filter(|pair| (pair.prefill.point, pair.prefill.layer) == (self.point, self.layer)) {
            let distance = pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2);
            let (Some(keys), Some(distance)) = (kv_len(pair), distance) else { continue };
            let largest = all.entry(keys).or_insert(distance);
            if !(distance <= *largest) {
                *largest = distance;
            }
        }
        all.into_iter().collect()
    }
}

/// How many keys a row sees: its position and one.
fn kv_len(pair: &JudgedPair) -> Option<u64> {
    let position = pair.prefill.position().or_else(|| pair.decode.position());
    position.map(|position| position.saturating_add(1))
}

impl Spread {
    /// NaN where a distance is; none of no rows.
    fn of(mut all: Vec<f64>) -> Option<Spread> {
        all.sort_unstable_by(f64::total_cmp);
        let nan = all.iter().any(|one| one.is_nan());
        let at = |index: usize| if nan { Some(f64::NAN) } else { all.get(index).copied() };
        Some(Spread { rows: all.len() as u64, median: at(all.len() / 2)?, max: at(all.len().checked_sub(1)?)? })
    }
}
