//! Attention of one row in f32, by a given order, from its scores.

use super::order::{Attend, Merge, Normalise};
use super::sum::Sum;
use super::terms::{Numbers, Products, symbol};
use std::ops::Range;

/// One head of one row.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Scores of the keys, −∞ where hidden; where they are not recorded one set for each order that is tried.
    pub scores: Vec<Vec<f32>>,
    /// Which keys are seen.
    pub seen: Range<usize>,
    /// Channels of the values, one behind the other: `[head_dim][keys]`.
    pub values: Vec<Vec<f32>>,
}

/// A range's exponentials, what rescales the result of those before it, and what rescales its own.
struct Part {
    exps: Vec<f32>,
    first: usize,
    before: f32,
    own: f32,
}

/// A head whose softmax is done, ready for its channels.
pub struct Softmaxed {
    parts: Vec<Part>,
    sum: f32,
}

/// Which sets of scores an order takes: for all ranges but the last, and for the last.
pub type Sets = (usize, usize);

impl Softmaxed {
    /// The exponentials of a head and their sum. `keys` is how many keys the pass has, those hidden from the row included.
    pub fn new(order: &Attend, head: &Head, keys: usize, sets: Sets) -> Softmaxed {
        let size = order.parts.size(keys);
        let starts: Vec<usize> = (0..keys).step_by(size).filter(|first| overlaps(&head.seen, *first, size)).collect();
        let score = |first: usize, key: usize| {
            let set = if first + size >= keys { sets.1 } else { sets.0 };
            let scores = head.scores.get(set).map_or(&[][..], Vec::as_slice);
            scores.get(key).copied().unwrap_or(f32::NEG_INFINITY)
        };
        let top = |first: usize| {
            (first..keys.min(first + size)).map(|key| score(first, key)).fold(f32::NEG_INFINITY, f32::max)
        };
        let tops: Vec<f32> = starts.iter().map(|first| top(*first)).collect();
        let all = tops.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut parts, mut sum, mut max) = (Vec::with_capacity(starts.len()), 0f32, f32::NEG_INFINITY);
        for (number, (first, own)) in starts.iter().zip(&tops).enumerate() {
            let merged = if number == 0 { *own } else { max.max(*own) };
            let reference = if order.merge == Merge::Running { merged } else { *own };
            let count = size.min(keys - first);
            let exps: Vec<f32> = (*first..first + count).map(|key| (score(*first, key) - reference).exp()).collect();
            let total = order.sum.of(count, &Numbers(&exps));
            let (before, own) = match order.merge {
                Merge::InOrder => ((max - merged).exp(), (own - merged).exp()),
                Merge::Running => ((max - merged).exp(), 1.0),
                Merge::AtEnd => (1.0, (own - all).exp()),
            };
            sum = if number == 0 && order.merge != Merge::AtEnd { total } else { sum * before + total * own };
            max = merged;
            parts.push(Part { exps, first: *first, before, own });
        }
        if order.normalise == Normalise::Weights {
            parts.iter_mut().flat_map(|part| &mut part.exps).for_each(|e| *e /= sum);
        }
        Softmaxed { parts, sum }
    }

    /// One channel of the result.
    pub fn channel(&self, order: &Attend, values: &[f32]) -> f32 {
        let mut out = 0f32;
        for (number, part) in self.parts.iter().enumerate() {
            let values = values.get(part.first..).unwrap_or_default();
            let (count, products) = (part.exps.len(), Products(&part.exps, values));
            let sum = order.values_of(count);
            out = match (order.merge, number) {
                (Merge::InOrder | Merge::Running, 0) => sum.of(count, &products),
                (Merge::Running, _) => sum.onto(out * part.before, count, &products),
                (Merge::InOrder, _) => out * part.before + sum.of(count, &products) * part.own,
                (Merge::AtEnd, _) => out + sum.of(count, &products) * part.own,
            };
        }
        match order.normalise {
            Normalise::Quotient => out / self.sum,
            Normalise::Reciprocal => out * (1.0 / self.sum),
            Normalise::Weights => out,
        }
    }
}

fn overlaps(seen: &Range<usize>, first: usize, size: usize) -> bool {
    first < seen.end && first + size > seen.start
}

/// What an order is on a row that sees these of `keys` keys: the ranges alone, and all of it. Equal symbols: the same order.
pub fn symbols(order: &Attend, seen: &Range<usize>, (keys, width): (usize, usize)) -> (u64, u64) {
    let size = order.parts.size(keys);
    let (mut ranges, mut all) = (Vec::new(), Vec::new());
    for first in (0..keys).step_by(size).filter(|first| overlaps(seen, *first, size)) {
        let count = size.min(keys - first);
        let own = first.max(seen.start) - first..(first + count).min(seen.end) - first;
        ranges.extend([(own.start + first) as u64, (own.end + first) as u64]);
        let of = |sum: &Sum, products| sum.symbol(count, own.clone(), products);
        all.extend([of(&order.sum, false), of(&order.values_of(count), true)]);
        if let Some((inner, last)) = order.scores {
            let sum = if first + size >= keys { last } else { inner };
            all.push(sum.symbol(width, 0..width, true));
        }
    }
    let ranges = symbol(&ranges);
    let merge = if all.len() > if order.scores.is_some() { 3 } else { 2 } { order.merge as u64 } else { 0 };
    // A key by itself adds to a running result in one step; other merges differ in their roundings.
    all.extend([ranges, merge, order.normalise as u64]);
    (ranges, symbol(&all))
}
