//! A cached row that is wrong: which row is it?

use super::trial::Freedom;
use crate::oracle::float::Float;
use std::sync::Arc;

/// K or V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Keys.
    K,
    /// Values.
    V,
}

/// Rows of a cache by position, each `[kv_heads × head_dim]`; `None` where it is not known.
pub type CacheRows = [Option<Vec<f64>>];

/// A prompt and its rows.
pub type Foreign = (Arc<str>, Vec<Option<Vec<f64>>>);

/// One cached row that is not what it should be, and all that it might be instead.
#[derive(Clone, Copy, Debug)]
pub struct WrongSlot<'a> {
    /// Whose row it is.
    pub part: Part,
    /// Its position.
    pub slot: usize,
    /// Whether it is the slot that the pass itself had to write.
    pub newest: bool,
    /// What is recorded there.
    pub recorded: &'a [f64],
    /// What the rows of this part should be.
    pub expected: &'a CacheRows,
    /// What the rows of the other part should be.
    pub expected_other: &'a CacheRows,
    /// What is recorded of this part.
    pub cache: &'a CacheRows,
    /// Rows of the same part and layer that other prompts have.
    pub foreign: &'a [Foreign],
    /// Rows whose distance is at most this part of their norm count as equal; 0: exactly equal.
    pub tolerance: f64,
}

/// A name for a wrong row.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotName {
    /// Id in the catalogue of faults.
    pub id: &'static str,
    /// Parameters by name.
    pub parameters: Vec<(String, String)>,
    /// How much freedom the name has.
    pub freedom: Freedom,
}

/// The names that there are, in the order in which they are tried.
pub(super) const IDS: &[&str] = &[
    "KV_NOT_WRITTEN",
    "KV_EXCHANGED",
    "KV_PRECISION",
    "KV_SWAPPED_SLOTS",
    "KV_DUPLICATED_SLOT",
    "KV_STALE_SLOT",
    "KV_FOREIGN_ROW",
];

fn name(id: &'static str, parameters: &[(&str, String)]) -> SlotName {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    SlotName { id, parameters, freedom: Freedom::Fixed }
}

/// Names a wrong row; several names are a tie, none says that it is nothing known.
pub fn name_slot(wrong: &WrongSlot<'_>) -> Vec<SlotName> {
    let at = |rows: &CacheRows, slot: usize| rows.get(slot).cloned().flatten();
    let same = |row: &[f64]| is_same(wrong.recorded, row, wrong.tolerance);
    let slot = || ("slot", wrong.slot.to_string());
    if wrong.recorded.iter().all(|x| *x == 0.0) {
        return vec![name("KV_NOT_WRITTEN", &[slot()])];
    }
    if at(wrong.expected_other, wrong.slot).is_some_and(|row| same(&row)) {
        return vec![name("KV_EXCHANGED", &[])];
    }
    if let Some(own) = at(wrong.expected, wrong.slot) {
        if let Some(levels) = in_steps(wrong.recorded, &own) {
            return vec![name("KV_PRECISION", &[("precision", levels.to_owned())])];
        }
        for (format, round) in FORMATS {
            let squeezed: Vec<f64> = own.iter().map(|x| round(*x)).collect();
            // Nearer to the squeezed row than to the row itself: else another small change would do as well.
            let nearer = 2.0 * distance(wrong.recorded, &squeezed) < distance(wrong.recorded, &own);
            if squeezed != own && same(&squeezed) && nearer {
                return vec![name("KV_PRECISION", &[("precision", (*format).to_owned())])];
            }
        }
    }
    let (mut known, certain) = other_slot(wrong);
    if !certain {
        known.extend(foreign(wrong));
    }
    if !known.is_empty() {
        return known;
    }
    if !is_like_a_row(wrong) {
        return Vec::new();
    }
    let loose = |id| SlotName { freedom: Freedom::Loose, ..name(id, &[slot()]) };
    vec![loose("KV_STALE_SLOT"), loose("KV_FOREIGN_ROW")]
}

/// Another slot of the same cache, as far as it is known.
struct Other<'a> {
    slot: usize,
    should: Option<&'a [f64]>,
    is: Option<&'a [f64]>,
}

fn row_of(rows: &CacheRows, slot: usize) -> Option<&[f64]> {
    rows.get(slot)?.as_deref()
}

/// The row of another slot of the same cache, and whether the slots' own rows are known well enough for that to be certain.
fn other_slot(wrong: &WrongSlot<'_>) -> (Vec<SlotName>, bool) {
    let same = |a: Option<&[f64]>, b: Option<&[f64]>| match (a, b) {
        (Some(a), Some(b)) => is_same(a, b, wrong.tolerance),
        _ => false,
    };
    let (own, recorded) = (row_of(wrong.expected, wrong.slot), Some(wrong.recorded));
    let mut others: Vec<Other<'_>> = (0..wrong.expected.len().max(wrong.cache.len()))
        .filter(|slot| *slot != wrong.slot)
        .map(|slot| Other { slot, should: row_of(wrong.expected, slot), is: row_of(wrong.cache, slot) })
        .collect();
    // The nearest first: of equal rows (a token repeated, before the rotary embedding) any would do.
    others.sort_by_key(|other| other.slot.abs_diff(wrong.slot));
    let swapped = |other: &Other<'_>| {
        let (one, two) = (wrong.slot.min(other.slot), wrong.slot.max(other.slot));
        vec![name("KV_SWAPPED_SLOTS", &[("slot", one.to_string()), ("other slot", two.to_string())])]
    };
    // Each holds the other's.
    if let Some(other) = others.iter().find(|o| same(recorded, o.should) && same(o.is, own)) {
        return (swapped(other), true);
    }
    // It holds a row that stands where it belongs, too.
    let twice = |o: &&Other<'_>| same(recorded, o.is) && same(o.is, o.should);
    // Its own row stands in a place that is not known to be for such a row.
    let elsewhere = |o: &&Other<'_>| same(o.is, own) && !same(o.should, own);
    // It holds the row that another should hold, or does, as far as that one's own is not known.
    let any = |o: &&Other<'_>| same(recorded, o.should) || (o.should.is_none() && same(recorded, o.is));
    let copied = others.iter().find(twice);
    let moved = others.iter().find(elsewhere).filter(|_| copied.is_none());
    let mut names: Vec<SlotName> = moved.into_iter().flat_map(swapped).collect();
    if let Some(other) = copied.or_else(|| others.iter().find(any)) {
        let parameters = [("slot", wrong.slot.to_string()), ("holds slot", other.slot.to_string())];
        names.push(name("KV_DUPLICATED_SLOT", &parameters));
        // The newest row is not there, an older one is: written again, or what the slot held before a write that failed.
        if wrong.newest && other.slot < wrong.slot {
            names.push(name("KV_STALE_SLOT", &[("slot", wrong.slot.to_string())]));
        }
    }
    (names, copied.is_some())
}

