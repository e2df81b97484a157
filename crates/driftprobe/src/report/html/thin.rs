//! Which pairs a page shows: all of them up to a number, and of more those that tell most.

use crate::report::plot::heat::Kind;
use crate::report::recordings::Recording;
use std::collections::BTreeMap;

/// Pairs that a page holds, over all recordings.
pub const PAIRS_MAX: usize = 10_000;

/// Pairs chosen: recording and index there, in their order.
pub fn choose(recordings: &[Recording<'_>], most: usize) -> Vec<(usize, usize)> {
    let mut ranked: Vec<(usize, usize, usize)> = vec![];
    for (recording, one) in recordings.iter().enumerate() {
        let pairs = &one.analysis.pairs;
        // The first of the worst of each cell.
        let mut worst: BTreeMap<_, (Kind, usize)> = BTreeMap::new();
        for (index, pair) in pairs.iter().enumerate() {
            let kind = Kind::of(pair);
            let known = worst.entry((pair.prefill.point, pair.prefill.layer)).or_insert((kind, index));
            if kind > known.0 {
                *known = (kind, index);
            }
        }
        for (index, pair) in pairs.iter().enumerate() {
            let kind = Kind::of(pair);
            let is_worst = worst.get(&(pair.prefill.point, pair.prefill.layer)) == Some(&(kind, index));
            let rank = match (is_worst, kind) {
                (true, _) => 0,
                (false, Kind::Gap | Kind::Fault | Kind::NonFinite) => 1,
                (false, Kind::Undecided | Kind::Differs | Kind::Sampled) => 2,
                (false, _) if recording == 0 || one.is_search => 3,
                (false, _) => 4,
            };
            ranked.push((rank, recording, index));
        }
    }
    ranked.sort_unstable();
    ranked.truncate(most);
    let mut chosen: Vec<(usize, usize)> = ranked.into_iter().map(|(_, recording, index)| (recording, index)).collect();
    chosen.sort_unstable();
    chosen
}
