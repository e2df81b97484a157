//! Faults of the embedding and of the output matrix.

use super::fault::{Group, Scope, Subject, Workshop};
use super::linear::weight_id;
use super::names::Parameters;
use crate::embedded::interference::{At, Interference, Matrix};
use crate::embedded::linear::Linear;
use crate::error::EngineError;
use candle_core::Tensor;
use driftprobe_model::WeightId;
use driftprobe_trace::{Phase, Point};

/// Faults of the embedding and of the output matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum EndsFault {
    /// `EMBED_SCALE`: the model's factor is left out; where it has none, √hidden is applied.
    EmbedScale,
    /// `EMBED_ROW`: every token gets the row of the token so many ids further.
    EmbedRow(u32),
    /// `LM_HEAD_ROW`: this token's logit is the next one's.
    LmHeadRow(u32),
    /// `LM_HEAD_WEIGHT`: the embedding serves as the output matrix though the model has one of its own, or the file's own
    /// is taken though the model ties them.
    LmHeadWeight,
}

use EndsFault::{EmbedRow, EmbedScale, LmHeadRow, LmHeadWeight};

impl Group for EndsFault {
    fn id(&self) -> &'static str {
        match self {
            EmbedScale => "EMBED_SCALE",
            EmbedRow(_) => "EMBED_ROW",
            LmHeadRow(_) => "LM_HEAD_ROW",
            LmHeadWeight => "LM_HEAD_WEIGHT",
        }
    }

    fn parameters(&self) -> Vec<String> {
        match self {
            EmbedRow(offset) => vec![offset.to_string()],
            LmHeadRow(token) => vec![token.to_string()],
            EmbedScale | LmHeadWeight => vec![],
        }
    }

    fn parse(id: &str, p: &mut Parameters<'_>) -> Result<Option<Self>, String> {
        Ok(Some(match id {
            "EMBED_SCALE" => EmbedScale,
            "EMBED_ROW" => EmbedRow(p.take("offset", 1)?),
            "LM_HEAD_ROW" => LmHeadRow(p.take("token", 0)?),
            "LM_HEAD_WEIGHT" => LmHeadWeight,
            _ => return Ok(None),
        }))
    }

    fn all(_: &Subject<'_>) -> Vec<Self> {
        vec![EmbedScale, EmbedRow(1), LmHeadRow(0), LmHeadWeight]
    }

    fn layered(&self) -> bool {
        false
    }

    fn check(&self, subject: &Subject<'_>, _: &Scope) -> Result<(), String> {
        let config = subject.config();
        match self {
            EmbedScale
                if config.embed_scale == Some(1.0) || config.embed_scale.is_none() && config.hidden_size == 1 =>
            {
                Err("the factor is 1".to_owned())
            }
            EmbedRow(offset) if (*offset as usize).is_multiple_of(config.vocab_size) => {
                Err(format!("{offset} ids further is the token itself"))
            }
            LmHeadRow(token) if *token as usize >= config.vocab_size => {
                Err(format!("the vocabulary has {} tokens, and no token {token}", config.vocab_size))
            }
            LmHeadRow(_) if config.vocab_size == 1 => Err("there is one token only".to_owned()),
            LmHeadWeight => {
                let weights = &subject.model.weights;
                let own = weights.get(&weight_id(config, Matrix::LmHead, 0).name()).map_err(|e| e.to_string())?;
                let other = weights.get(&other_head(config.tie_word_embeddings).name());
                match other {
                    Err(_) => Err("the file holds no output matrix beside the embedding".to_owned()),
                    Ok(other) if other.shape() != own.shape() => Err("the two have other shapes".to_owned()),
                    Ok(other) if other.bytes() == own.bytes() => Err("the two are equal".to_owned()),
                    Ok(_) => Ok(()),
                }
            }
            EmbedScale | EmbedRow(_) | LmHeadRow(_) => Ok(()),
        }
    }

    fn point(&self, _: &Subject<'_>, _: Phase) -> Point {
        match self {
            EmbedScale | EmbedRow(_) => Point::EmbedOut,
            LmHeadRow(_) | LmHeadWeight => Point::Logits,
        }
    }

    fn build(&self, workshop: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        let (config, settings) = (workshop.subject.config(), workshop.subject.settings);
        Ok(match self {
            EmbedScale => Box::new(OtherScale((config.hidden_size as f64).sqrt())),
            EmbedRow(offset) => Box::new(OtherRow { offset: *offset as usize, vocab: config.vocab_size }),
            LmHeadRow(token) => Box::new(NextLogit(*token as usize)),
            LmHeadWeight => {
                let name = other_head(config.tie_word_embeddings).name();
                Box::new(OtherHead(Linear::new(workshop.subject.model.weights.get(&name)?, None, settings)?))
            }
        })
    }
}

/// The matrix that is wrongly taken.
const fn other_head(tied: bool) -> WeightId {
    if tied { WeightId::LmHead } else { WeightId::Embed }
}

/// The factor left out, or this one applied.
struct OtherScale(f64);

impl Interference for OtherScale {
    fn embed_scale(&self, _: At, scale: Option<f64>) -> Option<f64> {
        if scale.is_some() { None } else { Some(self.0) }
    }
}

struct OtherRow {
    offset: usize,
    vocab: usize,
}

impl Interference for OtherRow {
    fn embed_row(&self, _: At, token: u32) -> u32 {
        u32::try_from((token as usize + self.offset) % self.vocab).unwrap_or(token)
    }
}

/// One logit is its neighbour's.
struct NextLogit(usize);

impl Interference for NextLogit {
    fn logits(&self, _: At, logits: Tensor) -> Result<Tensor, EngineError> {
        let vocab = logits.dim(1)?;
        let next = logits.narrow(1, (self.0 + 1) % vocab, 1)?;
        let (before, behind) = (logits.narrow(1, 0, self.0)?, logits.narrow(1, self.0 + 1, vocab - self.0 - 1)?);
        Ok(Tensor::cat(&[&before, &next, &behind], 1)?)
    }
}

struct OtherHead(Linear);

impl Interference for OtherHead {
    fn linear(&self, at: At, matrix: Matrix, linear: &Linear, x: &Tensor) -> Result<Tensor, EngineError> {
        if matrix == Matrix::LmHead { self.0.forward(x, at.phase) } else { linear.forward(x, at.phase) }
    }
}
