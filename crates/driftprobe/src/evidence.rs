//! What two events prove of each other, before any verdict: are the bits equal, as far as what, and is there evidence in
//! the row at all?
//!
//! The strongest evidence at hand counts: payload bytes, then hashes (computed from a payload where only the other side
//! recorded one), then samples. Statistics alone prove no equality; they can prove a difference behind a sampled hash.

pub mod first_values;
pub mod metrics;
pub mod statement;
pub mod view;

use driftprobe_trace::{Event, GRETA_HASHED_VALUES, HashAlgo, Point, Row, RowHash, RowStats, Rows, Sample, TraceError};
use metrics::{LogitsNumbers, Numbers};
use std::collections::BTreeMap;
use view::{Scan, View};

/// One side of a comparison: an event, and its row if a payload was recorded.
pub struct Side<'a> {
    /// The event.
    pub event: &'a Event,
    /// Its row.
    pub row: Option<Row>,
    /// The row's statistics: taken once, since every look at a row reads it from memory.
    pub stats: Option<RowStats>,
    /// Why the payload cannot be trusted, if so.
    pub damage: Option<String>,
}

impl<'a> Side<'a> {
    /// Reads the event's payload and checks it against what the event itself says of it.
    pub fn load(event: &'a Event, rows: &dyn Rows) -> Side<'a> {
        let damaged = |damage| Side { event, row: None, stats: None, damage: Some(damage) };
        let row = match rows.row(event) {
            Ok(row) => row,
            // The paths of errors are left out: a report must not depend on where the run lies.
            Err(TraceError::Payload { key, message, .. }) => {
                return damaged(format!("tensor `{key}`: {message}"));
            }
            Err(TraceError::Io { action, source, .. }) => {
                return damaged(format!("cannot {action}: {source}"));
            }
            Err(error) => return damaged(error.to_string()),
        };
        let damage = row.as_ref().zip(event.hash).and_then(|(row, recorded)| {
            let found = row.hash(recorded.algo);
            (found != recorded)
                .then(|| format!("the payload's hash is {}, the event recorded {}", found.value, recorded.value))
        });
        let stats = row.as_ref().map(Row::stats);
        let damage = damage.or_else(|| statement::contradicted_by_row(event, row.as_ref()?, stats.as_ref()?));
        Side { event, row, stats, damage }
    }

    /// Number of values in the row, if known.
    pub fn value_count(&self) -> Option<u64> {
        match &self.row {
            Some(row) => Some(row.len() as u64),
            None => self.event.elements(),
        }
    }

    fn dtype(&self) -> Option<driftprobe_trace::Dtype> {
        self.row.as_ref().map(|row| row.dtype).or(self.event.dtype)
    }

    fn hash(&self, algo: HashAlgo) -> Option<u64> {
        let recorded = self.event.hash.filter(|hash| hash.algo == algo);
        recorded.or_else(|| self.row.as_ref().map(|row| row.hash(algo))).map(|RowHash { value, .. }| value)
    }
}

/// What the bits of two rows are to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Equal over the whole row (or over all columns that the position may attend to).
    Equal {
        /// What shows it.
        by: Means,
    },
    /// Equal as far as they were sampled.
    EqualAsSampled {
        /// What shows it.
        by: Means,
        /// Values covered.
        over: u64,
        /// Length of the row, if known.
        of: Option<u64>,
    },
    /// Different.
    Differ {
        /// What shows it.
        by: Means,
    },
    /// Nothing to compare them by.
    Incomparable {
        /// Why not.
        why: String,
    },
}

/// By what two rows were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// The bytes of both.
    Payload,
    /// Hashes of the same algorithm.
    Hash,
    /// Values at the same indices.
    Sample,
    /// Order-free statistics (min, max, counts), behind a sampled hash that is equal.
    Statistics,
}

impl Means {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Means::Payload => "payload",
            Means::Hash => "hash",
            Means::Sample => "sample",
            Means::Statistics => "statistics",
        }
    }
}

/// What the recorded hashes alone say, as the first tools counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashRelation {
    /// Equal values by the same algorithm.
    Match,
    /// Different values by the same algorithm.
    Differ,
    /// No common algorithm, or rows of different length or dtype.
    NotComparable,
}

/// What is known of two rows.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Their bits.
    pub bits: Bits,
    /// Their recorded hashes.
    pub hash: HashRelation,
    /// How far apart they are.
    pub numbers: Option<Numbers>,
    /// Next token by phase, for logits.
    pub logits: Option<LogitsNumbers>,
    /// Positions of a K or V cache that are bit-equal.
    pub cache: Option<view::CacheRows>,
    /// What each row holds.
    pub scans: [Scan; 2],
    /// Whether an infinity stands on one side where the other has none, or another one.
    pub infinite_one_side: bool,
    /// What the events say that cannot be true together.
    pub contradiction: Option<String>,
    /// Statistics that differ.
    pub statistics: Vec<StatisticPair>,
}

