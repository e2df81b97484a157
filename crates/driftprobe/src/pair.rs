//! Strict pairing: which prefill event is the same row as which decode event.
//!
//! The key is (prompt_id, layer, point, logical_tok_idx, pos_id, token_id); how the phase was spelled and the decode step
//! are no part of it. Fully keyed events pair by equality. What then remains pairs *weakly*: a field that is absent on
//! either side matches anything, but only where the match is unique both ways. Every event ends either in one
//! [`Link`] or in one [`Loose`] entry with the reason; none is dropped, none is used twice.

pub mod coverage;
pub mod place;
pub mod spelling;

use driftprobe_trace::{Event, Point};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A field of the pair key that engines forget to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyField {
    /// Index of the token in the prompt.
    LogicalTokIdx,
    /// Position id fed to the rotary embedding.
    PosId,
    /// The token fed at the row.
    TokenId,
}

impl KeyField {
    /// All of them, in the order of the key.
    pub const ALL: [KeyField; 3] = [KeyField::LogicalTokIdx, KeyField::PosId, KeyField::TokenId];

    /// Name of the field in an event.
    pub const fn name(self) -> &'static str {
        match self {
            KeyField::LogicalTokIdx => "logical_tok_idx",
            KeyField::PosId => "pos_id",
            KeyField::TokenId => "token_id",
        }
    }
}

/// Two events that are one row, computed twice. Indices are into the slices given to [`pair`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index of the reference (prefill) event.
    pub reference: usize,
    /// Index of the candidate (decode) event.
    pub candidate: usize,
    /// Key fields absent on one side or on both; not empty: the pair is weakly keyed.
    pub absent: Vec<KeyField>,
}

/// An event without a partner, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loose {
    /// Index of the event in its slice.
    pub index: usize,
    /// Why it has none.
    pub why: WhyLoose,
}

/// Why an event was not paired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhyLoose {
    /// The other side has no event that this key could mean.
    NoCounterpart,
    /// More than one pairing is possible and the key does not say which: this many events of the other side could be it,
    /// or the only one that could is claimed by others too.
    Ambiguous {
        /// Events of the other side that fit.
        candidates: u64,
    },
    /// The same key with the same content stands elsewhere in this phase; that other event was used.
    RepeatsAnother,
    /// The same key stands elsewhere in this phase with another content: which of them is the row cannot be told.
    ContradictsAnother,
}

impl fmt::Display for WhyLoose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyLoose::NoCounterpart => f.write_str("no event of the other phase has this key"),
            WhyLoose::Ambiguous { candidates: 1 } => {
                f.write_str("the one event of the other phase that could be meant fits other events as well")
            }
            WhyLoose::Ambiguous { candidates } => {
                write!(f, "{candidates} events of the other phase could be meant")
            }
            WhyLoose::RepeatsAnother => f.write_str("repeats another event of its phase"),
            WhyLoose::ContradictsAnother => f.write_str("contradicts another event of its phase and key"),
        }
    }
}

/// What [`pair`] made of two lists of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairing {
    /// The pairs.
    pub links: Vec<Link>,
    /// Unpaired events of the reference side.
    pub reference_loose: Vec<Loose>,
    /// Unpaired events of the candidate side.
    pub candidate_loose: Vec<Loose>,
    /// Indices of reference events whose key had already been seen on that side.
    pub reference_duplicates: Vec<usize>,
    /// Indices of candidate events whose key had already been seen on that side.
    pub candidate_duplicates: Vec<usize>,
}

/// Prompt, layer and point: pairing never crosses them.
type Group<'a> = (&'a str, i32, Point);

/// The fields of [`KeyField::ALL`].
type Fields = [Option<u64>; 3];

