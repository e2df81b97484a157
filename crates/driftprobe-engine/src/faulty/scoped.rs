//! A fault where it acts, and the clean stages everywhere else.

use super::fault::Scope;
use crate::embedded::attention::{Attended, Inputs, Kernel, Shape};
use crate::embedded::interference::{At, Interference, Matrix, NoInterference, Norm, Residual, Turned};
use crate::embedded::linear::Linear;
use crate::embedded::ops::RopeTable;
use crate::error::EngineError;
use candle_core::Tensor;
use driftprobe_model::Activation;

pub struct Scoped {
    pub scope: Scope,
    pub fault: Box<dyn Interference>,
}

impl Scoped {
    fn stages(&self, at: At) -> &dyn Interference {
        let phase = self.scope.phase.is_none_or(|p| p == at.phase);
        let layer = self.scope.layer.is_none_or(|l| at.layer == Some(l));
        if phase && layer { &*self.fault } else { &NoInterference }
    }
}

impl Interference for Scoped {
    fn embed_row(&self, at: At, token: u32) -> u32 {
        self.stages(at).embed_row(at, token)
    }

    fn embed_scale(&self, at: At, scale: Option<f64>) -> Option<f64> {
        self.stages(at).embed_scale(at, scale)
    }

    fn norm(&self, at: At, norm: Norm, x: &Tensor, spec: (&Tensor, f64)) -> Result<Tensor, EngineError> {
        self.stages(at).norm(at, norm, x, spec)
    }

    fn linear(&self, at: At, matrix: Matrix, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        self.stages(at).linear(at, matrix, linear, x)
    }

    fn rope(&self, at: At, turned: Turned, table: &RopeTable, x: &Tensor) -> Result<Tensor, EngineError> {
        self.stages(at).rope(at, turned, table, x)
    }

    fn written(&self, at: At, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor), EngineError> {
        self.stages(at).written(at, k, v)
    }

    fn read(&self, at: At, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor), EngineError> {
        self.stages(at).read(at, k, v)
    }

    fn attend(&self, at: At, kernel: Kernel, inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
        self.stages(at).attend(at, kernel, inputs, shape)
    }

    fn gated(&self, at: At, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor, EngineError> {
        self.stages(at).gated(at, gate, up, activation)
    }

    fn residual(&self, at: At, residual: Residual, x: Tensor, branch: Tensor) -> Result<Tensor, EngineError> {
        self.stages(at).residual(at, residual, x, branch)
    }

    fn logits(&self, at: At, logits: Tensor) -> Result<Tensor, EngineError> {
        self.stages(at).logits(at, logits)
    }

    fn final_softcap(&self, at: At, cap: Option<f64>) -> Option<f64> {
        self.stages(at).final_softcap(at, cap)
    }
}
