//! Heads mistaken for each other: queries, the keys and values they read, results in another order.

use super::reading::{Misread, Reading, read};
use super::reads;
use crate::cause::trial::{Expect, Trial, noisy_of};
use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::judgement::Unjudged;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use crate::oracle::stats::Expected;
use driftprobe_model::Model;

/// Every query head with a key head of its own choice: where keys are read, values, or both.
pub fn mapped<'a>(model: &'a Model, (map, name): (Vec<usize>, &str), op: Op) -> Vec<Trial<'a>> {
    let of: &[Misread] = if op == Op::Attention { &Misread::ALL } else { &[Misread::Both] };
    of.iter().map(|what| misread(model, (&map, name), (op, *what))).collect()
}

fn misread<'a>(model: &'a Model, (map, name): (&[usize], &str), (op, what): (Op, Misread)) -> Trial<'a> {
    let id = if model.config.group() > 1 { "GQA_MAP" } else { "HEAD_SWAP" };
    let reading = Reading { heads: Some((map.to_vec(), what)), ..Reading::CLEAN };
    let trial = Trial::new(id, reads(model, reading)).with("heads", name);
    let of = match what {
        Misread::Both => "keys and values",
        Misread::Keys => "keys",
        Misread::Values => "values",
    };
    if op == Op::Attention { trial.with("of", of) } else { trial }
}

/// The key heads that the query heads of the last row fit best.
pub fn maps<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let config = &model.config;
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let Some(case) = cases.iter().max_by_key(|c| c.task.pos).filter(|_| kv_heads > 1) else { return Vec::new() };
    let of: &[Misread] = if case.op == Op::Attention { &Misread::ALL } else { &[Misread::Both] };
    let found = of.iter().filter_map(|what| {
        let all_read = |kv: usize| {
            let reading = Reading { heads: Some((vec![kv; heads], *what)), ..Reading::CLEAN };
            read(model, case, &reading).ok()
        };
        chosen(case, heads, (0..kv_heads).map(all_read), |head| head / config.group()).map(|map| (map, *what))
    });
    found.map(|(map, what)| misread(model, (&map, &listed(&map)), (case.op, what))).collect()
}

/// Query heads in another order, each with the keys of its place.
pub fn queries<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let (heads, width) = (model.config.num_attention_heads, model.config.head_dim);
    let Some(case) = cases.iter().max_by_key(|c| c.task.pos).filter(|_| heads > 1) else { return Vec::new() };
    let asked_by_all = |head: usize| asked(model, case, (&vec![head; heads], width)).ok();
    let Some(order) = chosen(case, heads, (0..heads).map(asked_by_all), |head| head) else { return Vec::new() };
    let name = moved(&order);
    let expect: Expect<'a> = Box::new(move |case| asked(model, case, (&order, width)));
    vec![Trial::new("HEAD_SWAP", expect).with("heads", name).with("of", "queries")]
}

fn asked(model: &Model, case: &Case, (order, width): (&[usize], usize)) -> Result<Expectation, Unjudged> {
    let mut task = case.task.clone();
    let q = task.input(0);
    let turned = order.iter().flat_map(|h| q.get(h * width..(h + 1) * width).unwrap_or_default()).copied().collect();
    if let Some(q) = task.inputs.first_mut() {
        *q = turned;
    }
    evaluate(model, case.op, &task, case.layer_index())
}

/// Of several expectations the one that each head of a row fits best, if that is another than its own for any.
fn chosen(
    case: &Case,
    heads: usize,
    all: impl Iterator<Item = Option<Expectation>>,
    own: impl Fn(usize) -> usize,
) -> Option<Vec<usize>> {
    let mut best: Vec<Option<(f64, usize)>> = vec![None; heads];
    for (from, expectation) in all.enumerate() {
        let Some(Expectation::Noisy(expected)) = expectation else { continue };
        for (head, best) in best.iter_mut().enumerate() {
            // The own one wins where it fits.
            let favour = if own(head) == from { 0.5 } else { 1.0 };
            let found = favour * distance((case, &expected), heads, (head, head));
            if best.is_none_or(|(least, _)| found < least) {
                *best = Some((found, from));
            }
        }
    }
    let map: Vec<usize> = best.into_iter().map(|b| b.map(|(_, from)| from)).collect::<Option<_>>()?;
    map.iter().enumerate().any(|(head, from)| *from != own(head)).then_some(map)
}

/// Σz² of what is recorded in the place of one head, held against what another head should be. Both hidden is equal.
fn distance((case, expected): (&Case, &Expected), heads: usize, (place, from): (usize, usize)) -> f64 {
    let width = case.recorded.len() / heads.max(1);
    let one = |i: usize| {
        let (at, of) = (place * width + i, from * width + i);
        let (Some(r), Some(y), Some(v)) = (case.recorded.get(at), expected.y.get(of), expected.variance.get(of)) else {
            return f64::INFINITY;
        };
        if expected.hidden.get(of).copied().unwrap_or(false) {
            return 0.0;
        }
        let z = (r - y).powi(2) / (v + expected.output.rounding_variance(*y));
        if z.is_nan() { f64::INFINITY } else { z }
    };
    (0..width).map(one).sum()
}

/// The order of heads that the last row has: each head's place goes to the clean head that fits it best.
pub fn swaps<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let heads = model.config.num_attention_heads;
    let order = |case: &Case| {
        let expected = noisy_of(model, case).ok()?;
        let best = |place: usize| {
            let own = (0.5 * distance((case, &expected), heads, (place, place)), place);
            let others = (0..heads).map(|from| (distance((case, &expected), heads, (place, from)), from));
            others.fold(own, |best, other| if other.0 < best.0 { other } else { best }).1
        };
        let order: Vec<usize> = (0..heads).map(best).collect();
        order.iter().enumerate().any(|(place, from)| place != *from).then_some(order)
    };
    let Some(order) = cases.iter().rev().find_map(order) else { return Vec::new() };
    let name = moved(&order);
    vec![Trial::new("HEAD_SWAP", reordered(model, order)).with("heads", name)]
}

/// Heads in another order: head `order[h]` in the place of head h.
pub fn reordered<'a>(model: &'a Model, order: Vec<usize>) -> Expect<'a> {
    Box::new(move |case| {
        let mut expected = noisy_of(model, case)?;
        let width = expected.y.len() / order.len().max(1);
        (expected.y, expected.variance) =
            (turned(&expected.y, &order, width), turned(&expected.variance, &order, width));
        expected.hidden = turned(&expected.hidden, &order, width);
        Ok(Expectation::Noisy(expected))
    })
}

fn turned<T: Copy>(all: &[T], order: &[usize], width: usize) -> Vec<T> {
    order.iter().flat_map(|h| all.get(h * width..(h + 1) * width).unwrap_or_default()).copied().collect()
}

/// The heads that are not in their place.
pub(in crate::cause) fn moved(order: &[usize]) -> String {
    let moved: Vec<usize> =
        order.iter().enumerate().filter(|(place, from)| place != *from).map(|(place, _)| place).collect();
    listed(&moved)
}

pub(in crate::cause) fn listed(all: &[usize]) -> String {
    all.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
