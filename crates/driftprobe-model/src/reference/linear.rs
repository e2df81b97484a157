//! x·Wᵀ with W where it is mapped, dequantised a tile of rows at a time.
//!
//! The same pass gives Σ xᵢ²wᵢⱼ² and the squares of the partial sums, which the noise model of a linear layer needs.

use super::{ShapeError, expect};
use crate::Weight;
use candle_core::{Device, Tensor};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;
use std::ops::Range;

/// Weight rows that one task dequantises and multiplies. Fixed; results do not depend on it nor on the threads anyway,
/// since each output is one sum of its own.
const TILE_ROWS: usize = 32;
/// Multiplications below which splitting the work costs more than it saves.
const SERIAL_PRODUCTS_MAX: usize = 1 << 16;
/// Running sums of a dot product: enough for the compiler to vectorise, and to hide the latency of an addition.
const LANES: usize = 8;

/// Products between two looks at the partial sum.
const BLOCK: usize = 32;

/// What a linear layer gives without its bias, all `[tokens, outputs]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Projection {
    /// Σᵢ xᵢwᵢⱼ.
    pub sums: Vec<f64>,
    /// Σᵢ (xᵢwᵢⱼ)².
    pub squares: Vec<f64>,
    /// Σₖ sₖ², sₖ being the sum of the first k products in the order of the inputs (looked at every 32 products).
    pub partials: Vec<f64>,
}

/// One output.
#[derive(Clone, Copy, Default)]
struct Sums {
    sum: f64,
    squares: f64,
    partials: f64,
}

/// The outputs `outputs` of x·Wᵀ, for x `[tokens, inputs]` and W `[all outputs, inputs]`.
///
/// Products of f32 weights and f32 (or narrower) activations are exact in f64; the sums have eight running parts.
///
/// # Errors
/// When x is not a whole number of rows of W's width, or W has not these outputs.
pub fn linear(weight: &Weight, outputs: Range<usize>, x: &[f64]) -> Result<Projection, ShapeError> {
    let (width, all) = (weight.cols().max(1), weight.rows());
    expect(format!("the input of {}", weight.name()), x.len(), x.len() / width * width)?;
    expect(format!("the outputs of {}", weight.name()), outputs.end, outputs.end.min(all).max(outputs.start))?;
    let tokens = x.len() / width;
    let starts: Vec<usize> = outputs.clone().step_by(TILE_ROWS).collect();
    let tile = |start: &usize| one_tile(weight, *start..(*start + TILE_ROWS).min(outputs.end), x);
    let tiles: Vec<Vec<Sums>> = if outputs.len() * x.len() <= SERIAL_PRODUCTS_MAX {
        starts.iter().map(tile).collect()
    } else {
        starts.par_iter().map(tile).collect()
    };
    let empty = Vec::with_capacity(outputs.len() * tokens);
    let mut out = Projection { sums: empty.clone(), squares: empty.clone(), partials: empty };
    for token in 0..tokens {
        for one in tiles.iter().flat_map(|t| t.iter().skip(token).step_by(tokens)) {
            out.sums.push(one.sum);
            out.squares.push(one.squares);
            out.partials.push(one.partials);
        }
    }
    Ok(out)
}

/// All outputs of x·Wᵀ, `[tokens, outputs]`, without anything beside: as [`linear`]'s sums but for the order of summation,
/// and many times faster for many tokens.
///
/// # Errors
/// As [`linear`].
pub fn sums(weight: &Weight, x: &[f64]) -> Result<Vec<f64>, ShapeError> {
    let (width, outputs) = (weight.cols().max(1), weight.rows());
    let tokens = x.len() / width;
    expect(format!("the input of {}", weight.name()), x.len(), tokens * width)?;
    let mut all = vec![0.0; tokens * outputs];
    for start in (0..outputs).step_by(PRODUCT_ROWS) {
        let end = (start + PRODUCT_ROWS).min(outputs);
        let tile = product(weight, start..end, x).map_err(|_| ShapeError {
            what: format!("a product with {}", weight.name()),
            found: 0,
            expected: tokens * (end - start),
        })?;
        for (row, of_tile) in all.chunks_exact_mut(outputs).zip(tile.chunks_exact(end - start)) {
            if let Some(row) = row.get_mut(start..end) {
                row.copy_from_slice(of_tile);
            }
        }
    }
    Ok(all)
}

/// Weight rows that are multiplied at a time; bounds the memory of their f64 copies.
const PRODUCT_ROWS: usize = 1024;

/// x·Wᵀ for some rows of W, by candle.
fn product(weight: &Weight, outputs: Range<usize>, x: &[f64]) -> candle_core::Result<Vec<f64>> {
    let (width, count) = (weight.cols().max(1), outputs.len());
    let mut rows = vec![0.0f32; count * width];
    weight.dequantise_rows(outputs, &mut rows);
    let rows: Vec<f64> = rows.into_iter().map(f64::from).collect();
    let w = Tensor::from_vec(rows, (count, width), &Device::Cpu)?;
    let x = Tensor::from_slice(x, (x.len() / width, width), &Device::Cpu)?;
    x.matmul(&w.t()?)?.flatten_all()?.to_vec1()
}

