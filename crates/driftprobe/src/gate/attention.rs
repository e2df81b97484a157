//! FlashAttention's own gate: each phase's attention against float64 attention of the same recorded q, K and V, allowed twice
//! the error that unfused attention in the row's own type makes.

use crate::oracle::Float;
use crate::oracle::evaluate::attention::first_position;
use driftprobe_model::reference::{AttentionShape, Cached, head_scores, softcap, softmax, weigh};
use driftprobe_trace::Dtype;

/// What FlashAttention's tests add to twice the plain error.
const ATOL: f64 = 1e-5;

/// The recorded rows of one attention output.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Q after the rotary embedding, `[heads, head_dim]`.
    pub q: &'a [f64],
    /// Keys, `[kv_heads, rows, head_dim]`.
    pub k: &'a [f64],
    /// Values, `[kv_heads, rows, head_dim]`.
    pub v: &'a [f64],
    /// Position of the row.
    pub pos: usize,
}

/// The errors of one phase and layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors {
    /// max |out − ref|.
    pub out: f64,
    /// max |plain − ref|.
    pub plain: f64,
}

impl Errors {
    /// max |out − ref| / (2·max |plain − ref| + 1e-5): passes up to 1.
    pub fn share(&self) -> f64 {
        let limit = 2.0 * self.plain + ATOL;
        let share = self.out / limit;
        match self.out <= limit {
            true => share.min(1.0),
            // `f64::max` would forget a NaN.
            false if share.is_nan() => share,
            false => share.max(1f64.next_up()),
        }
    }

    /// Takes a row in; false if its inputs have not the sizes that the shape asks for.
    pub fn add(&mut self, shape: &AttentionShape, out: &[f64], dtype: Dtype, inputs: &Inputs<'_>) -> bool {
        let width = shape.kv_heads * shape.head_dim;
        let rows = inputs.k.len() / width.max(1);
        let sized = out.len() == shape.heads * shape.head_dim
            && inputs.q.len() == out.len()
            && rows > 0
            && inputs.k.len() == rows * width
            && inputs.v.len() == inputs.k.len();
        if !sized {
            return false;
        }
        let first_pos = first_position(inputs.pos, rows);
        let k = Cached { values: inputs.k, rows, first_pos };
        let v = Cached { values: inputs.v, rows, first_pos };
        for (head, out) in out.chunks_exact(shape.head_dim.max(1)).enumerate() {
            let scores = head_scores(shape, inputs.q, &k, (head, inputs.pos)).scores;
            let reference = weigh(shape, &softmax(&scores), &v, head);
            let q = inputs.q.chunks_exact(shape.head_dim.max(1)).nth(head).unwrap_or_default();
            let plain = plain_head(shape, q, (&k, &v), (head, inputs.pos, dtype));
            for ((out, plain), reference) in out.iter().zip(&plain).zip(&reference) {
                self.out = worst(self.out, (out - reference).abs());
                self.plain = self.plain.max((plain - reference).abs());
            }
        }
        true
    }
}

fn worst(one: f64, other: f64) -> f64 {
    if one.is_nan() || other.is_nan() { f64::NAN } else { one.max(other) }
}

/// Unfused attention of one head as an eager framework has it: k·scale, scores, probabilities and the result stored in the
/// row's type, sums in f32 (of f64 rows in f64).
fn plain_head(
    shape: &AttentionShape,
    q: &[f64],
    (k, v): (&Cached<'_>, &Cached<'_>),
    (head, pos, dtype): (usize, usize, Dtype),
) -> Vec<f64> {
    let (store, sum) = match dtype {
        Dtype::F64 => (Float::F64, Float::F64),
        Dtype::F32 => (Float::F32, Float::F32),
        Dtype::F16 => (Float::F16, Float::F32),
        Dtype::Bf16 => (Float::Bf16, Float::F32),
    };
    let dot = |products: &mut dyn Iterator<Item = f64>| products.fold(0.0, |sum_, p| sum.round(sum_ + p));
    let score = |(row, key): (usize, &[f64])| {
        if !shape.sees(pos, k.first_pos + row) {
            return f64::NEG_INFINITY;
        }
        let score = store.round(dot(&mut q.iter().zip(key).map(|(q, k)| q * store.round(k * shape.scale))));
        shape.softcap.map_or(score, |cap| store.round(softcap(score, cap)))
    };
    let scores: Vec<f64> = k.rows_of(shape, head).enumerate().map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = scores.iter().map(|s| sum.round((s - max).exp())).collect();
    let total = dot(&mut exps.iter().copied());
    let probs: Vec<f64> = exps.iter().map(|e| store.round(e / total)).collect();
    let column = |channel: usize| {
        let products = probs.iter().zip(v.rows_of(shape, head));
        let mut products = products.map(|(p, row)| p * row.get(channel).copied().unwrap_or(f64::NAN));
        store.round(dot(&mut products))
    };
    (0..shape.head_dim).map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: AttentionShape =
        AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, scale: 1.0, softcap: None, window: None };

    /// Equal scores: the mean of the values, (2, 4).
    const MEAN: Inputs<'_> = Inputs { q: &[0.0, 0.0], k: &[1.0, 0.0, 0.0, 1.0], v: &[1.0, 3.0, 3.0, 5.0], pos: 1 };

    #[test]
    fn the_mean_of_the_values_passes_and_what_is_further_off_than_the_tolerance_does_not() {
        // The plain result is exact here, so that the tolerance is 1e-5.
        for (off, share) in [(0.0, 0.0), (0.9e-5, 0.9), (1.1e-5, 1.1)] {
            let mut errors = Errors::default();
            assert!(errors.add(&SHAPE, &[2.0, 4.0 + off], Dtype::F32, &MEAN));
            assert!((errors.share() - share).abs() < 1e-6, "{off}: {}", errors.share());
        }
    }

    #[test]
    fn a_coarse_type_is_allowed_its_own_error() {
        // A third of each of three values: bf16 stores 1/3 as 0.333984375, so the plain sum of 3 and 3 is off by 0.00390625
        // before it is rounded to 2.0, and that of 1, 1, 1 is 1.001953125, rounded to 1.0.
        let inputs = Inputs { q: &[0.0, 0.0], k: &[0.0; 6], v: &[3.0, 1.0, 3.0, 1.0, 0.1, 1.0], pos: 2 };
        let mut errors = Errors::default();
        assert!(errors.add(&SHAPE, &[6.1 / 3.0, 1.0], Dtype::Bf16, &inputs));
        // 0.333984375·6.1 = 2.0373…, stored as 2.03125; the mean is 2.0333….
        assert!((errors.plain - (6.1 / 3.0 - 2.03125)).abs() < 1e-12, "{errors:?}");
        assert!(errors.out == 0.0 && errors.share() == 0.0);
    }

    #[test]
    fn nan_and_wrong_sizes_pass_nothing() {
        let mut errors = Errors::default();
        assert!(errors.add(&SHAPE, &[2.0, f64::NAN], Dtype::F32, &MEAN));
        assert!(errors.share().is_nan());
        assert!(errors.add(&SHAPE, &[2.0, 4.0], Dtype::F32, &MEAN));
        assert!(errors.share().is_nan(), "a later row does not mend it");
        assert!(!Errors::default().add(&SHAPE, &[2.0], Dtype::F32, &MEAN));
        assert!(!Errors::default().add(&SHAPE, &[2.0, 4.0], Dtype::F32, &Inputs { k: &[], v: &[], ..MEAN }));
    }
}
