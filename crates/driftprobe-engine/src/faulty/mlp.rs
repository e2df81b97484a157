//! Faults of the MLP's wiring, and of the residual adds.

use super::fault::{Group, Scope, Subject, Workshop};
use super::names::{Parameters, named};
use crate::embedded::interference::{At, Interference, Matrix, Residual};
use crate::embedded::linear::Linear;
use crate::embedded::ops::gated;
use crate::error::EngineError;
use candle_core::Tensor;
use driftprobe_model::{Activation, WeightId};
use driftprobe_trace::{Phase, Point};
use std::collections::BTreeMap;

/// Where gate and up are taken for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Their matrices are, so that both results are the other's.
    Weights,
    /// Their results are: up is activated and multiplied by gate.
    Activation,
}

named!(Swap { Weights = "weights", Activation = "activation" });

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongActivation {
    /// x·sigmoid(x).
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// GELU by the error function.
    Gelu,
    /// max(x, 0).
    Relu,
    /// sigmoid(x), without the x.
    Sigmoid,
}

named!(WrongActivation {
    Silu = "silu", GeluTanh = "gelu_tanh", Gelu = "gelu", Relu = "relu", Sigmoid = "sigmoid",
});

/// Faults of the MLP's wiring, and of the residual adds.
#[derive(Clone, Debug, PartialEq)]
pub enum MlpFault {
    /// `GATE_UP_SWAPPED`.
    GateUpSwapped(Swap),
    /// `ACTIVATION_WRONG`: another activation.
    ActivationWrong(WrongActivation),
    /// `RESIDUAL_DROPPED`: only the branch goes on.
    ResidualDropped(Residual),
    /// `RESIDUAL_DOUBLED`: the residual stream is added twice.
    ResidualDoubled(Residual),
}

use MlpFault::{ActivationWrong, GateUpSwapped, ResidualDoubled, ResidualDropped};

impl Group for MlpFault {
    fn id(&self) -> &'static str {
        match self {
            GateUpSwapped(_) => "GATE_UP_SWAPPED",
            ActivationWrong(_) => "ACTIVATION_WRONG",
            ResidualDropped(_) => "RESIDUAL_DROPPED",
            ResidualDoubled(_) => "RESIDUAL_DOUBLED",
        }
    }

    fn parameters(&self) -> Vec<String> {
        vec![match self {
            GateUpSwapped(swap) => swap.to_string(),
            ActivationWrong(activation) => activation.to_string(),
            ResidualDropped(residual) | ResidualDoubled(residual) => residual.to_string(),
        }]
    }

    fn parse(id: &str, p: &mut Parameters<'_>) -> Result<Option<Self>, String> {
        Ok(Some(match id {
            "GATE_UP_SWAPPED" => GateUpSwapped(p.take("place", Swap::Weights)?),
            "ACTIVATION_WRONG" => ActivationWrong(p.take("activation", WrongActivation::GeluTanh)?),
            "RESIDUAL_DROPPED" => ResidualDropped(p.take("residual", Residual::Attn)?),
            "RESIDUAL_DOUBLED" => ResidualDoubled(p.take("residual", Residual::Attn)?),
            _ => return Ok(None),
        }))
    }

    fn all(_: &Subject<'_>) -> Vec<Self> {
        let mut all: Vec<MlpFault> = Swap::ALL.iter().map(|swap| GateUpSwapped(*swap)).collect();
        all.extend(WrongActivation::ALL.iter().map(|activation| ActivationWrong(*activation)));
        all.extend(Residual::ALL.iter().flat_map(|r| [ResidualDropped(*r), ResidualDoubled(*r)]));
        all
    }

    fn check(&self, subject: &Subject<'_>, _: &Scope) -> Result<(), String> {
        match (self, subject.config().activation) {
            (ActivationWrong(WrongActivation::Silu), Activation::Silu)
            | (ActivationWrong(WrongActivation::GeluTanh), Activation::GeluTanh) => {
                Err("it is the model's own activation".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn point(&self, _: &Subject<'_>, _: Phase) -> Point {
        match self {
            GateUpSwapped(Swap::Weights) => Point::MlpGate,
            GateUpSwapped(Swap::Activation) | ActivationWrong(_) => Point::MlpAct,
            ResidualDropped(Residual::Attn) | ResidualDoubled(Residual::Attn) => Point::ResidualPostAttn,
            ResidualDropped(Residual::Mlp) | ResidualDoubled(Residual::Mlp) => Point::ResidualPostMlp,
        }
    }

    fn build(&self, workshop: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        let GateUpSwapped(Swap::Weights) = self else { return Ok(Box::new(self.clone())) };
        let subject = &workshop.subject;
        let mut other = BTreeMap::new();
        for l in workshop.scope.layers(subject.config()) {
            for (matrix, weight, bias) in [
                (Matrix::Gate, WeightId::Up(l), WeightId::UpBias(l)),
                (Matrix::Up, WeightId::Gate(l), WeightId::GateBias(l)),
            ] {
                other.insert((l, matrix), linear(subject, weight, bias)?);
            }
        }
        Ok(Box::new(Exchanged { other }))
    }
}

/// A matrix of the MLP, with its bias if the model has such.
fn linear(subject: &Subject<'_>, weight: WeightId, bias: WeightId) -> Result<Linear, EngineError> {
    let weights = &subject.model.weights;
    let bias = match subject.config().mlp_bias {
        true => {
            let bias = weights.get(&bias.name())?;
            Some(Tensor::from_vec(bias.to_f32(), bias.cols(), &subject.settings.device)?)
        }
        false => None,
    };
    Linear::new(weights.get(&weight.name())?, bias, subject.settings)
}

/// Gate's matrix for up's, and up's for gate's.
struct Exchanged {
    other: BTreeMap<(usize, Matrix), Linear>,
}

impl Interference for Exchanged {
    fn linear(&self, at: At, matrix: Matrix, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        let other = at.layer.and_then(|l| self.other.get(&(l, matrix)));
        other.unwrap_or(linear).forward(x, at.phase)
    }
}

impl Interference for MlpFault {
    fn gated(&self, _: At, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor, EngineError> {
        match self {
            GateUpSwapped(_) => gated(up, gate, activation),
            ActivationWrong(wrong) => {
                let activated = match wrong {
                    WrongActivation::Silu => gate.silu()?,
                    WrongActivation::GeluTanh => gate.gelu()?,
                    WrongActivation::Gelu => gate.gelu_erf()?,
                    WrongActivation::Relu => gate.relu()?,
                    WrongActivation::Sigmoid => ((gate.neg()?.exp()? + 1.0)?).recip()?,
                };
                Ok((activated * up)?)
            }
            ResidualDropped(_) | ResidualDoubled(_) => gated(gate, up, activation),
        }
    }

    fn residual(&self, _: At, residual: Residual, x: Tensor, branch: Tensor) -> Result<Tensor, EngineError> {
        match self {
            ResidualDropped(dropped) if *dropped == residual => Ok(branch),
            ResidualDoubled(doubled) if *doubled == residual => Ok(((&x + branch)? + &x)?),
            _ => Ok((x + branch)?),
        }
    }
}
