//! When a residual is too large for rounding.
//!
//! - **E1**: RMS z over a cell (a head of a row, or 32 channels), and the largest |z|.
//! - **E3**: the largest residual that the storage rounding cannot explain, in units of the arithmetic before it. In 16-bit
//!   formats it is far sharper than E1 where the whole row is off by less than an ulp.
//! - **E2**: the score test along a derivative, [`ScoreTest`].
//!
//! Every comparison is written so that NaN flags.

mod score;

pub use score::{Derivatives, Direction, Element, ScoreTest, add_row};

use super::float::Float;

/// Thresholds of E1 and E3, by kind of stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Largest RMS z of a cell.
    pub rms: f64,
    /// Largest |z|.
    pub max: f64,
    /// Largest E3.
    pub unrounded: f64,
}

impl Limits {
    /// Linear layers, activations, scores.
    pub const PLAIN: Limits = Limits { rms: 2.5, max: 10.0, unrounded: 14.0 };
    /// The rotary embedding: a pair's elements share the angle's error, over all heads.
    pub const ROPE: Limits = Limits { rms: 4.0, ..Limits::PLAIN };
    /// Attention's output: all channels of a head share the errors of its scores.
    pub const ATTENTION: Limits = Limits { rms: 5.0, ..Limits::PLAIN };
    /// Norms and softmax: the row shares one factor.
    pub const NORM: Limits = Limits { rms: 6.0, max: 12.0, unrounded: 18.0 };
}

/// Weight of the storage rounding in E3's unit: keeps it above 0 where a stage is exact before it is stored.
const UNROUNDED_FLOOR: f64 = 1e-8;

/// Channels a cell, where there are no heads.
pub const CELL_CHANNELS: usize = 32;

/// What a row should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// In float64.
    pub y: Vec<f64>,
    /// Variance of the stage's own arithmetic, before storage.
    pub variance: Vec<f64>,
    /// Elements that the mask hides; empty if none.
    pub hidden: Vec<bool>,
    /// Elements a cell.
    pub cell: usize,
    /// Format in which the result is stored.
    pub output: Float,
    /// Thresholds.
    pub limits: Limits,
    /// How it would move with a wrong parameter.
    pub derivatives: Derivatives,
}

/// A test that found a residual too large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flag {
    /// NaN, or an infinity where the reference has none.
    NonFinite {
        /// First such element.
        at: usize,
    },
    /// The mask hides this element and the record shows it, or the other way round.
    Mask {
        /// First such element.
        at: usize,
    },
    /// E1: RMS z of a cell.
    CellRms {
        /// The cell.
        cell: usize,
        /// Its RMS z.
        z: f64,
    },
    /// E1: one element.
    Element {
        /// The element.
        at: usize,
        /// Its |z|.
        z: f64,
    },
    /// E3.
    Unrounded {
        /// The element.
        at: usize,
        /// Residual beyond half an ulp, in units of the arithmetic before.
        size: f64,
    },
    /// E2, over the row alone.
    Score {
        /// The parameter.
        direction: Direction,
        /// The score.
        score: f64,
    },
}

/// A row's residuals in units of noise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowStatistics {
    /// Elements compared.
    pub compared: usize,
    /// RMS z over all of them.
    pub rms: f64,
    /// Largest RMS z of a cell, and which.
    pub cell: (usize, f64),
    /// Largest |z|, and where.
    pub element: (usize, f64),
    /// Largest E3, and where.
    pub unrounded: (usize, f64),
    /// Largest E2 of the row alone.
    pub score: f64,
    /// Size of the noise that the arithmetic may have, storage included, relative to the row: √(Σσ²/Σy²).
    pub noise: f64,
}

