//! The activations and the soft cap.

use driftprobe_model::reference::gelu_argument;

/// Where f32 overflows in e^(−g), an engine's silu is 0 rather than g·e^g < 2^−119.
const SILU_FLOOR: f64 = 1.504_632_769_052_528e-36;

/// Variance of y = silu(g)·up: (cuy)²(5 + g²/4) + (2⁻¹¹⁹·up)².
///
/// Five for exp, 1 + exp, the quotient and the product; e^(−g) has the relative error g·cu of its argument where an
/// engine takes it as 2^(−g·log₂e) in single steps.
pub fn silu_variance(gate: f64, up: f64, y: f64, cu: f64) -> f64 {
    (cu * y).powi(2) * (5.0 + gate * gate / 4.0) + (SILU_FLOOR * up).powi(2)
}

/// Variance of y = ½g(1 + tanh t)·up, t = √(2/π)(g + 0.044715g³): (cuy)²·5 + (½g·up)²(cu)²[2tanh²t + 6(t·sech²t)²].
///
/// 1 + tanh t cancels for negative g, so the errors of tanh (two roundings) and of its argument (six) count absolutely.
pub fn gelu_variance(gate: f64, up: f64, y: f64, cu: f64) -> f64 {
    let t = gelu_argument(gate);
    let tanh = t.tanh();
    let argument = t * (1.0 - tanh * tanh);
    let inside = 2.0 * tanh * tanh + 6.0 * argument * argument;
    (cu * y).powi(2) * 5.0 + (0.5 * gate * up * cu).powi(2) * inside
}

/// Variance of y = cap·tanh(x/cap), x having the variance `before`: 4(cuy)² + before·(1 − (y/cap)²)².
pub fn softcap_variance(y: f64, cap: f64, before: f64, cu: f64) -> f64 {
    let slope = 1.0 - (y / cap).powi(2);
    4.0 * (cu * y).powi(2) + before * slope * slope
}
