//! E2: the score test along a parameter's derivative.
//!
//! A fault that moves every element a little along d = ∂y/∂parameter is invisible element by element and plain in the sum.

/// Gathers Σ over cells. Each cell is one vote, so that what a cell's elements have in common (a norm's factor) does not
/// count as often as the cell has elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScoreTest {
    sum: f64,
    squares: f64,
    common: f64,
    cells: usize,
}

impl ScoreTest {
    /// Threshold of [`ScoreTest::score`].
    pub const LIMIT: f64 = 8.0;

    /// Adds a cell: for each element the residual r, the derivative d, the variance a of the stage's arithmetic and the
    /// variance σ² with storage. p = Σr·d/σ².
    pub fn add(&mut self, elements: impl Iterator<Item = (f64, f64, f64, f64)>) {
        let (mut p, mut common) = (0.0, 0.0);
        for (r, d, variance, total) in elements {
            if total > 0.0 {
                p += r * d / total;
                common += d.abs() * variance.sqrt() / total;
            } else if r != 0.0 {
                p = f64::NAN;
            }
        }
        self.sum += p;
        self.squares += p * p;
        self.common += common;
        self.cells += 1;
    }

    /// Cells so far. The score cannot exceed the root of it.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// S = |Σp|/√(Σp² + (Σ|d|√a/σ²)²): the second term is what the arithmetic's errors could do if all agreed.
    pub fn score(&self) -> f64 {
        if self.sum == 0.0 { 0.0 } else { self.sum.abs() / (self.squares + self.common * self.common).sqrt() }
    }

    /// Whether the score is over the limit; NaN is.
    pub fn is_flagged(&self) -> bool {
        super::exceeds(self.score(), Self::LIMIT)
    }
}
