//! Faults of the rotary embedding.

use super::cache::Precision;
use super::fault::{Group, Scope, Subject, Workshop};
use super::names::Parameters;
use crate::embedded::interference::{At, Interference, Turned};
use crate::embedded::ops::{RopeFrequencies, RopeTable};
use crate::error::EngineError;
use crate::settings::Storage;
use candle_core::Tensor;
use driftprobe_model::{Config, RopeLayout, RopeScaling};
use driftprobe_trace::{Phase, Point};

/// Faults of the rotary embedding, of Q and K alike where nothing else is said.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeFault {
    /// `ROPE_POSITION_OFFSET`: every position is so many too large.
    PositionOffset(i64),
    /// `ROPE_THETA`: the base is so many times too large.
    Theta(f64),
    /// `ROPE_LAYOUT`: halves for neighbours, or the other way round.
    Layout,
    /// `ROPE_SCALING`: the model's scaling is left out; where it has none, positions are divided by this factor.
    Scaling(f64),
    /// `K_WITHOUT_ROPE`: Q is turned, K is not.
    KWithoutRope,
    /// `ROPE_TABLE_PRECISION`: cos and sin are kept in a smaller type.
    TablePrecision(Precision),
}

use RopeFault::{KWithoutRope, Layout, PositionOffset, Scaling, TablePrecision, Theta};

impl RopeFault {
    /// The config that the wrong table is made of.
    fn config(&self, clean: &Config) -> Config {
        let mut config = clean.clone();
        match self {
            Theta(factor) => config.rope.theta *= factor,
            Layout => {
                config.rope.layout = match clean.rope.layout {
                    RopeLayout::Half => RopeLayout::Interleaved,
                    RopeLayout::Interleaved => RopeLayout::Half,
                }
            }
            Scaling(factor) => {
                config.rope.scaling = match clean.rope.scaling {
                    RopeScaling::None => RopeScaling::Linear { factor: *factor },
                    _ => RopeScaling::None,
                }
            }
            PositionOffset(_) | KWithoutRope | TablePrecision(_) => {}
        }
        config
    }
}

impl Group for RopeFault {
    fn id(&self) -> &'static str {
        match self {
            PositionOffset(_) => "ROPE_POSITION_OFFSET",
            Theta(_) => "ROPE_THETA",
            Layout => "ROPE_LAYOUT",
            Scaling(_) => "ROPE_SCALING",
            KWithoutRope => "K_WITHOUT_ROPE",
            TablePrecision(_) => "ROPE_TABLE_PRECISION",
        }
    }

    fn parameters(&self) -> Vec<String> {
        match self {
            PositionOffset(offset) => vec![format!("{offset:+}")],
            Theta(factor) | Scaling(factor) => vec![factor.to_string()],
            TablePrecision(precision) => vec![precision.to_string()],
            Layout | KWithoutRope => vec![],
        }
    }

    fn parse(id: &str, p: &mut Parameters<'_>) -> Result<Option<Self>, String> {
        Ok(Some(match id {
            "ROPE_POSITION_OFFSET" => PositionOffset(p.take("offset", 1)?),
            "ROPE_THETA" => Theta(p.take("factor", 2.0)?),
            "ROPE_LAYOUT" => Layout,
            "ROPE_SCALING" => Scaling(p.take("factor", 2.0)?),
            "K_WITHOUT_ROPE" => KWithoutRope,
            "ROPE_TABLE_PRECISION" => TablePrecision(p.take("precision", Precision::Bf16)?),
            _ => return Ok(None),
        }))
    }

    fn all(_: &Subject<'_>) -> Vec<Self> {
        let precisions = [Precision::F16, Precision::Bf16].map(TablePrecision);
        let mut all =
            vec![PositionOffset(1), PositionOffset(-1), Theta(2.0), Theta(1.01), Layout, Scaling(2.0), KWithoutRope];
        all.extend(precisions);
        all
    }

    fn check(&self, subject: &Subject<'_>, _: &Scope) -> Result<(), String> {
        let config = subject.config();
        let table = |config: &Config| (config.rope.inv_freq(config.head_dim), config.rope.attention_factor());
        match self {
            PositionOffset(0) => return Err("an offset of 0 changes nothing".to_owned()),
            PositionOffset(offset) if offset.unsigned_abs() > 1 << 24 => {
                return Err(format!("positions offset by {offset} are not exact in f32"));
            }
            PositionOffset(_) => return Ok(()),
            Layout if config.head_dim == 2 => return Err("a head of 2 has one layout only".to_owned()),
            TablePrecision(Precision::Fp8) => return Err("no engine keeps cos and sin in fp8".to_owned()),
            Theta(factor) | Scaling(factor) if !(factor.is_finite() && *factor > 0.0) => {
                return Err(format!("the factor {factor} is not a positive number"));
            }
            Theta(factor) if config.rope.theta * factor <= 1.0 => {
                return Err(format!("theta would be {}, expected more than 1", config.rope.theta * factor));
            }
            Theta(_) | Scaling(_) if table(&self.config(config)) == table(config) => {
                return Err("the frequencies would be what they are".to_owned());
            }
            _ => {}
        }
        if subject.tokens < 2 { Err("at position 0 nothing is turned".to_owned()) } else { Ok(()) }
    }

    fn point(&self, _: &Subject<'_>, _: Phase) -> Point {
        match self {
            KWithoutRope => Point::KPostRope,
            _ => Point::QPostRope,
        }
    }

    fn build(&self, workshop: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        let offset = match self {
            KWithoutRope => return Ok(Box::new(Unturned)),
            PositionOffset(offset) => *offset,
            _ => 0,
        };
        let storage = match self {
            TablePrecision(Precision::F16) => Storage::F16,
            TablePrecision(_) => Storage::Bf16,
            _ => Storage::F32,
        };
        let frequencies = RopeFrequencies::new(&self.config(workshop.subject.config()));
        Ok(Box::new(OtherTable { frequencies, offset, storage }))
    }
}

/// A table of its own.
struct OtherTable {
    frequencies: RopeFrequencies,
    offset: i64,
    storage: Storage,
}

impl Interference for OtherTable {
    fn rope(&self, at: At, _: Turned, _: &RopeTable, x: &Tensor) -> Result<Tensor, EngineError> {
        let first = at.first as i64 + self.offset;
        self.frequencies.table_from(first, at.tokens, x.device())?.stored(self.storage)?.apply(x)
    }
}

/// K as it came from its projection.
struct Unturned;

impl Interference for Unturned {
    fn rope(&self, _: At, turned: Turned, table: &RopeTable, x: &Tensor) -> Result<Tensor, EngineError> {
        match turned {
            Turned::Q => table.apply(x),
            Turned::K => Ok(x.clone()),
        }
    }
}
