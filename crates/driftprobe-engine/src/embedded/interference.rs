//! The stages of a forward pass as the layers call them: each does the right thing by default. A faulty engine replaces
//! one of them; the clean engine replaces none, and the rest of the forward pass is the same code for both.

use super::attention::{Attended, Inputs, Kernel, Shape};
use super::linear::Linear;
use super::ops::{RopeTable, gated, rms_norm};
use crate::error::EngineError;
use candle_core::Tensor;
use driftprobe_model::Activation;
use driftprobe_trace::Phase;

/// Where in the work of an engine a stage stands.
#[derive(Clone, Copy)]
pub struct At {
    pub phase: Phase,
    /// None outside the layers.
    pub layer: Option<usize>,
    /// Position of the pass's first token.
    pub first: usize,
    /// Tokens of the pass.
    pub tokens: usize,
}

/// A matrix of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Matrix {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Output projection.
    O,
    /// Gate projection.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
    /// Output matrix.
    LmHead,
}

/// A norm of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Norm {
    /// Before attention.
    Attn,
    /// On each head's Q.
    Q,
    /// On each head's K.
    K,
    /// After attention.
    AttnPost,
    /// Before the MLP.
    Ffn,
    /// After the MLP.
    MlpPost,
    /// Before the output matrix.
    Final,
}

/// What the rotary embedding turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    Q,
    K,
}

/// One of a layer's two residual adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Residual {
    /// What attention adds.
    Attn,
    /// What the MLP adds.
    Mlp,
}

/// The stages, each right by default.
pub trait Interference: Send + Sync {
    /// The row of the embedding that a token gets.
    fn embed_row(&self, _: At, token: u32) -> u32 {
        token
    }

    /// The factor on the embedding.
    fn embed_scale(&self, _: At, scale: Option<f64>) -> Option<f64> {
        scale
    }

    /// x normed with a weight and an ε.
    fn norm(&self, _: At, _: Norm, x: &Tensor, (weight, eps): (&Tensor, f64)) -> Result<Tensor, EngineError> {
        rms_norm(x, weight, eps)
    }

    /// x `[tokens, inputs]` times a matrix.
    fn linear(&self, at: At, _: Matrix, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        linear.forward(x, at.phase)
    }

    /// x `[tokens, heads, head_dim]` turned to its positions.
    fn rope(&self, _: At, _: Turned, table: &RopeTable, x: &Tensor) -> Result<Tensor, EngineError> {
        table.apply(x)
    }

    /// The rows `[tokens, kv_heads, head_dim]` that go into the cache.
    fn written(&self, _: At, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor), EngineError> {
        Ok((k, v))
    }

    /// The rows `[kv_heads, rows, head_dim]` that attention gets from the cache, in the cache's type.
    fn read(&self, _: At, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor), EngineError> {
        Ok((k, v))
    }

    /// Attention.
    fn attend(&self, _: At, kernel: Kernel, inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
        kernel.attend(inputs, shape)
    }

    /// activation(gate) · up.
    fn gated(&self, _: At, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor, EngineError> {
        gated(gate, up, activation)
    }

    /// The residual stream x with what a branch adds.
    fn residual(&self, _: At, _: Residual, x: Tensor, branch: Tensor) -> Result<Tensor, EngineError> {
        Ok((x + branch)?)
    }

    /// The output matrix's result, before the soft cap: `[rows, vocab]`.
    fn logits(&self, _: At, logits: Tensor) -> Result<Tensor, EngineError> {
        Ok(logits)
    }

    /// The soft cap on logits.
    fn final_softcap(&self, _: At, cap: Option<f64>) -> Option<f64> {
        cap
    }
}

/// Everything as it should be.
pub struct NoInterference;

impl Interference for NoInterference {}
