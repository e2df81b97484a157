//! What a run would have shown, by bug and phase: the rows of the power table put together.

use crate::cause::bugs::{Shown, bug_of};
use crate::cause::{PowerRow, UNEXPLAINED};
use crate::judge::examine::Examination;
use crate::simulate::{PlaceDrift, TokenJudgement};
use driftprobe_trace::{Phase, Point};
use std::collections::{BTreeMap, BTreeSet};

/// One bug in one phase, over all points at which it was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct BugPower {
    /// Its id.
    pub id: &'static str,
    /// The phase.
    pub phase: Phase,
    /// Points that show it.
    pub points: BTreeSet<Point>,
    /// Rows on which it was tried.
    pub rows: usize,
    /// Those in which it would have been found.
    pub seen: usize,
    /// D of the row that shows least of it.
    pub effect: Option<f64>,
    /// The smallest sizes that would have been found, in one row and in all: by what is measured.
    pub smallest: BTreeMap<&'static str, [f64; 2]>,
    /// Where it, in which size, would not have been seen, and why.
    pub unseen: Vec<Unseen>,
}

/// A bug that would not have been seen at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The point.
    pub point: Point,
    /// The bug with its size: `KV_PRECISION (precision bf16)`.
    pub named: String,
    /// Why.
    pub why: String,
}

/// By bug, in the order of the computation, and phase. Changes without a name come last.
pub fn by_bug(power: &[PowerRow]) -> Vec<BugPower> {
    let mut all: Vec<BugPower> = vec![];
    for row in power {
        let known = all.iter().position(|one| (one.id, one.phase) == (row.id, row.phase));
        let at = known.unwrap_or_else(|| {
            all.push(BugPower {
                id: row.id,
                phase: row.phase,
                points: BTreeSet::new(),
                rows: 0,
                seen: 0,
                effect: None,
                smallest: BTreeMap::new(),
                unseen: vec![],
            });
            all.len() - 1
        });
        if let Some(bug) = all.get_mut(at) {
            add(bug, row);
        }
    }
    let mut order: Vec<&str> = vec![];
    for bug in &all {
        if !order.contains(&bug.id) {
            order.push(bug.id);
        }
    }
    let rank = |bug: &BugPower| (bug.id == UNEXPLAINED, order.iter().position(|id| *id == bug.id), bug.phase);
    let ranks: Vec<_> = all.iter().map(rank).collect();
    let mut sorted: Vec<_> = ranks.into_iter().zip(all).collect();
    sorted.sort_by_key(|(rank, _)| *rank);
    sorted.into_iter().map(|(_, bug)| bug).collect()
}

fn add(bug: &mut BugPower, row: &PowerRow) {
    bug.rows += row.rows;
    bug.seen += row.seen;
    if row.seen > 0 {
        bug.points.insert(row.point);
    }
    bug.effect = [bug.effect, row.effect].into_iter().flatten().reduce(f64::min);
    if let Some(smallest) = &row.smallest {
        let [one, all] = bug.smallest.entry(smallest.what).or_insert([f64::INFINITY; 2]);
        (*one, *all) = (one.min(smallest.one_row), all.min(smallest.all_rows));
    }
    if row.seen < row.rows || row.rows == 0 {
        let why = match row.seen {
            0 => row.unseen.clone(),
            seen => format!("seen in {seen} of {} rows only", row.rows),
        };
        let sizes: Vec<String> = row.parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let named = if sizes.is_empty() { row.id.to_owned() } else { format!("{} ({})", row.id, sizes.join(", ")) };
        bug.unseen.push(Unseen { point: row.point, named, why });
    }
}

/// The part of a cached row's size that rounding may make of it, for a row of another token to stand out.
const ROUNDING_MAX: f64 = 0.1;

/// How the cached rows of a run were held against the tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slots {
    /// Cached rows held against them.
    pub rows: usize,
    /// How much of a cached row's size rounding makes, at most; NaN if not known.
    pub rounding: f64,
}

impl Slots {
    /// Of one phase of a run.
    pub fn of(examination: &Examination, phase: Phase) -> Slots {
        let judged = |token: &&TokenJudgement| token.slot.is_some() && token.phase == phase;
        let cache = |place: &&PlaceDrift| place.point.is_cache();
        let places = examination.study.end_to_end.iter().flat_map(|drift| &drift.places);
        let rounding = places.filter(cache).map(|place| place.expected).reduce(f64::max);
        Slots { rows: examination.study.tokens.iter().filter(judged).count(), rounding: rounding.unwrap_or(f64::NAN) }
    }

    /// Whether the tokens show this bug: a row of another token stands out, since it differs by about its own size.
    pub fn show(&self, id: &str) -> bool {
        bug_of(id).is_some_and(|bug| bug.shown == Shown::BySlots) && self.rows > 0 && self.rounding < ROUNDING_MAX
    }
}

