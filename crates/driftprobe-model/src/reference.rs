//! The reference arithmetic: one plain float64 function a stage.
//!
//! What an engine should have computed, from the same inputs and weights, with no rounding but float64's own. The oracle
//! holds recorded rows against it; [`forward`] chains the functions into a whole model, which is how they are tested
//! against transformers. All tensors are row-major slices; shapes stand in brackets, slowest dimension first.

mod attention;
mod embedding;
mod forward;
mod linear;
mod mlp;
mod norm;
mod rope;

pub use attention::{AttentionShape, Cached, HeadScores, head_scores, softmax, weigh};
pub use embedding::embed;
pub use forward::forward;
pub use linear::{Projection, linear, sums};
pub use mlp::{gated, gelu_argument, gelu_tanh, silu, softcap};
pub use norm::{norm_weight, rms_norm, rms_norm_heads};
pub use rope::{RopePrecision, RopeTable, pair, rotate_heads};

/// A slice has not the length that the shapes say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {found} values, expected {expected}")]
pub struct ShapeError {
    /// Which input.
    pub what: String,
    /// Values it has.
    pub found: usize,
    /// Values it should have.
    pub expected: usize,
}

/// Refuses a length.
fn expect(what: impl Into<String>, found: usize, expected: usize) -> Result<(), ShapeError> {
    if found == expected { Ok(()) } else { Err(ShapeError { what: what.into(), found, expected }) }
}

/// a + b, element by element. Slices of unequal length are cut to the shorter.
pub fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
