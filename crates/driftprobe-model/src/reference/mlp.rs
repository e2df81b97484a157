//! The activations, and the soft cap.

use crate::Activation;

/// x·sigmoid(x).
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// GELU by its tanh approximation (arXiv 1606.08415): ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
pub fn gelu_tanh(x: f64) -> f64 {
    // 1 + tanh(t) = 2/(1 + e^(−2t)), which does not cancel for negative t.
    let t = gelu_argument(x);
    x / (1.0 + (-2.0 * t).exp())
}

/// √(2/π)(x + 0.044715x³).
pub fn gelu_argument(x: f64) -> f64 {
    (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)
}

/// activation(gate)·up. Slices of unequal length are cut to the shorter.
pub fn gated(activation: Activation, gate: &[f64], up: &[f64]) -> Vec<f64> {
    let act = match activation {
        Activation::Silu => silu,
        Activation::GeluTanh => gelu_tanh,
    };
    gate.iter().zip(up).map(|(g, u)| act(*g) * u).collect()
}

/// cap·tanh(x/cap).
pub fn softcap(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silu_halves_itself_across_zero() {
        // silu(x) − silu(−x) = x, and silu(ln 3) = ¾·ln 3.
        for x in [0.0, 0.1, 1.0, 5.0, 30.0] {
            assert!((silu(x) - silu(-x) - x).abs() <= 1e-15 * x);
        }
        assert!((silu(3f64.ln()) - 0.75 * 3f64.ln()).abs() < 1e-15);
        assert_eq!(silu(-800.0), 0.0);
    }

    #[test]
    fn gelu_is_the_formula_with_tanh() {
        for x in [-6.0f64, -1.0, -0.01, 0.0, 0.5, 3.0] {
            let t = 0.7978845608028654 * (x + 0.044715 * x.powi(3));
            assert!((gelu_tanh(x) - 0.5 * x * (1.0 + t.tanh())).abs() < 1e-15, "{x}");
        }
    }

    #[test]
    fn the_gate_is_activated_and_the_up_is_not() {
        let y = gated(Activation::Silu, &[3f64.ln(), 0.0], &[-2.0, 5.0]);
        assert!((y[0] + 1.5 * 3f64.ln()).abs() < 1e-15 && y[1] == 0.0);
    }

    #[test]
    fn a_cap_bounds_and_keeps_small_values() {
        assert!((softcap(1e6, 30.0) - 30.0).abs() < 1e-12);
        assert!((softcap(1e-3, 30.0) - 1e-3).abs() < 1e-12);
    }
}
