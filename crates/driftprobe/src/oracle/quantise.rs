//! The quantisers of activations, bit for bit as candle (and ggml's reference code) have them: integer kernels multiply
//! what these give, so the oracle must too.
//!
//! | name | block | scale | stored | for weights |
//! |---|---|---|---|---|
//! | `q8_0` | 32 | max abs(x) / 127 | f16 | Q4_0, Q5_0, Q8_0 |
//! | `q8_1` | 32 | the same, and s = d·Σq in f16 for the weights' minima | f16 | Q4_1, Q5_1 |
//! | `q8_1_ggml` | 32 | the same | the same, s rounded once | Q4_1, Q5_1 |
//! | `q8_k` | 256 | −x_max / 127, x_max being the largest by magnitude | f32 | Q2_K … Q6_K |
//!
//! Integers are round(x·1/d), the division in f32, halves away from zero. ggml's vector code has x·(127/max) and rounds halves
//! to even: where that gives another integer, [`Quantised::doubts`] says so.

use super::float::Float;
use driftprobe_model::WeightDtype;
use half::f16;

/// A quantiser of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantiser {
    /// Blocks of 32 with an f16 scale.
    Q8_0,
    /// The same with the block's sum, also in f16.
    Q8_1,
    /// As `Q8_1`, the block's sum being d·Σq with the scale as it was before it was rounded, and rounded once.
    Q8_1Ggml,
    /// Blocks of 256 with an f32 scale.
    Q8K,
}

impl Quantiser {
    /// The quantiser that integer kernels use for weights of this type; none for floats.
    pub fn of(weights: WeightDtype) -> Option<Quantiser> {
        Some(match weights {
            WeightDtype::F32 | WeightDtype::F16 | WeightDtype::Bf16 => return None,
            WeightDtype::Q4_0 | WeightDtype::Q5_0 | WeightDtype::Q8_0 => Quantiser::Q8_0,
            WeightDtype::Q4_1 | WeightDtype::Q5_1 => Quantiser::Q8_1,
            _ => Quantiser::Q8K,
        })
    }

    /// The quantiser of this name.
    pub fn parse(name: &str) -> Option<Quantiser> {
        use Quantiser::*;
        [Q8_0, Q8_1, Q8_1Ggml, Q8K].into_iter().find(|q| q.id() == name)
    }

    /// Of those that integer kernels may use for weights of this type, the one that a contract names.
    pub fn named(weights: WeightDtype, names: &[&str]) -> Option<Quantiser> {
        let own = Quantiser::of(weights)?;
        let other = (own == Quantiser::Q8_1).then_some(Quantiser::Q8_1Ggml);
        [Some(own), other].into_iter().flatten().find(|q| names.contains(&q.id()))
    }

    /// Name in a contract.
    pub const fn id(self) -> &'static str {
        match self {
            Quantiser::Q8_0 => "q8_0",
            Quantiser::Q8_1 => "q8_1",
            Quantiser::Q8_1Ggml => "q8_1_ggml",
            Quantiser::Q8K => "q8_k",
        }
    }

    /// Products that an integer kernel sums exactly before it rounds, for weights of this type: a block of 32 at least, of
    /// 16 in effect where the minima are summed apart, since both parts are larger than their difference.
    pub const fn products_a_rounding(weights: WeightDtype) -> f64 {
        match weights {
            WeightDtype::Q2_K | WeightDtype::Q4_K | WeightDtype::Q5_K => 16.0,
            _ => 32.0,
        }
    }

    /// Values a block.
    pub const fn block(self) -> usize {
        match self {
            Quantiser::Q8_0 | Quantiser::Q8_1 | Quantiser::Q8_1Ggml => 32,
            Quantiser::Q8K => 256,
        }
    }

    /// What the integer kernel multiplies for x `[inputs]`, as values: q·d, exact in f64.
    pub fn apply(self, x: &[f64]) -> Quantised {
        let mut quantised = Quantised::default();
        for block in x.chunks(self.block()) {
            let block: Vec<f32> = block.iter().map(|x| *x as f32).collect();
            let [first, second] = match self {
                Quantiser::Q8K => eight_bits_signed(&block),
                _ => eight_bits(&block),
            };
            let scale = first.scale;
            quantised.values.extend(first.integers.iter().map(|q| f64::from(*q) * scale));
            let doubt = |(a, b): (&i32, &i32)| f64::from(a - b) * scale;
            quantised.doubts.extend(first.integers.iter().zip(&second.integers).map(doubt));
            // candle multiplies the rounded sum by the rounded scale in f16; ggml rounds once.
            let sum = f64::from(first.integers.iter().sum::<i32>());
            let stored = match self {
                Quantiser::Q8_1 => Float::F16.round(Float::F16.round(sum) * scale),
                Quantiser::Q8_1Ggml => Float::F16.round(Float::F32.round(sum * first.before)),
                Quantiser::Q8_0 | Quantiser::Q8K => continue,
            };
            quantised.sum_errors.push(stored - sum * scale);
        }
        quantised
    }
}

