//! Whether both phases hold the same cache: all K rows bit-equal, all V rows, and both.

use crate::evidence::Bits;
use crate::judge::JudgedPair;
use driftprobe_trace::Point;
use std::collections::BTreeMap;

/// K and V of one layer, over all prompts and recorded positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvIndicator {
    /// The layer.
    pub layer: i32,
    /// K hash consistency.
    pub k: Consistency,
    /// V hash consistency.
    pub v: Consistency,
}

impl KvIndicator {
    /// Whether K and V are both consistent; `None` where neither is known to differ and one is not known to be equal.
    pub fn aligned(&self) -> Option<bool> {
        match (self.k.consistent(), self.v.consistent()) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        }
    }
}

/// Cached rows that both phases hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consistency {
    /// Caches compared: one a prompt and recorded position.
    pub caches: u64,
    /// Of them, those that differ.
    pub differing: u64,
    /// Of them, those that could not be compared over their whole length.
    pub unknown: u64,
    /// Rows that both phases hold, as far as they are counted.
    pub held: u64,
    /// Of them, those that are bit-equal.
    pub equal: u64,
    /// The lowest position whose row differs.
    pub first_differing: Option<u64>,
    /// Caches in which a row of an earlier position differs, and not only the one just written.
    pub earlier: u64,
}

impl Consistency {
    /// Whether all rows that both phases hold are bit-equal; `None` if that is not known.
    pub fn consistent(&self) -> Option<bool> {
        match self {
            Consistency { differing: 1.., .. } => Some(false),
            Consistency { unknown: 0, caches: 1.., .. } => Some(true),
            _ => None,
        }
    }

    fn add(&mut self, pair: &JudgedPair) {
        self.caches += 1;
        match &pair.bits {
            Bits::Equal { .. } => {
                let rows = pair.cache.map(|cache| cache.positions).or_else(|| rows_of(pair)).unwrap_or(0);
                (self.held, self.equal) = (self.held + rows, self.equal + rows);
            }
            Bits::Differ { .. } => {
                self.differing += 1;
                let Some(cache) = pair.cache else { return };
                self.held += cache.positions;
                self.equal += cache.equal;
                let own = cache.positions.saturating_sub(1);
                // Rows end at the pair's own position.
                let offset = pair.position().map_or(0, |pos| pos.saturating_sub(own));
                let first = cache.first_differing.map(|row| row + offset);
                self.first_differing = [self.first_differing, first].into_iter().flatten().min();
                self.earlier += u64::from(cache.first_differing.is_some_and(|row| row < own));
            }
            Bits::EqualAsSampled { .. } | Bits::Incomparable { .. } => self.unknown += 1,
        }
    }
}

/// Rows of a cache, by its shape `[kv_heads, rows, head_dim]`.
fn rows_of(pair: &JudgedPair) -> Option<u64> {
    match pair.prefill.shape.as_deref() {
        Some(&[_, rows, _]) => Some(rows),
        _ => None,
    }
}

/// By layer.
pub(super) fn of(pairs: &[JudgedPair]) -> Vec<KvIndicator> {
    let mut all: BTreeMap<i32, [Consistency; 2]> = BTreeMap::new();
    for pair in pairs {
        let [k, v] = match pair.prefill.point {
            Point::KCache | Point::VCache => all.entry(pair.prefill.layer).or_default(),
            _ => continue,
        };
        (if pair.prefill.point == Point::KCache { k } else { v }).add(pair);
    }
    all.into_iter().map(|(layer, [k, v])| KvIndicator { layer, k, v }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Options, analyze};
    use crate::testing::{Memory, event, shaped};
    use driftprobe_trace::{HashAlgo, Phase, RowHash};

    /// A cache of one head and three rows of two values, row `wrong` of decode's K changed.
    fn memory(wrong: &[usize]) -> Memory {
        let mut memory = Memory::default();
        for point in [Point::KCache, Point::VCache] {
            for phase in Phase::ALL {
                let mut values: Vec<f32> = (1..7).map(|i| i as f32).collect();
                if (phase, point) == (Phase::Decode, Point::KCache) {
                    wrong.iter().for_each(|row| values[2 * row] += 0.5);
                }
                memory.record(event("p", phase, point, 3, 2, 5), shaped(&[1, 3, 2], &values));
            }
        }
        memory
    }

    fn indicator(memory: &Memory) -> KvIndicator {
        let analysis = analyze(&memory.run, memory, Options::default());
        let all = &analysis.attention.indicators;
        assert_eq!(all.len(), 1);
        all[0]
    }

    #[test]
    fn equal_caches_are_aligned() {
        let got = indicator(&memory(&[]));
        assert_eq!((got.layer, got.aligned(), got.k.held, got.k.equal), (3, Some(true), 3, 3));
        assert_eq!(got.k.first_differing, None);
    }

    #[test]
    fn one_row_that_differs_is_counted_and_named() {
        let got = indicator(&memory(&[1]));
        assert_eq!((got.k.consistent(), got.v.consistent(), got.aligned()), (Some(false), Some(true), Some(false)));
        assert_eq!((got.k.equal, got.k.held, got.k.first_differing, got.k.earlier), (2, 3, Some(1), 1));
        let newest = indicator(&memory(&[2]));
        assert_eq!((newest.k.first_differing, newest.k.earlier), (Some(2), 0));
    }

    #[test]
    fn hashes_alone_tell_whether_and_not_where() {
        let mut memory = memory(&[1]);
        for event in &mut memory.run.events {
            event.payload = None;
        }
        let got = indicator(&memory);
        assert_eq!((got.k.consistent(), got.k.held, got.k.first_differing), (Some(false), 0, None));
        assert_eq!((got.v.consistent(), got.v.held), (Some(true), 3));
    }

    #[test]
    fn what_cannot_be_compared_is_neither() {
        let mut memory = memory(&[]);
        for event in &mut memory.run.events {
            event.payload = None;
            if event.phase == Phase::Prefill && event.point == Point::KCache {
                event.hash = Some(RowHash { algo: HashAlgo::GretaFnv1a256, value: 1 });
                event.stats = Default::default();
            }
        }
        let got = indicator(&memory);
        assert_eq!((got.k.consistent(), got.aligned()), (None, None));
    }
}