/// A row of another sequence that is recorded. At the same position it may also be what that sequence has left there.
fn foreign(wrong: &WrongSlot<'_>) -> Vec<SlotName> {
    for (prompt, rows) in wrong.foreign {
        let here = |pos: &usize| {
            rows.get(*pos).and_then(Option::as_ref).is_some_and(|r| is_same(wrong.recorded, r, wrong.tolerance))
        };
        let mut places: Vec<usize> = (0..rows.len()).collect();
        places.sort_by_key(|p| p.abs_diff(wrong.slot));
        if let Some(pos) = places.into_iter().find(here) {
            let from =
                [("slot", wrong.slot.to_string()), ("prompt", prompt.to_string()), ("position", pos.to_string())];
            let ids: &[&'static str] =
                if pos == wrong.slot { &["KV_FOREIGN_ROW", "KV_STALE_SLOT"] } else { &["KV_FOREIGN_ROW"] };
            return ids.iter().map(|id| name(id, &from)).collect();
        }
    }
    Vec::new()
}

/// Whether it has a row's size and yet nothing of the row that it should be: more than half of its length is new.
fn is_like_a_row(wrong: &WrongSlot<'_>) -> bool {
    let Some(own) = wrong.expected.get(wrong.slot).and_then(Option::as_ref) else { return false };
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let others = wrong.cache.iter().enumerate().filter(|(slot, _)| *slot != wrong.slot).map(|(_, row)| row);
    let mut norms: Vec<f64> = wrong.expected.iter().chain(others).flatten().map(|r| norm(r)).collect();
    norms.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (norms.first(), norms.last()) else { return false };
    let size = norm(wrong.recorded);
    let differing = wrong.recorded.iter().zip(own).filter(|(a, b)| a != b).count();
    let away = distance(wrong.recorded, own);
    size >= least / 2.0 && size <= most * 2.0 && differing * 2 > own.len() && away > 0.1 * norm(own)
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

fn is_same(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    let norm = b.iter().map(|x| x * x).sum::<f64>().sqrt();
    a.len() == b.len() && if tolerance == 0.0 { a == b } else { distance(a, b) <= tolerance * norm }
}

/// A format's name, and rounding to it.
type Format = (&'static str, fn(f64) -> f64);

/// Formats that caches are squeezed through, the coarsest last.
pub(super) const FORMATS: &[Format] =
    &[("f16", |x| Float::F16.round(x)), ("bf16", |x| Float::Bf16.round(x)), ("fp8", e4m3), ("fp8_e5m2", e5m2)];

/// Whether a row has been kept as integers of a scale, and of how many bits: a scale for groups of values of a size that
/// heads have, arithmetic in f32 or in what the row is stored in.
fn in_steps(recorded: &[f64], own: &[f64]) -> Option<&'static str> {
    let through = |group: usize, (most, format): (f64, Float)| -> Vec<f64> {
        let of_group = |own: &[f64]| -> Vec<f64> {
            let largest = own.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let step = format.round(largest / most);
            let one = |x: &f64| format.round(format.round(x / step).round_ties_even() * step);
            own.iter().map(|x| if step > 0.0 { one(x) } else { 0.0 }).collect()
        };
        own.chunks(group.max(1)).flat_map(of_group).collect()
    };
    // Rounded to the format that holds the row, if f32 arithmetic was not stored as it is.
    let held = [Float::Bf16, Float::F16, Float::F32].into_iter().find(|f| own.iter().all(|x| f.round(*x) == *x))?;
    let fits = |(group, most): (usize, f64)| {
        [held, Float::F32].into_iter().any(|format| {
            let made = through(group, (most, format));
            made.iter().zip(recorded).all(|(made, recorded)| held.round(*made) == *recorded)
        })
    };
    let groups = (4..=own.len()).filter(|group| own.len().is_multiple_of(*group));
    let mut all = groups.flat_map(|group| [("int8", (group, 127.0)), ("int4", (group, 7.0))]);
    all.find(|(_, way)| fits(*way)).map(|(name, _)| name)
}

fn e4m3(x: f64) -> f64 {
    saturated(x, Float::E4M3)
}

fn e5m2(x: f64) -> f64 {
    saturated(x, Float::E5M2)
}

/// To the nearest of an 8-bit format, at most its largest; what is not finite stays.
fn saturated(x: f64, format: Float) -> f64 {
    if x.is_finite() { format.round(x).clamp(-format.largest(), format.largest()) } else { x }
}
