//! One row under two spellings of its point.
//!
//! Engines that follow one list of points write `residual_post_attn` and `ffn_norm_in`, or `logits` and `logits_top1`: two
//! events of one key that are one row. Where what they say agrees, or each says what the other leaves out, they are read as
//! one event. Where they contradict each other, or are spelled alike, they stay two, and are found as duplicates.

use driftprobe_trace::{Event, LogitsTop, Phase, Point, RowStats, Run, Source};
use std::collections::{BTreeMap, BTreeSet};

/// An event left out, and the place of the event kept.
pub type LeftOut = (Event, Source);

/// A run whose rows stand once.
pub struct Merged {
    /// The run.
    pub run: Run,
    /// What was left out of it, its repeats not counted.
    pub merged: Vec<LeftOut>,
}

/// Reads rows under two spellings as one; `None` if there are none.
pub fn merge(run: &Run) -> Option<Merged> {
    let repeats: Vec<Option<Merged>> = run.repeats.iter().map(merge).collect();
    let (events, merged) = merge_events(&run.events).unzip();
    if events.is_none() && repeats.iter().all(Option::is_none) {
        return None;
    }
    let mut out = run.clone();
    out.events = events.unwrap_or(out.events);
    for (repeat, merged) in out.repeats.iter_mut().zip(repeats) {
        if let Some(merged) = merged {
            *repeat = merged.run;
        }
    }
    Some(Merged { run: out, merged: merged.unwrap_or_default() })
}

type Key<'a> = (&'a str, Phase, i32, Point, [Option<u64>; 3]);

fn merge_events(events: &[Event]) -> Option<(Vec<Event>, Vec<LeftOut>)> {
    let twice = spelled_twice(events);
    let mut by_key: BTreeMap<Key<'_>, Vec<usize>> = BTreeMap::new();
    for (index, event) in events.iter().enumerate().filter(|(_, event)| twice.contains(&event.point)) {
        let fields = [event.logical_tok_idx, event.pos_id, event.token_id.map(u64::from)];
        by_key.entry((&event.prompt_id, event.phase, event.layer, event.point, fields)).or_default().push(index);
    }
    let mut replaced: BTreeMap<usize, Option<Event>> = BTreeMap::new();
    let mut merged = vec![];
    for mut members in by_key.into_values().filter(|members| members.len() > 1) {
        // The stable id first, then by spelling: whichever event stands first in the files plays no part.
        let of = |index: &usize| events.get(*index).map(|event| (&*event.point_spelling != event.point.id(), event));
        members.sort_by_key(|index| of(index).map(|(other, event)| (other, &event.point_spelling, &event.source)));
        let group: Vec<&Event> = members.iter().filter_map(|index| events.get(*index)).collect();
        let Some(one) = as_one(&group) else { continue };
        merged.extend(group.iter().skip(1).map(|event| ((*event).clone(), one.source.clone())));
        replaced.extend(members.iter().skip(1).map(|index| (*index, None)));
        replaced.extend(members.first().map(|index| (*index, Some(one))));
    }
    if merged.is_empty() {
        return None;
    }
    let kept = events.iter().enumerate().filter_map(|(index, event)| match replaced.get(&index) {
        Some(replacement) => replacement.clone(),
        None => Some(event.clone()),
    });
    Some((kept.collect(), merged))
}

/// Points that stand under more than one spelling; of all others no row can.
fn spelled_twice(events: &[Event]) -> BTreeSet<Point> {
    let mut spellings: BTreeMap<Point, &str> = BTreeMap::new();
    let mut twice = BTreeSet::new();
    for event in events {
        if *spellings.entry(event.point).or_insert(&event.point_spelling) != &*event.point_spelling {
            twice.insert(event.point);
        }
    }
    twice
}

/// The one row that all of these describe, if they do and are spelled differently.
fn as_one(group: &[&Event]) -> Option<Event> {
    let (first, others) = group.split_first()?;
    let mut one = (*first).clone();
    let mut spellings = vec![&first.point_spelling];
    for other in others {
        if spellings.contains(&&other.point_spelling) {
            return None;
        }
        spellings.push(&other.point_spelling);
        join(&mut one, other)?;
    }
    Some(one)
}

/// Adds what `other` says to `one`; `None` if both say something else of one thing.
fn join(one: &mut Event, other: &Event) -> Option<()> {
    let hashed = one.hash.is_some() && one.hash == other.hash;
    either(&mut one.hash, &other.hash)?;
    either(&mut one.dtype, &other.dtype)?;
    either(&mut one.stored_dtype, &other.stored_dtype)?;
    either(&mut one.shape, &other.shape)?;
    either(&mut one.seq_len, &other.seq_len)?;
    either(&mut one.kv_len, &other.kv_len)?;
    either(&mut one.step, &other.step)?;
    stats(&mut one.stats, &other.stats)?;
    match (&one.sample, &other.sample) {
        // Text, so that NaN equals NaN.
        (Some(ours), Some(theirs)) if format!("{ours:?}") != format!("{theirs:?}") => return None,
        (None, Some(_)) => one.sample = other.sample.clone(),
        _ => {}
    }
    // Two payloads of one hash are one row; of two payloads without a hash nothing is known.
    match (&one.payload, &other.payload) {
        (Some(ours), Some(theirs)) if ours != theirs && !hashed => return None,
        (None, Some(_)) => one.payload = other.payload.clone(),
        _ => {}
    }
    match (&mut one.logits, &other.logits) {
        (Some(ours), Some(theirs)) => logits(ours, theirs),
        (ours, theirs) => {
            *ours = ours.or(*theirs);
            Some(())
        }
    }
}

fn either<T: Clone + PartialEq>(one: &mut Option<T>, other: &Option<T>) -> Option<()> {
    match (&one, other) {
        (Some(ours), Some(theirs)) if ours != theirs => None,
        (None, Some(theirs)) => {
            *one = Some(theirs.clone());
            Some(())
        }
        _ => Some(()),
    }
}

fn number(one: &mut Option<f64>, other: Option<f64>) -> Option<()> {
    let both_nan = one.is_some_and(f64::is_nan) && other.is_some_and(f64::is_nan);
    if both_nan { Some(()) } else { either(one, &other) }
}

fn stats(one: &mut RowStats, other: &RowStats) -> Option<()> {
    number(&mut one.min, other.min)?;
    number(&mut one.max, other.max)?;
    number(&mut one.mean, other.mean)?;
    number(&mut one.abs_sum, other.abs_sum)?;
    either(&mut one.nan, &other.nan)?;
    either(&mut one.inf, &other.inf)?;
    either(&mut one.nz_count, &other.nz_count)
}

fn logits(one: &mut LogitsTop, other: &LogitsTop) -> Option<()> {
    either(&mut one.top1_id, &other.top1_id)?;
    number(&mut one.top1_logit, other.top1_logit)?;
    either(&mut one.top2_id, &other.top2_id)?;
    number(&mut one.top2_logit, other.top2_logit)?;
    number(&mut one.gap, other.gap)?;
    either(&mut one.vocab, &other.vocab)
}
