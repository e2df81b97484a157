//! Each recorded row against the tokens alone.
//!
//! How far a row is from the exact one, in units of how far the rows of draws are. It needs no recorded inputs, so it works
//! where the oracle cannot: on cached rows of earlier positions, on layers whose stages are not traced, on samples and
//! statistics, and on faults that both phases share. It is less sharp than the oracle, since the errors of all stages
//! before add up, and it cannot tell a local fault from an inherited one but by where it is first seen.

use super::measure::{Limits, Measure};
use super::record::{Shown, View};
use super::study::Scene;
use crate::oracle::stage::Input;
use crate::oracle::stats::exceeds as is_larger;
use driftprobe_trace::{Phase, Point, TraceError};
use std::sync::Arc;

/// A row against the tokens alone.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenJudgement {
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The phase.
    pub phase: Phase,
    /// The point.
    pub point: Point,
    /// The layer; −1 for unlayered points.
    pub layer: i32,
    /// Index of the token whose row it is.
    pub pos: usize,
    /// Of a recorded cache, the position whose cached row it is.
    pub slot: Option<usize>,
    /// How much of the row is recorded.
    pub shown: Shown,
    /// Distance from the exact row, in units of the RMS of the draws'.
    pub distance_ratio: f64,
    /// By how many standard deviations of the draws' its logarithm (of the square) is larger than theirs.
    pub score: f64,
    /// Whether rounding does not explain it.
    pub flagged: bool,
}

/// Judgements of one prompt, as they come.
#[derive(Default)]
pub struct Tokens {
    all: Vec<TokenJudgement>,
}

impl Tokens {
    /// Looks at all that is recorded of a place.
    pub fn look(&mut self, place: Input, scene: &Scene<'_, '_>) -> Result<(), TraceError> {
        for phase in Phase::ALL {
            for pos in scene.record.positions(phase, place) {
                if place.point.is_cache() {
                    let slots = scene.record.slots(phase, place, pos)?;
                    if !slots.is_empty() {
                        for (slot, row) in slots {
                            self.judge(scene, (phase, place, pos, Some(slot)), &[View::whole(row)]);
                        }
                        continue;
                    }
                }
                let views = scene.record.views(phase, place, pos)?;
                self.judge(scene, (phase, place, pos, None), &views);
            }
        }
        Ok(())
    }

    fn judge(&mut self, scene: &Scene<'_, '_>, at: (Phase, Input, usize, Option<usize>), views: &[View]) {
        let (phase, place, pos, slot) = at;
        let row = |lane: usize| scene.row(lane, place.point, (pos, slot));
        let (Some(exact), Some(lanes)) = (row(scene.cast.exact), scene.cast.draws.get(&phase)) else { return };
        let draws: Vec<Vec<f64>> = lanes.iter().filter_map(|lane| row(*lane)).collect();
        let unit = scene.unit(phase);
        let measures = views.iter().map(|view| {
            let of_draws: Vec<f64> = draws.iter().map(|draw| view.distance_of(draw, &exact)).collect();
            (Measure::of(view.distance(&exact), &of_draws, view.floor(&exact, unit)), view)
        });
        let count = |(measure, view): &(Measure, &View)| (*measure, view.len());
        // The view that says most against the row; of those that say as much, the first.
        let worst = measures.reduce(|worst, other| if says_more(count(&other), count(&worst)) { other } else { worst });
        let Some((measure, view)) = worst else { return };
        self.all.push(TokenJudgement {
            prompt_id: scene.prompt_id.clone(),
            phase,
            point: place.point,
            layer: place.layer,
            pos,
            slot,
            shown: view.shown(),
            distance_ratio: measure.ratio,
            score: measure.score,
            flagged: measure.exceeds(Limits::of(view.len())),
        });
    }

    /// Whether a phase's cache, or its rows of positions before `first`, is flagged already.
    pub fn is_context_flagged(&self, phase: Phase, first: usize) -> bool {
        self.all.iter().any(|j| j.flagged && j.phase == phase && j.slot.unwrap_or(j.pos) < first)
    }

    /// The judgements.
    pub fn finish(self) -> Vec<TokenJudgement> {
        self.all
    }
}

/// Whether a measure over so many values says more against a row than another one: it exceeds its limits where the other does
/// not, or its score is larger.
pub fn says_more((one, values): (Measure, usize), (other, of_other): (Measure, usize)) -> bool {
    let (is, was) = (one.exceeds(Limits::of(values)), other.exceeds(Limits::of(of_other)));
    is && !was || is == was && is_larger(one.score, other.score)
}

impl Scene<'_, '_> {
    /// A lane's row; of a cache one position's, or all of it.
    pub fn row(&self, lane: usize, point: Point, (pos, slot): (usize, Option<usize>)) -> Option<Vec<f64>> {
        match slot {
            Some(slot) => self.lockstep.cached(lane, point, (pos, slot)).map(<[f64]>::to_vec),
            None if point.is_cache() => self.lockstep.gathered(lane, point, pos),
            None => self.lockstep.row(lane, point, pos).map(<[f64]>::to_vec),
        }
    }

    /// Unit roundoff of what the phase stores at this place.
    pub fn unit(&self, phase: Phase) -> f64 {
        self.unit.get(&phase).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Phase::{Decode, Prefill};

    #[test]
    fn the_view_that_exceeds_its_limits_says_most_and_then_the_one_of_the_largest_score() {
        // Of one value a ratio of 7.5 is allowed, of four 5; and a score of 6.
        let of = |ratio: f64, score: f64, values: usize| (Measure { ratio, score }, values);
        let (wrong, far) = (of(6.0, 7.0, 4), of(6.0, 9.0, 1));
        assert!(says_more(wrong, far) && !says_more(far, wrong), "however large the score of what is allowed");
        let worse = of(6.0, 7.5, 4);
        assert!(says_more(worse, wrong) && !says_more(wrong, worse) && !says_more(wrong, wrong));
        let near = of(6.0, 1.0, 1);
        assert!(says_more(far, near) && !says_more(near, far) && !says_more(near, near));
        let nan = of(f64::NAN, f64::NAN, 1);
        assert!(says_more(nan, worse) && !says_more(worse, nan));
    }

    #[test]
    fn a_context_is_wrong_if_a_row_or_slot_before_the_first_position_is() {
        let of = |flagged: bool, slot: Option<usize>| {
            let (prompt_id, phase, point, shown) = (Arc::from("p"), Decode, Point::KCache, Shown::Row);
            let (layer, pos, distance_ratio, score) = (0, 9, 1.0, 0.0);
            let all = vec![TokenJudgement {
                prompt_id,
                phase,
                point,
                layer,
                pos,
                slot,
                shown,
                distance_ratio,
                score,
                flagged,
            }];
            let tokens = Tokens { all };
            [(Decode, 5), (Decode, 4), (Decode, 10), (Decode, 9), (Prefill, 10)]
                .map(|(phase, first)| tokens.is_context_flagged(phase, first))
        };
        assert_eq!(of(true, Some(4)), [true, false, true, true, false]);
        assert_eq!(of(true, None), [false, false, true, false, false], "by the position of the row");
        assert_eq!((of(false, Some(4)), of(false, None)), ([false; 5], [false; 5]));
    }
}
