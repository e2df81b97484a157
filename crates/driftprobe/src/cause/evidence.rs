//! What is known of a fault that no hypothesis explains.

use super::rope::significant;
use super::trial::Expect;
use crate::oracle::evaluate::Expectation;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use crate::oracle::stats::{exceeds, is_masked};
use std::fmt::Write;

/// How often the mask is another than it should be, and what probabilities sum up to.
#[derive(Default)]
struct Masks {
    hidden: usize,
    shown: usize,
    sums: Option<(f64, f64)>,
}

impl Masks {
    fn add(&mut self, case: &Case, expectation: &Expectation) {
        let Expectation::Noisy(expected) = expectation else { return };
        let is_probs = matches!(case.op, Op::Softmax | Op::ScoresSoftmax);
        for (recorded, hidden) in case.recorded.iter().zip(&expected.hidden) {
            let is_hidden = if is_probs { *recorded == 0.0 } else { is_masked(*recorded) };
            self.shown += usize::from(*hidden && !is_hidden);
            // A probability may be 0 by itself.
            self.hidden += usize::from(!hidden && is_hidden && !is_probs);
        }
        if is_probs {
            let sums = case.recorded.chunks(expected.cell.max(1)).map(|head| head.iter().sum::<f64>());
            let (low, high) = self.sums.unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
            self.sums = Some(sums.fold((low, high), |(low, high), sum| (low.min(sum), high.max(sum))));
        }
    }

    fn any(&self) -> bool {
        self.hidden + self.shown > 0
    }

    fn write(&self, text: &mut String) {
        if self.hidden > 0 {
            let _ = write!(text, "; {} keys that should be seen are hidden", self.hidden);
        }
        if self.shown > 0 {
            let _ = write!(text, "; {} keys that should be hidden are seen", self.shown);
        }
        if let Some((low, high)) = self.sums.filter(|(low, high)| !(*low > 0.95 && *high < 1.05)) {
            let (low, high) = (significant(low), significant(high));
            let _ = write!(text, "; the probabilities of a head sum up to {low} at least and {high} at most");
        }
    }
}

/// |z| above which an element counts as off.
const OFF: f64 = 8.0;

/// In words: how much is off, where, and whether it is a constant factor.
pub(super) fn evidence(cases: &[Case], clean: &Expect<'_>) -> String {
    let (mut off, mut all, mut largest, mut first) = (0usize, 0usize, 0f64, None);
    let (mut up, mut down, mut residual) = (0.0, 0.0, 0.0);
    let (mut non_finite, mut zero) = (0usize, 0usize);
    let mut mask = Masks::default();
    for case in cases {
        let Ok(expectation) = clean(case) else { continue };
        mask.add(case, &expectation);
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
            if !y.is_finite() || is_masked(*recorded) {
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
    let (rows, most) = (cases.len(), significant(largest));
    let mut text = match off {
        0 if mask.any() => format!("no value in {rows} rows is off"),
        0 => format!("none of {all} values in {rows} rows is off by itself, together they are; by {most} at most"),
        _ => format!("{off} of {all} values in {rows} rows are off, by {most} at most"),
    };
    if let Some((prompt, pos, layer, at)) = first.filter(|_| off == 1) {
        let _ = write!(text, "; the one is element {at} of layer {layer}, position {pos} of {prompt}");
    }
    if non_finite > 0 {
        let _ = write!(text, "; {non_finite} are not finite");
    }
    if zero > 0 {
        let _ = write!(text, "; {zero} rows are all zero");
    }
    mask.write(&mut text);
    let gain = up / down;
    let left = (residual - (gain - 1.0).powi(2) * down).max(0.0);
    if gain.is_finite() && (gain - 1.0).abs() > 1e-9 && left < 0.01 * residual {
        let _ = write!(text, "; a constant factor of {} leaves a tenth or less of it", significant(gain));
    }
    text
}
