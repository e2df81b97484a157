//! Writes to the KV cache that are wrong: every wrong slot named, and the names that all of them share.

use super::slot::{Foreign, Part, SlotName, WrongSlot, name_slot};
use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::replay::cases::Case;
use driftprobe_model::Model;
use driftprobe_trace::Point;
use std::collections::BTreeSet;

/// A cache by position.
type Rows = Vec<Option<Vec<f64>>>;

/// The names under which every wrong slot of these rows goes. `both` are the rows of K's and V's caches of the same layers,
/// `cases` those that are judged.
pub(super) fn names(model: &Model, cases: &[Case], both: &[Case]) -> Vec<SlotName> {
    let mut shared: Option<Vec<SlotName>> = None;
    // A slot is named by the first row that shows it wrong: later passes may move what is in it.
    let mut seen: BTreeSet<(&str, Point, i32, usize)> = BTreeSet::new();
    let mut in_time: Vec<&Case> = cases.iter().collect();
    in_time.sort_by_key(|case| case.task.pos);
    for case in in_time {
        for (slot, found) in wrong_slots(model, case, both) {
            if !seen.insert((&case.prompt_id, case.point, case.layer, slot)) {
                continue;
            }
            shared = Some(match shared {
                None => found,
                Some(so_far) => so_far.into_iter().filter(|n| found.iter().any(|f| f.id == n.id)).collect(),
            });
        }
    }
    shared.unwrap_or_default()
}

fn wrong_slots(model: &Model, case: &Case, both: &[Case]) -> Vec<(usize, Vec<SlotName>)> {
    let (own, cache) = (expected(model, case), recorded(model, case));
    let of = |point: Point| {
        let is_of = move |c: &&Case| c.point == point && c.layer == case.layer && c.prompt_id == case.prompt_id;
        both.iter().filter(is_of)
    };
    let is_k = case.point == Point::KCache;
    let (part, other) = if is_k { (Part::K, Point::VCache) } else { (Part::V, Point::KCache) };
    // Rows of other positions, later ones among them, have sources and caches of their own.
    let expected = of(case.point).fold(own, |rows, c| filled(rows, self::expected(model, c)));
    let cache_of_all = of(case.point).fold(cache.clone(), |rows, c| filled(rows, recorded(model, c)));
    let other = of(other).fold(Rows::new(), |rows, c| filled(rows, self::expected(model, c)));
    let strangers =
        both.iter().filter(|c| c.point == case.point && c.layer == case.layer && c.prompt_id != case.prompt_id);
    let foreign: Vec<Foreign> = strangers.map(|c| (c.prompt_id.clone(), recorded(model, c))).collect();
    let one = |slot: usize| {
        let (should, is) = (expected.get(slot)?.as_ref()?, cache.get(slot)?.as_ref()?);
        if should == is {
            return None;
        }
        let (tolerance, recorded) = (0.0, is.as_slice());
        let names = name_slot(&WrongSlot {
            part,
            slot,
            newest: slot == case.task.pos,
            recorded,
            expected: &expected,
            expected_other: &other,
            cache: &cache_of_all,
            foreign: &foreign,
            tolerance,
        });
        Some((slot, names))
    };
    (0..cache.len()).filter_map(one).collect()
}

/// With what the other knows where nothing is known.
fn filled(mut rows: Rows, other: Rows) -> Rows {
    rows.resize(rows.len().max(other.len()), None);
    for (row, other) in rows.iter_mut().zip(other) {
        if row.is_none() {
            *row = other;
        }
    }
    rows
}

/// The rows whose source is recorded, as they should be.
fn expected(model: &Model, case: &Case) -> Rows {
    let Ok(Expectation::Exact { candidates, judged }) = evaluate(model, case.op, &case.task, case.layer_index()) else {
        return Vec::new();
    };
    let Some(values) = candidates.first() else { return Vec::new() };
    by_position(model, case, values, &judged)
}

fn recorded(model: &Model, case: &Case) -> Rows {
    by_position(model, case, &case.recorded, &[])
}

/// `[kv_heads, rows, head_dim]` to rows `[kv_heads × head_dim]`; those that are not `judged` (empty: all are) are not known.
fn by_position(model: &Model, case: &Case, values: &[f64], judged: &[bool]) -> Rows {
    let (heads, width) = (model.config.num_key_value_heads, model.config.head_dim);
    let rows = values.len() / (heads * width).max(1);
    let first = (case.task.pos + 1).saturating_sub(rows);
    let row = |row: usize| {
        let known = judged.is_empty() || judged.get(row * width).copied().unwrap_or(false);
        let head = |head: usize| values.get((head * rows + row) * width..(head * rows + row + 1) * width);
        let parts = (0..heads).map(head).collect::<Option<Vec<_>>>()?;
        known.then(|| parts.concat())
    };
    std::iter::repeat_n(None, first).chain((0..rows).map(row)).collect()
}
