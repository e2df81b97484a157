//! The measures of a span of tokens: two rows of logits a token, taken together.

use super::measure::top1;
use super::preset::Measure;
use crate::evidence::metrics::{kl_divergence, log_softmax, quantile};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The logits of one token in both phases.
#[derive(Clone, Copy, Debug)]
pub struct SpanRow<'a> {
    /// Prefill's.
    pub prefill: &'a [f64],
    /// Decode's.
    pub decode: &'a [f64],
    /// The token that follows; `None`: not known, decode's own choice is taken.
    pub next: Option<u32>,
    /// Where it stands, in words.
    pub place: &'a str,
}

/// A span as it is summed up. Its memory is a hundredth of its logits' if their number is known beforehand.
#[derive(Clone, Debug)]
pub struct Span {
    largest: Largest,
    tokens: u64,
    max_abs: Worst,
    kl: Worst,
    kls: Vec<f64>,
    k3: Worst,
    k3_sum: f64,
    agreeing: u64,
    first_parting: Option<String>,
    pp: f64,
    dd: f64,
    pd: f64,
    /// Whether rows of one token are of different length, or empty.
    odd: bool,
    /// The first row of each phase, and whether another one was seen.
    first: Option<[Vec<f64>; 2]>,
    varies: [bool; 2],
}

/// The worst of many values; NaN is worst, and stays.
#[derive(Clone, Debug, Default)]
struct Worst {
    value: f64,
    at: Option<String>,
}

impl Worst {
    fn add(&mut self, value: f64, at: &str) {
        if self.value.is_nan() {
            return;
        }
        if self.at.is_none() || value.is_nan() || value > self.value {
            (self.value, self.at) = (value, Some(at.to_owned()));
        }
    }
}

impl Span {
    /// A span of at most so many logits, all tokens together, if that is known.
    pub fn new(logits_max: Option<u64>) -> Span {
        Span {
            largest: Largest::new(logits_max),
            tokens: 0,
            max_abs: Worst::default(),
            kl: Worst::default(),
            kls: Vec::new(),
            k3: Worst::default(),
            k3_sum: 0.0,
            agreeing: 0,
            first_parting: None,
            pp: 0.0,
            dd: 0.0,
            pd: 0.0,
            odd: false,
            first: None,
            varies: [false; 2],
        }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Why equal rows say nothing here, if so: a phase whose rows are one and the same at every token, or all zero.
    pub fn vacuous(&self) -> Option<&'static str> {
        let first = self.first.as_ref()?;
        let zero = |row: &Vec<f64>| row.iter().all(|value| *value == 0.0);
        if first.iter().zip(self.varies).any(|(row, varies)| zero(row) && !varies) {
            return Some("a phase's logits are all zero");
        }
        let frozen = self.tokens > 1 && self.varies.contains(&false);
        frozen.then_some("a phase's logits are one and the same at every token")
    }

    /// Adds a token.
    pub fn add(&mut self, row: SpanRow<'_>) {
        let (p, d) = (row.prefill, row.decode);
        self.tokens += 1;
        self.odd |= p.len() != d.len() || p.is_empty();
        let mut max = 0.0f64;
        for (&p, &d) in p.iter().zip(d) {
            let apart = if p == d { 0.0 } else { (p - d).abs() };
            self.largest.add(apart);
            max = if apart.is_nan() || max.is_nan() { f64::NAN } else { max.max(apart) };
            if p.is_finite() || d.is_finite() || p != d {
                (self.pp, self.dd, self.pd) = (self.pp + p * p, self.dd + d * d, self.pd + p * d);
            }
        }
        self.max_abs.add(max, row.place);
        let kl = kl_divergence(p, d);
        self.kl.add(kl, row.place);
        self.kls.push(kl);
        let next = row.next.and_then(|next| usize::try_from(next).ok()).or_else(|| top1(d));
        let k3 = next.map_or(f64::NAN, |next| {
            let of = |row: &[f64]| log_softmax(row.iter().copied(), next);
            let delta = of(d) - of(p);
            delta.exp_m1() - delta
        });
        self.k3.add(k3, row.place);
        self.k3_sum += k3;
        let agrees = top1(p).is_some() && top1(p) == top1(d);
        self.agreeing += u64::from(agrees);
        if !agrees && self.first_parting.is_none() {
            self.first_parting = Some(row.place.to_owned());
        }
        match &self.first {
            None => self.first = Some([p.to_vec(), d.to_vec()]),
            Some([first_p, first_d]) => {
                self.varies = [self.varies[0] || first_p != p, self.varies[1] || first_d != d];
            }
        }
    }

    /// A measure of the span and where it is worst; NaN for no token, for rows of different length, and for measures of pairs.
    /// None where it cannot be told: of a percentile, if there were more logits than announced.
    pub fn measure(&self, measure: Measure) -> Option<(f64, Option<String>)> {
        if self.tokens == 0 || self.odd {
            return Some((f64::NAN, None));
        }
        let tokens = self.tokens as f64;
        Some(match measure {
            Measure::SpanP99Abs => (self.largest.p99()?, self.max_abs.at.clone()),
            Measure::SpanMaxAbs => (self.max_abs.value, self.max_abs.at.clone()),
            Measure::SpanTop1 => (self.agreeing as f64 / tokens, self.first_parting.clone()),
            Measure::SpanK3 => (self.k3_sum / tokens, self.k3.at.clone()),
            Measure::SpanMeanKl => (self.kls.iter().sum::<f64>() / tokens, self.kl.at.clone()),
            Measure::SpanP95Kl => (quantile_of(&self.kls, 0.95), self.kl.at.clone()),
            Measure::SpanCosine => (self.pd / (self.pp.sqrt() * self.dd.sqrt()), None),
            _ => (f64::NAN, None),
        })
    }
}

