//! One parameter fitted to rows: the best of some starts, then Gauss–Newton.

use super::trial::{Expect, hold};
use crate::oracle::evaluate::Expectation;
use crate::oracle::replay::cases::Case;

/// Steps of Gauss–Newton; each squares the error.
const STEPS: usize = 12;
/// Rounds of [`polished`].
const POLISHES: usize = 3;
/// How often a step that does not help is halved.
const HALVINGS: usize = 6;
/// Starts that are followed.
const FOLLOWED: usize = 3;

/// The parameter t under which the rows hold best, from the best of the starts; none if no start can be computed.
///
/// The derivative is a difference quotient: everything is float64, and its error only slows the steps down.
pub(super) fn fit<'a>(cases: &[Case], starts: &[f64], make: &dyn Fn(f64) -> Expect<'a>) -> Option<f64> {
    let mut ranked: Vec<(f64, f64)> =
        starts.iter().map(|t| (distance(cases, &make(*t)), *t)).filter(|(d, _)| d.is_finite()).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    ranked.truncate(FOLLOWED);
    let followed = ranked.into_iter().map(|(d, t)| follow(cases, (t, d), make));
    let best = followed.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(t, _)| t)?;
    Some((0..POLISHES).fold(best, |t, _| polished(cases, t, make).unwrap_or(t)))
}

/// Where results are stored coarsely, every element says between which t it lies: |recorded − y(t)| is half an ulp and some
/// noise at most. The middle of what all of them allow is far closer than least squares; none if they allow nothing.
fn polished<'a>(cases: &[Case], t: f64, make: &dyn Fn(f64) -> Expect<'a>) -> Option<f64> {
    let h = 1e-6 * t.abs().max(1e-9);
    let (here, there) = (make(t), make(t + h));
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
    for case in cases {
        let (Ok(Expectation::Noisy(a)), Ok(Expectation::Noisy(b))) = (here(case), there(case)) else { return None };
        for (i, recorded) in case.recorded.iter().enumerate() {
            let (Some(y), Some(moved), Some(variance)) = (a.y.get(i), b.y.get(i), a.variance.get(i)) else { continue };
            let (r, d) = (recorded - y, (moved - y) / h);
            let reach = a.output.ulp(*y) / 2.0 + 4.0 * variance.sqrt();
            if d != 0.0 && r.is_finite() && d.is_finite() && reach.is_finite() {
                low = low.max((r - reach * d.signum()) / d);
                high = high.min((r + reach * d.signum()) / d);
            }
        }
    }
    let middle = t + (low + high) / 2.0;
    (low <= high && middle.is_finite()).then_some(middle)
}

/// Mean z² of the rows.
pub(super) fn distance(cases: &[Case], expect: &Expect<'_>) -> f64 {
    hold(cases, expect).rms.powi(2)
}

fn follow<'a>(cases: &[Case], start: (f64, f64), make: &dyn Fn(f64) -> Expect<'a>) -> (f64, f64) {
    let (mut t, mut best) = start;
    for _ in 0..STEPS {
        let Some(mut step) = newton(cases, t, make) else { break };
        let before = t;
        for _ in 0..HALVINGS {
            let found = distance(cases, &make(t + step));
            if found < best {
                (t, best) = (t + step, found);
                break;
            }
            step /= 2.0;
        }
        if (t - before).abs() <= 1e-13 * t.abs() {
            break;
        }
    }
    (t, best)
}

/// Σ r·d/σ² / Σ d²/σ² over all rows.
fn newton<'a>(cases: &[Case], t: f64, make: &dyn Fn(f64) -> Expect<'a>) -> Option<f64> {
    let h = 1e-6 * t.abs().max(1e-9);
    let (here, there) = (make(t), make(t + h));
    let (mut up, mut down) = (0.0, 0.0);
    for case in cases {
        let (Ok(Expectation::Noisy(a)), Ok(Expectation::Noisy(b))) = (here(case), there(case)) else { continue };
        for (i, recorded) in case.recorded.iter().enumerate() {
            let (Some(y), Some(moved), Some(variance)) = (a.y.get(i), b.y.get(i), a.variance.get(i)) else { continue };
            let weight = 1.0 / (variance + a.output.rounding_variance(*y));
            let (r, d) = (recorded - y, (moved - y) / h);
            if r.is_finite() && d.is_finite() && weight.is_finite() {
                up += r * d * weight;
                down += d * d * weight;
            }
        }
    }
    let step = up / down;
    step.is_finite().then_some(step)
}
