//! Which orders are tried on the rows of a stage.

use super::catalogue;
use super::order::{Attend, Gate, Merge, Norm, Normalise, Order, Turn};
use super::parts::{self, Parts};
use super::prepare::caps;
use super::row::{Row, Stage};
use super::sum::Sum;
use std::collections::BTreeSet;

/// The orders that are tried on rows of one stage.
pub fn orders(rows: &[&Row]) -> Vec<Order> {
    let longest = rows.iter().max_by_key(|row| size(row));
    let Some(longest) = longest else { return Vec::new() };
    let mut all = vec![Order::Double];
    match &longest.stage {
        Stage::Dots(dots) => {
            let sums = catalogue::dots(dots.count);
            all.extend(caps(dots.softcap).iter().flat_map(|cap| sums.iter().map(|sum| Order::Dot(*sum, *cap))));
            if let (Some(keys), Some(_)) = (&dots.keys, dots.scale) {
                let common = catalogue::common(dots.count);
                let pairs = common.iter().flat_map(|a| common.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
                let pairs: Vec<(Sum, Sum)> = pairs.collect();
                let parts = parts::candidates(keys.seen.end).into_iter().filter(|parts| *parts != Parts::Whole);
                all.extend(parts.flat_map(|parts| pairs.iter().map(move |(a, b)| Order::Cut(*a, *b, parts))));
            }
        }
        Stage::Norm { weight, .. } => {
            let sums = catalogue::dots(weight.len());
            let kinds = [Norm::ByReciprocal, Norm::ByQuotient, Norm::BySquareRoot, Norm::WeightFirst];
            all.extend(kinds.iter().flat_map(|kind| sums.iter().map(|sum| Order::Norm(*kind, *sum))));
        }
        Stage::Softmax { keys, .. } => {
            let kinds = [Normalise::Quotient, Normalise::Reciprocal];
            let mut seen = BTreeSet::new();
            // Numbers, not products: a fused addition is a plain one.
            let mut sums: Vec<Sum> = catalogue::sums();
            sums.extend(catalogue::dots(*keys).into_iter().filter(|sum| !sum.fused));
            sums.retain(|sum| seen.insert(sum.symbol(*keys, 0..*keys, false)));
            all.extend(kinds.iter().flat_map(|kind| sums.iter().map(|sum| Order::Softmax(*sum, *kind))));
        }
        Stage::Attend { sets, .. } => {
            all.extend(attention(rows, longest.keys().unwrap_or(1), sets).into_iter().map(Order::Attend))
        }
        Stage::Turn { .. } => all.extend([Turn::Separate, Turn::FusedCos, Turn::FusedSin].map(Order::Turn)),
        Stage::Gate { .. } => all.extend([Gate::Plain, Gate::Sigmoid, Gate::ProductFirst].map(Order::Gate)),
    }
    all
}

fn size(row: &Row) -> usize {
    match &row.stage {
        Stage::Dots(dots) => dots.count,
        Stage::Softmax { keys, .. } => *keys,
        Stage::Attend { .. } => row.keys().unwrap_or(0),
        _ => 0,
    }
}

/// Whether these ranges leave one of two keys in a row.
fn has_pairs(rows: &[&Row], parts: Parts) -> bool {
    let has = |keys: usize| parts.size(keys) == 2 || keys % parts.size(keys) == 2;
    rows.iter().any(|row| matches!(row.stage, Stage::Attend { keys, .. } if keys > 2 && has(keys)))
}

fn attention(rows: &[&Row], keys: usize, sets: &[Sum]) -> Vec<Attend> {
    let scores: Vec<Option<(Sum, Sum)>> = match sets {
        [] => vec![None],
        [first, ..] => {
            // A short last range may be the matter of another kernel.
            let mixed = sets.iter().skip(2).take(1).flat_map(|few| [(*first, *few), (*few, *first)]);
            sets.iter().map(|one| (*one, *one)).chain(mixed).map(Some).collect()
        }
    };
    let mut sums = catalogue::sums();
    if !sets.is_empty() {
        sums.truncate(3);
    }
    let mut all = Vec::new();
    for parts in parts::candidates(keys) {
        let merges: &[Merge] =
            if parts == Parts::Whole { &[Merge::InOrder] } else { &[Merge::InOrder, Merge::Running, Merge::AtEnd] };
        let normalise: &[Normalise] = match parts {
            Parts::Whole => &[Normalise::Quotient, Normalise::Reciprocal, Normalise::Weights],
            _ => &[Normalise::Quotient, Normalise::Reciprocal],
        };
        let pairs: &[bool] = if has_pairs(rows, parts) { &[false, true] } else { &[false] };
        let values = catalogue::values(parts.size(keys));
        let values = values.into_iter().flat_map(|sum| pairs.iter().map(move |pairs| (sum, *pairs)));
        for (values, pairs) in values.filter(|(sum, pairs)| sum.fused || !pairs) {
            for (merge, normalise) in merges.iter().flat_map(|merge| normalise.iter().map(|n| (*merge, *n))) {
                for scores in &scores {
                    // One range has no last beside the others.
                    if parts == Parts::Whole && scores.is_some_and(|(first, last)| first != last) {
                        continue;
                    }
                    let of = |sum: &Sum| Attend { parts, merge, sum: *sum, values, pairs, normalise, scores: *scores };
                    all.extend(sums.iter().map(of));
                }
            }
        }
    }
    all
}
