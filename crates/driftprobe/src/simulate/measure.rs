//! A distance in units of what draws give in its place.

use crate::oracle::stats::exceeds;

/// Prior of the standard deviation of a draw's log squared distance, and how many draws it counts for: few draws
/// estimate a spread badly.
const PRIOR: (f64, f64) = (0.5, 4.0);

/// Limits of what is flagged: both must be exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Ratio of distances.
    pub ratio: f64,
    /// Standard deviations of the logarithm.
    pub score: f64,
}

impl Limits {
    /// For rows of which this many values are shown. Distances of few values vary by chance more than a handful of draws
    /// can tell.
    pub fn of(values: usize) -> Limits {
        Limits { ratio: 2.5 * (1.0 + 2.0 / (values.max(1) as f64).sqrt()), score: 6.0 }
    }
}

/// A distance among draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// The distance, in units of the RMS of the draws'.
    pub ratio: f64,
    /// Its squared logarithm's distance from the draws' mean, in units of their spread.
    pub score: f64,
}

impl Measure {
    /// Of a squared distance among those of draws. `floor` is what nobody can tell from 0, squared.
    pub fn of(squared: f64, draws: &[f64], floor: f64) -> Measure {
        let floor = floor.max(f64::MIN_POSITIVE);
        let n = draws.len().max(1) as f64;
        let mean_square = draws.iter().map(|d| d + floor).sum::<f64>() / n;
        let logs: Vec<f64> = draws.iter().map(|d| (d + floor).ln()).collect();
        let mean = logs.iter().sum::<f64>() / n;
        let squares: f64 = logs.iter().map(|l| (l - mean).powi(2)).sum();
        let (prior, weight) = PRIOR;
        let spread = ((squares + weight * prior * prior) / (n - 1.0 + weight) * (1.0 + 1.0 / n)).sqrt();
        Measure { ratio: ((squared + floor) / mean_square).sqrt(), score: ((squared + floor).ln() - mean) / spread }
    }

    /// Whether it is further away than draws are. NaN is.
    pub fn exceeds(&self, limits: Limits) -> bool {
        exceeds(self.ratio, limits.ratio) && exceeds(self.score, limits.score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_like_the_draws_has_ratio_1_and_one_far_away_is_flagged() {
        let draws = [1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.05, 0.95];
        let limits = Limits { ratio: 3.0, score: 4.0 };
        let alike = Measure::of(1.0, &draws, 0.0);
        assert!((alike.ratio - 1.0).abs() < 1e-12 && alike.score.abs() < 0.1 && !alike.exceeds(limits));
        let far = Measure::of(100.0, &draws, 0.0);
        assert!((far.ratio - 10.0).abs() < 1e-12 && far.score > 10.0 && far.exceeds(limits));
    }

    #[test]
    fn nothing_among_nothing_is_no_finding_and_nan_is_one() {
        let limits = Limits { ratio: 3.0, score: 4.0 };
        assert!(!Measure::of(0.0, &[0.0; 8], 0.0).exceeds(limits));
        assert!(!Measure::of(0.0, &[1.0; 8], 0.0).exceeds(limits));
        assert!(Measure::of(1e-9, &[0.0; 8], 0.0).exceeds(limits));
        assert!(Measure::of(f64::NAN, &[1.0; 8], 0.1).exceeds(limits));
        assert!(Measure::of(f64::INFINITY, &[1.0; 8], 0.1).exceeds(limits));
    }

    #[test]
    fn ratio_and_score_are_those_of_a_hand_computation() {
        let is_near = |value: f64, expected: f64| (value - expected).abs() < 1e-6;
        // RMS of the draws √2.5; logarithms 0 and ln 4, their mean ln 2; spread √((2·ln²2 + 4·0.5²) / (2 − 1 + 4) · 1.5).
        let found = Measure::of(10.0, &[1.0, 4.0], 0.0);
        assert!(is_near(found.ratio, 2.0) && is_near(found.score, 2.098_385), "{found:?}");
        // The same of 2 and 5, and of 10: what cannot be told from 0 is added everywhere.
        let found = Measure::of(9.0, &[1.0, 4.0], 1.0);
        assert!(is_near(found.ratio, (10f64 / 3.5).sqrt()) && is_near(found.score, 1.764_056), "{found:?}");
    }

    #[test]
    fn both_limits_must_be_exceeded_and_few_values_have_a_wider_one() {
        let limits = Limits { ratio: 3.0, score: 6.0 };
        let exceeds = |ratio, score| Measure { ratio, score }.exceeds(limits);
        assert!(exceeds(3.1, 6.1) && exceeds(f64::NAN, f64::NAN) && exceeds(f64::NAN, 7.0));
        assert!(!exceeds(3.0, 7.0) && !exceeds(4.0, 6.0) && !exceeds(2.0, 7.0) && !exceeds(4.0, 5.0));
        for (values, ratio) in [(0, 7.5), (1, 7.5), (4, 5.0), (100, 3.0)] {
            assert_eq!(Limits::of(values), Limits { ratio, score: 6.0 }, "{values}");
        }
    }
}
