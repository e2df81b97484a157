//! What orders say, in a few words: what all of them have in common, and what they leave open.

use super::order::{Attend, Order};
use super::parts::{Parts, candidates};
use std::collections::BTreeSet;

/// Sentences of orders that are not the same, shortest first, a few at most.
pub fn each(orders: &[Order]) -> Vec<String> {
    let mut all: Vec<String> =
        orders.iter().map(|order| order.parts().map_or_else(|| order.to_string(), |parts| parts.to_string())).collect();
    all.sort_by_key(|text| (text.len(), text.clone()));
    all.dedup();
    all
}

/// What orders that are one on their rows say, and which roundings beside it they leave open. `longest`: keys of the longest
/// row; `whole`: whether what they sum are the probabilities of all keys.
pub fn claim(orders: &[Order], longest: Option<usize>, whole: bool) -> (String, Vec<String>) {
    let attends: Vec<&Attend> =
        orders.iter().filter_map(|order| if let Order::Attend(attend) = order { Some(attend) } else { None }).collect();
    if attends.is_empty() {
        let says = match orders.first().and_then(|order| Some((order, order.sum()?))) {
            Some((_, sum)) if whole => format!("one pass over the keys; values in {sum}"),
            Some((Order::Softmax(..), sum)) => format!("exponentials in {sum}"),
            Some((Order::Norm(..), sum)) => format!("squares in {sum}"),
            Some((_, sum)) => sum.to_string(),
            None => each(orders).into_iter().next().unwrap_or_default(),
        };
        return (says, kinds(orders));
    }
    let mut says = ranges(&attends, longest).unwrap_or_else(|| each(orders).join(" or "));
    let mut open = Vec::new();
    let mut facet = |name: &str, values: BTreeSet<String>| match values.len() {
        0 => {}
        1 => values.iter().for_each(|value| says += &format!("; {name}{value}")),
        count => open.push(format!("{}{count} orders", if name.is_empty() { "the merge: " } else { name })),
    };
    if attends.iter().all(|attend| attend.parts != Parts::Whole) {
        facet("", attends.iter().map(|attend| merge(attend).to_owned()).collect());
    }
    facet("exponentials in ", attends.iter().map(|attend| attend.sum.to_string()).collect());
    facet("values in ", attends.iter().map(|attend| attend.values.to_string()).collect());
    let scores = |attend: &&Attend| -> Option<String> { attend.scores.map(|(first, _)| first.to_string()) };
    facet("scores in ", attends.iter().filter_map(scores).collect());
    (says, open)
}

fn merge(attend: &Attend) -> &'static str {
    use super::order::Merge;
    match attend.merge {
        Merge::InOrder => "merged in order",
        Merge::Running => "one running result",
        Merge::AtEnd => "merged at the end",
    }
}

/// The ranges, by every name that they have on these rows.
fn ranges(attends: &[&Attend], longest: Option<usize>) -> Option<String> {
    let parts: BTreeSet<Parts> = attends.iter().map(|attend| attend.parts).collect();
    if parts.contains(&Parts::Whole) {
        let least = least_block(&parts, longest.unwrap_or(1))?;
        return Some(format!("one pass over the keys, or blocks of {least} and more"));
    }
    let names: Vec<String> = parts.iter().map(Parts::to_string).collect();
    Some(match names.as_slice() {
        [one] => one.clone(),
        many => format!("{}, which are the same on these rows", many.join(" or ")),
    })
}

/// Where the ranges are the whole or blocks from some size on: that size. A block that all but holds a row, and whose
/// maximum stands, gives what the whole gives.
pub fn least_block(parts: &BTreeSet<Parts>, longest: usize) -> Option<usize> {
    let sizes: BTreeSet<usize> = parts.iter().filter_map(|part| part.block()).collect();
    let plain = parts.contains(&Parts::Whole) && parts.len() == sizes.len() + 1;
    let least = sizes.first().copied().unwrap_or(longest);
    let tried = candidates(longest).into_iter().filter_map(Parts::block).filter(|size| *size >= least);
    (plain && tried.eq(sizes.iter().copied())).then_some(least)
}

/// Roundings beside the main sum.
fn kinds(orders: &[Order]) -> Vec<String> {
    let kind = |order: &Order| match order {
        Order::Norm(norm, _) => Some(norm.id()),
        Order::Softmax(_, normalise) => Some(normalise.id()),
        _ => None,
    };
    let all: BTreeSet<&str> = orders.iter().filter_map(kind).collect();
    if all.len() > 1 { vec![all.into_iter().collect::<Vec<_>>().join(" or ")] } else { Vec::new() }
}