/// Holds a recorded row against what it should be. No flag: clean.
///
/// z = (recorded − y)/σ with σ² = variance + ulp²/12.
pub fn measure(recorded: &[f64], expected: &Expected) -> (RowStatistics, Vec<Flag>) {
    let mut found = RowStatistics::default();
    let mut flags = Vec::new();
    let is_hidden = |at: usize| expected.hidden.get(at).copied().unwrap_or(false);
    let (mut cell_sum, mut cell_count, mut sum) = (0.0, 0usize, 0.0);
    let (mut noise, mut size) = (0.0, 0.0);
    let elements = recorded.iter().zip(&expected.y).zip(&expected.variance).enumerate();
    let last = recorded.len().min(expected.y.len());
    for (at, ((recorded, y), variance)) in elements {
        if is_hidden(at) {
            if !is_hidden_value(*recorded, *y, expected.output) {
                flags.push(Flag::Mask { at });
            }
        } else if !recorded.is_finite() {
            flags.push(if *recorded == f64::NEG_INFINITY { Flag::Mask { at } } else { Flag::NonFinite { at } });
        } else {
            let (z, unrounded) = residual(recorded - y, *y, *variance, expected.output);
            (cell_sum, cell_count) = (cell_sum + z * z, cell_count + 1);
            (noise, size) = (noise + variance + expected.output.rounding_variance(*y), size + y * y);
            keep_largest(&mut found.element, at, z.abs());
            keep_largest(&mut found.unrounded, at, unrounded);
        }
        if (at + 1).is_multiple_of(expected.cell.max(1)) || at + 1 == last {
            if cell_count > 0 {
                keep_largest(&mut found.cell, at / expected.cell.max(1), (cell_sum / cell_count as f64).sqrt());
            }
            (sum, found.compared) = (sum + cell_sum, found.compared + cell_count);
            (cell_sum, cell_count) = (0.0, 0);
        }
    }
    found.rms = if found.compared == 0 { 0.0 } else { (sum / found.compared as f64).sqrt() };
    found.noise = if size > 0.0 { (noise / size).sqrt() } else { 0.0 };
    flags.truncate(1);
    flags.extend(too_large(&found, &expected.limits));
    (found, flags)
}

fn too_large(found: &RowStatistics, limits: &Limits) -> Vec<Flag> {
    let mut flags = Vec::new();
    if exceeds(found.cell.1, limits.rms) {
        flags.push(Flag::CellRms { cell: found.cell.0, z: found.cell.1 });
    }
    if exceeds(found.element.1, limits.max) {
        flags.push(Flag::Element { at: found.element.0, z: found.element.1 });
    }
    if exceeds(found.unrounded.1, limits.unrounded) {
        flags.push(Flag::Unrounded { at: found.unrounded.0, size: found.unrounded.1 });
    }
    flags
}

/// z, and E3's max(|r| − ½ulp, 0)/√(variance + 1e-8·ulp²/12).
fn residual(r: f64, y: f64, variance: f64, output: Float) -> (f64, f64) {
    if r == 0.0 {
        return (0.0, 0.0);
    }
    let (ulp, rounding) = (output.ulp(y), output.rounding_variance(y));
    let beyond = r.abs() - ulp / 2.0;
    let unrounded = if beyond <= 0.0 { 0.0 } else { beyond / (variance + UNROUNDED_FLOOR * rounding).sqrt() };
    (r / (variance + rounding).sqrt(), unrounded)
}

/// Whether a value is over a limit; NaN is.
pub fn exceeds(value: f64, limit: f64) -> bool {
    value > limit || value.is_nan()
}

/// NaN counts as larger than anything.
fn keep_largest(largest: &mut (usize, f64), at: usize, value: f64) {
    if exceeds(value, largest.1) && !largest.1.is_nan() {
        *largest = (at, value);
    }
}

/// A hidden score is −∞ or an engine's stand-in for it; a hidden probability (whose reference is 0) is 0.
fn is_hidden_value(recorded: f64, y: f64, output: Float) -> bool {
    if y == 0.0 { recorded == 0.0 } else { recorded <= -0.99 * output.largest() || is_masked(recorded) }
}

/// Whether a score is −∞ or what engines write in its place for a key that the mask hides; NaN is not.
pub fn is_masked(score: f64) -> bool {
    score <= -1e9
}
