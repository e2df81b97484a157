//! A hypothesis put to the test: what recorded rows should be if it were true, and how well they are.

use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::judgement::Unjudged;
use crate::oracle::replay::cases::Case;
use crate::oracle::replay::compare;
use crate::oracle::stats::{Direction, Expected, Flag, Limits, ScoreTest};
use crate::oracle::{Float, Outcome};
use driftprobe_model::Model;
use std::collections::BTreeMap;

/// How much freedom a hypothesis has; less explains more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freedom {
    /// None, or a place out of a few: what is wrong is wrong in one way only.
    Fixed,
    /// A number fitted to the rows.
    Fitted,
    /// So much that it may explain what it is not the cause of.
    Loose,
}

/// What a row should be.
pub(super) type Expect<'a> = Box<dyn Fn(&Case) -> Result<Expectation, Unjudged> + 'a>;

/// A hypothesis with its parameters.
pub(super) struct Trial<'a> {
    pub id: &'static str,
    pub parameters: Vec<(String, String)>,
    pub freedom: Freedom,
    pub expect: Expect<'a>,
}

impl<'a> Trial<'a> {
    /// Without parameters.
    pub fn new(id: &'static str, expect: Expect<'a>) -> Trial<'a> {
        Trial { id, parameters: Vec::new(), freedom: Freedom::Fixed, expect }
    }

    /// With a parameter more.
    pub fn with(mut self, name: &str, value: impl ToString) -> Trial<'a> {
        self.parameters.push((name.to_owned(), value.to_string()));
        self
    }

    /// With this freedom.
    pub fn freedom(self, freedom: Freedom) -> Trial<'a> {
        Trial { freedom, ..self }
    }
}

/// How rows hold against a hypothesis.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// RMS z over all rows; of stages without freedom 0 or infinite.
    pub rms: f64,
    /// Mean of z² + ln σ² over all elements: what tells hypotheses that allow much from those that allow little.
    pub surprise: f64,
    /// Rows that hold, in the order of the cases.
    pub holds: Vec<bool>,
    /// The surprise of all values but the one that is furthest off in each row.
    pub surprise_of_rest: f64,
    /// Score tests over all rows.
    pub tests: BTreeMap<Direction, ScoreTest>,
}

impl Held {
    /// Whether all rows hold.
    pub fn all(&self) -> bool {
        !self.holds.is_empty() && self.holds.iter().all(|h| *h)
    }
}

/// E3 counts a rounding point that no hypothesis knows; a hypothesis may leave this many times what is clean.
const UNROUNDED_LENIENCE: f64 = 3.0;

/// Holds rows against a hypothesis. A row for which it says nothing does not hold.
pub(super) fn hold(cases: &[Case], expect: &Expect<'_>) -> Held {
    hold_as(cases, expect, false)
}

/// The same for a gross fault, whose bug may have rounded in between in ways that nobody knows: what 16-bit storage would
/// have shown of such a rounding (E3) does not count.
pub(super) fn hold_grossly(cases: &[Case], expect: &Expect<'_>) -> Held {
    hold_as(cases, expect, true)
}

fn hold_as(cases: &[Case], expect: &Expect<'_>, grossly: bool) -> Held {
    let mut held = Held::default();
    let (mut squares, mut surprise, mut furthest, mut count) = (0.0, 0.0, 0.0, 0usize);
    for case in cases {
        let Ok(expectation) = expect(case) else {
            held.holds.push(false);
            (squares, surprise, count) = (f64::INFINITY, f64::INFINITY, count + 1);
            continue;
        };
        let scores = |direction, test: &ScoreTest| held.tests.entry(direction).or_default().merge(test);
        let outcome = compare(&case.recorded, &expectation, scores);
        let lengths = matches!(&expectation, Expectation::Noisy(e) if e.y.len() != case.recorded.len());
        held.holds.push(is_held(&outcome, &expectation, grossly) && !lengths);
        match (&outcome, &expectation) {
            (Outcome::Clean(s) | Outcome::Flagged { statistics: s, .. }, Expectation::Noisy(expected)) => {
                squares += s.rms * s.rms * s.compared as f64;
                surprise += s.rms * s.rms * s.compared as f64 + logarithms(expected);
                furthest += s.element.1 * s.element.1;
                count += s.compared;
                // A mask that is another's is as far off as can be.
                if has_mask_flag(&outcome) {
                    (squares, surprise, count) = (f64::INFINITY, f64::INFINITY, count + 1);
                }
            }
            (Outcome::Exact { compared }, _) => count += compared,
            _ => (squares, surprise, count) = (f64::INFINITY, f64::INFINITY, count + 1),
        }
    }
    let mean = |sum: f64| if count == 0 { 0.0 } else { sum / count as f64 };
    (held.rms, held.surprise) = (mean(squares).sqrt(), mean(surprise));
    held.surprise_of_rest = mean(surprise - furthest);
    held
}

/// Σ ln σ² over what is seen.
fn logarithms(expected: &Expected) -> f64 {
    let one = |(at, (y, variance)): (usize, (&f64, &f64))| {
        let hidden = expected.hidden.get(at).copied().unwrap_or(false);
        let total = variance + expected.output.rounding_variance(*y);
        if total > 0.0 && !hidden { total.ln() } else { 0.0 }
    };
    expected.y.iter().zip(&expected.variance).enumerate().map(one).sum()
}

fn has_mask_flag(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Flagged { flags, .. } if flags.iter().any(|f| matches!(f, Flag::Mask { .. })))
}

fn is_held(outcome: &Outcome, expectation: &Expectation, grossly: bool) -> bool {
    let narrow = matches!(expectation, Expectation::Noisy(expected) if expected.output < Float::F32);
    let limits = match expectation {
        Expectation::Noisy(expected) => expected.limits,
        Expectation::Exact { .. } => Limits::PLAIN,
    };
    match outcome {
        Outcome::Clean(_) | Outcome::Exact { .. } => true,
        Outcome::Flagged { flags, .. } => flags.iter().all(|flag| match flag {
            Flag::Unrounded { size, .. } => (grossly && narrow) || *size <= UNROUNDED_LENIENCE * limits.unrounded,
            Flag::Score { .. } => true,
            _ => false,
        }),
        _ => false,
    }
}

/// What the model and the contract ask for.
pub(super) fn clean<'a>(model: &'a Model) -> Expect<'a> {
    Box::new(move |case| evaluate(model, case.op, &case.task, case.layer_index()))
}

/// Under another config.
pub(super) fn with_config<'a>(model: &Model, change: impl FnOnce(&mut driftprobe_model::Config)) -> Expect<'a> {
    let mut config = model.config.clone();
    change(&mut config);
    let other = model.with_config(config);
    Box::new(move |case| evaluate(&other, case.op, &case.task, case.layer_index()))
}

/// The clean expectation, if it is a noisy one, with values and variances of its own.
pub(super) fn noisy_of(model: &Model, case: &Case) -> Result<Expected, Unjudged> {
    match evaluate(model, case.op, &case.task, case.layer_index())? {
        Expectation::Noisy(expected) => Ok(expected),
        Expectation::Exact { .. } => Err(Unjudged::NoPayload),
    }
}

/// The stage's input as it is, in place of what the stage makes of it.
pub(super) fn unchanged(model: &Model, case: &Case) -> Result<Expectation, Unjudged> {
    let mut expected = noisy_of(model, case)?;
    expected.y = case.task.input(0).to_vec();
    expected.variance = vec![0.0; expected.y.len()];
    Ok(Expectation::Noisy(expected))
}