/// Pairs the events of two sides. The sides are two phases of a run, or one phase of a run and of its repeat.
pub fn pair(reference: &[&Event], candidate: &[&Event]) -> Pairing {
    let (ours, mut theirs) = rayon::join(|| groups(reference), || groups(candidate));
    let alone = theirs.keys().filter(|group| !ours.contains_key(*group)).copied().collect::<Vec<_>>();
    let mut both: Vec<(Group<'_>, Vec<usize>, Vec<usize>)> =
        alone.into_iter().filter_map(|group| Some((group, vec![], theirs.remove(&group)?))).collect();
    both.extend(ours.into_iter().map(|(group, left)| (group, left, theirs.remove(&group).unwrap_or_default())));
    both.sort_by_key(|(group, ..)| *group);
    let paired = both.into_par_iter().map(|(_, left, right)| {
        let mut out = Pairing::default();
        pair_group(Side::new(reference, left), Side::new(candidate, right), &mut out);
        out
    });
    let mut out = Pairing::default();
    for group in paired.collect::<Vec<Pairing>>() {
        out.links.extend(group.links);
        out.reference_loose.extend(group.reference_loose);
        out.candidate_loose.extend(group.candidate_loose);
        out.reference_duplicates.extend(group.reference_duplicates);
        out.candidate_duplicates.extend(group.candidate_duplicates);
    }
    out
}

/// Indices of the events of one side, by their group.
fn groups<'a>(events: &[&'a Event]) -> BTreeMap<Group<'a>, Vec<usize>> {
    // The text is compared once an event, not once a step of the search.
    let mut prompts: BTreeMap<&str, BTreeMap<(i32, Point), Vec<usize>>> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        prompts.entry(&event.prompt_id).or_default().entry((event.layer, event.point)).or_default().push(index);
    }
    let of_prompt = |(prompt, groups): (&'a str, BTreeMap<(i32, Point), Vec<usize>>)| {
        groups.into_iter().map(move |((layer, point), members)| ((prompt, layer, point), members))
    };
    prompts.into_iter().flat_map(of_prompt).collect()
}

/// The events of one side that share prompt, layer and point.
struct Side<'a> {
    events: &'a [&'a Event],
    /// Open to pairing: one event a distinct key, or several where their contents differ under a key with absent fields.
    open: Vec<usize>,
    /// Fully keyed events that contradict each other.
    contradicting: Vec<usize>,
    repeats: Vec<usize>,
    duplicates: Vec<usize>,
}

impl<'a> Side<'a> {
    fn new(events: &'a [&'a Event], members: Vec<usize>) -> Self {
        let mut side = Side { events, open: vec![], contradicting: vec![], repeats: vec![], duplicates: vec![] };
        let mut by_key: BTreeMap<Fields, Vec<usize>> = BTreeMap::new();
        for index in members {
            by_key.entry(side.fields(index)).or_default().push(index);
        }
        for (fields, same_key) in by_key {
            side.duplicates.extend(same_key.iter().skip(1));
            let mut distinct = same_key;
            if distinct.len() > 1 {
                let mut contents = BTreeSet::new();
                let (first, again) = distinct.into_iter().partition(|&index| contents.insert(side.content(index)));
                distinct = first;
                side.repeats.extend::<Vec<usize>>(again);
            }
            if distinct.len() > 1 && fields.iter().all(Option::is_some) {
                side.contradicting.extend(distinct);
            } else {
                side.open.extend(distinct);
            }
        }
        side
    }

    fn fields(&self, index: usize) -> Fields {
        self.events.get(index).map(|event| key_fields(event)).unwrap_or_default()
    }

    fn content(&self, index: usize) -> String {
        self.events.get(index).map(|event| content(event)).unwrap_or_default()
    }

    /// The events still open to pairing, by their place in `open`.
    fn index_open(&self, taken: &[bool]) -> Index {
        let left = self.open.iter().zip(taken).enumerate().filter(|(_, (_, taken))| !**taken);
        Index::new(left.map(|(at, (&index, _))| (at, self.fields(index))))
    }

    fn index_contradicting(&self) -> Index {
        Index::new(self.contradicting.iter().map(|&index| (index, self.fields(index))))
    }
}

fn pair_group(left: Side<'_>, right: Side<'_>, out: &mut Pairing) {
    let (mut left_taken, mut right_taken) = (vec![false; left.open.len()], vec![false; right.open.len()]);
    let mut link = |l: usize, r: usize, taken: (&mut Vec<bool>, &mut Vec<bool>)| {
        let (Some(&reference), Some(&candidate)) = (left.open.get(l), right.open.get(r)) else { return };
        let (ours, theirs) = (left.fields(reference), right.fields(candidate));
        let absent = (KeyField::ALL.into_iter().zip(ours.iter().zip(&theirs)))
            .filter(|(_, (one, other))| one.is_none() || other.is_none())
            .map(|(field, _)| field)
            .collect();
        out.links.push(Link { reference, candidate, absent });
        mark(taken.0, l);
        mark(taken.1, r);
    };

    let full: BTreeMap<Fields, usize> = (right.open.iter().enumerate())
        .map(|(at, &index)| (right.fields(index), at))
        .filter(|(fields, _)| fields.iter().all(Option::is_some))
        .collect();
    for (at, &index) in left.open.iter().enumerate() {
        if let Some(&other) = full.get(&left.fields(index)) {
            link(at, other, (&mut left_taken, &mut right_taken));
        }
    }

    let (left_open, right_open) = (left.index_open(&left_taken), right.index_open(&right_taken));
    let (left_bad, right_bad) = (left.index_contradicting(), right.index_contradicting());
    for (at, &index) in left.open.iter().enumerate() {
        let ours = left.fields(index);
        if left_taken.get(at) == Some(&true) || right_bad.fit(&ours) != Fit::None {
            continue;
        }
        if let Fit::One(other) = right_open.fit(&ours)
            && let Some(theirs) = right.open.get(other).map(|&candidate| right.fields(candidate))
            && left_open.fit(&theirs) == Fit::One(at)
            && left_bad.fit(&theirs) == Fit::None
        {
            link(at, other, (&mut left_taken, &mut right_taken));
        }
    }

    out.reference_loose.extend(loose(&left, &left_taken, [&right_open, &right_bad]));
    out.candidate_loose.extend(loose(&right, &right_taken, [&left_open, &left_bad]));
    out.reference_duplicates.extend(left.duplicates);
    out.candidate_duplicates.extend(right.duplicates);
}

