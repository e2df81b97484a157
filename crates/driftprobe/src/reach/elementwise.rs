//! Norms, rotary pairs and activations in f32, by a given order of their roundings.

use super::order::{Cap, Gate, Norm, Turn};
use super::sum::Sum;
use super::terms::Products;
use driftprobe_model::reference::{RopeTable, pair};
use driftprobe_model::{Activation, RopeLayout};

impl Cap {
    /// cap·tanh(y/cap).
    pub fn apply(self, y: f32, cap: f32) -> f32 {
        let inner = match self {
            Cap::Quotient => y / cap,
            Cap::Reciprocal => y * (1.0 / f64::from(cap)) as f32,
        };
        inner.tanh() * cap
    }
}

/// x·(mean(x²) + ε)^−½·w of one row.
pub fn norm(x: &[f32], weight: &[f32], eps: f64, (kind, sum): (Norm, &Sum)) -> Vec<f32> {
    let squares = sum.of(x.len(), &Products(x, x));
    let mean = match kind {
        Norm::ByQuotient | Norm::BySquareRoot => squares / x.len() as f32,
        Norm::ByReciprocal | Norm::WeightFirst => squares * (1.0 / x.len() as f64) as f32,
    };
    let root = (mean + eps as f32).sqrt();
    let factor = 1.0 / root;
    let one = |(x, w): (&f32, &f32)| match kind {
        Norm::ByReciprocal | Norm::ByQuotient => x * factor * w,
        Norm::BySquareRoot => x / root * w,
        Norm::WeightFirst => x * (factor * w),
    };
    x.iter().zip(weight).map(one).collect()
}

/// √(2/π).
const SQRT_TWO_OVER_PI: f32 = 0.797_884_560_802_865_4_f64 as f32;

/// Rotates each head.
pub fn turn(x: &[f32], table: &RopeTable, layout: RopeLayout, kind: Turn) -> Vec<f32> {
    let head_dim = table.cos.len() * 2;
    let mut out = x.to_vec();
    for (x, y) in x.chunks_exact(head_dim.max(1)).zip(out.chunks_exact_mut(head_dim.max(1))) {
        for (i, (cos, sin)) in table.cos.iter().zip(&table.sin).enumerate() {
            let (first, second) = pair(layout, head_dim, i);
            let (cos, sin) = (*cos as f32, *sin as f32);
            let (Some(a), Some(b)) = (x.get(first).copied(), x.get(second).copied()) else { continue };
            let turned = match kind {
                Turn::Separate => (a * cos - b * sin, b * cos + a * sin),
                Turn::FusedCos => (a.mul_add(cos, -(b * sin)), b.mul_add(cos, a * sin)),
                Turn::FusedSin => ((-b).mul_add(sin, a * cos), a.mul_add(sin, b * cos)),
            };
            if let Some(y) = y.get_mut(first) {
                *y = turned.0;
            }
            if let Some(y) = y.get_mut(second) {
                *y = turned.1;
            }
        }
    }
    out
}

/// activation(gate)·up.
pub fn gate(gate: &[f32], up: &[f32], activation: Activation, kind: Gate) -> Vec<f32> {
    let one = |(g, u): (&f32, &f32)| match (activation, kind) {
        (Activation::Silu, Gate::Plain) => g / (1.0 + (-g).exp()) * u,
        (Activation::Silu, Gate::Sigmoid) => g * (1.0 / (1.0 + (-g).exp())) * u,
        (Activation::Silu, Gate::ProductFirst) => g * u / (1.0 + (-g).exp()),
        (Activation::GeluTanh, kind) => {
            let inner = SQRT_TWO_OVER_PI * g;
            let squared = 0.044715f32 * g * g;
            let bracket = 1.0 + (inner * (1.0 + squared)).tanh();
            match kind {
                Gate::Plain => 0.5 * g * bracket * u,
                Gate::Sigmoid => g * (0.5 * bracket) * u,
                Gate::ProductFirst => 0.5 * g * u * bracket,
            }
        }
    };
    gate.iter().zip(up).map(one).collect()
}