/// Compares two rows of one key.
pub fn compare(reference: &Side<'_>, candidate: &Side<'_>) -> Comparison {
    let view = View::of(reference, candidate);
    let scans = [view.scan(reference), view.scan(candidate)];
    let (statistics, order_free) = differing_statistics(reference.event, candidate.event);
    let order_free = order_free || statement::logits_differ(reference.event, candidate.event);
    let samples = sampled(reference.event, candidate.event);
    let sample_differs = samples.iter().any(|(_, p, d)| !same_value(*p, *d));

    let mut bits = bits_of(reference, candidate, &view, &samples);
    let mut contradiction = statement::impossible(reference.event).or_else(|| statement::impossible(candidate.event));
    let sample_within = |bits: &Bits| match bits {
        Bits::EqualAsSampled { by: Means::Hash, over, .. } => {
            samples.iter().any(|(at, p, d)| at < over && !same_value(*p, *d))
        }
        _ => false,
    };
    match &bits {
        Bits::Equal { by: Means::Hash } if sample_differs || order_free => {
            contradiction = Some("equal hashes of the whole row, but other samples or statistics".to_owned());
        }
        Bits::EqualAsSampled { by: Means::Hash, .. } if sample_within(&bits) => {
            contradiction = Some("equal hashes, but other samples within the values hashed".to_owned());
        }
        Bits::EqualAsSampled { by: Means::Hash, .. } if sample_differs => bits = Bits::Differ { by: Means::Sample },
        Bits::EqualAsSampled { .. } if order_free => bits = Bits::Differ { by: Means::Statistics },
        _ => {}
    }
    let numbers = numbers_of(reference, candidate, &view, &bits, &scans)
        .or_else(|| view::sample_numbers(&samples, &[reference, candidate]));
    Comparison {
        hash: hash_relation(reference, candidate),
        infinite_one_side: infinite_one_side(reference, candidate, &view, &scans)
            || samples.iter().any(|(_, p, d)| !view.masks() && (p.is_infinite() || d.is_infinite()) && p != d),
        logits: (reference.event.point == Point::Logits).then(|| logits_of(reference, candidate)),
        cache: view::cache_rows(reference, candidate),
        bits,
        numbers,
        scans,
        contradiction,
        statistics,
    }
}

/// Why two rows have no bits in common to compare, if so.
fn unlike(reference: &Side<'_>, candidate: &Side<'_>) -> Option<String> {
    match (reference.dtype(), candidate.dtype()) {
        (Some(ours), Some(theirs)) if ours != theirs => return Some(format!("dtypes differ: {ours} and {theirs}")),
        _ => {}
    }
    match (reference.value_count(), candidate.value_count()) {
        (Some(0), _) | (_, Some(0)) => Some("a row holds no value".to_owned()),
        (Some(ours), Some(theirs)) if ours != theirs => Some(format!("lengths differ: {ours} and {theirs} values")),
        _ => None,
    }
}

type Samples = Vec<(u64, f64, f64)>;

fn bits_of(reference: &Side<'_>, candidate: &Side<'_>, view: &View, samples: &Samples) -> Bits {
    if let (Some(ours), Some(theirs)) = (&reference.row, &candidate.row)
        && !ours.is_empty()
        && let Some(equal) = view.bits_equal(ours, theirs)
    {
        return if equal { Bits::Equal { by: Means::Payload } } else { Bits::Differ { by: Means::Payload } };
    }
    if let Some(why) = unlike(reference, candidate) {
        return Bits::Incomparable { why };
    }
    let of = reference.value_count().or(candidate.value_count());
    for algo in [HashAlgo::Xxh3_64, HashAlgo::GretaFnv1a256] {
        let (Some(ours), Some(theirs)) = (reference.hash(algo), candidate.hash(algo)) else { continue };
        let whole = algo == HashAlgo::Xxh3_64
            || [reference.value_count(), candidate.value_count()]
                .iter()
                .all(|count| count.is_some_and(|count| count <= GRETA_HASHED_VALUES));
        return match ours == theirs {
            false => Bits::Differ { by: Means::Hash },
            true if whole => Bits::Equal { by: Means::Hash },
            true => Bits::EqualAsSampled {
                by: Means::Hash,
                over: of.unwrap_or(GRETA_HASHED_VALUES).min(GRETA_HASHED_VALUES),
                of,
            },
        };
    }
    if samples.is_empty() {
        let why = match (reference.event.hash, candidate.event.hash) {
            (Some(_), Some(_)) => "hashes are by different algorithms",
            (None, None) => "neither side recorded a hash",
            _ => "one side recorded no hash",
        };
        return Bits::Incomparable { why: why.to_owned() };
    }
    if samples.iter().any(|(_, p, d)| !same_value(*p, *d)) {
        return Bits::Differ { by: Means::Sample };
    }
    Bits::EqualAsSampled { by: Means::Sample, over: samples.len() as u64, of }
}

fn hash_relation(reference: &Side<'_>, candidate: &Side<'_>) -> HashRelation {
    match (reference.event.hash, candidate.event.hash) {
        (Some(ours), Some(theirs)) if ours.algo == theirs.algo && unlike(reference, candidate).is_none() => {
            if ours.value == theirs.value { HashRelation::Match } else { HashRelation::Differ }
        }
        _ => HashRelation::NotComparable,
    }
}

