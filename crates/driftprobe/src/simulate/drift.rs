//! The difference of the two phases, end to end, against what rounding makes.
//!
//! H₀: the difference of the recorded rows is what two draws of the same arithmetic differ by. The statistic is the mean
//! over all rows of log ‖Δ‖², which no single row dominates. Two tests, one-sided since real kernels round less often than
//! the sequential sums of the noise model, both by Student's t:
//!
//! 1. against the differences of pairs of draws. In 16-bit storage these have two states: nothing is rounded otherwise, or
//!    something is, once, and everything behind it differs. That none of a few draws has come apart does not say that
//!    phases cannot; so half the squared way to the second is added to the variance, prompt by prompt, which makes a single prompt
//!    that came apart 1 case of 10 and no finding.
//! 2. against draws that have come apart entirely: ‖one − exact‖² + ‖other − exact‖², which no two clean draws exceed.
//!
//! The p-value is twice the smaller of both (Bonferroni).

use super::record::View;
use super::student::upper_tail;
use super::study::Scene;
use crate::oracle::stage::Input;
use driftprobe_trace::{Phase, Point, TraceError};
use std::collections::BTreeMap;

/// The difference of the two phases against that of draws.
#[derive(Clone, Debug, PartialEq)]
pub struct EndToEnd {
    /// Probability that rounding makes the phases differ so much or more; 0 where a difference is not a number.
    pub p_value: f64,
    /// That of the first test alone: against pairs of draws.
    pub p_drawn: f64,
    /// That of the second alone: against draws that have come apart entirely.
    pub p_apart: f64,
    /// Observed over expected RMS difference, each row in units of its own size.
    pub observed_over_expected: f64,
    /// The same of the geometric mean over the rows, which the tests look at.
    pub typical_ratio: f64,
    /// Rows compared.
    pub rows: usize,
    /// Pairs of draws.
    pub draws: usize,
    /// The same by point and layer, in the order of the computation.
    pub places: Vec<PlaceDrift>,
}

/// Rows of one place.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaceDrift {
    /// The point.
    pub point: Point,
    /// The layer; −1 for unlayered points.
    pub layer: i32,
    /// Rows compared.
    pub rows: usize,
    /// Observed RMS difference, relative to the rows' size.
    pub observed: f64,
    /// The draws', likewise.
    pub expected: f64,
    /// Of single pairs of draws, the smallest and the largest.
    pub drawn: [f64; 2],
}

impl PlaceDrift {
    /// Observed over expected; NaN where both are 0.
    pub fn ratio(&self) -> f64 {
        self.observed / self.expected
    }
}

#[derive(Clone, Default)]
struct Sums {
    rows: usize,
    observed: f64,
    expected: f64,
    /// Of each pair of draws.
    drawn: Vec<f64>,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.rows += other.rows;
        self.observed += other.observed;
        self.expected += other.expected;
        self.drawn.resize(self.drawn.len().max(other.drawn.len()), 0.0);
        self.drawn.iter_mut().zip(&other.drawn).for_each(|(sum, draw)| *sum += draw);
    }
}

/// One row: squared differences.
struct Differences {
    observed: f64,
    /// Of pairs of draws.
    drawn: Vec<f64>,
    /// Of the same pairs, had they come apart.
    apart: Vec<f64>,
    /// What nobody can tell from 0.
    floor: f64,
    /// The row's squared size.
    size: f64,
}

impl Differences {
    /// Of what both phases have recorded of a row, in storage of these unit roundoffs, where the tokens give `exact` and pairs
    /// of draws; none where the phases show different values of it.
    fn of([one, other]: [&View; 2], units: [f64; 2], exact: &[f64], draws: &[[Vec<f64>; 2]]) -> Option<Differences> {
        let from_exact = |row: &[f64]| one.distance_of(row, exact);
        Some(Differences {
            observed: one.distance_between(other)?,
            drawn: draws.iter().map(|[p, d]| one.distance_of(p, d)).collect(),
            apart: draws.iter().map(|[p, d]| from_exact(p) + from_exact(d)).collect(),
            floor: one.floor(exact, units[0]) + other.floor(exact, units[1]),
            size: from_exact(&vec![0.0; exact.len()]),
        })
    }
}

