//! x·(mean(x²) + ε)^−½·w (RMSNorm, arXiv 1910.07467), over a row or over each head of it.

use crate::Weight;

/// A norm's weight in f64, Gemma's one added where `plus_one` says so: `[width]`.
pub fn norm_weight(weight: &Weight, plus_one: bool) -> Vec<f64> {
    let one = if plus_one { 1.0 } else { 0.0 };
    weight.to_f32().iter().map(|w| f64::from(*w) + one).collect()
}

/// x `[width]` by weight `[width]`. Slices of unequal length are cut to the shorter.
pub fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * factor * w).collect()
}

/// Each head of x `[heads, head_dim]` by weight `[head_dim]`.
pub fn rms_norm_heads(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    x.chunks(weight.len().max(1)).flat_map(|head| rms_norm(head, weight, eps)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normed_row_has_the_square_mean_of_one_whatever_its_scale() {
        let x = [3.0, -4.0, 12.0, 0.0];
        let normed = rms_norm(&x, &[1.0; 4], 0.0);
        // mean(x²) = 169/4, so the factor is 2/13.
        for (y, x) in normed.iter().zip(x) {
            assert!((y - x * 2.0 / 13.0).abs() < 1e-15);
        }
    }

    #[test]
    fn epsilon_stands_inside_the_root_and_the_weight_outside() {
        let normed = rms_norm(&[3.0, 3.0], &[1.0, 10.0], 7.0);
        assert_eq!(normed, [3.0 / 4.0, 30.0 / 4.0]);
    }

    #[test]
    fn heads_are_normed_each_by_itself() {
        let normed = rms_norm_heads(&[1.0, 1.0, 100.0, 100.0], &[1.0, 2.0], 0.0);
        assert_eq!(normed, [1.0, 2.0, 1.0, 2.0]);
    }
}
