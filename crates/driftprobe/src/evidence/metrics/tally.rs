//! Sums over pairs of values, in an order that a scalar program and a vectorised one can share.
//!
//! The n-th pair of those compared belongs to lane n mod 8 of block ⌊n/2048⌋. Each of a block's lanes is summed by itself;
//! the lanes are then added pairwise, and the blocks one after the other. All of it is f64, each product rounded before it
//! is added. [`Tally::add`] is that definition, one pair after another; [`Tally::of`] computes the same bits at memory speed.

use super::{Numbers, Scope, kernel, ulp_distance};
use driftprobe_trace::Dtype;

/// Running sums of a block.
pub(super) const LANES: usize = 8;
/// Pairs of a block.
pub(super) const BLOCK: usize = 2048;

/// One running sum in each lane.
pub(super) type Lanes = [f64; LANES];

/// Four sums: of d² (d the difference), of both rows' squares, and of their products.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Four<T> {
    pub difference: T,
    pub reference: T,
    pub candidate: T,
    pub product: T,
}

impl Four<f64> {
    /// Adds a block, its lanes pairwise.
    pub(super) fn add(&mut self, block: &Four<Lanes>) {
        self.difference += pairwise(&block.difference);
        self.reference += pairwise(&block.reference);
        self.candidate += pairwise(&block.candidate);
        self.product += pairwise(&block.product);
    }
}

/// The lanes' sum. Not inlined: seen together with the loop before it, the compiler would transpose that loop's lanes.
#[inline(never)]
fn pairwise(&[a, b, c, d, e, f, g, h]: &Lanes) -> f64 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Sums over pairs of values.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub(super) compared: u64,
    pub(super) differing: u64,
    pub(super) max_abs: f64,
    pub(super) max_abs_at: u64,
    /// The blocks that are full.
    pub(super) closed: Four<f64>,
    /// The block that is being filled.
    pub(super) open: Four<Lanes>,
    pub(super) ulp: u64,
    pub(super) ulp_unknown: bool,
}

impl Tally {
    /// The tally of two whole rows of one storage type, as [`Tally::add`] would have it of one value after the other, but
    /// vectorised; here values differ where their stored bits do. `None` if the rows are of different length.
    pub fn of(dtype: Dtype, reference: &[u8], candidate: &[u8]) -> Option<Tally> {
        (reference.len() == candidate.len()).then(|| kernel::tally(dtype, reference, candidate))
    }

    /// Adds one pair of values; `at` is their index in the row, `dtype` their storage type if known.
    pub fn add(&mut self, at: u64, reference: f64, candidate: f64, dtype: Option<Dtype>) {
        let ulps = dtype.and_then(|dtype| ulp_distance(dtype, reference, candidate));
        self.put(at, (reference, candidate), reference.to_bits() != candidate.to_bits(), ulps);
    }

    /// Adds one pair; `differs`: whether their bits do; `ulps`: how many representable values they are apart, if that is known.
    pub(super) fn put(&mut self, at: u64, (reference, candidate): (f64, f64), differs: bool, ulps: Option<u64>) {
        let lane = self.compared as usize % LANES;
        self.compared += 1;
        self.differing += u64::from(differs);
        let difference = difference(reference, candidate);
        // Once NaN, always NaN: `f64::max` would forget it.
        if !self.max_abs.is_nan() && !(difference <= self.max_abs) {
            self.max_abs = difference;
            self.max_abs_at = at;
        }
        self.open.difference[lane] += difference * difference;
        self.open.reference[lane] += reference * reference;
        self.open.candidate[lane] += candidate * candidate;
        self.open.product[lane] += reference * candidate;
        match ulps {
            Some(distance) => self.ulp = self.ulp.max(distance),
            None => self.ulp_unknown = true,
        }
        if self.compared.is_multiple_of(BLOCK as u64) {
            self.closed.add(&std::mem::take(&mut self.open));
        }
    }

    /// The numbers; `None` if nothing was compared.
    pub fn finish(mut self, scope: Scope) -> Option<Numbers> {
        if self.compared == 0 {
            return None;
        }
        self.closed.add(&self.open);
        let sums = self.closed;
        let against = |sum: f64| match sums.reference == 0.0 {
            true if sum == 0.0 => Some(0.0),
            true => None,
            false => Some(sum / sums.reference),
        };
        let norms = sums.reference.sqrt() * sums.candidate.sqrt();
        Some(Numbers {
            scope,
            compared: self.compared,
            differing: self.differing,
            max_abs: self.max_abs,
            max_abs_at: self.max_abs_at,
            rel_l2: against(sums.difference).map(f64::sqrt),
            max_ulp: (!self.ulp_unknown).then_some(self.ulp),
            cosine: if norms == 0.0 { None } else { Some(sums.product / norms) },
            nmse: against(sums.difference),
        })
    }
}

/// |candidate − reference|, 0 for equal infinities.
#[inline(always)]
pub(super) fn difference(reference: f64, candidate: f64) -> f64 {
    if reference == candidate { 0.0 } else { (candidate - reference).abs() }
}
