//! Faults of the attention scores and their softmax, and the missing soft caps.

use super::fault::{Group, Scope, Subject, Workshop};
use super::names::{Parameters, named};
use crate::embedded::attention::{Attended, Inputs, Kernel, Shape, by_token, weigh};
use crate::embedded::interference::{At, Interference};
use crate::error::EngineError;
use crate::settings::{DecodeAttention, PrefillAttention, Settings};
use candle_core::{D, Tensor};
use driftprobe_trace::{Phase, Point};

/// Which soft cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// On attention scores.
    Attn,
    /// On logits.
    Logits,
}

named!(Cap { Attn = "attn", Logits = "logits" });

/// Faults of the attention scores and their softmax.
#[derive(Clone, Debug, PartialEq)]
pub enum ScoresFault {
    /// `SCALE_MISSING`: Q·K is not scaled.
    ScaleMissing,
    /// `SCALE_WRONG`: the scale is so many times too large.
    ScaleWrong(f64),
    /// `SOFTCAP_MISSING`: scores or logits are not capped.
    SoftcapMissing(Cap),
    /// `SOFTMAX_UNNORMALISED`: the exponentials are not divided by their sum.
    SoftmaxUnnormalised,
    /// `SOFTMAX_MERGE`: what the parts before have summed up is not rescaled when a later part has a larger score.
    SoftmaxMerge,
}

use ScoresFault::{ScaleMissing, ScaleWrong, SoftcapMissing, SoftmaxMerge, SoftmaxUnnormalised};

/// The phase's attention kernel.
fn kernel(settings: &Settings, phase: Phase) -> Kernel {
    match phase {
        Phase::Prefill => Kernel::Prefill(settings.prefill_attention),
        Phase::Decode => Kernel::Decode(settings.decode_attention),
    }
}

/// The first point behind the scores that this phase shows.
pub(super) fn attention_point(subject: &Subject<'_>, phase: Phase) -> Point {
    match kernel(subject.settings, phase) {
        Kernel::Prefill(PrefillAttention::Naive) | Kernel::Decode(DecodeAttention::Naive) => Point::AttnProbs,
        Kernel::Prefill(_) | Kernel::Decode(_) => Point::AttnOut,
    }
}

