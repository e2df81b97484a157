//! Traces of both phases, and where two of them part first.

use crate::support::{Collected, bits, everything};
use driftprobe_engine::{Engine, Selection, Tap, TappedRow};
use driftprobe_trace::{Phase, Point};
use std::ops::Range;

/// Tokens that a decode finds in its cache, filled by an untraced prefill.
const CONTEXT: usize = 9;

/// One phase of a sequence, every point of some layers shown at the last positions.
pub struct Traced {
    rows: Vec<TappedRow>,
    logits: Vec<u32>,
}

/// A place in a trace, in the order of the computation.
pub type Place = (usize, usize, Point, usize);

pub fn traced(engine: &dyn Engine, phase: Phase, tokens: &[u32], layers: Range<usize>) -> Traced {
    let layers = layers.start..layers.end.min(engine.layers());
    let selection = Selection { layers: layers.collect(), ..everything(engine) };
    let mut collected = Collected::default();
    let mut session = engine.session().unwrap();
    let logits = match phase {
        Phase::Prefill => {
            let mut tap = Tap::open(&selection, CONTEXT..tokens.len(), &mut collected);
            session.prefill(tokens, CONTEXT..tokens.len(), &mut tap).unwrap()
        }
        Phase::Decode => {
            session.prefill(&tokens[..CONTEXT], 0..0, &mut Tap::closed()).unwrap();
            let mut tap = Tap::open(&selection, CONTEXT..tokens.len(), &mut collected);
            tokens[CONTEXT..].iter().flat_map(|t| session.decode(*t, &mut tap).unwrap()).collect()
        }
    };
    Traced { rows: collected.rows, logits: bits(&logits) }
}

impl Traced {
    /// Where the rows that differ from another trace's stand: step, layer (0 before and last after all layers), point,
    /// position.
    pub fn differing(&self, other: &Traced, phase: Phase) -> Vec<Place> {
        assert_eq!(self.rows.len(), other.rows.len());
        let mut places: Vec<Place> = Vec::new();
        for (row, clean) in self.rows.iter().zip(&other.rows) {
            let key = |r: &TappedRow| (r.point, r.layer, r.pos, r.shape.clone(), r.dtype);
            assert_eq!(key(row), key(clean));
            if row.bytes != clean.bytes {
                let step = if phase == Phase::Decode { row.pos } else { 0 };
                let layer = match row.point {
                    Point::EmbedOut => 0,
                    point if !point.layered() => usize::MAX,
                    _ => row.layer as usize + 1,
                };
                places.push((step, layer, row.point, row.pos));
            }
        }
        places.sort();
        places
    }

    pub fn equals(&self, other: &Traced) -> bool {
        self.logits == other.logits && self.differing(other, Phase::Prefill).is_empty()
    }

    pub fn is_finite(&self) -> bool {
        self.logits.iter().all(|l| f32::from_bits(*l).is_finite())
    }
}
