//! The floating-point formats in which engines store and accumulate: precision, spacing, rounding.

use driftprobe_trace::Dtype;
use std::fmt;

/// A binary floating-point format. Ordered from coarse to fine by precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Float {
    /// 8-bit floating point with five bits of exponent (OCP OFP8): 3 bits of precision.
    E5M2,
    /// 8-bit floating point with four bits of exponent (OCP OFP8), saturating: 4 bits.
    E4M3,
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
        match name {
            "fp8_e4m3" | "f8_e4m3" | "e4m3" | "float8_e4m3fn" => Some(Float::E4M3),
            "fp8_e5m2" | "f8_e5m2" | "e5m2" | "float8_e5m2" => Some(Float::E5M2),
            other => Dtype::parse(other).map(Float::of),
        }
    }

    /// Name in a contract.
    pub const fn id(self) -> &'static str {
        match self {
            Float::E5M2 => "fp8_e5m2",
            Float::E4M3 => "fp8_e4m3",
            Float::Bf16 => "bf16",
            Float::F16 => "f16",
            Float::F32 => "f32",
            Float::F64 => "f64",
        }
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
            Float::E5M2 => 3,
            Float::E4M3 => 4,
            Float::Bf16 => 8,
            Float::F16 => 11,
            Float::F32 => 24,
            Float::F64 => 53,
        }
    }

    /// Exponent of the smallest normal number.
    const fn exponent_min(self) -> i32 {
        match self {
            Float::E4M3 => -6,
            Float::F16 | Float::E5M2 => -14,
            Float::Bf16 | Float::F32 => -126,
            Float::F64 => -1022,
        }
    }

    /// Largest finite number.
    pub fn largest(self) -> f64 {
        match self {
            Float::E5M2 => 57344.0,
            Float::E4M3 => 448.0,
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
        power_of_two(exponent - self.precision_bits() + 1)
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
        // Adding and taking away 1.5·2^52 rounds to an integer, ties to even.
        const TO_INTEGER: f64 = 6_755_399_441_055_744.0;
        let rounded = (x / ulp + TO_INTEGER - TO_INTEGER) * ulp;
        if rounded.abs() <= self.largest() {
            return rounded;
        }
        // Engines saturate where the format has no infinity.
        if self == Float::E4M3 { self.largest().copysign(x) } else { f64::INFINITY.copysign(x) }
    }

    /// Rounds a value that is known to within ±`error`. The second number is by how far the result may be off: 0, or where
    /// the other side of a tie lies within reach one ulp, or half of `error` if that is more.
    pub fn round_doubtful(self, x: f64, error: f64) -> (f64, f64) {
        let rounded = self.round(x);
        let alike = self.round(x - error) == rounded && self.round(x + error) == rounded;
        (rounded, if alike { 0.0 } else { self.ulp(x).max(error / 2.0) })
    }

    /// Variance of a rounding error at `y` that is equally distributed over an ulp.
    pub fn rounding_variance(self, y: f64) -> f64 {
        let ulp = self.ulp(y);
        ulp * ulp / 12.0
    }
}

/// 2^exponent.
fn power_of_two(exponent: i32) -> f64 {
    match u64::try_from(exponent + 1023) {
        Ok(biased @ 1..=2046) => f64::from_bits(biased << 52),
        _ => 2f64.powi(exponent),
    }
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
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
