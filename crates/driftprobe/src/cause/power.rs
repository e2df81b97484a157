//! What a run would have shown of each bug of the catalogue: the analytic power of its tests.
//!
//! A bug is not injected: on rows as they were recorded half of its effect d = y_bug − y is added, rounded to storage, and
//! the same tests look at the result. D = √(Σd²/σ²) says how far beyond noise the effect is.

mod catalogue;
mod sizes;

use super::trial::{Freedom, Trial, clean};
use super::{linear, power::sizes::Sized};
use crate::oracle::evaluate::Expectation;
use crate::oracle::replay::cases::Case;
use crate::oracle::replay::compare;
use crate::oracle::stage::{Input, Op};
use crate::oracle::stats::{Direction, ScoreTest};
use crate::oracle::{Float, Replay};
use driftprobe_model::Model;
use driftprobe_trace::{Event, Phase, Point, Rows, TraceError};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows of a point that are looked at, over all layers.
const ROWS_MAX: usize = 12;

/// The part of an effect that must be seen already: what is seen at the edge in one run is not in the next.
const CAUTION: f64 = 0.5;

/// What one bug would have done at one point of one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct PowerRow {
    /// Id in the catalogue of faults.
    pub id: &'static str,
    /// The size that was tried, by name.
    pub parameters: Vec<(String, String)>,
    /// The phase.
    pub phase: Phase,
    /// The point that it would have changed first.
    pub point: Point,
    /// Rows on which it was tried.
    pub rows: usize,
    /// Those in which the tests would have found it.
    pub seen: usize,
    /// D of the row that shows least of it; infinite where a stage has no freedom, or another key is hidden.
    /// None where only sizes were tried.
    pub effect: Option<f64>,
    /// The smallest size that would have been found, of faults that have one.
    pub smallest: Option<Smallest>,
    /// Why nothing would have been seen; empty if it would.
    pub unseen: String,
}

/// The smallest size of a fault that the tests find, in the unit of `what`. Infinite: none up to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Smallest {
    /// What is measured, for instance "relative change of theta".
    pub what: &'static str,
    /// In one row alone; the median of the rows.
    pub one_row: f64,
    /// In all rows that were looked at.
    pub all_rows: f64,
}

/// What this run would have shown, by phase, point and bug; also of the bugs that no recorded point can show.
///
/// # Errors
/// If a payload is damaged or missing.
pub fn power(replay: &Replay<'_>, events: &[Event], rows: &dyn Rows) -> Result<Vec<PowerRow>, TraceError> {
    let points: BTreeSet<Point> = replay.stages().iter().map(|s| s.point).collect();
    let places = Phase::ALL.into_iter().flat_map(|phase| points.iter().map(move |point| (phase, *point)));
    let one = |(phase, point): (Phase, Point)| {
        let wanted = chosen(events, phase, point);
        let is_wanted = |prompt: &str, place: Input, pos: u64| {
            place.point == point && wanted.contains(&(Arc::from(prompt), place.layer, pos))
        };
        Ok(of_point(replay.model(), (phase, point), replay.cases(events, rows, phase, &is_wanted)?))
    };
    let places: Vec<(Phase, Point)> = places.collect();
    let found = places.into_par_iter().map(one).collect::<Result<Vec<_>, TraceError>>()?;
    let mut all = Vec::new();
    for (phase, found) in Phase::ALL.into_iter().zip(found.chunks(points.len().max(1))) {
        let shown: BTreeSet<&'static str> = found.iter().flatten().map(|row| row.id).collect();
        all.extend(found.iter().flatten().cloned());
        all.extend(catalogue::unseen(&replay.model().config, phase, &shown));
        all.extend((phase == Phase::Prefill).then(|| catalogue::future(events)));
    }
    Ok(all)
}

