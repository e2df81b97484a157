//! Values of both phases at the first failure: those that are furthest apart.

use crate::evidence::view::View;
use crate::evidence::{Side, sampled};
use crate::judge::JudgedPair;
use driftprobe_trace::Rows;

/// Values that are kept.
const VALUES_MAX: usize = 12;

/// Values of one pair of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstValues {
    /// The values that are furthest apart, in the order of their indices; a NaN counts as further than anything.
    pub values: Vec<Value>,
    /// How many both sides have.
    pub of: u64,
    /// Whether only samples of the rows were recorded.
    pub sampled: bool,
}

/// One value in both phases, in the tensor's own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// Its index in prefill's row.
    pub index: u64,
    /// Prefill's.
    pub prefill: f64,
    /// Decode's.
    pub decode: f64,
}

impl Value {
    /// decode − prefill; 0 where both are the same infinity.
    pub fn difference(&self) -> f64 {
        if self.prefill == self.decode { 0.0 } else { self.decode - self.prefill }
    }

    /// By which values are chosen: NaN is larger than anything.
    fn weight(&self) -> f64 {
        let size = self.difference().abs();
        if size.is_nan() { f64::INFINITY } else { size }
    }
}

impl FirstValues {
    /// Of a pair; none if no value of both sides is known.
    pub fn of(pair: &JudgedPair, rows: &dyn Rows) -> Option<FirstValues> {
        let (prefill, decode) = (Side::load(&pair.prefill, rows), Side::load(&pair.decode, rows));
        let whole = prefill.row.as_ref().zip(decode.row.as_ref()).and_then(|(ours, theirs)| {
            let view = View::of(&prefill, &decode);
            view.pairs_of_values(ours, theirs)
        });
        let known = whole.is_some();
        let all = whole.unwrap_or_else(|| sampled(&pair.prefill, &pair.decode));
        let of = all.len() as u64;
        let value = |(index, prefill, decode)| Value { index, prefill, decode };
        let mut values: Vec<Value> = all.into_iter().map(value).collect();
        values.sort_by(|a, b| b.weight().total_cmp(&a.weight()).then(a.index.cmp(&b.index)));
        values.truncate(VALUES_MAX);
        values.sort_by_key(|value| value.index);
        (of > 0).then_some(FirstValues { values, of, sampled: !known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Options, analyze};
    use crate::testing::{Memory, event};
    use driftprobe_trace::{Phase, Point, Row, Sample};

    /// What is kept of two rows, by payload or by their first three values.
    fn kept(prefill: &[f32], decode: &[f32], payload: bool) -> Option<FirstValues> {
        let mut memory = Memory::default();
        for (phase, values) in [(Phase::Prefill, prefill), (Phase::Decode, decode)] {
            memory.record(event("p", phase, Point::AttnOut, 0, 2, 5), Row::from_f32(values));
        }
        for (event, values) in memory.run.events.iter_mut().zip([prefill, decode]).filter(|_| !payload) {
            event.payload = None;
            event.sample =
                Some(Sample { values: values.iter().take(3).map(|value| f64::from(*value)).collect(), idx: None });
        }
        analyze(&memory.run, &memory, Options::default()).first_values
    }

    #[test]
    fn those_furthest_apart_are_kept_in_the_order_of_their_indices() {
        let prefill: Vec<f32> = (0..40).map(|n| n as f32).collect();
        let decode: Vec<f32> =
            prefill.iter().map(|n| if (*n as u32).is_multiple_of(3) { n + n / 8.0 } else { *n }).collect();
        let got = kept(&prefill, &decode, true).unwrap();
        let indices: Vec<u64> = got.values.iter().map(|value| value.index).collect();
        assert_eq!(indices, [6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39]);
        assert_eq!((got.values[11].difference(), got.of, got.sampled), (39.0 / 8.0, 40, false));
    }

    #[test]
    fn a_nan_is_further_than_anything() {
        let (mut prefill, decode) = ([0.0f32; 20], [1e30f32; 20]);
        prefill[17] = f32::NAN;
        let got = kept(&prefill, &decode, true).unwrap();
        assert!(got.values.iter().any(|value| value.index == 17 && value.prefill.is_nan()));
    }

    #[test]
    fn samples_stand_in_for_payloads() {
        let got = kept(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.5, 3.0, 4.0], false).unwrap();
        assert_eq!((got.of, got.sampled), (3, true));
        assert_eq!(got.values[1], Value { index: 1, prefill: 2.0, decode: 2.5 });
    }

    #[test]
    fn rows_that_agree_have_no_first_failure() {
        assert_eq!(kept(&[1.0, 2.0], &[1.0, 2.0], true), None);
    }
}