/// Some outputs, `[outputs, tokens]`.
fn one_tile(weight: &Weight, outputs: Range<usize>, x: &[f64]) -> Vec<Sums> {
    let width = weight.cols().max(1);
    let products = |rows: &[f32]| Arch::new().dispatch(Products { rows, x, width });
    match weight.as_f32().and_then(|all| all.get(outputs.start * width..outputs.end * width)) {
        Some(rows) => products(rows),
        None => {
            let mut rows = vec![0.0; outputs.len() * width];
            weight.dequantise_rows(outputs, &mut rows);
            products(&rows)
        }
    }
}

/// Every row of a tile with every row of x. Compiled for several instruction sets, of which the machine's best is taken;
/// none fuses products into sums, so that all give the same bits.
struct Products<'a> {
    rows: &'a [f32],
    x: &'a [f64],
    width: usize,
}

impl NullaryFnOnce for Products<'_> {
    type Output = Vec<Sums>;

    #[inline(always)]
    fn call(self) -> Vec<Sums> {
        let mut all = Vec::with_capacity(self.rows.len() / self.width * (self.x.len() / self.width));
        for w in self.rows.chunks_exact(self.width) {
            for x in self.x.chunks_exact(self.width) {
                all.push(dot(w, x));
            }
        }
        all
    }
}

#[inline(always)]
fn dot(w: &[f32], x: &[f64]) -> Sums {
    let mut all = Sums::default();
    let mut squares = [0f64; LANES];
    for (w, x) in w.chunks(BLOCK).zip(x.chunks(BLOCK)) {
        all.sum += block(w, x, &mut squares);
        all.partials += w.len() as f64 * all.sum * all.sum;
    }
    all.squares = of_lanes(squares);
    all
}

/// Σ wx; adds (wx)² to `squares`.
#[inline(always)]
fn block(w: &[f32], x: &[f64], squares: &mut [f64; LANES]) -> f64 {
    let (w_lanes, w_rest) = w.as_chunks::<LANES>();
    let (x_lanes, x_rest) = x.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for (w, x) in w_lanes.iter().zip(x_lanes) {
        for i in 0..LANES {
            let product = f64::from(w[i]) * x[i];
            sums[i] += product;
            squares[i] += product * product;
        }
    }
    for ((w, x), (sum, square)) in w_rest.iter().zip(x_rest).zip(sums.iter_mut().zip(squares)) {
        let product = f64::from(*w) * x;
        *sum += product;
        *square += product * product;
    }
    of_lanes(sums)
}

/// Their sum, each with the one half as many lanes further.
#[inline(always)]
fn of_lanes([a, b, c, d, e, f, g, h]: [f64; LANES]) -> f64 {
    let [a, b, c, d] = [a + e, b + f, c + g, d + h];
    (a + c) + (b + d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    #[test]
    fn a_projection_is_the_sum_of_products_whatever_the_tile_and_the_rows_asked_for() {
        let model = Model::demo().unwrap();
        let weight = model.weights.get("model.layers.0.mlp.gate_proj.weight").unwrap();
        let (rows, width) = (weight.rows(), weight.cols());
        let dense = weight.to_f32();
        let x: Vec<f64> = (0..3 * width).map(|i| ((i * 37 % 101) as f64 - 50.0) / 7.0).collect();
        let all = linear(&weight, 0..rows, &x).unwrap();
        for token in 0..3 {
            for out in 0..rows {
                let products = (0..width).map(|i| f64::from(dense[out * width + i]) * x[token * width + i]);
                let (sum, square) = products.fold((0.0, 0.0), |(s, q), p| (s + p, q + p * p));
                assert!((all.sums[token * rows + out] - sum).abs() <= 1e-13 * square.sqrt() * 8.0);
                assert!((all.squares[token * rows + out] - square).abs() <= 1e-13 * square);
                // 64 inputs: partial sums after 32 and after all, each counted for 32 products.
                let half: f64 = (0..32).map(|i| f64::from(dense[out * width + i]) * x[token * width + i]).sum();
                let partials = 32.0 * (half * half + sum * sum);
                assert!(width == 64 && (all.partials[token * rows + out] - partials).abs() <= 1e-11 * partials + 1e-12);
            }
        }
        let some = linear(&weight, 30..71, &x[width..2 * width]).unwrap();
        assert_eq!(some.sums, all.sums[rows + 30..rows + 71]);
        assert_eq!(some.squares, all.squares[rows + 30..rows + 71]);
    }

    #[test]
    fn the_sums_alone_are_those_of_the_projection() {
        let model = Model::demo().unwrap();
        let weight = model.weights.get("model.layers.1.mlp.down_proj.weight").unwrap();
        let x: Vec<f64> = (0..5 * weight.cols()).map(|i| ((i * 29 % 97) as f64 - 48.0) / 9.0).collect();
        let projected = linear(&weight, 0..weight.rows(), &x).unwrap();
        let alone = sums(&weight, &x).unwrap();
        assert_eq!(alone.len(), projected.sums.len());
        for ((a, b), square) in alone.iter().zip(&projected.sums).zip(&projected.squares) {
            assert!((a - b).abs() <= 1e-13 * square.sqrt() * 8.0);
        }
        assert!(sums(&weight, &x[1..]).is_err());
    }

    #[test]
    fn an_input_of_another_width_is_refused() {
        let model = Model::demo().unwrap();
        let weight = model.weights.get("model.layers.0.mlp.gate_proj.weight").unwrap();
        assert!(linear(&weight, 0..4, &vec![0.0; weight.cols() + 1]).is_err());
        assert!(linear(&weight, 0..weight.rows() + 1, &vec![0.0; weight.cols()]).is_err());
    }
}