/// Rows as they come: of one prompt, or of all.
pub struct Drift {
    /// Sums over the rows of log ‖Δ‖².
    observed: f64,
    drawn: Vec<f64>,
    apart: Vec<f64>,
    rows: usize,
    /// What is added to the variance of the sums of the draws.
    unseen_variance: f64,
    places: BTreeMap<Input, Sums>,
    /// In the order of the computation.
    order: Vec<Input>,
}

impl Drift {
    /// Nothing yet, of this many draws.
    pub fn new(draws: usize) -> Drift {
        Drift {
            observed: 0.0,
            drawn: vec![0.0; draws],
            apart: vec![0.0; draws],
            rows: 0,
            unseen_variance: 0.0,
            places: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    /// Looks at the rows of a place that both phases have recorded.
    pub fn look(&mut self, place: Input, scene: &Scene<'_, '_>) -> Result<(), TraceError> {
        for pos in scene.record.positions(Phase::Decode, place) {
            let ours = scene.record.views(Phase::Prefill, place, pos)?;
            let theirs = scene.record.views(Phase::Decode, place, pos)?;
            let (Some(one), Some(other)) = (ours.first(), theirs.first()) else { continue };
            let row = |lane: usize| scene.row(lane, place.point, (pos, None));
            let Some(exact) = row(scene.cast.exact) else { continue };
            let lanes = scene.cast.draws.get(&Phase::Prefill).zip(scene.cast.draws.get(&Phase::Decode));
            let pairs = lanes.into_iter().flat_map(|(p, d)| p.iter().zip(d));
            let draws: Vec<[Vec<f64>; 2]> = pairs.filter_map(|(p, d)| Some([row(*p)?, row(*d)?])).collect();
            let Some(found) = Differences::of([one, other], Phase::ALL.map(|phase| scene.unit(phase)), &exact, &draws)
            else {
                continue;
            };
            if found.drawn.len() != self.drawn.len() || found.drawn.iter().chain(&found.apart).any(|d| !d.is_finite()) {
                continue;
            }
            self.add(place, &found);
        }
        Ok(())
    }

    fn add(&mut self, place: Input, row: &Differences) {
        if row.observed == 0.0 && row.drawn.iter().all(|d| *d == 0.0) {
            return;
        }
        let log = |squared: f64| (squared + row.floor.max(f64::MIN_POSITIVE)).ln();
        self.rows += 1;
        self.observed += log(row.observed);
        self.drawn.iter_mut().zip(&row.drawn).for_each(|(sum, d)| *sum += log(*d));
        self.apart.iter_mut().zip(&row.apart).for_each(|(sum, d)| *sum += log(*d));
        let size = if row.size > 0.0 && row.size.is_finite() { row.size } else { 1.0 };
        if !self.places.contains_key(&place) {
            self.order.push(place);
        }
        self.places.entry(place).or_default().add(&Sums {
            rows: 1,
            observed: row.observed / size,
            expected: mean(&row.drawn) / size,
            drawn: row.drawn.iter().map(|drawn| drawn / size).collect(),
        });
    }

    /// Adds a prompt.
    pub fn merge(&mut self, prompt: Drift) {
        let way = (mean(&prompt.apart) - mean(&prompt.drawn)).max(0.0);
        self.unseen_variance += way * way / 2.0;
        self.observed += prompt.observed;
        self.rows += prompt.rows;
        self.drawn.iter_mut().zip(&prompt.drawn).for_each(|(sum, draw)| *sum += draw);
        self.apart.iter_mut().zip(&prompt.apart).for_each(|(sum, draw)| *sum += draw);
        for place in prompt.order {
            if !self.places.contains_key(&place) {
                self.order.push(place);
            }
            let sums = self.places.entry(place).or_default();
            if let Some(of) = prompt.places.get(&place) {
                sums.add(of);
            }
        }
    }

    /// The tests; none if there is no row that differs, observed or drawn.
    pub fn finish(&self) -> Option<EndToEnd> {
        if self.rows == 0 || self.drawn.len() < 2 {
            return None;
        }
        let p_drawn = self.tail(&self.drawn, self.unseen_variance);
        let p_apart = self.tail(&self.apart, 0.0);
        let total = |of: fn(&Sums) -> f64| self.places.values().map(of).sum::<f64>();
        let place = |place: &Input| {
            let sums = self.places.get(place)?;
            let rms = |sum: f64| (sum / sums.rows.max(1) as f64).sqrt();
            let (observed, expected) = (rms(sums.observed), rms(sums.expected));
            let least = sums.drawn.iter().copied().fold(f64::INFINITY, f64::min);
            let most = sums.drawn.iter().copied().fold(0.0, f64::max);
            let drawn = [rms(least), rms(most)];
            Some(PlaceDrift { point: place.point, layer: place.layer, rows: sums.rows, observed, expected, drawn })
        };
        Some(EndToEnd {
            p_value: (2.0 * p_drawn.min(p_apart)).min(1.0),
            p_drawn,
            p_apart,
            observed_over_expected: (total(|s| s.observed) / total(|s| s.expected)).sqrt(),
            typical_ratio: ((self.observed - mean(&self.drawn)) / self.rows as f64 / 2.0).exp(),
            rows: self.rows,
            draws: self.drawn.len(),
            places: self.order.iter().filter_map(place).collect(),
        })
    }

    /// Probability of a sum as large as the observed one, by these draws of it.
    fn tail(&self, draws: &[f64], unseen_variance: f64) -> f64 {
        let (n, mean) = (draws.len() as f64, mean(draws));
        let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0) * (1.0 + 1.0 / n);
        upper_tail((self.observed - mean) / (variance + unseen_variance).sqrt(), n - 1.0)
    }
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Input = Input { point: Point::AttnOut, layer: 0 };
    const Y: Input = Input { point: Point::MlpOut, layer: 0 };

    type Row = (Input, f64, [f64; 2], [f64; 2], [f64; 2]);

    /// A prompt of two draws: of each row the place, the difference, those of the draws, those come apart, floor and size.
    fn prompt(rows: &[Row]) -> Drift {
        let mut drift = Drift::new(2);
        for (place, observed, drawn, apart, [floor, size]) in rows {
            let (observed, floor, size) = (*observed, *floor, *size);
            let (drawn, apart) = (drawn.to_vec(), apart.to_vec());
            drift.add(*place, &Differences { observed, drawn, apart, floor, size });
        }
        drift
    }

    fn merged(prompts: &[&[Row]]) -> Option<EndToEnd> {
        let mut all = Drift::new(2);
        prompts.iter().for_each(|rows| all.merge(prompt(rows)));
        all.finish()
    }

    const A: [Row; 1] = [(X, 4.0, [1.0, 4.0], [9.0, 16.0], [0.0, 2.0])];
    const B: [Row; 2] = [(X, 9.0, [2.0, 5.0], [3.0, 8.0], [0.0, 4.0]), (Y, 1.0, [0.0, 3.0], [6.0, 7.0], [0.5, 0.5])];

    fn is_near(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-9
    }

    #[test]
    fn the_tests_are_those_of_a_hand_computation() {
        // Of one degree of freedom, P(T > t) = ½ − arctan(t)/π; t = ln 2/√(2·ln²2·1.5) = 1/√3.
        let found = prompt(&A).finish().unwrap();
        assert!(is_near(found.p_drawn, 1.0 / 3.0) && is_near(found.p_apart, 0.864_461_907_026_304), "{found:?}");
        assert!(is_near(found.p_value, 2.0 / 3.0) && is_near(found.typical_ratio, 2f64.sqrt()), "{found:?}");
        assert!(is_near(found.observed_over_expected, 1.6f64.sqrt()) && (found.rows, found.draws) == (1, 2));
        // A prompt may have come apart where no draw has: half of ln² 6 more variance.
        let found = merged(&[&A]).unwrap();
        assert!(is_near(found.p_drawn, 0.379_672_423_023_777) && is_near(found.p_apart, 0.864_461_907_026_304));
        let found = merged(&[&A, &B]).unwrap();
        assert!(is_near(found.p_drawn, 0.366_016_648_970_187) && is_near(found.p_apart, 0.800_207_146_751_294));
        assert!(is_near(found.p_value, 2.0 * 0.366_016_648_970_187) && is_near(found.typical_ratio, 1.364_501_832_648));
        assert!(is_near(found.observed_over_expected, (6.25f64 / 5.125).sqrt()) && found.rows == 3, "{found:?}");
        // Of two degrees of freedom it is ½ − t/(2·√(2 + t²)).
        let mut three = Drift::new(3);
        let (drawn, apart) = (vec![1.0, 4.0, 4.0], vec![9.0, 16.0, 25.0]);
        three.add(X, &Differences { observed: 8.0, drawn, apart, floor: 0.0, size: 1.0 });
        let found = three.finish().unwrap();
        assert!(is_near(found.p_drawn, 0.168_866_910_734) && is_near(found.p_apart, 0.806_851_232_918), "{found:?}");
        // Draws that have come apart less than they differ add no negative way.
        let near: [Row; 1] = [(X, 4.0, [1.0, 4.0], [0.5, 0.5], [0.0, 2.0])];
        assert!(is_near(merged(&[&near]).unwrap().p_drawn, 1.0 / 3.0));
    }

    #[test]
    fn squared_differences_are_those_of_a_hand_computation() {
        let [one, other] = [[3.0, 4.0], [3.0, 2.0]].map(|row| View::whole(row.to_vec()));
        let draws = [[vec![1.0, 2.0], vec![4.0, 6.0]], [vec![0.0, 0.0], vec![0.0, 1.0]]];
        let found = Differences::of([&one, &other], [0.5, 0.25], &[1.0, 1.0], &draws).unwrap();
        assert_eq!((found.observed, found.size), (4.0, 2.0));
        // Of the first pair 3² + 4²; from (1, 1) they are 1² and 3² + 5² away, those of the second 1² + 1² and 1².
        assert_eq!((found.drawn, found.apart), (vec![25.0, 1.0], vec![1.0 + 34.0, 2.0 + 1.0]));
        // Half an ulp of one value of the mean square 1, in the storage of each phase.
        assert_eq!(found.floor, 0.5 * 0.5 + 0.25 * 0.25);
        assert!(
            Differences::of([&one, &View::whole(vec![3.0])], [0.5; 2], &[1.0, 1.0], &[]).unwrap().observed.is_nan()
        );
    }

    #[test]
    fn each_place_has_the_mean_of_its_rows_in_the_order_in_which_they_came() {
        let places = merged(&[&A, &B]).unwrap().places;
        let squares = |place: &PlaceDrift| {
            let [least, most] = place.drawn.map(|drawn| drawn * drawn);
            [place.observed * place.observed, place.expected * place.expected, least, most]
        };
        let near = |found: [f64; 4], expected: [f64; 4]| found.iter().zip(expected).all(|(a, b)| is_near(*a, b));
        let [x, y] = [&places[0], &places[1]];
        assert_eq!(
            [(x.point, x.rows), (y.point, y.rows), (Y.point, places.len())],
            [(X.point, 2), (Y.point, 1), (Y.point, 2)]
        );
        assert!(near(squares(x), [2.125, 1.0625, 0.5, 1.625]) && is_near(x.ratio(), 2f64.sqrt()), "{x:?}");
        assert!(near(squares(y), [2.0, 3.0, 0.0, 6.0]), "{y:?}");
        let own = prompt(&[B[1], B[0], B[1]]).finish().unwrap().places;
        assert_eq!(own.iter().map(|place| (place.point, place.rows)).collect::<Vec<_>>(), [(Y.point, 2), (X.point, 1)]);
    }

    #[test]
    fn rows_in_which_nothing_differs_say_nothing_and_nan_says_everything() {
        let nothing: Row = (X, 0.0, [0.0, 0.0], [1.0, 1.0], [0.5, 1.0]);
        assert!(prompt(&[nothing]).finish().is_none() && merged(&[]).is_none());
        assert_eq!(prompt(&[nothing, A[0]]).finish(), prompt(&A).finish());
        for (observed, drawn) in [(1.0, [0.0, 0.0]), (0.0, [1.0, 0.0]), (0.0, [0.0, 1.0])] {
            assert_eq!(prompt(&[(X, observed, drawn, [1.0, 1.0], [0.5, 1.0])]).finish().unwrap().rows, 1);
        }
        let nan = prompt(&[(X, f64::NAN, [1.0, 4.0], [9.0, 16.0], [0.0, 1.0])]).finish().unwrap();
        assert_eq!([nan.p_value, nan.p_drawn, nan.p_apart], [0.0; 3]);
        // A row without size, or with none that is a number, counts as it is.
        for size in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            let found = prompt(&[(X, 4.0, [1.0, 4.0], [9.0, 16.0], [0.0, size])]).finish().unwrap();
            assert!(is_near(found.places[0].observed, 2.0), "{size}: {found:?}");
        }
        // One draw has no spread.
        let mut one = Drift::new(1);
        one.add(X, &Differences { observed: 1.0, drawn: vec![1.0], apart: vec![1.0], floor: 0.0, size: 1.0 });
        assert!(one.finish().is_none());
    }
}
