//! The floating-point formats in which engines store and accumulate: precision, spacing, rounding.

use driftprobe_trace::Dtype;
use std::fmt;

/// From here on all f64 are integers.
const INTEGERS: f64 = (1u64 << 52) as f64;

/// A binary floating-point format. Ordered from coarse to fine by precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Float {
    /// bfloat16: 8 bits of precision.
    Bf16,
    /// IEEE binary16: 11 bits.
    F16,
    /// IEEE binary32: 24 bits.
    F32,
    /// IEEE binary64: 53 bits.
    F64,
}

impl Float {
    /// The format of a contract's or trace's name of it, in any of the spellings that engines use.
    pub fn parse(name: &str) -> Option<Float> {
        Dtype::parse(name).map(Float::of)
    }

    /// The format of a recorded dtype.
    pub const fn of(dtype: Dtype) -> Float {
        match dtype {
            Dtype::F64 => Float::F64,
            Dtype::F32 => Float::F32,
            Dtype::F16 => Float::F16,
            Dtype::Bf16 => Float::Bf16,
        }
    }

    /// Bits of precision, the hidden one included.
    pub const fn precision_bits(self) -> i32 {
        match self {
            Float::Bf16 => 8,
            Float::F16 => 11,
            Float::F32 => 24,
            Float::F64 => 53,
        }
    }

    /// Exponent of the smallest normal number.
    const fn exponent_min(self) -> i32 {
        match self {
            Float::F16 => -14,
            Float::Bf16 | Float::F32 => -126,
            Float::F64 => -1022,
        }
    }

    /// Largest finite number.
    pub fn largest(self) -> f64 {
        match self {
            Float::F16 => 65504.0,
            Float::Bf16 => (2.0 - 2f64.powi(-7)) * 2f64.powi(127),
            Float::F32 => f64::from(f32::MAX),
            Float::F64 => f64::MAX,
        }
    }

    /// u: largest relative error of rounding to nearest, 2^−precision.
    pub fn unit_roundoff(self) -> f64 {
        2f64.powi(-self.precision_bits())
    }

    /// Distance between neighbouring numbers at `y` (at 0: between the smallest). NaN for NaN and infinities.
    pub fn ulp(self, y: f64) -> f64 {
        if !y.is_finite() {
            return f64::NAN;
        }
        // The exponent field of a normal f64; subnormal f64 lie below every format's normal range.
        let exponent = ((y.abs().to_bits() >> 52) as i32 - 1023).max(self.exponent_min());
        let exponent = exponent - self.precision_bits() + 1;
        // 2^exponent, where that is a normal f64 by its exponent field alone.
        if exponent > -1023 { f64::from_bits(((exponent + 1023) as u64) << 52) } else { 2f64.powi(exponent) }
    }

    /// Rounds to nearest, ties to even; overflows to infinity.
    pub fn round(self, x: f64) -> f64 {
        if !x.is_finite() || self == Float::F64 {
            return x;
        }
        if self == Float::F32 {
            return f64::from(x as f32);
        }
        let ulp = self.ulp(x);
        // x/ulp is below 2^11: the sum has no bits left for a fraction, and is rounded to nearest, ties to even.
        let rounded = (((x / ulp).abs() + INTEGERS) - INTEGERS).copysign(x) * ulp;
        if rounded.abs() > self.largest() { f64::INFINITY.copysign(x) } else { rounded }
    }

    /// Rounds a value that is known to within ±`error`. The second number is by how far the result may be off: one ulp
    /// where the other side of a tie lies within reach, else 0.
    pub fn round_doubtful(self, x: f64, error: f64) -> (f64, f64) {
        let rounded = self.round(x);
        let alike = self.round(x - error) == rounded && self.round(x + error) == rounded;
        (rounded, if alike { 0.0 } else { self.ulp(x) })
    }

    /// Variance of a rounding error at `y` that is equally distributed over an ulp.
    pub fn rounding_variance(self, y: f64) -> f64 {
        let ulp = self.ulp(y);
        ulp * ulp / 12.0
    }
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Float::Bf16 => "bf16",
            Float::F16 => "f16",
            Float::F32 => "f32",
            Float::F64 => "f64",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// Values around everything that matters: zero, subnormals, ties, powers of two, overflow.
    fn values() -> Vec<f32> {
        let mut all = vec![0.0, 1.0, 1.5, 3.0e38, 65504.0, 65519.9, 65520.0, 1e-8, 6e-8, 1e-40, 3.3e-39];
        let mut x = 1.234_567e-9f32;
        while x < 1e9 {
            all.push(x);
            x *= 1.017;
        }
        all.iter().flat_map(|x| [*x, -*x]).collect()
    }

    #[test]
    fn rounding_is_that_of_the_half_crate_and_of_the_hardware() {
        for x in values() {
            assert_eq!(Float::Bf16.round(f64::from(x)), bf16::from_f32(x).to_f64(), "{x} to bf16");
            assert_eq!(Float::F16.round(f64::from(x)), f16::from_f32(x).to_f64(), "{x} to f16");
            let wide = f64::from(x) * 1.000_000_123_456;
            assert_eq!(Float::F32.round(wide), f64::from(wide as f32), "{wide} to f32");
        }
    }

    #[test]
    fn a_tie_goes_to_even_and_anything_above_it_upwards() {
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(Float::Bf16.round(tie), 1.0);
        assert_eq!(Float::Bf16.round(tie + 2f64.powi(-50)), 1.0 + 2f64.powi(-7));
        assert_eq!(Float::Bf16.round_doubtful(tie, 1e-9), (1.0, 2f64.powi(-7)));
        assert_eq!(Float::Bf16.round_doubtful(tie - 1e-6, 1e-9), (1.0, 0.0));
    }

    #[test]
    fn an_ulp_is_the_distance_to_the_next_number() {
        for x in values().into_iter().map(f32::abs) {
            assert_eq!(Float::F32.ulp(f64::from(x)), f64::from(x.next_up()) - f64::from(x), "{x}");
        }
        assert_eq!(Float::F16.ulp(0.0), 2f64.powi(-24));
        assert!(Float::F16.ulp(f64::NAN).is_nan());
    }
}
