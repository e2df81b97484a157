//! What is known of a fault that no hypothesis explains.

use super::rope::significant;
use super::trial::Expect;
use crate::oracle::evaluate::Expectation;
use crate::oracle::replay::cases::Case;
use crate::oracle::stats::exceeds;
use std::fmt::Write;

/// |z| above which an element counts as off.
const OFF: f64 = 8.0;

/// In words: how much is off, where, and whether it is a constant factor.
pub(super) fn evidence(cases: &[Case], clean: &Expect<'_>) -> String {
    let (mut off, mut all, mut largest, mut first) = (0usize, 0usize, 0f64, None);
    let (mut up, mut down, mut residual) = (0.0, 0.0, 0.0);
    let (mut non_finite, mut zero) = (0usize, 0usize);
    for case in cases {
        let Ok(expectation) = clean(case) else { continue };
        let (y, variance) = match expectation {
            Expectation::Noisy(e) => {
                let total = e.variance.iter().zip(&e.y).map(|(v, y)| v + e.output.rounding_variance(*y)).collect();
                (e.y, total)
            }
            Expectation::Exact { candidates, .. } => {
                let y = candidates.into_iter().next().unwrap_or_default();
                let nothing = vec![0.0; y.len()];
                (y, nothing)
            }
        };
        zero += usize::from(case.recorded.iter().all(|x| *x == 0.0));
        for (at, ((recorded, y), variance)) in case.recorded.iter().zip(&y).zip(variance).enumerate() {
            if !y.is_finite() {
                continue;
            }
            all += 1;
            if !recorded.is_finite() {
                non_finite += 1;
                continue;
            }
            let r = recorded - y;
            if r != 0.0 && exceeds(r.abs(), OFF * variance.sqrt()) {
                off += 1;
                first.get_or_insert((case.prompt_id.clone(), case.pos, case.layer, at));
            }
            largest = largest.max(r.abs());
            (up, down, residual) = (up + recorded * y, down + y * y, residual + r * r);
        }
    }
    let mut text =
        format!("{off} of {all} values in {} rows are off, by {} at most", cases.len(), significant(largest));
    if let Some((prompt, pos, layer, at)) = first.filter(|_| off == 1) {
        let _ = write!(text, "; the one is element {at} of layer {layer}, position {pos} of {prompt}");
    }
    if non_finite > 0 {
        let _ = write!(text, "; {non_finite} are not finite");
    }
    if zero > 0 {
        let _ = write!(text, "; {zero} rows are all zero");
    }
    let gain = up / down;
    let left = (residual - (gain - 1.0).powi(2) * down).max(0.0);
    if gain.is_finite() && (gain - 1.0).abs() > 1e-9 && left < 0.01 * residual {
        let _ = write!(text, "; a constant factor of {} leaves a tenth or less of it", significant(gain));
    }
    text
}
