//! Positions that the rotary embedding mistakes: off by a number, standing still, or another one for every token.

use super::first_heads;
use crate::cause::fit::distance;
use crate::cause::trial::{Expect, Freedom, Trial};
use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::judgement::Unjudged;
use crate::oracle::replay::cases::Case;
use driftprobe_model::reference::pair;
use driftprobe_model::{Config, Model};
use driftprobe_trace::Point;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Offsets of the position that are tried in full.
const OFFSETS_TRIED: usize = 3;
/// Offsets that are looked at, at least; else as many as the last row has positions before it.
const OFFSET_MAX: i64 = 64;
/// Tokens that may each have another position.
const TOKENS_MAX: usize = 12;
/// Positions that are looked at, at most.
const POS_MAX: i64 = 4096;

/// The row turned to another position.
pub(in crate::cause) fn offset<'a>(model: &'a Model, by: i64) -> Trial<'a> {
    let expect = move |case: &Case| turned_to(model, case, i128::from(case.task.pos_id) + i128::from(by));
    Trial::new("ROPE_POSITION_OFFSET", Box::new(expect)).with("offset", format!("{by:+}"))
}

/// Turned to any position. Backwards is forwards with the halves of each pair exchanged.
fn turned_to(model: &Model, case: &Case, pos: i128) -> Result<Expectation, Unjudged> {
    let mut task = case.task.clone();
    task.pos_id = u64::try_from(pos.unsigned_abs()).unwrap_or(u64::MAX);
    if pos >= 0 {
        return evaluate(model, case.op, &task, case.layer_index());
    }
    let exchange = |x: &mut Vec<f64>| exchange_pairs(x, &model.config);
    task.inputs.iter_mut().for_each(exchange);
    let mut expectation = evaluate(model, case.op, &task, case.layer_index())?;
    if let Expectation::Noisy(expected) = &mut expectation {
        exchange_pairs(&mut expected.y, &model.config);
        exchange_pairs(&mut expected.variance, &model.config);
    }
    Ok(expectation)
}

fn exchange_pairs(x: &mut [f64], config: &Config) {
    for head in x.chunks_exact_mut(config.head_dim.max(1)) {
        for i in 0..config.head_dim / 2 {
            let (first, second) = pair(config.rope.layout, config.head_dim, i);
            head.swap(first, second);
        }
    }
}

/// The offsets under which the first head of the rows fits best, and the one position of all rows.
pub(super) fn trials<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let few = first_heads(model, cases);
    let last = cases.iter().map(|c| i64::try_from(c.task.pos_id).unwrap_or(i64::MAX)).max().unwrap_or(0).min(POS_MAX);
    let reach = last.saturating_add(1).max(OFFSET_MAX);
    let near = (-reach..=reach).chain((7..=16).flat_map(|bits| [-(1 << bits), 1 << bits]));
    let mut ranked: Vec<(f64, i64)> =
        near.filter(|by| *by != 0).map(|by| (distance(&few, &offset(model, by).expect), by)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    ranked.dedup_by_key(|(_, by)| *by);
    let mut all: Vec<Trial<'a>> = ranked.iter().take(OFFSETS_TRIED).map(|(_, by)| offset(model, *by)).collect();
    all.extend(own_positions(model, cases, reach));
    if cases.iter().any(|c| c.task.pos_id != cases.first().map_or(0, |f| f.task.pos_id)) {
        all.extend(still(model, &few, last));
    }
    all
}

/// Every token at a position of its own: the one that its first head fits best.
fn own_positions<'a>(model: &'a Model, cases: &[Case], reach: i64) -> Option<Trial<'a>> {
    let mut found: BTreeMap<(Arc<str>, u64), i64> = BTreeMap::new();
    for case in cases {
        let key = (case.prompt_id.clone(), case.pos);
        if found.contains_key(&key) {
            continue;
        }
        if found.len() >= TOKENS_MAX {
            return None;
        }
        let few = first_heads(model, std::slice::from_ref(case));
        let own = i64::try_from(case.task.pos_id).unwrap_or(i64::MAX);
        // The nearest, of those that fit alike.
        let mut all: Vec<i64> = (0..=reach.saturating_add(1)).collect();
        all.sort_by_key(|pos| pos.abs_diff(own));
        let best = all
            .iter()
            .map(|pos| (distance(&few, &at(model, *pos)), *pos))
            .reduce(|a, b| if b.0 < a.0 { b } else { a })?;
        found.insert(key, best.1);
    }
    let name = found.values().map(i64::to_string).collect::<Vec<_>>().join(", ");
    let expect: Expect<'a> = Box::new(move |case| {
        let pos = found.get(&(case.prompt_id.clone(), case.pos)).ok_or(Unjudged::NoPayload)?;
        turned_to(model, case, i128::from(*pos))
    });
    // Of K alone position 0 is K without a rotation, which has no freedom.
    Some(Trial::new("ROPE_POSITION_OFFSET", expect).with("positions", name).freedom(Freedom::Fitted))
}

/// Every row turned alike: the position stands still.
fn still<'a>(model: &'a Model, few: &[Case], last: i64) -> Vec<Trial<'a>> {
    // Of K alone that is, at 0, K without a rotation.
    let of_q = few.first().is_some_and(|c| c.point == Point::QPostRope);
    let places = (i64::from(!of_q)..=last.saturating_add(1)).map(|pos| (distance(few, &at(model, pos)), pos));
    let best = places.min_by(|a, b| a.0.total_cmp(&b.0));
    let trial = |(_, pos): (f64, i64)| {
        Trial::new("ROPE_POSITION_OFFSET", at(model, pos)).with("position", format!("always {pos}"))
    };
    best.map(trial).into_iter().collect()
}

/// Every row turned to one position.
fn at(model: &Model, pos: i64) -> Expect<'_> {
    Box::new(move |case| turned_to(model, case, i128::from(pos)))
}
