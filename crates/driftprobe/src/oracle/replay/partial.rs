//! Stages of which only some values are known: samples, beside payloads or other samples.
//!
//! A sample can show that a stage is at fault. It cannot show that it is clean, for that would take it for the whole; a hash
//! of the whole row can, where the row's exact values are known.

use crate::oracle::evaluate::Expectation;
use crate::oracle::float::Float;
use crate::oracle::judgement::{Outcome, Unjudged};
use crate::oracle::stage::Op;
use crate::oracle::stats::{CELL_CHANNELS, Derivatives, Expected, Limits};
use driftprobe_trace::{Dtype, Event, HashAlgo, Row, RowHash};
use half::{bf16, f16};

/// A row, and which of its values are known; the others are NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    pub values: Vec<f64>,
    pub known: Vec<bool>,
    /// Hash of the whole row.
    pub hash: Option<RowHash>,
    pub dtype: Dtype,
}

impl Partial {
    /// What an event shows of its row without payload. None where it does not tell the row's type and length, or
    /// contradicts itself.
    pub fn of(event: &Event) -> Option<Partial> {
        let dtype = event.dtype?;
        let len = usize::try_from(event.elements()?).ok()?;
        let mut partial = Partial { values: vec![f64::NAN; len], known: vec![false; len], hash: event.hash, dtype };
        let Some(sample) = &event.sample else { return Some(partial) };
        let first: Vec<u64> = (0..sample.values.len() as u64).collect();
        for (at, text) in sample.idx.as_ref().unwrap_or(&first).iter().zip(&sample.values) {
            let at = usize::try_from(*at).ok()?;
            let (value, known) = (partial.values.get_mut(at)?, partial.known.get_mut(at)?);
            if let Some(stored) = stored(*text, dtype) {
                (*value, *known) = (stored, true);
            }
        }
        Some(partial)
    }

    pub fn whole(values: Vec<f64>, dtype: Dtype) -> Partial {
        Partial { known: vec![true; values.len()], values, hash: None, dtype }
    }

    pub fn is_whole(&self) -> bool {
        self.known.iter().all(|known| *known)
    }

    /// Whether a value that is known is not finite: then the fault lies before.
    pub fn has_non_finite(&self) -> bool {
        self.values.iter().zip(&self.known).any(|(value, known)| *known && !value.is_finite())
    }
}

/// The stored value that a decimal number stands for; none if it has too few digits to tell it from its neighbours.
fn stored(text: f64, dtype: Dtype) -> Option<f64> {
    let (float, digits) = match dtype {
        Dtype::F64 => (Float::F64, 17),
        Dtype::F32 => (Float::F32, 9),
        Dtype::F16 => (Float::F16, 5),
        Dtype::Bf16 => (Float::Bf16, 4),
    };
    let rounded = float.round(text);
    let shown = format!("{text:e}");
    let shown = shown.split('e').next().unwrap_or_default().chars().filter(char::is_ascii_digit).count();
    (!text.is_finite() || rounded == text || shown >= digits).then_some(rounded)
}

/// Whether what is unknown of a stage's inputs leaves other values of its row known.
pub fn is_by_element(op: Op) -> bool {
    matches!(op, Op::Embed | Op::Copy | Op::Add | Op::Gated | Op::Rope)
}

/// Cuts an expectation down to the values that are known on both sides, and the row with it; none if there are none.
/// What the inputs leave unknown is NaN in the expectation, which whole inputs never make.
pub fn known_part(own: &Partial, expectation: Expectation, whole_inputs: bool) -> Option<(Vec<f64>, Expectation)> {
    let can_tell = |y: &f64| whole_inputs || !y.is_nan();
    let (at, cut) = match expectation {
        Expectation::Exact { candidates, judged } => {
            let is_judged = |i: usize| judged.is_empty() || judged.get(i).copied().unwrap_or(false);
            let tells = |i: usize| candidates.iter().all(|c| c.get(i).is_some_and(can_tell));
            let at: Vec<usize> =
                (0..own.values.len()).filter(|i| is_known(own, *i) && is_judged(*i) && tells(*i)).collect();
            let candidates = candidates.iter().map(|candidate| take(candidate, &at)).collect();
            (at, Expectation::Exact { candidates, judged: Vec::new() })
        }
        Expectation::Noisy(expected) => {
            let at: Vec<usize> = (0..own.values.len())
                .filter(|i| is_known(own, *i) && expected.y.get(*i).is_some_and(can_tell))
                .collect();
            let hidden = at.iter().map(|i| expected.hidden.get(*i).copied().unwrap_or(false)).collect();
            // An RMS over few values would need a wider limit: these are judged one by one.
            let limits = if at.len() < CELL_CHANNELS {
                Limits { rms: expected.limits.max, ..expected.limits }
            } else {
                expected.limits
            };
            let (y, variance) = (take(&expected.y, &at), take(&expected.variance, &at));
            let derivatives = Derivatives::default();
            (
                at,
                Expectation::Noisy(Expected {
                    y,
                    variance,
                    hidden,
                    limits,
                    derivatives,
                    cell: CELL_CHANNELS,
                    ..expected
                }),
            )
        }
    };
    (!at.is_empty()).then(|| (take(&own.values, &at), cut))
}