/// Quantised activations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantised {
    /// q·d: `[inputs]`.
    pub values: Vec<f64>,
    /// By how much another legitimate order of the division would have given another integer; 0 almost everywhere:
    /// `[inputs]`.
    pub doubts: Vec<f64>,
    /// By how much the stored sum of a block is off Σq·d (`q8_1` and `q8_1_ggml`): `[blocks]`.
    pub sum_errors: Vec<f64>,
}

impl Quantised {
    /// What the sums' errors add to each output of a weight of these blocks, `row_size_bytes` an output: Σ_b m_b·error_b.
    /// Empty if nothing.
    pub fn shifts(&self, dtype: WeightDtype, weight: &[u8], row_size_bytes: usize) -> Vec<f64> {
        if self.sum_errors.iter().all(|e| *e == 0.0) {
            return Vec::new();
        }
        // Q4_1 and Q5_1 blocks begin with d and m, both f16.
        let minimum = |block: &[u8]| match block {
            [_, _, low, high, ..] => f16::from_le_bytes([*low, *high]).to_f64(),
            _ => f64::NAN,
        };
        let blocks = |row: &[u8]| row.chunks(dtype.block().1).map(minimum).collect::<Vec<f64>>();
        let shift = |row: &[u8]| blocks(row).iter().zip(&self.sum_errors).map(|(m, e)| m * e).sum();
        weight.chunks(row_size_bytes.max(1)).map(shift).collect()
    }
}

/// A block as integers and their scale, as stored and before it was rounded for storage.
struct Integers {
    integers: Vec<i32>,
    scale: f64,
    before: f64,
}

/// x·1/(max/127) with halves away from zero, as reference code has it, and x·(127/max) with halves to even, as vector code
/// has it.
fn eight_bits(block: &[f32]) -> [Integers; 2] {
    let largest = block.iter().fold(0f32, |m, x| m.max(x.abs()));
    let scale = largest / 127.0;
    let inverses = if scale != 0.0 { [1.0 / scale, 127.0 / largest] } else { [0.0; 2] };
    let stored = f16::from_f32(scale).to_f64();
    let of = |integers| Integers { integers, scale: stored, before: f64::from(scale) };
    [
        of(block.iter().map(|x| i32::from((x * inverses[0]).round() as i8)).collect()),
        of(block.iter().map(|x| i32::from((x * inverses[1]).round_ties_even() as i8)).collect()),
    ]
}

/// −127/max·x with halves away from zero, and to even.
fn eight_bits_signed(block: &[f32]) -> [Integers; 2] {
    let largest = block.iter().fold(0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
    let inverse = if largest != 0.0 { -127.0 / largest } else { 0.0 };
    let scale = if largest != 0.0 { f64::from(1.0 / inverse) } else { 0.0 };
    let of = |round: fn(f32) -> f32| Integers {
        integers: block.iter().map(|x| round(inverse * x).clamp(-128.0, 127.0) as i32).collect(),
        scale,
        before: scale,
    };
    [of(f32::round), of(f32::round_ties_even)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eight_bit_block_keeps_its_largest_value_to_the_scales_rounding() {
        let x: Vec<f64> = (0..32).map(|i| f64::from((i as f32 - 15.0) / 10.0)).collect();
        let quantised = Quantiser::Q8_0.apply(&x);
        // max is 1.6: d = f16(1.6/127) and q = 127.
        assert_eq!(quantised.values[31], 127.0 * f16::from_f32(1.6 / 127.0).to_f64());
        assert!(quantised.values.iter().zip(&x).all(|(q, x)| (q - x).abs() <= 0.0063 + 2e-5));
        assert_eq!(quantised.values[15], 0.0);
    }

    #[test]
    fn a_half_rounds_away_from_zero() {
        let mut x = vec![0.0; 32];
        (x[0], x[1], x[2]) = (127.0, 0.5, -1.5);
        assert_eq!(Quantiser::Q8_0.apply(&x).values[..3], [127.0, 1.0, -2.0]);
    }

    #[test]
    fn a_k_block_scales_by_its_signed_largest_value() {
        let mut x = vec![0.0; 256];
        (x[0], x[1]) = (254.0, -3.0);
        // −127/254 = −½: q = −127 and round(1.5) = 2, d = −2.
        assert_eq!(Quantiser::Q8K.apply(&x).values[..3], [254.0, -4.0, 0.0]);
        assert!(Quantiser::Q8K.apply(&[0.0; 256]).values.iter().all(|v| *v == 0.0));
    }
}
