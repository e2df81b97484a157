//! The difference of the two phases, end to end, against what rounding makes.
//!
//! H₀: the difference of the recorded rows is what two draws of the same arithmetic differ by. The statistic is the mean
//! over all rows of log ‖Δ‖², which no single row dominates; its distribution is Student's t around the draws' mean. The
//! test is one-sided: real kernels round less often than the sequential sums of the noise model.

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
    /// Observed over expected RMS difference, each row in units of its own size.
    pub observed_over_expected: f64,
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
}

/// Rows as they come.
pub struct Drift {
    observed: f64,
    draws: Vec<f64>,
    rows: usize,
    places: BTreeMap<Input, Sums>,
    /// In the order of the computation.
    order: Vec<Input>,
}

impl Drift {
    /// Nothing yet, of this many draws.
    pub fn new(draws: usize) -> Drift {
        Drift { observed: 0.0, draws: vec![0.0; draws], rows: 0, places: BTreeMap::new(), order: Vec::new() }
    }

    /// Looks at the rows of a place that both phases have recorded.
    pub fn look(&mut self, place: Input, scene: &Scene<'_, '_>) -> Result<(), TraceError> {
        let positions = scene.record.positions(Phase::Decode, place);
        for pos in positions {
            let ours = scene.record.views(Phase::Prefill, place, pos)?;
            let theirs = scene.record.views(Phase::Decode, place, pos)?;
            let (Some(one), Some(other)) = (ours.first(), theirs.first()) else { continue };
            let Some(observed) = one.distance_between(other) else { continue };
            let row = |lane: usize| scene.row(lane, place.point, (pos, None));
            let pairs = scene.cast.draws.get(&Phase::Prefill).zip(scene.cast.draws.get(&Phase::Decode));
            let pairs = pairs.into_iter().flat_map(|(p, d)| p.iter().zip(d));
            let draws: Vec<f64> = pairs.filter_map(|(p, d)| Some(one.distance_of(&row(*p)?, &row(*d)?))).collect();
            let Some(exact) = row(scene.cast.exact) else { continue };
            if draws.len() != self.draws.len() || draws.iter().any(|d| !d.is_finite()) {
                continue;
            }
            let floor = one.floor(&exact, scene.unit(Phase::Prefill)) + other.floor(&exact, scene.unit(Phase::Decode));
            let size: f64 = one.distance_of(&exact, &vec![0.0; exact.len()]);
            self.add(place, (observed, &draws), (floor, size));
        }
        Ok(())
    }

    fn add(&mut self, place: Input, (observed, draws): (f64, &[f64]), (floor, size): (f64, f64)) {
        let floor = floor.max(f64::MIN_POSITIVE);
        if observed == 0.0 && draws.iter().all(|d| *d == 0.0) {
            return;
        }
        self.rows += 1;
        self.observed += (observed + floor).ln();
        for (sum, draw) in self.draws.iter_mut().zip(draws) {
            *sum += (draw + floor).ln();
        }
        let size = if size > 0.0 && size.is_finite() { size } else { 1.0 };
        if !self.places.contains_key(&place) {
            self.order.push(place);
        }
        let sums = self.places.entry(place).or_default();
        sums.rows += 1;
        sums.observed += observed / size;
        sums.expected += draws.iter().sum::<f64>() / draws.len().max(1) as f64 / size;
    }

    /// Adds another prompt.
    pub fn merge(&mut self, other: Drift) {
        self.observed += other.observed;
        self.rows += other.rows;
        self.draws.iter_mut().zip(other.draws).for_each(|(sum, draw)| *sum += draw);
        for place in other.order {
            if !self.places.contains_key(&place) {
                self.order.push(place);
            }
            let (sums, of) = (self.places.entry(place).or_default(), other.places.get(&place));
            if let Some(of) = of {
                sums.rows += of.rows;
                sums.observed += of.observed;
                sums.expected += of.expected;
            }
        }
    }

    /// The test; none if there is no row that differs, observed or drawn.
    pub fn finish(&self) -> Option<EndToEnd> {
        if self.rows == 0 || self.draws.len() < 2 {
            return None;
        }
        let (n, rows) = (self.draws.len() as f64, self.rows as f64);
        let mean = self.draws.iter().sum::<f64>() / n / rows;
        let squares: f64 = self.draws.iter().map(|d| (d / rows - mean).powi(2)).sum();
        let spread = (squares / (n - 1.0) * (1.0 + 1.0 / n)).sqrt();
        let t = (self.observed / rows - mean) / spread;
        let total = |of: fn(&Sums) -> f64| self.places.values().map(of).sum::<f64>();
        let place = |place: &Input| {
            let sums = self.places.get(place)?;
            let rms = |sum: f64| (sum / sums.rows.max(1) as f64).sqrt();
            let (observed, expected) = (rms(sums.observed), rms(sums.expected));
            Some(PlaceDrift { point: place.point, layer: place.layer, rows: sums.rows, observed, expected })
        };
        Some(EndToEnd {
            p_value: upper_tail(t, n - 1.0),
            observed_over_expected: (total(|s| s.observed) / total(|s| s.expected)).sqrt(),
            rows: self.rows,
            draws: self.draws.len(),
            places: self.order.iter().filter_map(place).collect(),
        })
    }
}
