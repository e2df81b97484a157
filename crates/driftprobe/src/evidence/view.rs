//! Which values of two rows are compared, and what they hold.
//!
//! Attention rows (`attn_scores`, `attn_probs`: `[heads, seq]`) are compared over columns 0 … position, since one phase may
//! write masked columns that the other does not have. Masked scores (−∞ or the dtype's lowest value) are one value.

use crate::evidence::Side;
use crate::evidence::metrics::{Numbers, Scope, Tally};
use crate::evidence::statement;
use driftprobe_trace::{Dtype, Event, HashAlgo, Point, Row, RowStats};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Values of a row up to which its hash is held against that of zeros.
const ZEROS_HASHED_MAX: u64 = 1 << 20;

/// Hashes of rows of zeros that are kept.
const ZEROS_HASHES_KEPT: usize = 64;

/// Which values of two rows are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    point: Point,
    /// Heads and columns 0 … `last`, if the rows are attention rows of a known position and shape.
    columns: Option<Columns>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Columns {
    heads: usize,
    /// Columns compared.
    width: usize,
    /// Row lengths of both sides.
    seq: [usize; 2],
}

/// What one row holds, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Count of NaNs.
    pub nan: Option<u64>,
    /// Count of infinities (of masked scores none).
    pub inf: Option<u64>,
    /// Whether every value is zero.
    pub zero: Option<bool>,
    /// Whether all values (at least two) are equal.
    pub constant: Option<bool>,
    /// Attention columns after the row's own position that are not masked.
    pub open: u64,
}

/// How many positions of a cache row (`[kv_heads, seq, head_dim]`) are bit-equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRows {
    /// Positions compared.
    pub positions: u64,
    /// Positions whose values are bit-equal in all heads.
    pub equal: u64,
    /// First position that differs.
    pub first_differing: Option<u64>,
    /// Last position that differs.
    pub last_differing: Option<u64>,
}

impl View {
    /// The view of two rows of one key.
    pub fn of(reference: &Side<'_>, candidate: &Side<'_>) -> View {
        let point = reference.event.point;
        let columns = || {
            let last = reference.event.token_index().or_else(|| candidate.event.token_index())?;
            let (heads, ours) = heads_and_columns(reference.row.as_ref()?)?;
            let (other_heads, theirs) = heads_and_columns(candidate.row.as_ref()?)?;
            let width = usize::try_from(last).ok()?.checked_add(1)?;
            let fits = heads == other_heads && width <= ours && width <= theirs;
            fits.then_some(Columns { heads, width, seq: [ours, theirs] })
        };
        View { point, columns: if point.is_per_key() { columns() } else { None } }
    }

    /// What the numbers are over.
    pub fn scope(&self) -> Scope {
        match self.columns {
            Some(columns) => Scope::Columns { last: columns.width as u64 - 1 },
            None => Scope::Whole,
        }
    }

    /// Values compared.
    pub fn count(&self, row: &Row) -> u64 {
        match self.columns {
            Some(columns) => columns.heads as u64 * columns.width as u64,
            None => row.len() as u64,
        }
    }

    /// Whether −∞ is a mask here and no finding.
    pub fn masks(&self) -> bool {
        self.point == Point::AttnScores
    }

    /// A value as it is compared: masked scores are −∞, whichever way they were written.
    fn canonical(&self, value: f64, dtype: Dtype) -> f64 {
        if self.masks() && value <= lowest(dtype) { f64::NEG_INFINITY } else { value }
    }

    /// Index of the `n`th compared value in a row of side 0 or 1.
    fn index(&self, n: usize, side: usize) -> usize {
        match self.columns {
            Some(Columns { width, seq, .. }) => n / width * seq.get(side).copied().unwrap_or(0) + n % width,
            None => n,
        }
    }

    fn values<'a>(&'a self, row: &'a Row, side: usize) -> impl Iterator<Item = f64> + 'a {
        let count = self.count(row) as usize;
        (0..count).map(move |n| self.canonical(row.value(self.index(n, side)), row.dtype))
    }

