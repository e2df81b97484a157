//! E2: the score test along a parameter's derivative.
//!
//! A fault that moves every element a little along d = ∂y/∂parameter is invisible element by element and plain in the sum
//! over rows, heads and layers.

use super::{CELL_CHANNELS, Expected, exceeds};

/// A parameter whose wrong value moves a stage's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The whole result by a factor: d = y.
    Gain,
    /// Attention's scale: d = ∂y/∂ln scale.
    Temperature,
    /// The base of the rotary frequencies: d = ∂y/∂ln θ.
    Theta,
    /// The position: d = ∂y/∂pos.
    Position,
}

impl Direction {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Gain => "gain",
            Direction::Temperature => "temperature",
            Direction::Theta => "theta",
            Direction::Position => "position",
        }
    }

    /// The one whose [`Direction::name`] this is.
    pub fn named(name: &str) -> Option<Direction> {
        let all = [Direction::Gain, Direction::Temperature, Direction::Theta, Direction::Position];
        all.into_iter().find(|direction| direction.name() == name)
    }
}

/// The derivatives of one row, and how far its elements' errors may agree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Derivatives {
    /// ∂y/∂parameter.
    pub directions: Vec<(Direction, Vec<f64>)>,
    /// Elements whose errors share a cause that other cells do not share (a norm's factor, a head's scores); 0: a cell.
    pub cell: usize,
    /// Whether the arithmetic's errors are the same in every row (a table of frequencies).
    pub shared_by_all: bool,
    /// Relative size of what may be the same in every row (a constant that is not exact), in units of y.
    pub relative: f64,
}

/// Gathers Σ over cells. Each cell is one vote, so that what a cell's elements have in common does not count as often as
/// the cell has elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScoreTest {
    sum: f64,
    squares: f64,
    agreeing: f64,
    cells: usize,
}

/// One element of a cell.
#[derive(Clone, Copy, Debug)]
pub struct Element {
    /// Recorded − y.
    pub residual: f64,
    /// ∂y/∂parameter.
    pub derivative: f64,
    /// Variance of the stage's arithmetic.
    pub variance: f64,
    /// The same with storage.
    pub total: f64,
    /// Size of errors that are the same in every row.
    pub shared: f64,
}

impl ScoreTest {
    /// Threshold of [`ScoreTest::score`].
    pub const LIMIT: f64 = 8.0;

    /// Adds a cell: p = Σr·d/σ², and what the arithmetic's errors could do to it if all of the cell agreed, Σ|d|√a/σ².
    pub fn add(&mut self, elements: impl Iterator<Item = Element>) {
        let (mut p, mut common) = (0.0, 0.0);
        for e in elements {
            if e.total > 0.0 {
                p += e.residual * e.derivative / e.total;
                common += e.derivative.abs() * e.variance.sqrt() / e.total;
                self.agreeing += e.derivative.abs() * e.shared / e.total;
            } else if e.residual != 0.0 {
                p = f64::NAN;
            }
        }
        self.sum += p;
        self.squares += p * p + common * common;
        self.cells += 1;
    }

    /// Adds another test's cells.
    pub fn merge(&mut self, other: &ScoreTest) {
        self.sum += other.sum;
        self.squares += other.squares;
        self.agreeing += other.agreeing;
        self.cells += other.cells;
    }

    /// Σp, Σp² with what cells may have in common, Σ|d|·shared/σ², and the cells.
    pub fn parts(&self) -> (f64, f64, f64, usize) {
        (self.sum, self.squares, self.agreeing, self.cells)
    }

    /// The test whose [`ScoreTest::parts`] these are.
    pub fn from_parts((sum, squares, agreeing, cells): (f64, f64, f64, usize)) -> ScoreTest {
        ScoreTest { sum, squares, agreeing, cells }
    }

    /// Cells so far. The score cannot exceed the root of it.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// S = |Σp|/√(Σp² + Σ_cells(Σ|d|√a/σ²)² + (Σ|d|·shared/σ²)²).
    pub fn score(&self) -> f64 {
        if self.sum == 0.0 { 0.0 } else { self.sum.abs() / (self.squares + self.agreeing * self.agreeing).sqrt() }
    }

    /// Whether the score is over the limit; NaN is.
    pub fn is_flagged(&self) -> bool {
        exceeds(self.score(), Self::LIMIT)
    }
}

/// Adds a row to a test along one of its directions. Rows that are not finite are left out: they are faults by themselves.
pub fn add_row(test: &mut ScoreTest, recorded: &[f64], expected: &Expected, derivative: &[f64]) {
    let derivatives = &expected.derivatives;
    let is_seen = |at: usize| !expected.hidden.get(at).copied().unwrap_or(false);
    if recorded.iter().enumerate().any(|(at, r)| is_seen(at) && !r.is_finite()) {
        return;
    }
    let element = |at: usize| {
        let (y, variance) = (expected.y.get(at)?, *expected.variance.get(at)?);
        let whole = if derivatives.shared_by_all { variance.sqrt() } else { 0.0 };
        Some(Element {
            residual: recorded.get(at)? - y,
            derivative: *derivative.get(at)?,
            variance,
            total: variance + expected.output.rounding_variance(*y),
            shared: whole + derivatives.relative * y.abs(),
        })
    };
    let cell = match (derivatives.cell, expected.cell) {
        (0, 0) => CELL_CHANNELS,
        (0, cell) | (cell, _) => cell,
    };
    let all: Vec<usize> = (0..recorded.len()).collect();
    for cell in all.chunks(cell) {
        test.add(cell.iter().filter(|at| is_seen(**at)).filter_map(|at| element(*at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Residuals of half an ulp either way, pseudo-random, and a shift along y.
    fn score(shift: f64, variance: f64, cells: usize) -> f64 {
        let mut test = ScoreTest::default();
        let mut state = 1u64;
        for _ in 0..cells {
            test.add((0..32).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let uniform = (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
                let total = 1.0 / 12.0 + variance;
                Element { residual: uniform + shift, derivative: 1.0, variance, total, shared: 1e-6 }
            }));
        }
        test.score()
    }

    #[test]
    fn a_shift_far_below_an_ulp_adds_up_over_many_cells() {
        assert!(score(0.05, 1e-8, 400) > ScoreTest::LIMIT);
        assert!(score(0.0, 1e-8, 400) < 4.0);
    }

    #[test]
    fn a_shift_that_the_arithmetic_could_make_in_every_cell_is_not_flagged() {
        assert!(score(0.05, 0.05, 30) < ScoreTest::LIMIT);
    }

    #[test]
    fn nan_flags() {
        let mut test = ScoreTest::default();
        test.add(std::iter::once(Element {
            residual: f64::NAN,
            derivative: 1.0,
            variance: 1.0,
            total: 1.0,
            shared: 0.0,
        }));
        assert!(test.is_flagged());
        assert!(!ScoreTest::default().is_flagged());
    }
}
