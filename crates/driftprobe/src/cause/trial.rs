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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::arithmetic::Arithmetic;
    use crate::oracle::evaluate::Task;
    use crate::oracle::stage::Op;
    use crate::oracle::stats::{Derivatives, RowStatistics};
    use driftprobe_trace::{Dtype, Phase, Point};

    fn case(recorded: &[f64]) -> Case {
        let task = Task {
            inputs: vec![],
            others: vec![],
            pos: 0,
            pos_id: 0,
            token: None,
            recorded_len: recorded.len(),
            arithmetic: Arithmetic::resolve(None, Phase::Prefill, Point::MlpOut, Dtype::F64),
        };
        let (prompt_id, point, layer, pos, op) = ("p".into(), Point::MlpOut, 0, 0, Op::Add);
        Case { prompt_id, point, layer, pos, op, recorded: recorded.to_vec(), task }
    }

    /// Zeros with these variances, stored exactly.
    fn zeros(variance: &[f64]) -> Expected {
        Expected {
            y: vec![0.0; variance.len()],
            variance: variance.to_vec(),
            hidden: vec![],
            cell: 32,
            output: Float::F64,
            limits: Limits::PLAIN,
            derivatives: Derivatives::default(),
        }
    }

    /// How rows hold of which each should be what stands beside it; nothing is known of those with nothing.
    fn held(rows: &[(&[f64], Option<Expectation>)]) -> Held {
        let cases: Vec<Case> =
            rows.iter().enumerate().map(|(at, (recorded, _))| Case { pos: at as u64, ..case(recorded) }).collect();
        let expect: Expect<'_> =
            Box::new(|case| rows.get(case.pos as usize).and_then(|row| row.1.clone()).ok_or(Unjudged::NoPayload));
        hold(&cases, &expect)
    }

    fn noisy(variance: &[f64]) -> Option<Expectation> {
        Some(Expectation::Noisy(zeros(variance)))
    }

    fn exact(candidate: &[f64]) -> Option<Expectation> {
        Some(Expectation::Exact { candidates: vec![candidate.to_vec()], judged: vec![] })
    }

    fn is_near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-9
    }

    #[test]
    fn surprise_is_that_of_a_hand_computation() {
        // z is 1 and −2 of one row and 1.5 of the other.
        let found = held(&[(&[0.5, -1.0], noisy(&[0.25, 0.25])), (&[4.5], noisy(&[9.0]))]);
        let logarithms = 2.0 * 0.25f64.ln() + 9f64.ln();
        assert!(is_near(found.rms, (7.25f64 / 3.0).sqrt()), "{found:?}");
        assert!(is_near(found.surprise, (7.25 + logarithms) / 3.0), "{found:?}");
        // Without −2 and 1.5, the furthest of each row.
        assert!(is_near(found.surprise_of_rest, (1.0 + logarithms) / 3.0), "{found:?}");
        assert_eq!((found.holds.as_slice(), found.all()), ([true, true].as_slice(), true));
        // What has no noise but that of its storage counts with that alone: half of the smallest number, squared, is 0.
        let found = held(&[(&[0.0, 1.0], noisy(&[0.0, 4.0]))]);
        assert!(is_near(found.surprise, (0.25 + 4f64.ln()) / 2.0), "{found:?}");
        // An exact row counts its values.
        let found = held(&[(&[0.5, -1.0], noisy(&[0.25, 0.25])), (&[1.0; 3], exact(&[1.0; 3]))]);
        assert!(is_near(found.rms, 1.0) && found.all(), "{found:?}");
        assert_eq!((held(&[]).rms, held(&[]).surprise, held(&[]).all()), (0.0, 0.0, false));
    }

    #[test]
    fn what_is_hidden_surprises_nobody_unless_it_is_seen() {
        let expected = Expected { hidden: vec![false, true], ..zeros(&[4.0, 9.0]) };
        let of = |second: f64| held(&[(&[1.0, second], Some(Expectation::Noisy(expected.clone())))]);
        let found = of(0.0);
        assert!(is_near(found.rms, 0.5) && is_near(found.surprise, 0.25 + 4f64.ln()) && found.all(), "{found:?}");
        let found = of(1.0);
        assert_eq!((found.rms, found.surprise, found.all()), (f64::INFINITY, f64::INFINITY, false));
        let nothing_else = Expected { hidden: vec![true], ..zeros(&[9.0]) };
        assert_eq!(held(&[(&[1.0], Some(Expectation::Noisy(nothing_else)))]).rms, f64::INFINITY);
    }

    #[test]
    fn a_row_that_is_not_what_it_should_be_or_of_which_nothing_is_said_does_not_hold() {
        let sound: (&[f64], _) = (&[0.5, -1.0], noisy(&[0.25, 0.25]));
        for (name, wrong) in [
            ("nothing is said", (&[1.0][..], None)),
            ("other values", (&[1.0, 2.0][..], exact(&[1.0, 3.0]))),
            ("no candidate", (&[1.0][..], Some(Expectation::Exact { candidates: vec![], judged: vec![] }))),
        ] {
            for rows in [vec![wrong.clone()], vec![sound.clone(), wrong.clone()], vec![wrong, sound.clone()]] {
                let found = held(&rows);
                assert_eq!((found.rms, found.surprise), (f64::INFINITY, f64::INFINITY), "{name}");
                assert!(!found.all() && found.holds.iter().filter(|holds| **holds).count() == rows.len() - 1, "{name}");
            }
        }
        // Far off, and of another length though as far as it goes it is right.
        assert_eq!(held(&[(&[0.5, 99.0], noisy(&[0.25, 0.25])), sound]).holds, [false, true]);
        assert_eq!(held(&[(&[0.5, 0.5], noisy(&[0.25, 0.25, 0.25]))]).holds, [false]);
        assert_eq!(
            held(&[(&[0.5, 0.5], exact(&[0.5, 0.5, 0.5]))]).holds,
            [true],
            "of an exact one only some are known"
        );
    }

    #[test]
    fn a_hypothesis_may_leave_three_times_the_unrounded_and_a_gross_one_any_in_narrow_storage() {
        let of = |flag: Flag, output: Float, grossly: bool| {
            let outcome = Outcome::Flagged { flags: vec![flag], statistics: RowStatistics::default() };
            is_held(&outcome, &Expectation::Noisy(Expected { output, ..zeros(&[1.0]) }), grossly)
        };
        let unrounded = |size: f64| Flag::Unrounded { at: 0, size };
        for output in [Float::F32, Float::Bf16] {
            for (size, grossly, holds) in [
                (3.0 * Limits::PLAIN.unrounded, false, true),
                (3.0 * Limits::PLAIN.unrounded + 0.1, false, false),
                (3.0 * Limits::PLAIN.unrounded, true, true),
                (1e9, true, output == Float::Bf16),
                (f64::NAN, false, false),
            ] {
                assert_eq!(of(unrounded(size), output, grossly), holds, "{output:?} {size} {grossly}");
            }
            let score = Flag::Score { direction: Direction::Gain, score: 99.0 };
            assert!(of(score, output, false), "of many rows it is looked at by itself");
            for flag in [Flag::Element { at: 0, z: 11.0 }, Flag::CellRms { cell: 0, z: 3.0 }, Flag::Mask { at: 0 }] {
                assert!(!of(flag, output, true), "{flag:?}");
            }
        }
    }
}
