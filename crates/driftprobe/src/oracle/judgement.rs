//! What the oracle says of one recorded row.

use super::arithmetic::Unsupported;
use super::stage::Input;
use super::stats::{Direction, Flag, RowStatistics, ScoreTest};
use driftprobe_trace::{Phase, Point};
use std::sync::Arc;

/// One stage, one row, one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct StageJudgement {
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The phase.
    pub phase: Phase,
    /// The point.
    pub point: Point,
    /// The layer; −1 for unlayered points.
    pub layer: i32,
    /// Index of the token in the prompt.
    pub pos: u64,
    /// What was found.
    pub outcome: Outcome,
    /// Fields of the contract that were not declared and had to be assumed.
    pub assumed: Vec<&'static str>,
    /// Values in the recorded row.
    pub values: usize,
    /// What the stage was computed from.
    pub inputs: Vec<Input>,
    /// Whether the arithmetic is one that the contract does not declare and the record shows.
    pub fitted: bool,
}

/// A score test over many rows.
#[derive(Clone, Debug, PartialEq)]
pub struct SystematicJudgement {
    /// The phase.
    pub phase: Phase,
    /// The point.
    pub point: Point,
    /// The layer; none: all layers together.
    pub layer: Option<i32>,
    /// The parameter.
    pub direction: Direction,
    /// The test; [`ScoreTest::is_flagged`] says whether it found something.
    pub test: ScoreTest,
}

/// All that is said of one phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhaseJudgement {
    /// Row by row: prompts in the order of the events, then stages in the order of the computation, then positions.
    pub stages: Vec<StageJudgement>,
    /// Over all rows: by point and layer, then by point alone.
    pub systematic: Vec<SystematicJudgement>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Within rounding noise.
    Clean(RowStatistics),
    /// Not within rounding noise, by these tests.
    Flagged {
        /// The tests; at least one.
        flags: Vec<Flag>,
        /// The residuals.
        statistics: RowStatistics,
    },
    /// A stage without freedom (a copy, a sum, an embedding, a write to the cache) has exactly the values it must have.
    Exact {
        /// Values compared.
        compared: usize,
    },
    /// A stage without freedom has not.
    Mismatch {
        /// Values compared.
        compared: usize,
        /// Values that differ.
        differing: usize,
        /// The first of them.
        first: usize,
        /// Largest difference; NaN if one is NaN.
        largest: f64,
    },
    /// Nothing can be said.
    Unjudged(Unjudged),
}

impl Outcome {
    /// Whether the stage is at fault.
    pub fn is_fault(&self) -> bool {
        matches!(self, Outcome::Flagged { .. } | Outcome::Mismatch { .. })
    }

    /// Whether the stage is as it should be.
    pub fn is_clean(&self) -> bool {
        matches!(self, Outcome::Clean(_) | Outcome::Exact { .. })
    }
}

/// Why nothing can be said of a row.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unjudged {
    /// Inputs of the stage are not recorded, or not as whole rows.
    #[error("{} not recorded", list(.0))]
    InputsMissing(Vec<Input>),
    /// The row itself is not recorded as a whole.
    #[error("the row has no payload")]
    NoPayload,
    /// Only some values are recorded, and those are as they should be.
    #[error("{compared} of {values} values are recorded and as they should be; {rest}")]
    OnlyPart {
        /// Values compared.
        compared: usize,
        /// Values of the row.
        values: usize,
        /// Why not the others.
        rest: Box<Unjudged>,
    },
    /// The row, or an input, is recorded more than once.
    #[error("{} recorded more than once", list(std::slice::from_ref(.0)))]
    RecordedTwice(Input),
    /// An input has NaN or infinities; the fault lies before this stage.
    #[error("{} not finite", list(std::slice::from_ref(.0)))]
    InputNotFinite(Input),
    /// A row has not the number of values that the model's config asks for.
    #[error("{what} has {found} values, expected {expected}")]
    Shape {
        /// Which row.
        what: String,
        /// Values it has.
        found: usize,
        /// Values it should have.
        expected: usize,
    },
    /// The event names no token, or none of the vocabulary.
    #[error("no token of the vocabulary is named")]
    Token,
    /// The contract claims something that is not known.
    #[error(transparent)]
    Contract(#[from] Unsupported),
    /// The model lacks a tensor.
    #[error("{0}")]
    Model(String),
}

impl From<driftprobe_model::reference::ShapeError> for Unjudged {
    fn from(e: driftprobe_model::reference::ShapeError) -> Unjudged {
        Unjudged::Shape { what: e.what, found: e.found, expected: e.expected }
    }
}

impl From<driftprobe_model::ModelError> for Unjudged {
    fn from(e: driftprobe_model::ModelError) -> Unjudged {
        Unjudged::Model(e.to_string())
    }
}

fn list(inputs: &[Input]) -> String {
    let name = |i: &Input| if i.layer < 0 { i.point.to_string() } else { format!("{} of layer {}", i.point, i.layer) };
    let names = inputs.iter().map(name).collect::<Vec<_>>().join(", ");
    if inputs.len() == 1 { format!("{names} is") } else { format!("{names} are") }
}