/// As [`quantile`], of values in any order; NaN if one is NaN.
fn quantile_of(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.iter().any(|value| value.is_nan()) { f64::NAN } else { quantile(&sorted, share) }
}

/// The largest hundredth of many values, so that the 99th percentile is exact without keeping them all.
#[derive(Clone, Debug)]
struct Largest {
    /// Values to keep.
    keep: Option<usize>,
    count: u64,
    nan: bool,
    /// Bits of values from 0 on, which are ordered as they are.
    kept: BinaryHeap<Reverse<u64>>,
}

/// How many of the largest of n values are needed to find the one of rank ⌈0.99·n⌉.
fn needed(n: u64) -> u64 {
    n / 100 + 1
}

impl Largest {
    fn new(max: Option<u64>) -> Largest {
        let keep = max.and_then(|max| usize::try_from(needed(max)).ok());
        Largest { keep, count: 0, nan: false, kept: BinaryHeap::new() }
    }

    fn add(&mut self, value: f64) {
        self.count += 1;
        self.nan |= value.is_nan();
        let bits = value.abs().to_bits();
        if self.keep.is_none_or(|keep| self.kept.len() < keep) {
            self.kept.push(Reverse(bits));
        } else if let Some(mut least) = self.kept.peek_mut()
            && least.0 < bits
        {
            *least = Reverse(bits);
        }
    }

    /// The value of rank ⌈0.99·n⌉; NaN if one is NaN, none if there is no value, or there were more than announced.
    fn p99(&self) -> Option<f64> {
        let rank = usize::try_from(needed(self.count)).ok()?;
        if self.nan {
            return Some(f64::NAN);
        }
        if self.count == 0 || self.keep.is_some_and(|keep| rank > keep) {
            return None;
        }
        let mut kept: Vec<u64> = self.kept.iter().map(|Reverse(bits)| *bits).collect();
        kept.sort_unstable_by(|one, other| other.cmp(one));
        kept.get(rank - 1).map(|bits| f64::from_bits(*bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: all values, sorted, and the one of rank ⌈0.99·n⌉.
    fn by_definition(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        let rank = (99 * values.len()).div_ceil(100);
        values[rank - 1]
    }

    #[test]
    fn the_kept_hundredth_gives_the_same_percentile_as_all_values() {
        for n in [1u64, 2, 99, 100, 101, 199, 200, 1000, 12_345] {
            let values: Vec<f64> = (0..n).map(|i| ((i * 7919 + 13) % 10_007) as f64 * 1e-5).collect();
            for max in [None, Some(n), Some(n + 57), Some(10 * n)] {
                let mut largest = Largest::new(max);
                values.iter().for_each(|value| largest.add(*value));
                assert_eq!(largest.p99(), Some(by_definition(values.clone())), "{n} {max:?}");
            }
        }
    }

    #[test]
    fn more_values_than_announced_or_a_nan_give_no_percentile() {
        let mut largest = Largest::new(Some(100));
        (0..1000).for_each(|i| largest.add(f64::from(i)));
        assert_eq!(largest.p99(), None);
        let mut largest = Largest::new(Some(1000));
        (0..1000).for_each(|i| largest.add(if i == 3 { f64::NAN } else { 0.0 }));
        assert!(largest.p99().is_some_and(f64::is_nan));
        assert_eq!(Largest::new(None).p99(), None);
    }

    #[test]
    fn quantiles_lie_between_ranks() {
        // numpy.quantile([1, 2, 4, 8], 0.95) = 7.4
        assert!((quantile_of(&[4.0, 1.0, 8.0, 2.0], 0.95) - 7.4).abs() < 1e-12);
        assert_eq!(quantile_of(&[3.0], 0.95), 3.0);
        assert!(quantile_of(&[], 0.95).is_nan() && quantile_of(&[1.0, f64::NAN], 0.95).is_nan());
        assert_eq!(quantile_of(&[f64::INFINITY, 1.0, f64::INFINITY], 0.95), f64::INFINITY);
    }

    #[test]
    fn a_span_of_one_frozen_row_is_vacuous_and_one_token_is_not() {
        let mut span = Span::new(None);
        let row = SpanRow { prefill: &[1.0, 2.0], decode: &[1.0, 2.0], next: None, place: "t0" };
        span.add(row);
        assert_eq!(span.vacuous(), None);
        span.add(SpanRow { prefill: &[1.0, 3.0], ..row });
        assert!(span.vacuous().is_some(), "decode's rows are frozen");
        span.add(SpanRow { decode: &[0.0, 3.0], ..row });
        assert_eq!(span.vacuous(), None);
        let mut zero = Span::new(None);
        zero.add(SpanRow { prefill: &[0.0, 0.0], decode: &[0.0, 0.0], ..row });
        assert!(zero.vacuous().is_some());
    }

    #[test]
    fn no_token_and_rows_of_other_length_have_no_measure() {
        let span = Span::new(None);
        assert!(span.measure(Measure::SpanMaxAbs).is_some_and(|(value, _)| value.is_nan()));
        let mut span = Span::new(None);
        span.add(SpanRow { prefill: &[1.0, 2.0], decode: &[1.0], next: None, place: "t0" });
        assert!(span.odd && span.measure(Measure::SpanTop1).is_some_and(|(value, _)| value.is_nan()));
    }
}
