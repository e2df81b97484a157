//! A lane: one computation of a sequence, or of its last positions on top of another lane's cache.

use super::random::derived;
use crate::oracle::arithmetic::Arithmetic;
use driftprobe_trace::{Contract, ContractFields, Dtype, Event, Phase, Point};
use std::collections::BTreeMap;

/// How a lane computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In float64, without any rounding.
    Exact,
    /// As an engine would in this phase: each stage with random errors of its arithmetic's variance, then rounded.
    Draw(Phase, u64),
}

/// Where a lane finds the cached rows of positions that it does not compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Number of the lane that computes them; a lane of a smaller number.
    pub lane: usize,
    /// Whether the rows of all earlier positions are that lane's, those that this one computes too included.
    pub aligned: bool,
}

/// One computation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// How.
    pub kind: Kind,
    /// Which positions, ascending.
    pub positions: Vec<usize>,
    /// On top of what; none: positions are all from 0.
    pub base: Option<Base>,
}

impl Lane {
    /// Index of a position among the lane's own.
    pub fn index(&self, pos: usize) -> Option<usize> {
        self.positions.binary_search(&pos).ok()
    }

    /// Seed of a row's errors; none if there are none.
    pub fn seed(&self, stage: usize, pos: usize) -> Option<u64> {
        match self.kind {
            Kind::Exact => None,
            Kind::Draw(_, seed) => Some(derived(seed, &[stage as u64, pos as u64])),
        }
    }

    /// The phase whose arithmetic the lane has.
    pub fn phase(&self) -> Option<Phase> {
        match self.kind {
            Kind::Exact => None,
            Kind::Draw(phase, _) => Some(phase),
        }
    }
}

/// In which types rows are stored, as far as a run's events say it.
#[derive(Clone, Debug, Default)]
pub struct Formats {
    recorded: BTreeMap<(Phase, Point), (Dtype, Option<Dtype>)>,
    /// What the record has shown the contract to leave out.
    fitted: BTreeMap<(Phase, Point), ContractFields>,
    /// Of ordinary rows, where the contract does not say it.
    ordinary: Option<Dtype>,
}

impl Formats {
    /// What the events say; the finest, where they disagree. `declared` is whether a contract says how activations are stored.
    pub fn of<'e>(events: impl Iterator<Item = &'e Event>, declared: bool) -> Formats {
        let mut formats = Formats::default();
        for event in events {
            let Some(dtype) = event.dtype else { continue };
            let entry = formats.recorded.entry((event.phase, event.point)).or_insert((dtype, event.stored_dtype));
            entry.0 = entry.0.min(dtype);
            let special = matches!(event.point, Point::Logits | Point::AttnScores | Point::AttnProbs);
            if !special && !declared {
                formats.ordinary = Some(formats.ordinary.map_or(dtype, |o| o.min(dtype)));
            }
        }
        if declared {
            // No limit but what is declared.
            formats.ordinary = Some(Dtype::F64);
        }
        formats
    }

    /// The same with what the record has shown the contract to leave out.
    pub fn fitted(self, fitted: Option<&BTreeMap<(Phase, Point), ContractFields>>) -> Formats {
        Formats { fitted: fitted.cloned().unwrap_or_default(), ..self }
    }

    /// The arithmetic of a point: of a phase under a contract, or the exact one.
    pub fn arithmetic(&self, contract: Option<&Contract>, phase: Option<Phase>, point: Point) -> Arithmetic {
        let Some(phase) = phase else { return Arithmetic::resolve(None, Phase::Prefill, point, Dtype::F64) };
        let other = if phase == Phase::Prefill { Phase::Decode } else { Phase::Prefill };
        let recorded = self.recorded.get(&(phase, point)).or_else(|| self.recorded.get(&(other, point)));
        let unrecorded = match point {
            Point::AttnScores | Point::AttnProbs => Dtype::F32,
            _ => self.ordinary.unwrap_or(Dtype::F32),
        };
        let (dtype, stored) = recorded.copied().unwrap_or((unrecorded, None));
        let mut arithmetic = Arithmetic::resolve(contract, phase, point, dtype);
        if let Some(fields) = self.fitted.get(&(phase, point)) {
            arithmetic = arithmetic.with(fields);
        }
        arithmetic.holding(stored)
    }
}
