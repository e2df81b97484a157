//! Faults of the heads' places.

use super::fault::{Group, Scope, Subject, Workshop};
use super::names::Parameters;
use crate::embedded::attention::{Attended, Inputs, Kernel, Shape};
use crate::embedded::interference::{At, Interference};
use crate::error::EngineError;
use candle_core::{Device, Tensor};
use driftprobe_trace::{Phase, Point};

/// Faults of the heads' places.
#[derive(Clone, Debug, PartialEq)]
pub enum HeadsFault {
    /// `GQA_MAP`: query head h reads key head h mod kv_heads, rather than h / group.
    GqaMap,
    /// `HEAD_SWAP`: what two heads have found is written to each other's place.
    HeadSwap(usize, usize),
    /// `HEAD_LAYOUT`: the heads' results are written `[head_dim, heads]` rather than `[heads, head_dim]`.
    HeadLayout,
}

use HeadsFault::{GqaMap, HeadLayout, HeadSwap};

impl Group for HeadsFault {
    fn id(&self) -> &'static str {
        match self {
            GqaMap => "GQA_MAP",
            HeadSwap(..) => "HEAD_SWAP",
            HeadLayout => "HEAD_LAYOUT",
        }
    }

    fn parameters(&self) -> Vec<String> {
        match self {
            HeadSwap(one, other) => vec![one.to_string(), other.to_string()],
            GqaMap | HeadLayout => vec![],
        }
    }

    fn parse(id: &str, p: &mut Parameters<'_>) -> Result<Option<Self>, String> {
        Ok(Some(match id {
            "GQA_MAP" => GqaMap,
            "HEAD_SWAP" => HeadSwap(p.take("head", 0)?, p.take("other head", 1)?),
            "HEAD_LAYOUT" => HeadLayout,
            _ => return Ok(None),
        }))
    }

    fn all(subject: &Subject<'_>) -> Vec<Self> {
        let last = subject.config().num_attention_heads - 1;
        let mut all = vec![GqaMap, HeadSwap(0, 1), HeadLayout];
        if last > 1 {
            all.push(HeadSwap(0, last));
        }
        all
    }

    fn check(&self, subject: &Subject<'_>, _: &Scope) -> Result<(), String> {
        let config = subject.config();
        let heads = config.num_attention_heads;
        match self {
            GqaMap if config.num_key_value_heads == 1 => Err("there is one key head, which all heads read".to_owned()),
            GqaMap if config.group() == 1 => Err("every head has a key head of its own".to_owned()),
            HeadSwap(one, other) if one == other => Err("a head swapped with itself stays where it is".to_owned()),
            HeadSwap(one, other) if *one.max(other) >= heads => {
                Err(format!("the model has {heads} heads, and no head {}", one.max(other)))
            }
            HeadLayout if heads == 1 || config.head_dim == 1 => Err("one head has one layout only".to_owned()),
            GqaMap | HeadSwap(..) | HeadLayout => Ok(()),
        }
    }

    fn point(&self, _: &Subject<'_>, _: Phase) -> Point {
        match self {
            GqaMap => Point::AttnScores,
            HeadSwap(..) | HeadLayout => Point::AttnOut,
        }
    }

    fn build(&self, _: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl Interference for HeadsFault {
    fn attend(&self, _: At, kernel: Kernel, inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
        match self {
            GqaMap => interleaved(kernel, inputs, shape),
            HeadSwap(one, other) => {
                let mut order: Vec<usize> = (0..shape.heads).collect();
                order.swap(*one, *other);
                let attended = kernel.attend(inputs, shape)?;
                Ok(Attended { out: reordered(&attended.out, &order, shape)?, ..attended })
            }
            HeadLayout => {
                let attended = kernel.attend(inputs, shape)?;
                let by_head = by_head(&attended.out, shape)?;
                let out = by_head.transpose(1, 2)?.contiguous()?.reshape(attended.out.dims())?;
                Ok(Attended { out, ..attended })
            }
        }
    }
}

/// Heads that share a key head lie side by side for the kernels. Here those that are congruent are laid side by side, and
/// what comes out is put back into the heads' own order.
fn interleaved(kernel: Kernel, inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
    let group = shape.heads / shape.kv_heads;
    let order: Vec<usize> = (0..shape.heads).map(|place| place % group * shape.kv_heads + place / group).collect();
    let mut back = vec![0; shape.heads];
    order.iter().enumerate().for_each(|(place, head)| back[*head] = place);
    let q = inputs.q.index_select(&indices(&order, inputs.q.device())?, 1)?;
    let attended = kernel.attend(&Inputs { q: &q, ..*inputs }, shape)?;
    let by_head = |rows: Option<Tensor>| -> Result<Option<Tensor>, EngineError> {
        Ok(rows.map(|r| r.index_select(&indices(&back, r.device())?, 0)).transpose()?)
    };
    Ok(Attended {
        out: reordered(&attended.out, &back, shape)?,
        scores: by_head(attended.scores)?,
        probs: by_head(attended.probs)?,
    })
}

fn by_head(out: &Tensor, shape: &Shape) -> Result<Tensor, EngineError> {
    Ok(out.reshape((out.dim(0)?, shape.heads, shape.head_dim))?)
}

/// `[tokens, heads × head_dim]` with head `order[h]` in the place of head h.
fn reordered(out: &Tensor, order: &[usize], shape: &Shape) -> Result<Tensor, EngineError> {
    Ok(by_head(out, shape)?.index_select(&indices(order, out.device())?, 1)?.reshape(out.dims())?)
}

fn indices(order: &[usize], device: &Device) -> Result<Tensor, candle_core::Error> {
    Tensor::from_vec(order.iter().map(|i| *i as u32).collect::<Vec<_>>(), order.len(), device)
}