    /// Whether the compared bits are equal; `None` if the rows are of different dtype or length.
    pub fn bits_equal(&self, reference: &Row, candidate: &Row) -> Option<bool> {
        if reference.dtype != candidate.dtype {
            return None;
        }
        if self.columns.is_none() && reference.len() != candidate.len() {
            return None;
        }
        if self.columns.is_none() && !self.masks() {
            return Some(reference.bytes() == candidate.bytes());
        }
        Some(self.values(reference, 0).map(f64::to_bits).eq(self.values(candidate, 1).map(f64::to_bits)))
    }

    /// The compared values of both rows, without those that are masked in both; `None` if the rows are of different length.
    pub fn both(&self, reference: &Row, candidate: &Row) -> Option<(Vec<f64>, Vec<f64>)> {
        if self.columns.is_none() && reference.len() != candidate.len() {
            return None;
        }
        let both = self.values(reference, 0).zip(self.values(candidate, 1));
        let masked = |value: f64| self.masks() && value == f64::NEG_INFINITY;
        Some(both.filter(|(p, d)| !(masked(*p) && masked(*d))).unzip())
    }

    /// Sums over the compared values; `None` if the rows are of different length.
    pub fn tally(&self, reference: &Row, candidate: &Row) -> Option<Tally> {
        if self.columns.is_none() && reference.len() != candidate.len() {
            return None;
        }
        let dtype = (reference.dtype == candidate.dtype).then_some(reference.dtype);
        if let (Some(dtype), None, false) = (dtype, self.columns, self.masks()) {
            return Tally::of(dtype, reference.bytes(), candidate.bytes());
        }
        let mut tally = Tally::default();
        for (n, (p, d)) in self.values(reference, 0).zip(self.values(candidate, 1)).enumerate() {
            // Two masked scores are equal and carry no number.
            if !(self.masks() && p == f64::NEG_INFINITY && d == f64::NEG_INFINITY) {
                tally.add(self.index(n, 0) as u64, p, d, dtype);
            }
        }
        Some(tally)
    }

    /// The compared values with their index in the reference; `None` if the rows are of different length.
    pub fn pairs_of_values(&self, reference: &Row, candidate: &Row) -> Option<Vec<(u64, f64, f64)>> {
        if self.columns.is_none() && reference.len() != candidate.len() {
            return None;
        }
        let values = self.values(reference, 0).zip(self.values(candidate, 1)).enumerate();
        Some(values.map(|(n, (p, d))| (self.index(n, 0) as u64, p, d)).collect())
    }

    /// Whether an infinity stands on one side only.
    pub fn infinities_differ(&self, reference: &Row, candidate: &Row) -> bool {
        let mut values = self.values(reference, 0).zip(self.values(candidate, 1));
        let exempt = |value: f64| self.masks() && value == f64::NEG_INFINITY;
        values.any(|(p, d)| p != d && (p.is_infinite() && !exempt(p) || d.is_infinite() && !exempt(d)))
    }

