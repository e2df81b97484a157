//! The emulated quantisers against candle's own integer kernels, for every block format.

use crate::oracle_support::Dice;
use candle_core::quantized::{GgmlType, k_quants::*};
use driftprobe::oracle::Float;
use driftprobe::oracle::noise::{ordered_sum_variance, relative_rms};
use driftprobe::oracle::quantise::Quantiser;
use driftprobe_model::WeightDtype;

const INPUTS: usize = 1024;
const OUTPUTS: usize = 32;
const ROWS: usize = 20;

fn uniform(dice: &mut Dice) -> f32 {
    (dice.next() >> 40) as f32 / (1u64 << 24) as f32 - 0.5
}

/// RMS and largest z of candle's products of quantised weights, and of the same against activations that were not quantised.
fn compare<T: GgmlType>(dtype: WeightDtype) -> (f64, f64, f64) {
    let mut dice = Dice(dtype as u64);
    let dense: Vec<f32> = (0..INPUTS * OUTPUTS).map(|_| uniform(&mut dice) * uniform(&mut dice) + 0.05).collect();
    let mut blocks: Vec<T> = vec![T::zeros(); dense.len() / T::BLCK_SIZE];
    T::from_float(&dense, &mut blocks);
    let mut weights = vec![0f32; dense.len()];
    T::to_float(&blocks, &mut weights);
    // SAFETY: the blocks are plain `repr(C)` data without padding, of which every byte may be read.
    let bytes = unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), size_of_val(blocks.as_slice())) };
    let quantiser = Quantiser::of(dtype).unwrap();
    let (mut squares, mut largest, mut unquantised) = (0.0, 0f64, 0.0);
    for _ in 0..ROWS {
        let x: Vec<f32> = (0..INPUTS).map(|_| uniform(&mut dice) * 8.0 * uniform(&mut dice)).collect();
        let mut y = vec![0f32; OUTPUTS];
        matmul::<T>((1, INPUTS, OUTPUTS), &x, &blocks, &mut y).unwrap();
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let quantised = quantiser.apply(&x);
        let shifts = quantised.shifts(dtype, bytes, bytes.len() / OUTPUTS);
        for (out, found) in y.iter().enumerate() {
            let w = &weights[out * INPUTS..(out + 1) * INPUTS];
            let products = |x: &[f64]| x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).collect::<Vec<f64>>();
            let products_of_quantised = products(&quantised.values);
            let sum: f64 = products_of_quantised.iter().sum::<f64>() + shifts.get(out).copied().unwrap_or(0.0);
            let square: f64 = products_of_quantised.iter().map(|p| p * p).sum();
            let terms = INPUTS as f64 / Quantiser::products_a_rounding(dtype);
            let variance = ordered_sum_variance(terms, square, (sum, 0.0), relative_rms(Float::F32));
            let sigma = (variance + Float::F32.rounding_variance(sum)).sqrt();
            let z = (f64::from(*found) - sum) / sigma;
            squares += z * z;
            largest = largest.max(z.abs());
            unquantised += ((f64::from(*found) - products(&x).iter().sum::<f64>()) / sigma).powi(2);
        }
    }
    let count = (ROWS * OUTPUTS) as f64;
    ((squares / count).sqrt(), largest, (unquantised / count).sqrt())
}

#[test]
fn candles_integer_kernels_multiply_what_the_emulated_quantisers_give() {
    let all = [
        (WeightDtype::Q4_0, compare::<BlockQ4_0>(WeightDtype::Q4_0)),
        (WeightDtype::Q4_1, compare::<BlockQ4_1>(WeightDtype::Q4_1)),
        (WeightDtype::Q5_0, compare::<BlockQ5_0>(WeightDtype::Q5_0)),
        (WeightDtype::Q5_1, compare::<BlockQ5_1>(WeightDtype::Q5_1)),
        (WeightDtype::Q8_0, compare::<BlockQ8_0>(WeightDtype::Q8_0)),
        (WeightDtype::Q2_K, compare::<BlockQ2K>(WeightDtype::Q2_K)),
        (WeightDtype::Q3_K, compare::<BlockQ3K>(WeightDtype::Q3_K)),
        (WeightDtype::Q4_K, compare::<BlockQ4K>(WeightDtype::Q4_K)),
        (WeightDtype::Q5_K, compare::<BlockQ5K>(WeightDtype::Q5_K)),
        (WeightDtype::Q6_K, compare::<BlockQ6K>(WeightDtype::Q6_K)),
    ];
    for (dtype, (rms, largest, unquantised)) in all {
        println!("| {} | {rms:.2} | {largest:.2} | {unquantised:.0} |", dtype.id());
    }
    for (dtype, (rms, largest, unquantised)) in all {
        assert!(rms <= 1.2 && largest <= 10.0, "{}: RMS z {rms}, largest {largest}", dtype.id());
        // Without the quantiser the same products are far outside.
        assert!(unquantised > 100.0, "{}: {unquantised}", dtype.id());
    }
}