fn numbers_of(
    reference: &Side<'_>,
    candidate: &Side<'_>,
    view: &View,
    bits: &Bits,
    scans: &[Scan; 2],
) -> Option<Numbers> {
    let (ours, theirs) = (reference.row.as_ref()?, candidate.row.as_ref()?);
    let finite = scans.iter().all(|scan| scan.nan == Some(0) && scan.inf == Some(0));
    match bits {
        Bits::Equal { .. } if finite => {
            let zero = scans.iter().all(|scan| scan.zero == Some(true));
            Some(Numbers::equal(view.scope(), view.count(ours), zero))
        }
        _ => view.tally(ours, theirs)?.finish(view.scope()),
    }
}

fn infinite_one_side(reference: &Side<'_>, candidate: &Side<'_>, view: &View, scans: &[Scan; 2]) -> bool {
    let by_count = match (scans[0].inf, scans[1].inf) {
        (Some(ours), Some(theirs)) => ours != theirs,
        // Not recorded on one side is not "none"; what is known of the other is told, not judged.
        _ => false,
    };
    let by_place = match (&reference.row, &candidate.row) {
        (Some(ours), Some(theirs)) if scans.iter().any(|scan| scan.inf != Some(0)) => {
            view.infinities_differ(ours, theirs)
        }
        _ => false,
    };
    by_count || by_place
}

fn logits_of(reference: &Side<'_>, candidate: &Side<'_>) -> LogitsNumbers {
    let top = |side: &Side<'_>| match (side.event.logits, &side.row) {
        (Some(top), _) if top.top1_id.is_some() => top,
        (_, Some(row)) => row.logits_top(),
        (top, None) => top.unwrap_or_default(),
    };
    let tops = [top(reference), top(candidate)];
    let kl = match (&reference.row, &candidate.row) {
        (Some(ours), Some(theirs)) if ours.len() == theirs.len() => {
            Some(metrics::kl_divergence(&ours.to_f64(), &theirs.to_f64()))
        }
        _ => None,
    };
    let gap = |top: &driftprobe_trace::LogitsTop| {
        top.gap.or_else(|| top.top1_logit.zip(top.top2_logit).map(|(first, second)| first - second))
    };
    LogitsNumbers { top1: [tops[0].top1_id, tops[1].top1_id], gap: [gap(&tops[0]), gap(&tops[1])], kl }
}

/// Values that both events sampled at the same index: (index, reference, candidate).
pub(crate) fn sampled(reference: &Event, candidate: &Event) -> Samples {
    let (Some(ours), Some(theirs)) = (&reference.sample, &candidate.sample) else { return vec![] };
    if ours.idx == theirs.idx && ours.idx.as_ref().is_none_or(|idx| idx.is_sorted_by(|one, next| one < next)) {
        let values = ours.values.iter().zip(&theirs.values);
        let at = |n: usize| ours.idx.as_ref().map_or(Some(n as u64), |idx| idx.get(n).copied());
        return values.enumerate().filter_map(|(n, (p, d))| Some((at(n)?, *p, *d))).collect();
    }
    let indexed = |sample: &Sample| -> BTreeMap<u64, f64> {
        match &sample.idx {
            Some(idx) => idx.iter().copied().zip(sample.values.iter().copied()).collect(),
            None => (0..).zip(sample.values.iter().copied()).collect(),
        }
    };
    let theirs = indexed(theirs);
    indexed(ours).into_iter().filter_map(|(at, p)| theirs.get(&at).map(|d| (at, p, *d))).collect()
}

fn same_value(one: f64, other: f64) -> bool {
    one == other || (one.is_nan() && other.is_nan())
}

/// A statistic that differs between two events.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatisticPair {
    /// Its name in an event.
    pub name: &'static str,
    /// Prefill's value.
    pub prefill: f64,
    /// Decode's value.
    pub decode: f64,
}

/// Statistics recorded on both sides that differ, and whether one of them does not depend on the order of summation.
fn differing_statistics(reference: &Event, candidate: &Event) -> (Vec<StatisticPair>, bool) {
    let (ours, theirs) = (&reference.stats, &candidate.stats);
    let count = |count: Option<u64>| count.map(|count| count as f64);
    let all = [
        ("min", ours.min, theirs.min, true),
        ("max", ours.max, theirs.max, true),
        ("mean", ours.mean, theirs.mean, false),
        ("abs_sum", ours.abs_sum, theirs.abs_sum, false),
        ("nan", count(ours.nan), count(theirs.nan), true),
        ("inf", count(ours.inf), count(theirs.inf), true),
        ("nz_count", count(ours.nz_count), count(theirs.nz_count), true),
    ];
    let mut out = vec![];
    let mut order_free = false;
    for (name, prefill, decode, is_order_free) in all {
        if let (Some(prefill), Some(decode)) = (prefill, decode)
            && !same_value(prefill, decode)
        {
            out.push(StatisticPair { name, prefill, decode });
            order_free |= is_order_free;
        }
    }
    (out, order_free)
}