    /// Whether rows of scores of which only counts are known, of one shape and one row's keys, hold infinities in different
    /// number: what is masked for one token is so in both phases.
    pub fn masked_otherwise(&self, sides: [&Side<'_>; 2]) -> bool {
        let [ours, theirs] = sides.map(|side| (&side.event.shape, side.event.token_index()));
        let counts = sides.map(|side| side.row.as_ref().map_or(side.event.stats.inf, |row| row.stats().inf));
        let known = ours == theirs && ours.0.is_some();
        self.masks() && known && matches!(counts, [Some(ours), Some(theirs)] if ours != theirs)
    }

    /// What a row holds, from its values or, without a payload, from what the event recorded.
    pub fn scan(&self, side: &Side<'_>) -> Scan {
        match (&side.row, self.point.is_per_key()) {
            (Some(row), true) => self.scan_attention(row, side.event),
            (Some(row), false) => {
                let stats = side.stats.unwrap_or_else(|| row.stats());
                scan_stats((&stats, &[]), side.event, Some(row.len() as u64))
            }
            (None, _) => {
                let sample = side.event.sample.as_ref().map(|sample| sample.values.as_slice()).unwrap_or_default();
                let mut scan = scan_stats((&side.event.stats, sample), side.event, side.value_count());
                if hash_of_zeros(side.event) {
                    scan.zero = Some(true);
                }
                // Without values, infinities of masked scores cannot be told from others; see `masked_otherwise`.
                if self.masks() { Scan { inf: scan.nan.map(|_| 0), ..scan } } else { scan }
            }
        }
    }

    fn scan_attention(&self, row: &Row, event: &Event) -> Scan {
        let mut scan = Scan { nan: Some(0), inf: Some(0), zero: Some(true), constant: Some(true), open: 0 };
        // A row's own column: the index of its token among the keys.
        let own = event.token_index().and_then(|own| usize::try_from(own).ok());
        let seq = heads_and_columns(row).map(|(_, seq)| seq);
        let (mut first, mut seen) = (None, 0u64);
        for (index, value) in row.values().enumerate() {
            let value = self.canonical(value, row.dtype);
            if let (Some(own), Some(seq)) = (own, seq)
                && index % seq > own
            {
                let masked = if self.masks() { value == f64::NEG_INFINITY } else { value == 0.0 };
                scan.open += u64::from(!masked && !value.is_nan());
                scan.nan = scan.nan.map(|nan| nan + u64::from(value.is_nan()));
                continue;
            }
            let masked = self.masks() && value == f64::NEG_INFINITY;
            scan.nan = scan.nan.map(|nan| nan + u64::from(value.is_nan()));
            scan.inf = scan.inf.map(|inf| inf + u64::from(value.is_infinite() && !masked));
            scan.zero = scan.zero.map(|zero| zero && value == 0.0);
            scan.constant = scan.constant.map(|constant| constant && *first.get_or_insert(value) == value);
            seen += 1;
        }
        // The first token attends to itself alone: its probabilities are 1 in every head, and no one-column row varies.
        if seen < 2 || own == Some(0) {
            scan.constant = Some(false);
        }
        scan
    }
}

fn heads_and_columns(row: &Row) -> Option<(usize, usize)> {
    match row.shape.as_slice() {
        &[heads, seq] if seq > 0 => Some((usize::try_from(heads).ok()?, usize::try_from(seq).ok()?)),
        _ => None,
    }
}

/// The lowest finite value of a storage type.
fn lowest(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F64 => f64::MIN,
        Dtype::F32 => f64::from(f32::MIN),
        Dtype::F16 => half::f16::MIN.to_f64(),
        Dtype::Bf16 => half::bf16::MIN.to_f64(),
    }
}

/// What statistics, a sample and what the event says of its logits show of a row of `len` values.
fn scan_stats((stats, sample): (&RowStats, &[f64]), event: &Event, len: Option<u64>) -> Scan {
    let sample_is_all = len.is_some_and(|len| len > 0 && len == sample.len() as u64);
    let count = |recorded: Option<u64>, is: fn(f64) -> bool| {
        let told = [stats.min, stats.max, stats.mean, stats.abs_sum].into_iter().flatten();
        let told = told.chain(statement::logits_values(event)).any(is);
        let seen = (sample.iter().filter(|value| is(**value)).count().max(usize::from(told))) as u64;
        match recorded {
            Some(count) => Some(count.max(seen)),
            None if seen > 0 || sample_is_all => Some(seen),
            None => None,
        }
    };
    let equal_extremes = stats.min.zip(stats.max).map(|(min, max)| min == max);
    let zero = match (stats.nz_count, stats.abs_sum, equal_extremes) {
        (Some(count), _, _) => Some(count == 0),
        (None, Some(sum), _) => Some(sum == 0.0),
        (None, None, Some(equal)) => Some(equal && stats.max == Some(0.0)),
        (None, None, None) if sample_is_all => Some(sample.iter().all(|value| *value == 0.0)),
        (None, None, None) => sample.iter().any(|value| *value != 0.0).then_some(false),
    };
    let constant = match len {
        Some(0 | 1) => Some(false),
        _ => equal_extremes,
    };
    Scan { nan: count(stats.nan, f64::is_nan), inf: count(stats.inf, f64::is_infinite), zero, constant, open: 0 }
}