impl Group for ScoresFault {
    fn id(&self) -> &'static str {
        match self {
            ScaleMissing => "SCALE_MISSING",
            ScaleWrong(_) => "SCALE_WRONG",
            SoftcapMissing(_) => "SOFTCAP_MISSING",
            SoftmaxUnnormalised => "SOFTMAX_UNNORMALISED",
            SoftmaxMerge => "SOFTMAX_MERGE",
        }
    }

    fn parameters(&self) -> Vec<String> {
        match self {
            ScaleWrong(factor) => vec![factor.to_string()],
            SoftcapMissing(cap) => vec![cap.to_string()],
            ScaleMissing | SoftmaxUnnormalised | SoftmaxMerge => vec![],
        }
    }

    fn parse(id: &str, p: &mut Parameters<'_>) -> Result<Option<Self>, String> {
        Ok(Some(match id {
            "SCALE_MISSING" => ScaleMissing,
            "SCALE_WRONG" => ScaleWrong(p.take("factor", 1.01)?),
            "SOFTCAP_MISSING" => SoftcapMissing(p.take("cap", Cap::Attn)?),
            "SOFTMAX_UNNORMALISED" => SoftmaxUnnormalised,
            "SOFTMAX_MERGE" => SoftmaxMerge,
            _ => return Ok(None),
        }))
    }

    fn all(_: &Subject<'_>) -> Vec<Self> {
        let mut all = vec![ScaleMissing, ScaleWrong(1.01), SoftmaxUnnormalised, SoftmaxMerge];
        all.extend(Cap::ALL.iter().map(|cap| SoftcapMissing(*cap)));
        all
    }

    fn layered(&self) -> bool {
        *self != SoftcapMissing(Cap::Logits)
    }

    fn check(&self, subject: &Subject<'_>, scope: &Scope) -> Result<(), String> {
        let config = subject.config();
        let needs_keys = || if subject.tokens < 2 { Err("one key has the weight 1 by any score") } else { Ok(()) };
        match self {
            ScaleMissing if config.attention_scale == 1.0 => Err("the model's scale is 1"),
            ScaleWrong(factor) if !(factor.is_finite() && *factor != 1.0) => Err("the factor changes nothing"),
            ScaleMissing | ScaleWrong(_) => needs_keys(),
            SoftcapMissing(Cap::Attn) if config.attn_softcap.is_none() => Err("the model caps no scores"),
            SoftcapMissing(Cap::Attn) => needs_keys(),
            SoftcapMissing(Cap::Logits) if config.final_softcap.is_none() => Err("the model caps no logits"),
            SoftcapMissing(Cap::Logits) => Ok(()),
            SoftmaxUnnormalised => needs_keys(),
            SoftmaxMerge => {
                let parts = |phase| kernel(subject.settings, phase).ranges(subject.tokens).map_or(1, |r| r.len());
                let merged = scope.phases().into_iter().any(|phase| parts(phase) > 1);
                if merged { Ok(()) } else { Err("attention over so few keys by this kernel merges nothing") }
            }
        }
        .map_err(str::to_owned)
    }

    fn point(&self, subject: &Subject<'_>, phase: Phase) -> Point {
        match self {
            ScaleMissing | ScaleWrong(_) | SoftcapMissing(Cap::Attn) => Point::AttnScores,
            SoftcapMissing(Cap::Logits) => Point::Logits,
            SoftmaxUnnormalised => attention_point(subject, phase),
            SoftmaxMerge => Point::AttnOut,
        }
    }

    fn build(&self, _: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl Interference for ScoresFault {
    fn attend(&self, _: At, kernel: Kernel, inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
        match self {
            ScaleMissing => kernel.attend(inputs, &Shape { scale: 1.0, ..*shape }),
            ScaleWrong(factor) => kernel.attend(inputs, &Shape { scale: shape.scale * factor, ..*shape }),
            SoftcapMissing(Cap::Attn) => kernel.attend(inputs, &Shape { softcap: None, ..*shape }),
            SoftcapMissing(Cap::Logits) => kernel.attend(inputs, shape),
            SoftmaxUnnormalised => unnormalised(kernel, inputs, shape),
            SoftmaxMerge => merged_as_they_are(kernel, inputs, shape),
        }
    }

    fn final_softcap(&self, _: At, cap: Option<f64>) -> Option<f64> {
        if *self == SoftcapMissing(Cap::Logits) { None } else { cap }
    }
}

/// The clean kernel's result, and its scores `[heads, tokens, keys]`.
fn with_scores(kernel: Kernel, inputs: &Inputs<'_>, shape: &Shape) -> Result<(Attended, Tensor), EngineError> {
    let attended = kernel.attend(&Inputs { show_scores: true, ..*inputs }, shape)?;
    let scores = attended.scores.clone();
    let scores = scores.ok_or_else(|| EngineError::request("this kernel holds no scores", "choose another one"))?;
    Ok((attended, scores))
}

fn unnormalised(kernel: Kernel, inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
    let (attended, scores) = with_scores(kernel, inputs, shape)?;
    let exps = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let out = by_token(&weigh(&exps, inputs.v, shape)?)?;
    Ok(Attended { out, probs: attended.probs.map(|_| exps), ..attended })
}

fn merged_as_they_are(kernel: Kernel, inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
    let Some(ranges) = kernel.ranges(inputs.k.dim(1)?) else { return kernel.attend(inputs, shape) };
    let (attended, scores) = with_scores(kernel, inputs, shape)?;
    // Running maximum, sum and output of the parts so far.
    let mut so_far: Option<(Tensor, Tensor, Tensor)> = None;
    for (first, keys) in ranges {
        let (part, v) = (scores.narrow(2, first, keys)?, inputs.v.narrow(1, first, keys)?);
        let max = part.max_keepdim(D::Minus1)?.maximum(f64::from(f32::MIN))?;
        let max = match &so_far {
            None => max,
            Some((before, ..)) => before.maximum(&max)?,
        };
        let exps = part.broadcast_sub(&max)?.exp()?;
        let (sum, out) = (exps.sum_keepdim(D::Minus1)?, weigh(&exps, &v, shape)?);
        so_far = Some(match so_far {
            None => (max, sum, out),
            Some((before, old_sum, old_out)) => {
                // The sum follows the new maximum, the output does not.
                let factor = (before - &max)?.exp()?;
                (max, ((old_sum * factor)? + sum)?, (old_out + out)?)
            }
        });
    }
    let out = match so_far {
        None => attended.out,
        Some((_, sum, out)) => by_token(&out.broadcast_div(&sum)?)?,
    };
    Ok(Attended { out, scores: attended.scores, probs: attended.probs })
}
