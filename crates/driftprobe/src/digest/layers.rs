//! Stages of some layers of one prompt as one machine writes them for another: everything that was found of every row, with
//! numbers to the last bit.

use super::{SCHEMA, generator};
use crate::oracle::arithmetic::field;
use crate::oracle::replay::{Beforehand, JudgedStage};
use crate::oracle::stats::{Direction, Flag, RowStatistics, ScoreTest};
use crate::oracle::{Input, Outcome, StageJudgement, Unjudged};
use crate::report::schema::Num;
use driftprobe_trace::{Phase, Point};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Stages of some layers of one prompt, by mode: the run itself, then the same with prefill's cache under decode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayersDigest {
    schema: u32,
    generator: String,
    modes: Vec<Vec<StageForm>>,
}

impl LayersDigest {
    /// What was found, by mode. A stage whose contract the oracle cannot compute is left out: judging it costs nothing.
    pub fn of<'a>(modes: impl IntoIterator<Item = &'a Beforehand>) -> LayersDigest {
        let form = |stages: &Beforehand| stages.stages().filter_map(StageForm::of).collect();
        LayersDigest { schema: SCHEMA, generator: generator(), modes: modes.into_iter().map(form).collect() }
    }

    /// Adds what it holds to what is known of a prompt, by mode. Of another version nothing is taken, nor a stage in which
    /// something is not known here.
    pub fn add_to(self, prompt: &str, modes: &mut [Beforehand]) {
        if self.schema != SCHEMA || self.generator != generator() {
            return;
        }
        let prompt: Arc<str> = prompt.into();
        for (known, stages) in modes.iter_mut().zip(self.modes) {
            let stages = stages.into_iter().filter_map(|stage| stage.into_judged(&prompt));
            known.extend(Beforehand::new(stages));
        }
    }

    /// How many stages it holds.
    pub fn len(&self) -> usize {
        self.modes.iter().map(Vec::len).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StageForm {
    phase: Phase,
    point: Point,
    layer: i32,
    tests: Vec<TestForm>,
    rows: Vec<RowForm>,
}

/// Σp, Σp² with what cells have in common, Σ|d|·shared/σ², cells: [`ScoreTest::parts`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct TestForm(String, [Num; 3], usize);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RowForm {
    pos: u64,
    values: usize,
    assumed: Vec<String>,
    inputs: Vec<(Point, i32)>,
    outcome: OutcomeForm,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeForm {
    Clean(StatisticsForm),
    Flagged { flags: Vec<FlagForm>, statistics: StatisticsForm },
    Exact { compared: usize },
    Mismatch { compared: usize, differing: usize, first: usize, largest: Num },
    Unjudged(UnjudgedForm),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StatisticsForm {
    compared: usize,
    rms: Num,
    cell: (usize, Num),
    element: (usize, Num),
    unrounded: (usize, Num),
    score: Num,
    noise: Num,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FlagForm {
    NonFinite(usize),
    Mask(usize),
    CellRms(usize, Num),
    Element(usize, Num),
    Unrounded(usize, Num),
    Score(String, Num),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UnjudgedForm {
    InputsMissing(Vec<(Point, i32)>),
    NoPayload,
    OnlyPart { compared: usize, values: usize, rest: Box<UnjudgedForm> },
    RecordedTwice(Point, i32),
    InputNotFinite(Point, i32),
    Shape { what: String, found: usize, expected: usize },
    Token,
    Model(String),
}

impl StageForm {
    fn of(stage: &JudgedStage) -> Option<StageForm> {
        let rows = stage.rows.iter().map(RowForm::of).collect::<Option<Vec<_>>>()?;
        let tests = stage.tests.iter().map(TestForm::of).collect();
        Some(StageForm { phase: stage.phase, point: stage.place.point, layer: stage.place.layer, tests, rows })
    }

    fn into_judged(self, prompt_id: &Arc<str>) -> Option<JudgedStage> {
        let (phase, place) = (self.phase, Input { point: self.point, layer: self.layer });
        let row = |row: RowForm| row.into_judged(prompt_id, (phase, place));
        let rows = self.rows.into_iter().map(row).collect::<Option<Vec<_>>>()?;
        let tests = self.tests.into_iter().map(TestForm::into_test).collect::<Option<Vec<_>>>()?;
        Some(JudgedStage { phase, place, rows, tests })
    }
}

impl TestForm {
    fn of((direction, test): &(Direction, ScoreTest)) -> TestForm {
        let (sum, squares, agreeing, cells) = test.parts();
        TestForm(direction.name().to_owned(), [sum, squares, agreeing].map(Num), cells)
    }

    fn into_test(self) -> Option<(Direction, ScoreTest)> {
        let TestForm(direction, [sum, squares, agreeing], cells) = self;
        Some((Direction::named(&direction)?, ScoreTest::from_parts((sum.0, squares.0, agreeing.0, cells))))
    }
}

impl RowForm {
    fn of(row: &StageJudgement) -> Option<RowForm> {
        // One that was fitted is not what the declared contract gives.
        let outcome = OutcomeForm::of(&row.outcome).filter(|_| !row.fitted)?;
        let assumed = row.assumed.iter().map(|field| (*field).to_owned()).collect();
        Some(RowForm { pos: row.pos, values: row.values, assumed, inputs: pairs(&row.inputs), outcome })
    }

    fn into_judged(self, prompt_id: &Arc<str>, (phase, place): (Phase, Input)) -> Option<StageJudgement> {
        let assumed = self.assumed.iter().map(|name| field(name)).collect::<Option<Vec<_>>>()?;
        let Input { point, layer } = place;
        let (inputs, outcome) = (places(self.inputs), self.outcome.into_outcome()?);
        let (prompt_id, pos, values) = (prompt_id.clone(), self.pos, self.values);
        Some(StageJudgement { prompt_id, phase, point, layer, pos, outcome, assumed, values, inputs, fitted: false })
    }
}

impl OutcomeForm {
    fn of(outcome: &Outcome) -> Option<OutcomeForm> {
        Some(match outcome {
            Outcome::Clean(statistics) => OutcomeForm::Clean(StatisticsForm::of(statistics)),
            Outcome::Flagged { flags, statistics } => {
                let flags = flags.iter().map(FlagForm::of).collect();
                OutcomeForm::Flagged { flags, statistics: StatisticsForm::of(statistics) }
            }
            Outcome::Exact { compared } => OutcomeForm::Exact { compared: *compared },
            Outcome::Mismatch { compared, differing, first, largest } => OutcomeForm::Mismatch {
                compared: *compared,
                differing: *differing,
                first: *first,
                largest: Num(*largest),
            },
            Outcome::Unjudged(why) => OutcomeForm::Unjudged(UnjudgedForm::of(why)?),
        })
    }

    fn into_outcome(self) -> Option<Outcome> {
        Some(match self {
            OutcomeForm::Clean(statistics) => Outcome::Clean(statistics.into_statistics()),
            OutcomeForm::Flagged { flags, statistics } => {
                let flags = flags.into_iter().map(FlagForm::into_flag).collect::<Option<Vec<_>>>()?;
                Outcome::Flagged { flags, statistics: statistics.into_statistics() }
            }
            OutcomeForm::Exact { compared } => Outcome::Exact { compared },
            OutcomeForm::Mismatch { compared, differing, first, largest } => {
                Outcome::Mismatch { compared, differing, first, largest: largest.0 }
            }
            OutcomeForm::Unjudged(why) => Outcome::Unjudged(why.into_unjudged()),
        })
    }
}

impl StatisticsForm {
    fn of(found: &RowStatistics) -> StatisticsForm {
        let at = |(at, value): (usize, f64)| (at, Num(value));
        StatisticsForm {
            compared: found.compared,
            rms: Num(found.rms),
            cell: at(found.cell),
            element: at(found.element),
            unrounded: at(found.unrounded),
            score: Num(found.score),
            noise: Num(found.noise),
        }
    }

    fn into_statistics(self) -> RowStatistics {
        let at = |(at, value): (usize, Num)| (at, value.0);
        RowStatistics {
            compared: self.compared,
            rms: self.rms.0,
            cell: at(self.cell),
            element: at(self.element),
            unrounded: at(self.unrounded),
            score: self.score.0,
            noise: self.noise.0,
        }
    }
}

impl FlagForm {
    fn of(flag: &Flag) -> FlagForm {
        match *flag {
            Flag::NonFinite { at } => FlagForm::NonFinite(at),
            Flag::Mask { at } => FlagForm::Mask(at),
            Flag::CellRms { cell, z } => FlagForm::CellRms(cell, Num(z)),
            Flag::Element { at, z } => FlagForm::Element(at, Num(z)),
            Flag::Unrounded { at, size } => FlagForm::Unrounded(at, Num(size)),
            Flag::Score { direction, score } => FlagForm::Score(direction.name().to_owned(), Num(score)),
        }
    }

    fn into_flag(self) -> Option<Flag> {
        Some(match self {
            FlagForm::NonFinite(at) => Flag::NonFinite { at },
            FlagForm::Mask(at) => Flag::Mask { at },
            FlagForm::CellRms(cell, z) => Flag::CellRms { cell, z: z.0 },
            FlagForm::Element(at, z) => Flag::Element { at, z: z.0 },
            FlagForm::Unrounded(at, size) => Flag::Unrounded { at, size: size.0 },
            FlagForm::Score(direction, score) => {
                Flag::Score { direction: Direction::named(&direction)?, score: score.0 }
            }
        })
    }
}

impl UnjudgedForm {
    fn of(why: &Unjudged) -> Option<UnjudgedForm> {
        Some(match why {
            Unjudged::InputsMissing(inputs) => UnjudgedForm::InputsMissing(pairs(inputs)),
            Unjudged::NoPayload => UnjudgedForm::NoPayload,
            Unjudged::OnlyPart { compared, values, rest } => {
                let rest = Box::new(UnjudgedForm::of(rest)?);
                UnjudgedForm::OnlyPart { compared: *compared, values: *values, rest }
            }
            Unjudged::RecordedTwice(input) => UnjudgedForm::RecordedTwice(input.point, input.layer),
            Unjudged::InputNotFinite(input) => UnjudgedForm::InputNotFinite(input.point, input.layer),
            Unjudged::Shape { what, found, expected } => {
                UnjudgedForm::Shape { what: what.clone(), found: *found, expected: *expected }
            }
            Unjudged::Token => UnjudgedForm::Token,
            Unjudged::Model(what) => UnjudgedForm::Model(what.clone()),
            Unjudged::Contract(_) => return None,
        })
    }

    fn into_unjudged(self) -> Unjudged {
        match self {
            UnjudgedForm::InputsMissing(inputs) => Unjudged::InputsMissing(places(inputs)),
            UnjudgedForm::NoPayload => Unjudged::NoPayload,
            UnjudgedForm::OnlyPart { compared, values, rest } => {
                Unjudged::OnlyPart { compared, values, rest: Box::new(rest.into_unjudged()) }
            }
            UnjudgedForm::RecordedTwice(point, layer) => Unjudged::RecordedTwice(Input { point, layer }),
            UnjudgedForm::InputNotFinite(point, layer) => Unjudged::InputNotFinite(Input { point, layer }),
            UnjudgedForm::Shape { what, found, expected } => Unjudged::Shape { what, found, expected },
            UnjudgedForm::Token => Unjudged::Token,
            UnjudgedForm::Model(what) => Unjudged::Model(what),
        }
    }
}

fn pairs(inputs: &[Input]) -> Vec<(Point, i32)> {
    inputs.iter().map(|input| (input.point, input.layer)).collect()
}

fn places(pairs: Vec<(Point, i32)>) -> Vec<Input> {
    pairs.into_iter().map(|(point, layer)| Input { point, layer }).collect()
}
