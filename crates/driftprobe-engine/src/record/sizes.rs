//! How large an engine's rows are: shown by a few tokens, and told from them for sequences of any length.

use crate::tap::{Receiver, Selection, Tap, TappedRow};
use crate::{Engine, EngineError};
use driftprobe_trace::{Dtype, Phase, Point};
use std::collections::BTreeMap;

/// Sequences that are looked at, in tokens: shapes grow linearly from one to the other, and so beyond.
const SHORT: usize = 2;
const LONG: usize = 3;

/// A row at both lengths.
#[derive(Clone, Debug, Default)]
struct Seen {
    dtype: Option<Dtype>,
    short: Vec<u64>,
    long: Vec<u64>,
}

/// Types and shapes of an engine's rows.
pub(super) struct Sizes(BTreeMap<(Phase, i32, Point), Seen>);

impl Sizes {
    /// Computes a few tokens in both phases, and looks at the rows of these layers and points.
    pub(super) fn of(engine: &dyn Engine, selection: [Selection; 2]) -> Result<Sizes, EngineError> {
        let mut sizes = Sizes(BTreeMap::new());
        for (phase, selection) in Phase::ALL.into_iter().zip(&selection) {
            for tokens in [SHORT, LONG] {
                let mut rows = Shapes { sizes: &mut sizes, phase, long: tokens == LONG };
                let last = tokens - 1;
                let fed = vec![0u32; tokens];
                let mut session = engine.session()?;
                if phase == Phase::Prefill {
                    session.prefill(&fed, last..tokens, &mut Tap::open(selection, last..tokens, &mut rows))?;
                } else {
                    session.prefill(fed.get(..last).unwrap_or_default(), 0..0, &mut Tap::closed())?;
                    session.decode(0, &mut Tap::open(selection, last..tokens, &mut rows))?;
                }
            }
        }
        Ok(sizes)
    }

    /// The places that a phase shows.
    pub(super) fn places(&self) -> impl Iterator<Item = (Phase, i32, Point)> {
        self.0.keys().copied()
    }

    /// Type and shape of a row behind which there are `tokens` in all, its own included.
    pub(super) fn row(&self, place: (Phase, i32, Point), tokens: usize) -> Option<(Dtype, Vec<u64>)> {
        let seen = self.0.get(&place)?;
        let beyond = (tokens as u64).saturating_sub(SHORT as u64);
        // A shape that shrinks, or has another number of dimensions, is not foreseen: it counts as it was seen last.
        let grown =
            |(short, long): (&u64, &u64)| short.saturating_add(long.saturating_sub(*short).saturating_mul(beyond));
        let shape = match seen.short.len() == seen.long.len() {
            true => seen.short.iter().zip(&seen.long).map(grown).collect(),
            false => seen.long.clone(),
        };
        Some((seen.dtype?, shape))
    }
}

/// Receives the rows of one pass.
struct Shapes<'a> {
    sizes: &'a mut Sizes,
    phase: Phase,
    long: bool,
}

impl Receiver for Shapes<'_> {
    fn row(&mut self, row: TappedRow) -> Result<(), EngineError> {
        let layer = if row.point.layered() { row.layer } else { -1 };
        let seen = self.sizes.0.entry((self.phase, layer, row.point)).or_default();
        seen.dtype = Some(row.dtype);
        *(if self.long { &mut seen.long } else { &mut seen.short }) = row.shape;
        Ok(())
    }
}
