//! How far an analysis has got, for whoever shows it.

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Pairs are compared; counted in pairs.
    Pairs,
    /// Recorded stages are computed again; counted in phases.
    Stages,
    /// Prompts are simulated from their tokens; counted in millions of floating-point operations.
    Simulation,
    /// Bugs are tried on what is at fault, and what a bug would have shown is computed; not counted.
    Bugs,
    /// Evaluation orders are tried on rows; counted in points of both phases.
    Orders,
}

/// How much of a work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The work.
    pub work: Work,
    /// So much of it is done …
    pub done: u64,
    /// … of so much.
    pub total: u64,
}

/// Hears of the progress.
pub type Watch<'a> = dyn FnMut(Progress) + 'a;
