//! The rotary embedding (arXiv 2104.09864) with every scaling that the families use.

use crate::{Config, RopeLayout};

/// In which arithmetic the table of cos and sin is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePrecision {
    /// Frequencies, angles, cos and sin in f64.
    F64,
    /// Frequencies rounded to f32, angles as their f32 products with the position, cos and sin rounded to f32: what
    /// engines do that compute tables in f32 with a correctly rounding cosine.
    F32,
}

/// cos and sin of one position, each `[head_dim/2]`, the attention factor included.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// cos(pos·θᵢ)·factor.
    pub cos: Vec<f64>,
    /// sin(pos·θᵢ)·factor.
    pub sin: Vec<f64>,
}

impl RopeTable {
    /// The table of position `pos`.
    pub fn new(config: &Config, pos: u64, precision: RopePrecision) -> RopeTable {
        let (rope, head_dim) = (&config.rope, config.head_dim);
        let factor = rope.attention_factor();
        let entries: Vec<(f64, f64)> = match precision {
            RopePrecision::F64 => {
                let entry = |f: &f64| ((pos as f64 * f).cos() * factor, (pos as f64 * f).sin() * factor);
                rope.frequencies(head_dim).iter().map(entry).collect()
            }
            RopePrecision::F32 => {
                let entry = |f: &f32| {
                    let angle = f64::from(pos as f32 * f);
                    let scaled = |x: f64| f64::from(x as f32 * factor as f32);
                    (scaled(angle.cos()), scaled(angle.sin()))
                };
                rope.inv_freq(head_dim).iter().map(entry).collect()
            }
        };
        let (cos, sin) = entries.into_iter().unzip();
        RopeTable { cos, sin }
    }
}

/// The indices of pair `i` of a head.
pub fn pair(layout: RopeLayout, head_dim: usize, i: usize) -> (usize, usize) {
    match layout {
        RopeLayout::Half => (i, i + head_dim / 2),
        RopeLayout::Interleaved => (2 * i, 2 * i + 1),
    }
}

/// Rotates x `[heads, head_dim]`: (x₁cos − x₂sin, x₂cos + x₁sin) for each pair. Values past the table stay as they are.
pub fn rotate_heads(x: &[f64], layout: RopeLayout, table: &RopeTable) -> Vec<f64> {
    let head_dim = table.cos.len() * 2;
    let mut out = x.to_vec();
    for (head, turned) in x.chunks_exact(head_dim.max(1)).zip(out.chunks_exact_mut(head_dim.max(1))) {
        for (i, (cos, sin)) in table.cos.iter().zip(&table.sin).enumerate() {
            let (first, second) = pair(layout, head_dim, i);
            turned[first] = head[first] * cos - head[second] * sin;
            turned[second] = head[second] * cos + head[first] * sin;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    #[test]
    fn a_rotation_keeps_lengths_and_turns_by_the_angle() {
        let config = Model::demo().unwrap().config;
        let (head_dim, pos) = (config.head_dim, 11);
        let table = RopeTable::new(&config, pos, RopePrecision::F64);
        let x: Vec<f64> = (0..2 * head_dim).map(|i| (i as f64 * 0.7).sin()).collect();
        for layout in [RopeLayout::Half, RopeLayout::Interleaved] {
            let y = rotate_heads(&x, layout, &table);
            for head in 0..2 {
                for i in 0..head_dim / 2 {
                    let (a, b) = pair(layout, head_dim, i);
                    let (a, b) = (a + head * head_dim, b + head * head_dim);
                    // As complex numbers: y = x·e^{iφ}, so |y| = |x| and arg y = arg x + φ.
                    assert!((y[a].hypot(y[b]) - x[a].hypot(x[b])).abs() < 1e-14);
                    let angle = pos as f64 * config.rope.theta.powf(-2.0 * i as f64 / head_dim as f64);
                    let turned = (y[b].atan2(y[a]) - x[b].atan2(x[a]) - angle).rem_euclid(std::f64::consts::TAU);
                    assert!(turned.min(std::f64::consts::TAU - turned) < 1e-12, "{layout:?} {i}");
                }
            }
        }
    }

    #[test]
    fn the_f32_table_differs_by_f32_rounding_only() {
        let config = Model::demo().unwrap().config;
        for pos in [0, 1, 100, 1000] {
            let exact = RopeTable::new(&config, pos, RopePrecision::F64);
            let single = RopeTable::new(&config, pos, RopePrecision::F32);
            for (e, s) in exact.cos.iter().zip(&single.cos).chain(exact.sin.iter().zip(&single.sin)) {
                assert!((e - s).abs() <= 2f64.powi(-23) * (1.0 + pos as f64), "position {pos}");
                assert_eq!(*s, f64::from(*s as f32));
            }
        }
    }
}
