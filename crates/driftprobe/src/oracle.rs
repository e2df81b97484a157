//! The oracle: each recorded stage against what its own recorded inputs and the model's weights give in float64, in units
//! of the rounding noise that the stage's arithmetic must have.
//!
//! A stage is judged by itself. Whatever went wrong before it is in its inputs already, so a clean stage behind a faulty
//! one is clean; this is what tells a local fault from an inherited difference. [`stage`] says what is computed from what,
//! [`arithmetic`] which roundings the engine claims, [`noise`] what variance these roundings have, [`stats`] when a
//! residual is too large for it, and [`replay`] runs all of it over a phase of a run.

pub mod arithmetic;
pub(crate) mod evaluate;
pub mod fit;
pub mod float;
pub mod judgement;
pub mod key_parts;
mod minima;
pub mod noise;
pub mod quantise;
pub mod replay;
pub mod stage;
pub mod stats;
pub mod variants;

pub use arithmetic::Arithmetic;
pub use float::Float;
pub use judgement::{Outcome, PhaseJudgement, StageJudgement, SystematicJudgement, Unjudged};
pub use key_parts::KeyParts;
pub use replay::Replay;
pub use stage::{Input, Op, Stage, Way};