/// Some rows of a point: of each layer the last, as far as there is room.
fn chosen(events: &[Event], phase: Phase, point: Point) -> BTreeSet<(Arc<str>, i32, u64)> {
    let mut last: BTreeMap<i32, (u64, Arc<str>)> = BTreeMap::new();
    for event in events.iter().filter(|e| (e.phase, e.point) == (phase, point)) {
        let Some(pos) = event.token_index() else { continue };
        let entry = last.entry(event.layer).or_insert_with(|| (pos, event.prompt_id.clone()));
        if pos > entry.0 {
            *entry = (pos, event.prompt_id.clone());
        }
    }
    let step = last.len().div_ceil(ROWS_MAX).max(1);
    last.into_iter().step_by(step).map(|(layer, (pos, prompt))| (prompt, layer, pos)).collect()
}

fn of_point(model: &Model, (phase, point): (Phase, Point), cases: Vec<Case>) -> Vec<PowerRow> {
    let Some(op) = cases.first().map(|c| c.op) else { return Vec::new() };
    let cases: Vec<Case> = cases.into_iter().filter(|c| super::kind(c.op) == super::kind(op)).collect();
    let (cases, expect, trials) = match op {
        Op::Linear { .. } => {
            let narrowed = linear::narrow(model, cases);
            let trials = catalogue::linear(model, &narrowed);
            let expect = linear::clean(model, &narrowed.outputs);
            (narrowed.cases, expect, trials)
        }
        _ => {
            let trials = catalogue::ordinary(model, op, &cases);
            (cases, clean(model), trials)
        }
    };
    let sized = sizes::of(model, op);
    let own = cases.iter().map(|case| expect(case).ok()).collect();
    let bench = Bench { cases: &cases, own };
    let row = |trial: &Trial<'_>| bench.row(trial, (phase, point));
    // What only allows more noise has no effect of its own.
    let of_a_kind = trials.iter().filter(|t| t.freedom != Freedom::Loose);
    let mut all: Vec<PowerRow> = Vec::new();
    for found in of_a_kind.filter_map(row) {
        // Orders of rounding of one bug are one bug.
        if !all.iter().any(|r| (r.id, &r.parameters) == (found.id, &found.parameters)) {
            all.push(found);
        }
    }
    for sized in sized {
        let smallest = bench.smallest(&sized);
        let of_id = all.iter_mut().find(|row| row.id == sized.id && row.id != super::UNEXPLAINED);
        match (of_id, smallest) {
            (Some(row), Some(smallest)) => row.smallest = Some(smallest),
            (None, Some(smallest)) => all.push(PowerRow {
                id: sized.id,
                parameters: Vec::new(),
                phase,
                point,
                rows: cases.len(),
                seen: if smallest.one_row <= 1.0 { cases.len() } else { 0 },
                effect: None,
                unseen: if smallest.one_row <= 1.0 { String::new() } else { "lost in rounding noise".to_owned() },
                smallest: Some(smallest),
            }),
            (_, None) => {}
        }
    }
    all
}

/// Recorded rows, and what they should be.
struct Bench<'a> {
    cases: &'a [Case],
    /// By case; none: not known.
    own: Vec<Option<Expectation>>,
}

impl Bench<'_> {
    fn row(&self, trial: &Trial<'_>, (phase, point): (Phase, Point)) -> Option<PowerRow> {
        let (mut rows, mut seen, mut effect) = (0, 0, f64::INFINITY);
        for (case, own) in self.known() {
            let Some(shown) = (trial.expect)(case).ok().and_then(|wrong| shown(case, own, &wrong)) else { continue };
            rows += 1;
            seen += usize::from(shown.found);
            effect = effect.min(shown.effect);
        }
        let unseen = if seen == 0 { "lost in rounding noise" } else { "" };
        let (id, parameters, unseen) = (trial.id, trial.parameters.clone(), unseen.to_owned());
        let (effect, smallest) = (Some(effect), None);
        (rows > 0).then_some(PowerRow { id, parameters, phase, point, rows, seen, effect, smallest, unseen })
    }

    fn known(&self) -> impl Iterator<Item = (&Case, &Expectation)> {
        self.cases.iter().zip(&self.own).filter_map(|(case, own)| Some((case, own.as_ref()?)))
    }

    fn smallest(&self, sized: &Sized<'_>) -> Option<Smallest> {
        let of = |size, case, own| shown(case, own, &sized.row(size, case, own)?);
        let one = |(case, own)| least(|size| of(size, case, own).is_some_and(|shown| shown.found));
        let unknown = self.own.iter().filter(|own| own.is_none()).map(|_| f64::INFINITY);
        let mut each: Vec<f64> = self.known().map(one).chain(unknown).collect();
        each.sort_by(f64::total_cmp);
        let one_row = *each.get(each.len() / 2)?;
        let all_rows = least(|size| in_all(self.known().filter_map(|(case, own)| of(size, case, own))));
        Some(Smallest { what: sized.what, one_row, all_rows: all_rows.min(each.first().copied()?) })
    }
}