/// Whether the event's hash is that of a row of zeros of its length.
fn hash_of_zeros(event: &Event) -> bool {
    let (Some(hash), Some(len)) = (event.hash, event.elements()) else { return false };
    // Longer rows are not worth the hashing.
    if len == 0 || len > ZEROS_HASHED_MAX || hash.algo.covers(len) < len {
        return false;
    }
    let any = [Dtype::F32, Dtype::F16, Dtype::F64];
    let dtypes = event.dtype.as_ref().map_or(any.as_slice(), std::slice::from_ref);
    dtypes.iter().any(|dtype| zeros_hash(*dtype, len, hash.algo) == Some(hash.value))
}

/// The hash of a row of zeros; those of the few lengths that a trace has are kept.
fn zeros_hash(dtype: Dtype, len: u64, algo: HashAlgo) -> Option<u64> {
    thread_local! {
        static KNOWN: RefCell<BTreeMap<(Dtype, u64, &'static str), u64>> = const { RefCell::new(BTreeMap::new()) };
    }
    let key = (dtype, len, algo.id());
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&key).copied()) {
        return Some(known);
    }
    let bytes = vec![0; usize::try_from(len).ok()? * dtype.size_bytes()];
    let hash = Row::new(dtype, vec![len], bytes).ok()?.hash(algo).value;
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= ZEROS_HASHES_KEPT {
            known.clear();
        }
        known.insert(key, hash);
    });
    Some(hash)
}

/// Numbers over the values that both events sampled, where no payload gives better ones.
pub fn sample_numbers(samples: &[(u64, f64, f64)], sides: &[&Side<'_>; 2]) -> Option<Numbers> {
    let mut tally = Tally::default();
    for &(at, p, d) in samples {
        // Samples are decimal text: how many units in the last place they are apart is not shown by them.
        tally.add(at, p, d, None);
    }
    tally.finish(Scope::Sample { of: sides.iter().find_map(|side| side.value_count()) })
}

/// Compares a cache row position by position; `None` unless both payloads are there, of one shape and dtype.
pub fn cache_rows(reference: &Side<'_>, candidate: &Side<'_>) -> Option<CacheRows> {
    if !reference.event.point.is_cache() {
        return None;
    }
    let (ours, theirs) = (reference.row.as_ref()?, candidate.row.as_ref()?);
    let &[_, positions, dim] = ours.shape.as_slice() else { return None };
    if ours.is_empty() || ours.shape != theirs.shape || ours.dtype != theirs.dtype {
        return None;
    }
    let stride = usize::try_from(dim).ok()?.checked_mul(ours.dtype.size_bytes())?;
    let mut differing = vec![false; usize::try_from(positions).ok()?];
    let chunks = ours.bytes().chunks_exact(stride).zip(theirs.bytes().chunks_exact(stride));
    for (index, (p, d)) in chunks.enumerate() {
        let position = index % differing.len();
        if p != d
            && let Some(flag) = differing.get_mut(position)
        {
            *flag = true;
        }
    }
    let count = differing.iter().filter(|differs| **differs).count() as u64;
    Some(CacheRows {
        positions,
        equal: positions - count,
        first_differing: differing.iter().position(|differs| *differs).map(|at| at as u64),
        last_differing: differing.iter().rposition(|differs| *differs).map(|at| at as u64),
    })
}