fn is_known(own: &Partial, at: usize) -> bool {
    own.known.get(at).copied().unwrap_or(false)
}

fn take(values: &[f64], at: &[usize]) -> Vec<f64> {
    at.iter().map(|i| values.get(*i).copied().unwrap_or(f64::NAN)).collect()
}

/// What a part of a row says of it: that it is at fault, or that nothing more can be said.
pub fn of_part(outcome: Outcome, (compared, values): (usize, usize), rest: Unjudged) -> Outcome {
    match outcome {
        fault if fault.is_fault() => fault,
        clean if clean.is_clean() => Outcome::Unjudged(Unjudged::OnlyPart { compared, values, rest: Box::new(rest) }),
        other => other,
    }
}

/// Whether the whole row's hash is that of one of the exact values that it may have.
pub fn has_hash_of(own: &Partial, expectation: &Expectation) -> bool {
    let Expectation::Exact { candidates, judged } = expectation else { return false };
    // The other hash takes in the first values only.
    let Some(hash) = own.hash.filter(|hash| judged.is_empty() && hash.algo == HashAlgo::Xxh3_64) else { return false };
    let row = |values: &Vec<f64>| Row::new(own.dtype, vec![values.len() as u64], bytes(values, own.dtype));
    let fits = candidates.iter().filter(|values| values.len() == own.values.len());
    fits.filter_map(|values| row(values).ok()).any(|row| row.hash(hash.algo) == hash)
}

/// Values that the type can hold, as it holds them.
fn bytes(values: &[f64], dtype: Dtype) -> Vec<u8> {
    let one = |value: &f64| match dtype {
        Dtype::F64 => value.to_le_bytes().to_vec(),
        Dtype::F32 => (*value as f32).to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f64(*value).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f64(*value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(values: &[f64], known: usize) -> Partial {
        let known = (0..values.len()).map(|at| at < known).collect();
        Partial { values: values.to_vec(), known, hash: None, dtype: Dtype::F32 }
    }

    fn exact(candidates: &[&[f64]], judged: &[bool]) -> Expectation {
        let candidates = candidates.iter().map(|values| values.to_vec()).collect();
        Expectation::Exact { candidates, judged: judged.to_vec() }
    }

    #[test]
    fn only_a_hash_of_the_whole_row_shows_that_all_of_it_is_exact() {
        let (values, other) = ([1.0, -2.5, 0.0], [1.0, -2.5, 3.0]);
        let row = Row::from_f32(&values.map(|value| value as f32));
        let has = |algo: Option<HashAlgo>, expectation: &Expectation| {
            has_hash_of(&Partial { hash: algo.map(|algo| row.hash(algo)), ..partial(&[f64::NAN; 3], 0) }, expectation)
        };
        let whole = Some(HashAlgo::Xxh3_64);
        assert!(has(whole, &exact(&[&values], &[])) && has(whole, &exact(&[&other, &values], &[])));
        assert!(
            !has(whole, &exact(&[&other], &[])) && !has(whole, &exact(&[], &[])) && !has(None, &exact(&[&values], &[]))
        );
        // Of a row of which some values are not judged the hash tells nothing, and GRETA's ends before the row does.
        assert!(!has(whole, &exact(&[&values], &[true; 3])) && !has(whole, &exact(&[&values[..2]], &[])));
        assert!(!has(Some(HashAlgo::GretaFnv1a256), &exact(&[&values], &[])));
        assert!(!has(Some(HashAlgo::GretaFnv1a256), &exact(&[&values], &[true; 3])));
    }

    #[test]
    fn few_values_are_judged_one_by_one_and_from_a_cell_on_by_their_rms_too() {
        let expected = |length: usize| Expected {
            y: vec![1.0; length],
            variance: vec![1.0; length],
            hidden: vec![],
            cell: 8,
            output: Float::F32,
            limits: Limits::PLAIN,
            derivatives: Derivatives::default(),
        };
        for (known, rms) in
            [(1, Limits::PLAIN.max), (31, Limits::PLAIN.max), (32, Limits::PLAIN.rms), (40, Limits::PLAIN.rms)]
        {
            let own = partial(&[1.0; 64], known);
            let (found, cut) = known_part(&own, Expectation::Noisy(expected(64)), true).unwrap();
            let Expectation::Noisy(cut) = cut else { panic!("{cut:?}") };
            assert_eq!((found.len(), cut.y.len(), cut.cell), (known, known, CELL_CHANNELS));
            assert_eq!(cut.limits, Limits { rms, ..Limits::PLAIN }, "{known}");
        }
        assert!(known_part(&partial(&[1.0; 64], 0), Expectation::Noisy(expected(64)), true).is_none());
    }

    #[test]
    fn what_is_known_and_finite_is_told_from_what_is_not() {
        let nan = [1.0, f64::NAN];
        assert!(partial(&nan, 2).is_whole() && !partial(&nan, 1).is_whole());
        assert!(partial(&nan, 2).has_non_finite() && !partial(&nan, 1).has_non_finite());
        assert!(partial(&[f64::INFINITY, 1.0], 1).has_non_finite() && !partial(&[1.0, 2.0], 2).has_non_finite());
    }
}
