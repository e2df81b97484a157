//! Reports for CI: JUnit XML, and GitHub's annotations. Both are made of the same cases.
//!
//! What is INCONCLUSIVE is an error there, never skipped: skipped cases count as passing.

pub mod github;
pub mod junit;
mod runs;

pub use github::to_annotations;
pub use junit::to_junit;
pub use runs::{of_analysis, of_comparisons};

/// Cases that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What it belongs to.
    pub class: String,
    /// Its name.
    pub name: String,
    /// What it came to.
    pub outcome: Outcome,
    /// More about it.
    pub details: String,
}

/// What a case came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Passed,
    /// It is wrong.
    Failed {
        /// Which way, as a code.
        kind: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Nothing can be said.
    Error {
        /// Which way, as a code.
        kind: &'static str,
        /// Why not.
        message: String,
    },
    /// It does not count.
    Skipped {
        /// Why not.
        message: String,
    },
}