fn mark(taken: &mut [bool], at: usize) {
    if let Some(flag) = taken.get_mut(at) {
        *flag = true;
    }
}

/// What is left of a side after pairing, each event with its reason. `other` holds what the other side had open after
/// exact pairing, and what contradicts itself there.
fn loose(side: &Side<'_>, taken: &[bool], other: [&Index; 2]) -> Vec<Loose> {
    let mut out = vec![];
    for (&index, _) in side.open.iter().zip(taken).filter(|(_, taken)| !**taken) {
        let fields = side.fields(index);
        let candidates = other.iter().map(|index| index.fit(&fields).count()).sum();
        let why = if candidates == 0 { WhyLoose::NoCounterpart } else { WhyLoose::Ambiguous { candidates } };
        out.push(Loose { index, why });
    }
    out.extend(side.contradicting.iter().map(|&index| Loose { index, why: WhyLoose::ContradictsAnother }));
    out.extend(side.repeats.iter().map(|&index| Loose { index, why: WhyLoose::RepeatsAnother }));
    out
}

/// How many events of a side a key with absent fields could mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    None,
    One(usize),
    Many(u64),
}

impl Fit {
    fn count(self) -> u64 {
        match self {
            Fit::None => 0,
            Fit::One(_) => 1,
            Fit::Many(count) => count,
        }
    }
}

/// Counts compatible events without comparing every event with every other: an event with the fields `mask` is filed
/// under its values of every subset of `mask`, so that a query of any mask finds it under the fields both have.
struct Index {
    filed: BTreeMap<(u8, u8, Fields), (u64, usize)>,
}

impl Index {
    fn new(items: impl Iterator<Item = (usize, Fields)>) -> Index {
        let mut filed = BTreeMap::new();
        for (at, fields) in items {
            let mask = mask_of(&fields);
            for subset in (0..8u8).filter(|subset| subset & mask == *subset) {
                filed.entry((mask, subset, project(&fields, subset))).or_insert((0, at)).0 += 1;
            }
        }
        Index { filed }
    }

    fn fit(&self, fields: &Fields) -> Fit {
        let ours = mask_of(fields);
        let hits = (0..8u8).filter_map(|mask| {
            let common = mask & ours;
            self.filed.get(&(mask, common, project(fields, common)))
        });
        let (count, first) = hits.fold((0, None), |(count, first), &(n, at)| (count + n, first.or(Some(at))));
        match (count, first) {
            (1, Some(at)) => Fit::One(at),
            (0, _) | (_, None) => Fit::None,
            (count, _) => Fit::Many(count),
        }
    }
}

fn mask_of(fields: &Fields) -> u8 {
    fields.iter().enumerate().fold(0, |mask, (bit, field)| mask | u8::from(field.is_some()) << bit)
}

fn project(fields: &Fields, mask: u8) -> Fields {
    let mut out = *fields;
    for (bit, field) in out.iter_mut().enumerate() {
        if mask & (1 << bit) == 0 {
            *field = None;
        }
    }
    out
}

fn key_fields(event: &Event) -> Fields {
    [event.logical_tok_idx, event.pos_id, event.token_id.map(u64::from)]
}

/// What an event says of its row, wherever it stands and however its phase is spelled. Text, so that NaN equals NaN.
fn content(event: &Event) -> String {
    let Event { hash, stats, sample, dtype, shape, seq_len, kv_len, logits, .. } = event;
    let payload = if hash.is_none() { event.payload.as_ref() } else { None };
    format!("{hash:?} {stats:?} {sample:?} {dtype:?} {shape:?} {seq_len:?} {kv_len:?} {logits:?} {payload:?}")
}
