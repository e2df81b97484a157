//! Faults of the norms.

use super::fault::{Group, Scope, Subject, Workshop};
use super::names::Parameters;
use crate::embedded::interference::{At, Interference, Norm};
use crate::embedded::ops::rms_norm;
use crate::error::EngineError;
use candle_core::{D, Tensor};
use driftprobe_trace::{Phase, Point};

/// Faults of one norm.
#[derive(Clone, Debug, PartialEq)]
pub enum NormFault {
    /// `NORM_EPS`: another ε.
    Eps(Norm, f64),
    /// `NORM_WEIGHT_PLUS_ONE`: 1 + w for w; for w where the model means 1 + w.
    WeightPlusOne(Norm),
    /// `NORM_MEAN_SUBTRACTED`: the mean is subtracted first, as LayerNorm does.
    MeanSubtracted(Norm),
    /// `NORM_SKIPPED`: what comes in goes out.
    Skipped(Norm),
}

use NormFault::{Eps, MeanSubtracted, Skipped, WeightPlusOne};

impl NormFault {
    fn norm(&self) -> Norm {
        match self {
            Eps(norm, _) | WeightPlusOne(norm) | MeanSubtracted(norm) | Skipped(norm) => *norm,
        }
    }
}

impl Group for NormFault {
    fn id(&self) -> &'static str {
        match self {
            Eps(..) => "NORM_EPS",
            WeightPlusOne(_) => "NORM_WEIGHT_PLUS_ONE",
            MeanSubtracted(_) => "NORM_MEAN_SUBTRACTED",
            Skipped(_) => "NORM_SKIPPED",
        }
    }

    fn parameters(&self) -> Vec<String> {
        let mut parameters = vec![self.norm().to_string()];
        if let Eps(_, eps) = self {
            parameters.push(eps.to_string());
        }
        parameters
    }

    fn parse(id: &str, p: &mut Parameters<'_>) -> Result<Option<Self>, String> {
        if !id.starts_with("NORM_") {
            return Ok(None);
        }
        let norm = p.take("norm", Norm::Attn)?;
        Ok(match id {
            "NORM_EPS" => Some(Eps(norm, p.take("epsilon", 1e-3)?)),
            "NORM_WEIGHT_PLUS_ONE" => Some(WeightPlusOne(norm)),
            "NORM_MEAN_SUBTRACTED" => Some(MeanSubtracted(norm)),
            "NORM_SKIPPED" => Some(Skipped(norm)),
            _ => None,
        })
    }

    fn all(subject: &Subject<'_>) -> Vec<Self> {
        let eps = subject.config().rms_norm_eps;
        // The two that models have, mistaken for each other.
        let other = if eps < 5e-6 { 1e-5 } else { 1e-6 };
        let each = |norm: &Norm| {
            let norm = *norm;
            [Eps(norm, other), Eps(norm, 1e-3), WeightPlusOne(norm), MeanSubtracted(norm), Skipped(norm)]
        };
        Norm::ALL.iter().flat_map(each).collect()
    }

    fn layered(&self) -> bool {
        self.norm() != Norm::Final
    }

    fn check(&self, subject: &Subject<'_>, _: &Scope) -> Result<(), String> {
        let config = subject.config();
        match self.norm() {
            Norm::Q | Norm::K if !config.qk_norm => return Err("the model has no norm on Q and K".to_owned()),
            Norm::AttnPost | Norm::MlpPost if !config.post_norms => {
                return Err("the model has no norm after attention or MLP".to_owned());
            }
            _ => {}
        }
        match self {
            Eps(_, eps) if !(eps.is_finite() && *eps >= 0.0) => Err(format!("{eps} is no epsilon")),
            Eps(_, eps) if *eps == config.rms_norm_eps => Err(format!("the model's epsilon is {eps}")),
            _ => Ok(()),
        }
    }

    fn point(&self, _: &Subject<'_>, _: Phase) -> Point {
        match self.norm() {
            Norm::Attn => Point::AttnNormOut,
            Norm::Q => Point::QPreRope,
            Norm::K => Point::KPreRope,
            Norm::AttnPost => Point::AttnPostNormOut,
            Norm::Ffn => Point::FfnNormOut,
            Norm::MlpPost => Point::MlpPostNormOut,
            Norm::Final => Point::FinalNormOut,
        }
    }

    fn build(&self, workshop: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        // The weights as the engine holds them have Gemma's one already.
        let more = if workshop.subject.config().norm_weight_plus_one { -1.0 } else { 1.0 };
        Ok(Box::new(WrongNorm { fault: self.clone(), more }))
    }
}

struct WrongNorm {
    fault: NormFault,
    /// What the weight has too much.
    more: f64,
}

impl Interference for WrongNorm {
    fn norm(&self, _: At, norm: Norm, x: &Tensor, (weight, eps): (&Tensor, f64)) -> Result<Tensor, EngineError> {
        if norm != self.fault.norm() {
            return rms_norm(x, weight, eps);
        }
        match self.fault {
            Eps(_, other) => rms_norm(x, weight, other),
            WeightPlusOne(_) => rms_norm(x, &(weight + self.more)?, eps),
            MeanSubtracted(_) => rms_norm(&x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?, weight, eps),
            Skipped(_) => Ok(x.clone()),
        }
    }
}