/// The row as the bug would have had it.
fn shown(case: &Case, own: &Expectation, wrong: &Expectation) -> Option<Shown> {
    let mut tests = BTreeMap::new();
    let (recorded, effect) = moved(case, own, wrong)?;
    let scores = |direction, test: &ScoreTest| {
        tests.insert(direction, *test);
    };
    let found = compare(&recorded, own, scores).is_fault();
    Some(Shown { found, effect, tests })
}

/// Whether the bug would be found if all rows had it.
fn in_all(rows: impl Iterator<Item = Shown>) -> bool {
    let mut tests: BTreeMap<Direction, ScoreTest> = BTreeMap::new();
    for shown in rows {
        if shown.found {
            return true;
        }
        shown.tests.iter().for_each(|(direction, test)| tests.entry(*direction).or_default().merge(test));
    }
    tests.values().any(ScoreTest::is_flagged)
}

struct Shown {
    found: bool,
    effect: f64,
    tests: BTreeMap<Direction, ScoreTest>,
}

/// recorded + ½(y_wrong − y), rounded to storage, and D of the whole.
fn moved(case: &Case, own: &Expectation, wrong: &Expectation) -> Option<(Vec<f64>, f64)> {
    match (own, wrong) {
        (Expectation::Noisy(a), Expectation::Noisy(b)) => {
            let mut sum = 0.0;
            let one = |(at, recorded): (usize, &f64)| {
                let (y, moved, variance) = (*a.y.get(at)?, *b.y.get(at)?, *a.variance.get(at)?);
                // Hidden in both: as it was.
                let d = if y == moved { 0.0 } else { moved - y };
                sum += d * d / (variance + a.output.rounding_variance(y));
                let value = if d.is_finite() { recorded + CAUTION * d } else { moved };
                Some(if d == 0.0 { *recorded } else { a.output.round(value) })
            };
            let recorded = case.recorded.iter().enumerate().map(one).collect::<Option<Vec<f64>>>()?;
            Some((recorded, if sum.is_nan() { f64::INFINITY } else { sum.sqrt() }))
        }
        (Expectation::Exact { candidates, .. }, Expectation::Exact { candidates: others, .. }) => {
            let other = others.first()?;
            // What is not known stays as it is recorded.
            let known = other.iter().zip(&case.recorded).map(|(o, r)| if o.is_nan() { *r } else { *o });
            let differs = candidates.iter().all(|c| c != other);
            Some((known.collect(), if differs { f64::INFINITY } else { 0.0 }))
        }
        _ => None,
    }
}

/// The least size from 2⁻⁴⁰ to 1 that is found, to a tenth; infinite if none is.
fn least(found: impl Fn(f64) -> bool) -> f64 {
    if !found(1.0) {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (-40.0f64, 0.0);
    while high - low > 0.14 {
        let middle = (low + high) / 2.0;
        if found(middle.exp2()) { high = middle } else { low = middle }
    }
    high.exp2()
}

/// To the format of the row's storage.
pub(super) fn stored(case: &Case, value: f64) -> f64 {
    case.task.arithmetic.output().map_or(value, |format: Float| format.round(value))
}