/// How many bugs of the catalogue would have shown in every phase that can have them, of how many; and those that would
/// not.
pub fn shown(examination: &Examination) -> (usize, usize, Vec<&'static str>) {
    let slots = Phase::ALL.map(|phase| (phase, Slots::of(examination, phase)));
    let by_slots = |bug: &BugPower| slots.iter().any(|(phase, slots)| *phase == bug.phase && slots.show(bug.id));
    let all = by_bug(&examination.power);
    let ids: BTreeSet<&str> = all.iter().map(|bug| bug.id).filter(|id| *id != UNEXPLAINED).collect();
    let unseen = all.iter().filter(|bug| bug.seen == 0 && bug.id != UNEXPLAINED && !by_slots(bug)).map(|bug| bug.id);
    let unseen: BTreeSet<&'static str> = unseen.collect();
    (ids.len() - unseen.len(), ids.len(), unseen.into_iter().collect())
}

/// Short names of what is measured, most telling first.
const SIZES: [(&str, &str); 4] = [
    ("relative change of the scale", "temperature"),
    ("relative change of theta", "theta"),
    ("attention weight that another row gets", "weight of a wrong slot"),
    ("relative change of the row", "gain of a row"),
];

/// The smallest sizes found in every phase, the first three in short: `temperature 3e-7, theta 8e-7`.
pub fn smallest(power: &[PowerRow]) -> Option<String> {
    let all = by_bug(power);
    let of = |(what, name): (&str, &str)| {
        let sizes = all.iter().filter_map(|bug| bug.smallest.get(what).map(|[_, all_rows]| *all_rows));
        let worst = sizes.reduce(f64::max).filter(|size| size.is_finite())?;
        Some(format!("{name} {worst:.0e}"))
    };
    let parts: Vec<String> = SIZES.into_iter().filter_map(of).take(3).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::Smallest;

    fn row(id: &'static str, phase: Phase, (rows, seen): (usize, usize), effect: Option<f64>) -> PowerRow {
        let unseen = if seen == 0 { "lost in rounding noise".to_owned() } else { String::new() };
        PowerRow { id, parameters: vec![], phase, point: Point::AttnOut, rows, seen, effect, smallest: None, unseen }
    }

    #[test]
    fn rows_of_one_bug_are_put_together_and_the_weakest_counts() {
        let theta = |one_row, all_rows| Some(Smallest { what: "relative change of theta", one_row, all_rows });
        let power = [
            row(UNEXPLAINED, Phase::Prefill, (2, 2), None),
            PowerRow { smallest: theta(4e-6, 2e-6), ..row("ROPE_THETA", Phase::Prefill, (5, 5), Some(90.0)) },
            PowerRow { smallest: theta(3e-6, 1e-6), ..row("ROPE_THETA", Phase::Prefill, (3, 2), Some(40.0)) },
            PowerRow { smallest: theta(8e-6, 5e-6), ..row("ROPE_THETA", Phase::Decode, (1, 1), Some(7.0)) },
            row("NORM_EPS", Phase::Prefill, (1, 1), Some(9.0)),
            row("NORM_EPS", Phase::Decode, (1, 0), Some(0.1)),
        ];
        let all = by_bug(&power);
        let order: Vec<(&str, Phase)> = all.iter().map(|bug| (bug.id, bug.phase)).collect();
        let (prefill, decode) = (Phase::Prefill, Phase::Decode);
        let named = ["ROPE_THETA", "NORM_EPS"].into_iter().flat_map(|id| [(id, prefill), (id, decode)]);
        assert_eq!(order, named.chain([(UNEXPLAINED, prefill)]).collect::<Vec<_>>());
        assert_eq!((all[0].rows, all[0].seen, all[0].effect), (8, 7, Some(40.0)));
        assert_eq!(all[0].smallest["relative change of theta"], [3e-6, 1e-6]);
        let unseen =
            Unseen { point: Point::AttnOut, named: "ROPE_THETA".into(), why: "seen in 2 of 3 rows only".into() };
        assert_eq!(all[0].unseen, [unseen]);
        assert_eq!(smallest(&power).unwrap(), "theta 5e-6");
        let mut examination = Examination::default();
        examination.power = power.to_vec();
        assert_eq!(shown(&examination), (1, 2, vec!["NORM_EPS"]));
    }

    #[test]
    fn a_wrong_slot_shows_by_the_tokens_unless_rounding_is_as_large_as_a_row() {
        let slots = |rounding| Slots { rows: 3, rounding };
        assert!(slots(1e-6).show("KV_FOREIGN_ROW") && !slots(1e-6).show("KV_NOT_WRITTEN"));
        assert!(!slots(0.5).show("KV_FOREIGN_ROW") && !slots(f64::NAN).show("KV_FOREIGN_ROW"));
        assert!(!Slots { rows: 0, rounding: 1e-6 }.show("KV_FOREIGN_ROW"));
    }
}
