//! The rotary embedding: its products, and the angles of its table.

use driftprobe_model::RopeLayout;
use driftprobe_model::reference::pair;

/// What the noise of a rotation depends on beside the values.
#[derive(Clone, Copy, Debug)]
pub struct RotaryNoise<'a> {
    /// Position.
    pub pos: u64,
    /// Frequencies in radians a position: `[head_dim/2]`.
    pub frequencies: &'a [f64],
    /// Pairing.
    pub layout: RopeLayout,
    /// c·u of the products.
    pub cu: f64,
    /// c·u of the angles.
    pub cu_angle: f64,
}

/// Variance of each element of `y`, x rotated, both `[heads, head_dim]`: 3(cu)²(x₁²+x₂²) + y′²(cu·pos·θᵢ)²(2+i).
///
/// First the roundings of the table's entry, the products and their sum; then those of the angle pos·θᵢ, which move y by
/// its partner y′ in the pair (∂y/∂φ = ±y′): one for θᵢ, one for the product, and i more where engines make θᵢ by
/// multiplying i times.
pub fn rope_variance(x: &[f64], y: &[f64], noise: &RotaryNoise<'_>) -> Vec<f64> {
    let head_dim = noise.frequencies.len() * 2;
    let mut out = vec![0.0; y.len()];
    let heads = x.chunks_exact(head_dim.max(1)).zip(y.chunks_exact(head_dim.max(1)));
    for ((x, y), out) in heads.zip(out.chunks_exact_mut(head_dim.max(1))) {
        for (i, frequency) in noise.frequencies.iter().enumerate() {
            let (first, second) = pair(noise.layout, head_dim, i);
            let products = 3.0 * noise.cu * noise.cu * (x[first] * x[first] + x[second] * x[second]);
            let angle = (noise.cu_angle * noise.pos as f64 * frequency).powi(2) * (2.0 + i as f64);
            out[first] = products + y[second] * y[second] * angle;
            out[second] = products + y[first] * y[first] * angle;
        }
    }
    out
}
