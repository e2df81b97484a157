//! Weights that are stored as scale·q − minimum: integer kernels sum the two parts by themselves, and both are larger than
//! their difference. Q6_K is scale·(q − 32) with q from 0 to 63, and vector kernels keep scale·q and 32·scale in different
//! lanes, which meet only in the last sum.

use super::noise::sum_variance;
use driftprobe_model::{Weight, WeightDtype};
use half::f16;

/// The minima of a matrix, in the file's order.
pub struct Minima {
    /// Values that share a minimum.
    width: usize,
    /// Values a block, which is summed exactly.
    block: usize,
    /// `[outputs, inputs / width]`.
    values: Vec<f64>,
}

impl Minima {
    /// Of a matrix of Q2_K, Q4_K, Q5_K, Q6_K, Q4_1 or Q5_1; none of other types.
    pub fn of(weight: &Weight) -> Option<Minima> {
        let dtype = weight.dtype();
        let width = match dtype {
            WeightDtype::Q2_K | WeightDtype::Q6_K => 16,
            WeightDtype::Q4_K | WeightDtype::Q5_K | WeightDtype::Q4_1 | WeightDtype::Q5_1 => 32,
            _ => return None,
        };
        let (block, size) = dtype.block();
        let values = weight.bytes().chunks_exact(size).flat_map(|bytes| of_block(dtype, bytes)).collect();
        Some(Minima { width, block, values })
    }

    /// What the parts add to the variance of one output y of x, the squares of whose products sum to `squares`:
    /// that of the sums of both parts P₁ = y + P₂ and P₂ = Σ_b m_b·Σx over the blocks and 8 lanes, and, since the reference
    /// multiplies weights that were dequantised in f32, (cu)²[3Σ(xw)² + 2Σ(xm)² + 2Σ_b(m_bΣx)²].
    pub fn variance(&self, x: &[f64], (output, y): (usize, f64), squares: f64, cu: f64) -> f64 {
        let count = x.len() / self.width.max(1);
        let minima = self.values.get(output * count..(output + 1) * count).unwrap_or_default();
        let (mut whole, mut of_blocks, mut of_products) = (0.0, 0.0, 0.0);
        for (m, x) in minima.iter().zip(x.chunks_exact(self.width)) {
            let part = m * x.iter().sum::<f64>();
            whole += part;
            of_blocks += part * part;
            of_products += m * m * x.iter().map(|x| x * x).sum::<f64>();
        }
        let terms = x.len() as f64 / self.block as f64 + 8.0;
        let sums = sum_variance(terms, 2.0 * (squares + of_products), y.abs() + whole.abs(), cu);
        sums + cu * cu * (3.0 * squares + 2.0 * of_products + 2.0 * of_blocks)
    }
}

fn of_block(dtype: WeightDtype, bytes: &[u8]) -> Vec<f64> {
    let half = |at: usize| match bytes.get(at..at + 2) {
        Some([low, high]) => f16::from_le_bytes([*low, *high]).to_f64(),
        _ => f64::NAN,
    };
    match dtype {
        WeightDtype::Q2_K => {
            let dmin = half(82);
            bytes.iter().take(16).map(|scales| dmin * f64::from(scales >> 4)).collect()
        }
        WeightDtype::Q4_K | WeightDtype::Q5_K => {
            let dmin = half(2);
            let scales = bytes.get(4..16).unwrap_or_default();
            (0..8).map(|at| dmin * f64::from(six_bits(scales, at))).collect()
        }
        WeightDtype::Q6_K => {
            let d = half(208);
            let scales = bytes.get(192..208).unwrap_or_default();
            scales.iter().map(|scale| 32.0 * d * f64::from(scale.cast_signed())).collect()
        }
        _ => vec![half(2)],
    }
}

/// The minimum of sub-block `at` of 8, as Q4_K and Q5_K pack them.
fn six_bits(scales: &[u8], at: usize) -> u8 {
    let of = |at: usize| scales.get(at).copied().unwrap_or(0);
    if at < 4 { of(at + 4) & 63 } else { (of(at + 4) >> 4) | ((of(at) >> 6) << 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(dtype: WeightDtype, bytes: Vec<u8>, cols: usize) -> Weight {
        Weight::held("w", dtype, (1, cols), bytes).unwrap()
    }

    /// A block whose every q is 0 holds the minima themselves.
    fn expect_minima(dtype: WeightDtype, bytes: Vec<u8>, cols: usize) {
        let weight = weight(dtype, bytes, cols);
        let minima = Minima::of(&weight).unwrap();
        let values = weight.to_f32();
        for (at, value) in values.iter().enumerate() {
            let expected = minima.values[at / minima.width].abs();
            assert!((f64::from(value.abs()) - expected).abs() <= 1e-6 * expected, "{dtype:?} at {at}: {value}");
        }
        assert!(minima.values.iter().any(|m| *m != 0.0));
        assert!(minima.values.windows(2).any(|m| m[0] != m[1]) || cols == 32);
    }

    #[test]
    fn minima_are_those_of_the_dequantised_blocks() {
        let half = |x: f32| f16::from_f32(x).to_le_bytes();
        let scales: Vec<u8> = (0..12).map(|i| (i * 23 + 77) as u8).collect();
        let four = [&half(0.5)[..], &half(0.25), &scales, &[0; 128]].concat();
        expect_minima(WeightDtype::Q4_K, four, 256);
        let five = [&half(0.5)[..], &half(0.25), &scales, &[0; 32 + 128]].concat();
        expect_minima(WeightDtype::Q5_K, five, 256);
        let scales: Vec<u8> = (0..16).map(|i| (i * 31 + 19) as u8).collect();
        let two = [&scales[..], &[0; 64], &half(0.5), &half(0.25)].concat();
        expect_minima(WeightDtype::Q2_K, two, 256);
        let six = [&[0; 192][..], &scales, &half(0.5)].concat();
        expect_minima(WeightDtype::Q6_K, six, 256);
        expect_minima(WeightDtype::Q4_1, [&half(0.5)[..], &half(-0.75), &[0; 16]].concat(), 32);
    }

    #[test]
    fn types_without_minima_have_none() {
        assert!(Minima::of(&weight(WeightDtype::Q8_0, vec![0; 34], 32)).is_none());
    }
}
