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
}
