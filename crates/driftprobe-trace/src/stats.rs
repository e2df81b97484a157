//! Statistics of a row, in f64, over its finite values.
//!
//! Sums run in eight lanes that are added up in a fixed order: the compiler can vectorise the loop, and the result does
//! not depend on the machine.

use crate::{LogitsTop, RowStats};

const LANES: usize = 8;

/// Running statistics.
pub struct Sums {
    min: [f64; LANES],
    max: [f64; LANES],
    sum: [f64; LANES],
    abs_sum: [f64; LANES],
    finite: [u64; LANES],
    nan: [u64; LANES],
    zero: [u64; LANES],
    count: u64,
}

impl Default for Sums {
    fn default() -> Sums {
        Sums {
            min: [f64::INFINITY; LANES],
            max: [f64::NEG_INFINITY; LANES],
            sum: [0.0; LANES],
            abs_sum: [0.0; LANES],
            finite: [0; LANES],
            nan: [0; LANES],
            zero: [0; LANES],
            count: 0,
        }
    }
}

impl Sums {
    /// Takes in these values.
    pub fn add(&mut self, values: &[f64]) {
        self.count += values.len() as u64;
        let mut chunks = values.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (lane, v) in chunk.iter().enumerate() {
                self.add_one(lane, *v);
            }
        }
        for (lane, v) in chunks.remainder().iter().enumerate() {
            self.add_one(lane, *v);
        }
    }

    #[inline(always)]
    fn add_one(&mut self, lane: usize, v: f64) {
        let finite = v.abs() < f64::INFINITY;
        let kept = if finite { v } else { 0.0 };
        let low = if finite { v } else { f64::INFINITY };
        let high = if finite { v } else { f64::NEG_INFINITY };
        self.min[lane] = if low < self.min[lane] { low } else { self.min[lane] };
        self.max[lane] = if high > self.max[lane] { high } else { self.max[lane] };
        self.sum[lane] += kept;
        self.abs_sum[lane] += kept.abs();
        self.finite[lane] += u64::from(finite);
        self.nan[lane] += u64::from(v.is_nan());
        self.zero[lane] += u64::from(v == 0.0);
    }

    /// The statistics of all values taken in.
    pub fn finish(&self) -> RowStats {
        let finite: u64 = self.finite.iter().sum();
        let nan: u64 = self.nan.iter().sum();
        let zero: u64 = self.zero.iter().sum();
        let sum: f64 = self.sum.iter().sum();
        let known = |v: f64| (finite > 0).then_some(v);
        RowStats {
            min: known(self.min.iter().copied().fold(f64::INFINITY, f64::min)),
            max: known(self.max.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            mean: known(sum / finite as f64),
            abs_sum: Some(self.abs_sum.iter().sum()),
            nan: Some(nan),
            inf: Some(self.count - finite - nan),
            nz_count: Some(self.count - zero),
        }
    }
}

/// The two largest values; the lower index wins a tie, NaN never wins.
pub fn logits_top(values: impl Iterator<Item = f64>) -> LogitsTop {
    let mut vocab = 0u64;
    let mut best: [Option<(u32, f64)>; 2] = [None, None];
    for (i, v) in values.enumerate() {
        vocab += 1;
        let Ok(id) = u32::try_from(i) else { continue };
        if v.is_nan() {
            continue;
        }
        if best[0].is_none_or(|(_, b)| v > b) {
            best = [Some((id, v)), best[0]];
        } else if best[1].is_none_or(|(_, b)| v > b) {
            best[1] = Some((id, v));
        }
    }
    LogitsTop {
        top1_id: best[0].map(|b| b.0),
        top1_logit: best[0].map(|b| b.1),
        top2_id: best[1].map(|b| b.0),
        top2_logit: best[1].map(|b| b.1),
        gap: best[0].zip(best[1]).map(|(a, b)| a.1 - b.1),
        vocab: Some(vocab),
    }
}
