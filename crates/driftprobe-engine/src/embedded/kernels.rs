//! The dot product of the decode path: sixteen running sums, added up pairwise at the end. The order is fixed, and differs
//! from GEMM's, as an engine's GEMV kernel does.

/// Running sums of [`dot`].
pub const LANES: usize = 16;

/// Σ w·x in f32. Slices of unequal length are cut to the shorter.
pub fn dot(w: &[f32], x: &[f32]) -> f32 {
    let n = w.len().min(x.len());
    let (w, x) = (&w[..n], &x[..n]);
    let (w_lanes, w_rest) = w.as_chunks::<LANES>();
    let (x_lanes, x_rest) = x.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (w, x) in w_lanes.iter().zip(x_lanes) {
        for ((sum, w), x) in sums.iter_mut().zip(w).zip(x) {
            *sum += w * x;
        }
    }
    let rest: f32 = w_rest.iter().zip(x_rest).map(|(w, x)| w * x).sum();
    pairwise(&sums) + rest
}

fn pairwise(sums: &[f32]) -> f32 {
    match sums {
        [] => 0.0,
        [one] => *one,
        _ => {
            let (left, right) = sums.split_at(sums.len() / 2);
            pairwise(left) + pairwise(right)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::dot;

    #[test]
    fn a_dot_product_takes_every_element_once() {
        for n in [0, 1, 15, 16, 17, 63, 100] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let ones = vec![1.0; n];
            assert_eq!(dot(&ones, &x), (n * n.saturating_sub(1) / 2) as f32, "n = {n}");
        }
    }

    #[test]
    fn a_dot_product_carries_nan() {
        let mut x = vec![1.0; 40];
        x[39] = f32::NAN;
        assert!(dot(&[0.0; 40], &x).is_nan());
    }
}
