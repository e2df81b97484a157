//! The measures of two rows of one length. Differences are taken and summed in f64.
//!
//! Infinities of one sign at the same place count as equal and are left out of sums; any other value that is not finite makes
//! every measure NaN, which passes no limit.

use super::preset::Measure;
use driftprobe_trace::Dtype;

/// rtol and atol of `torch.testing.assert_close` by storage type.
pub const fn assert_close_tolerances(dtype: Dtype) -> (f64, f64) {
    match dtype {
        Dtype::F64 => (1e-7, 1e-7),
        Dtype::F32 => (1.3e-6, 1e-5),
        Dtype::F16 => (1e-3, 1e-5),
        Dtype::Bf16 => (1.6e-2, 1e-5),
    }
}

/// Absolute and relative tolerance of Polygraphy.
const POLYGRAPHY: f64 = 1e-5;

/// Sums over two rows: p, the reference, and d.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    n: f64,
    p: f64,
    pp: f64,
    dd: f64,
    pd: f64,
    /// Σ(p − d)².
    apart: f64,
    /// max |p − d|.
    max: f64,
    differing: u64,
    /// Whether a value is not finite where the other is not the same.
    odd: bool,
}

impl Sums {
    fn of(p: &[f64], d: &[f64]) -> Sums {
        let mut sums = Sums { odd: p.len() != d.len() || p.is_empty(), ..Sums::default() };
        for (&p, &d) in p.iter().zip(d) {
            sums.differing += u64::from(p.to_bits() != d.to_bits());
            if p == d && !p.is_finite() {
                continue;
            }
            let apart = (p - d).abs();
            sums.odd |= !apart.is_finite();
            sums.n += 1.0;
            sums.p += p;
            sums.pp += p * p;
            sums.dd += d * d;
            sums.pd += p * d;
            sums.apart += apart * apart;
            sums.max = sums.max.max(apart);
        }
        sums
    }

    /// A part of a whole; of a whole of zero, 0 for no part and ∞ for any.
    fn ratio(part: f64, whole: f64) -> f64 {
        match whole > 0.0 {
            true => part / whole,
            false if part == 0.0 => 0.0,
            false => f64::INFINITY,
        }
    }

    fn cosine(&self) -> f64 {
        let (ours, theirs) = (self.pp.sqrt(), self.dd.sqrt());
        // Two rows of zeros are equal; one of zeros has no direction.
        if ours > 0.0 && theirs > 0.0 { self.pd / (ours * theirs) } else { f64::from(u8::from(ours == theirs)) }
    }

    /// Σ(p − mean)² / n, about the mean, which loses no digits to it.
    fn variance(&self, p: &[f64]) -> f64 {
        let mean = self.p / self.n;
        p.iter().filter(|p| p.is_finite()).map(|p| (p - mean) * (p - mean)).sum::<f64>() / self.n
    }
}

/// The largest |p − d|/tolerance(p); at most 1 exactly where every difference is within its tolerance.
fn largest_share(p: &[f64], d: &[f64], tolerance: impl Fn(f64) -> f64) -> f64 {
    let mut largest = 0.0f64;
    for (&p, &d) in p.iter().zip(d) {
        if p == d {
            continue;
        }
        let (apart, tolerance) = ((p - d).abs(), tolerance(p));
        let share = apart / tolerance;
        // Division rounds: which side of 1 it is on is what the comparison says.
        largest = largest.max(if apart <= tolerance { share.min(1.0) } else { share.max(1f64.next_up()) });
    }
    largest
}

/// Index of the largest value, the first of equal ones; NaN is never it.
pub fn top1(row: &[f64]) -> Option<usize> {
    let mut top: Option<(usize, f64)> = None;
    for (at, value) in row.iter().enumerate() {
        if top.map_or(!value.is_nan(), |(_, best)| *value > best) {
            top = Some((at, *value));
        }
    }
    top.map(|(at, _)| at)
}

/// A measure of a pair of rows: p prefill's (the reference), d decode's. NaN where the rows are of different length, empty, or
/// not finite. Measures of spans and of attention are NaN here.
pub fn of_rows(measure: Measure, dtype: Dtype, p: &[f64], d: &[f64]) -> f64 {
    Rows::new(dtype, p, d).measure(measure)
}

/// Two rows, and what is summed over them once.
pub struct Rows<'a> {
    dtype: Dtype,
    p: &'a [f64],
    d: &'a [f64],
    sums: Sums,
}

impl<'a> Rows<'a> {
    /// Sums two rows up.
    pub fn new(dtype: Dtype, p: &'a [f64], d: &'a [f64]) -> Rows<'a> {
        Rows { dtype, p, d, sums: Sums::of(p, d) }
    }

    /// Any of the measures of a pair.
    pub fn measure(&self, measure: Measure) -> f64 {
        let (sums, p, d) = (&self.sums, self.p, self.d);
        if sums.odd {
            return f64::NAN;
        }
        match measure {
            Measure::Differing => sums.differing as f64,
            Measure::AssertClose => {
                let (rtol, atol) = assert_close_tolerances(self.dtype);
                largest_share(p, d, |p| atol + rtol * p.abs())
            }
            Measure::AbsOrRel => largest_share(p, d, |p| POLYGRAPHY * p.abs().max(1.0)),
            Measure::Nmse => Sums::ratio(sums.apart, sums.pp),
            Measure::MseOverVariance => Sums::ratio(sums.apart / sums.n.max(1.0), sums.variance(p)),
            Measure::Unlikeness if sums.pp + sums.dd > 0.0 => 1.0 - 2.0 * sums.pd / (sums.pp + sums.dd),
            Measure::Unlikeness => 0.0,
            Measure::Cosine => sums.cosine(),
            Measure::MaxAbs => sums.max,
            Measure::RelL2 => Sums::ratio(sums.apart.sqrt(), sums.pp.sqrt()),
            Measure::Top1 => f64::from(u8::from(top1(p) == top1(d))),
            Measure::SpanP99Abs
            | Measure::SpanMaxAbs
            | Measure::SpanTop1
            | Measure::SpanK3
            | Measure::SpanMeanKl
            | Measure::SpanP95Kl
            | Measure::SpanCosine
            | Measure::Attention => f64::NAN,
        }
    }
}
