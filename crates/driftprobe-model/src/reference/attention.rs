//! Attention of one query row over the cached keys and values, head by head.

use crate::Config;

/// What attention needs to know beside its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides the query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on Q·K.
    pub scale: f64,
    /// cap·tanh(score/cap).
    pub softcap: Option<f64>,
    /// How many keys a row sees, its own included; `None`: all.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Of one layer.
    pub fn of(config: &Config, layer: usize) -> AttentionShape {
        AttentionShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale,
            softcap: config.attn_softcap,
            window: config.sliding_windows.get(layer).copied().flatten(),
        }
    }

    /// Whether the row at position `pos` sees the key at position `key`: causal, and inside the window.
    pub fn sees(&self, pos: usize, key: usize) -> bool {
        key <= pos && self.window.is_none_or(|w| key + w > pos)
    }

    /// The key head that a query head uses.
    pub fn kv_head(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads.max(1)).max(1)
    }
}

/// Cached rows of K or V, `[kv_heads, rows, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Cached<'a> {
    /// The values.
    pub values: &'a [f64],
    /// Rows of each head.
    pub rows: usize,
    /// Position of the first row.
    pub first_pos: usize,
}

impl<'a> Cached<'a> {
    /// The rows of one head.
    fn head(&self, kv_head: usize, head_dim: usize) -> impl Iterator<Item = &'a [f64]> + Clone + use<'a> {
        let head = self.values.chunks_exact((self.rows * head_dim).max(1)).nth(kv_head).unwrap_or_default();
        head.chunks_exact(head_dim.max(1))
    }
}

/// The scores of one head, one a cached row; hidden rows have −∞.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadScores {
    /// scale·q·k, capped: `[rows]`.
    pub scores: Vec<f64>,
    /// scale²·Σ(qᵢkᵢ)², before the cap: `[rows]`.
    pub squares: Vec<f64>,
}

/// Scores of head `head` of q `[heads, head_dim]`, the row at position `pos`.
pub fn head_scores(shape: &AttentionShape, q: &[f64], k: &Cached<'_>, (head, pos): (usize, usize)) -> HeadScores {
    let q = q.chunks_exact(shape.head_dim.max(1)).nth(head).unwrap_or_default();
    let first_pos = k.first_pos;
    let score = |(row, k): (usize, &[f64])| {
        if !shape.sees(pos, first_pos + row) {
            return (f64::NEG_INFINITY, 0.0);
        }
        let products = q.iter().zip(k).map(|(q, k)| q * k);
        let (sum, squares) = products.fold((0.0, 0.0), |(s, t), p| (s + p, t + p * p));
        let scaled = sum * shape.scale;
        (shape.softcap.map_or(scaled, |cap| super::softcap(scaled, cap)), squares * shape.scale * shape.scale)
    };
    let (scores, squares) = k.head(shape.kv_head(head), shape.head_dim).enumerate().map(score).unzip();
    HeadScores { scores, squares }
}

/// exp(s − max)/Σexp(s − max). Hidden scores (−∞) get 0; of no visible score at all, NaN.
pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

/// Σⱼ pⱼVⱼ of head `head`: `[head_dim]`.
pub fn weigh(shape: &AttentionShape, probs: &[f64], v: &Cached<'_>, head: usize) -> Vec<f64> {
    let mut out = vec![0.0; shape.head_dim];
    for (p, row) in probs.iter().zip(v.head(shape.kv_head(head), shape.head_dim)) {
        for (o, v) in out.iter_mut().zip(row) {
            *o += p * v;
        }
    }
    out
}

impl<'a> Cached<'a> {
    /// The rows that a query head reads.
    pub fn rows_of(&self, shape: &AttentionShape, head: usize) -> impl Iterator<Item = &'a [f64]> + Clone + use<'a> {
        self.head(shape.kv_head(head), shape.head_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: AttentionShape =
        AttentionShape { heads: 4, kv_heads: 2, head_dim: 2, scale: 0.5, softcap: None, window: None };

    /// K and V of two heads and three rows.
    fn cache() -> Vec<f64> {
        (0..12).map(f64::from).collect()
    }

    #[test]
    fn a_score_is_the_scaled_product_with_the_own_groups_key() {
        let values = cache();
        let k = Cached { values: &values, rows: 3, first_pos: 0 };
        let q = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 0.0];
        // Head 1 uses key head 0: rows (0,1) (2,3) (4,5). Head 3 uses key head 1: rows (6,7) (8,9) (10,11).
        assert_eq!(head_scores(&SHAPE, &q, &k, (1, 2)).scores, [0.5, 1.5, 2.5]);
        assert_eq!(head_scores(&SHAPE, &q, &k, (3, 2)).scores, [6.0, 8.0, 10.0]);
        assert_eq!(head_scores(&SHAPE, &q, &k, (2, 2)).squares, [0.25 * 85.0, 0.25 * 145.0, 0.25 * 221.0]);
    }

    #[test]
    fn the_mask_hides_the_future_and_what_lies_before_the_window() {
        let values = cache();
        let k = Cached { values: &values, rows: 3, first_pos: 4 };
        let windowed = AttentionShape { window: Some(2), ..SHAPE };
        let hidden =
            |pos| head_scores(&windowed, &[1.0; 8], &k, (0, pos)).scores.iter().map(|s| s.is_infinite()).collect();
        let seen: Vec<Vec<bool>> = (4..8).map(hidden).collect();
        let expected = [[false, true, true], [false, false, true], [true, false, false], [true, true, false]];
        assert_eq!(seen, expected);
    }

    #[test]
    fn equal_scores_give_the_mean_of_the_values_and_a_high_one_its_own_value() {
        let values = cache();
        let v = Cached { values: &values, rows: 3, first_pos: 0 };
        let mean = weigh(&SHAPE, &softmax(&[7.0, 7.0, 7.0]), &v, 0);
        assert!((mean[0] - 2.0).abs() < 1e-15 && (mean[1] - 3.0).abs() < 1e-15);
        assert_eq!(weigh(&SHAPE, &softmax(&[0.0, 1e4, f64::NEG_INFINITY]), &v, 2), [8.0, 9.0]);
    }

    #[test]
    fn a_cap_bounds_the_scores() {
        let values = cache();
        let k = Cached { values: &values, rows: 3, first_pos: 0 };
        let capped = AttentionShape { softcap: Some(2.0), ..SHAPE };
        let scores = head_scores(&capped, &[100.0; 8], &k, (0, 2)).scores;
        assert!(scores.iter().all(|s| *s <= 2.0 && *s > 1.99));
    }
}
