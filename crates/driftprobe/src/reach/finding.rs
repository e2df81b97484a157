//! What the search found, and when it is claimed.
//!
//! A mechanism is claimed of a phase's point only if (1) an order gives all values compared of all rows looked at; (2) the
//! orders that do are one and the same on these rows as to what they are mainly about (ranges of keys, order of the sum), or
//! else they are all named and nothing is claimed; (3) most of the orders tried are refuted in many values, since a match of
//! values that every order gives is none; (4) that holds of a second row beside the one that was searched.

use super::mechanism::Mechanism;
use super::order::Order;
use super::row::RowName;
use super::targets::{Pairs, Target};
use driftprobe_trace::{Phase, Point};

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Pairs of the run.
    pub pairs: Pairs,
    /// One a point and phase that was searched; more where passes of different size have different kernels.
    pub findings: Vec<Finding>,
    /// Prefill beside decode, of each point claimed in both.
    pub mechanisms: Vec<Mechanism>,
    /// Rows that were not searched.
    pub skipped: Vec<Skipped>,
    /// Whether the time was up before all was searched.
    pub ended_early: bool,
}

/// Rows of a point that were not searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The phase.
    pub phase: Phase,
    /// The point.
    pub point: Point,
    /// Rows.
    pub rows: u64,
    /// Why.
    pub why: String,
}

impl Skipped {
    pub(super) fn of(target: &Target, why: &str) -> Skipped {
        Skipped { phase: target.phase, point: target.point, rows: target.all, why: why.to_owned() }
    }
}

/// What was found of one point of one phase.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The phase.
    pub phase: Phase,
    /// The point.
    pub point: Point,
    /// Tokens of the passes that it is about, where passes of other sizes have another order.
    pub pass: Option<u64>,
    /// Rows looked at, the one that was searched first.
    pub rows: Vec<RowName>,
    /// Values compared in them, by each order that is left.
    pub values: u64,
    /// Orders tried.
    pub tried: u64,
    /// Of these, orders that at least one value refutes.
    pub refuted: u64,
    /// Of these, orders that are refuted by [`TELLING_VALUES`] values and more.
    pub refuted_well: u64,
    /// Rows on which most orders can be told from those that are left.
    pub telling_rows: u64,
    /// Longest context of the rows, where they are rows of attention.
    pub longest: Option<u64>,
    /// What came of it.
    pub outcome: Outcome,
}

/// Values by which an order is refuted well.
pub const TELLING_VALUES: usize = 8;
/// Share of the orders tried that must be refuted well, of those that are refuted.
pub const REFUTED_WELL_MIN: f64 = 0.75;
/// Rows that must tell the orders apart.
pub const TELLING_ROWS_MIN: u64 = 2;

/// What came of a search.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Reproduced, and the orders that do are one on these rows.
    Claimed(Claim),
    /// Orders that are not the same give all recorded values.
    Ambiguous {
        /// What they are, a sentence each.
        says: Vec<String>,
        /// The orders.
        orders: Vec<Order>,
    },
    /// Reproduced, but too little speaks against other orders.
    Weak {
        /// Why it is too little.
        why: String,
        /// The orders.
        orders: Vec<Order>,
    },
    /// Not among the orders tried.
    NotReproduced {
        /// Whether some rows are reproduced by an order each, and no one order gives all of them.
        some_alone: bool,
    },
    /// The time was up.
    Unfinished,
}

impl Outcome {
    /// Stable id.
    pub const fn id(&self) -> &'static str {
        match self {
            Outcome::Claimed(_) => "CLAIMED",
            Outcome::Ambiguous { .. } => "AMBIGUOUS",
            Outcome::Weak { .. } => "WEAK",
            Outcome::NotReproduced { .. } => "NOT_REPRODUCED",
            Outcome::Unfinished => "UNFINISHED",
        }
    }

    /// The claim, if there is one.
    pub fn claim(&self) -> Option<&Claim> {
        match self {
            Outcome::Claimed(claim) => Some(claim),
            _ => None,
        }
    }
}

/// A mechanism.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// What the phase does, in a few words.
    pub says: String,
    /// Roundings beside it that these rows do not settle, in words.
    pub open: Vec<String>,
    /// All orders that give all recorded values; on these rows they are one as to what is said.
    pub orders: Vec<Order>,
    /// Whether it attends over all keys in one pass by what is recorded (probabilities of all keys).
    pub whole: bool,
}
