//! One phase of a run, stage by stage.

mod beforehand;
pub(crate) mod cases;
mod declared;
mod partial;
mod recorded;

use super::arithmetic::Arithmetic;
use super::evaluate::{self, Expectation, Task};
use super::judgement::{Outcome, PhaseJudgement, StageJudgement, SystematicJudgement, Unjudged};
use super::stage::{Input, Op, Stage, Way, graph};
use super::stats::{Direction, Flag, ScoreTest, add_row, measure};
pub use beforehand::{Beforehand, JudgedStage};
use driftprobe_model::Model;
use driftprobe_trace::{
    Contract, ContractFields, Dtype, Event, HashAlgo, Manifest, Mode, Phase, Point, Row, Rows, TraceError,
};
use rayon::prelude::*;
use recorded::{Found, Recorded};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Replays recorded stages against a model.
pub struct Replay<'a> {
    model: &'a Model,
    contract: Option<&'a Contract>,
    /// Whether rows of earlier positions in the cache are those that this phase computed.
    own_cache: bool,
    stages: Vec<Stage>,
    /// What the record has shown the contract to leave out.
    fitted: BTreeMap<(Phase, Point), ContractFields>,
}

impl<'a> Replay<'a> {
    /// With the contract and mode of this manifest.
    pub fn new(model: &'a Model, manifest: Option<&'a Manifest>) -> Replay<'a> {
        let contract = manifest.and_then(|m| m.contract.as_ref());
        let mode = manifest.and_then(|m| m.mode);
        Replay {
            model,
            contract,
            own_cache: mode == Some(Mode::AsDesigned),
            stages: graph(&model.config),
            fitted: BTreeMap::new(),
        }
    }

    /// How a point's stages were computed, of the ways in which they can be: an arithmetic of another way explains nothing.
    pub fn ops(&self, point: Point, judged: &[&StageJudgement]) -> Vec<Op> {
        let stages = self.stages.iter().filter(|stage| stage.point == point);
        let taken = |way: &&Way, layer: i32| judged.iter().any(|one| one.layer == layer && one.inputs == way.inputs);
        let mut ops: Vec<Op> = Vec::new();
        for op in
            stages.flat_map(|stage| stage.ways.iter().filter(move |way| taken(way, stage.layer))).map(|way| way.op)
        {
            if !ops.contains(&op) {
                ops.push(op);
            }
        }
        ops
    }

    /// Judges every recorded row of one phase: prompts in the order of the events, then stages in the order of the
    /// computation, then positions. Rows whose event names no position are left out; they cannot be paired either.
    ///
    /// # Errors
    /// If a payload is damaged or missing.
    pub fn phase(&self, events: &[Event], rows: &dyn Rows, phase: Phase) -> Result<PhaseJudgement, TraceError> {
        self.phase_after(&Beforehand::default(), events, rows, phase)
    }

    /// As [`Replay::phase`], but for what was judged beforehand: under the same contract, of the same rows.
    ///
    /// # Errors
    /// As there.
    pub fn phase_after(
        &self,
        known: &Beforehand,
        events: &[Event],
        rows: &dyn Rows,
        phase: Phase,
    ) -> Result<PhaseJudgement, TraceError> {
        let prompts = gather(events, rows, phase);
        // Each stage of all prompts by itself: what its tests have seen is its own.
        let one = |stage: &Stage| {
            if let [(prompt_id, recorded)] = prompts.as_slice()
                && let Some(known) = known.of((prompt_id, phase), stage, recorded)
            {
                return Ok(known);
            }
            let mut tests = Tests::default();
            let of_prompt = |(prompt_id, recorded): &(&Arc<str>, Recorded<'_>)| {
                self.stage(&Place { prompt_id, phase, stage }, recorded, &mut tests)
            };
            let judged = prompts.iter().map(of_prompt).collect::<Result<Vec<_>, TraceError>>()?;
            Ok((judged, tests))
        };
        let mut judged = self.stages.par_iter().map(one).collect::<Result<Vec<_>, TraceError>>()?;
        let tests: BTreeMap<_, _> = judged.iter_mut().flat_map(|(_, tests)| std::mem::take(&mut tests.all)).collect();
        let mut by_prompt: Vec<_> = judged.into_iter().map(|(judged, _)| judged.into_iter()).collect();
        let mut stages = Vec::new();
        for _ in &prompts {
            stages.extend(by_prompt.iter_mut().filter_map(Iterator::next).flatten());
        }
        Ok(PhaseJudgement { stages, systematic: systematic(phase, &tests) })
    }

    /// All positions of one stage.
    fn stage(
        &self,
        place: &Place<'_>,
        recorded: &Recorded<'_>,
        tests: &mut Tests,
    ) -> Result<Vec<StageJudgement>, TraceError> {
        let own = Input { point: place.stage.point, layer: place.stage.layer };
        let mut judgements = Vec::new();
        // Rows by the way in which they are computed, so that linear ones share a pass over their weight.
        let mut ready: BTreeMap<usize, Group> = BTreeMap::new();
        for pos in recorded.positions(own) {
            let at = judgements.len();
            judgements.push(place.judgement(pos, Outcome::Unjudged(Unjudged::NoPayload)));
            match self.prepare(place, recorded, (own, pos))? {
                Err(why) => {
                    let part = self.part(place, recorded, (own, pos), &why)?;
                    judgements[at].outcome = part.unwrap_or(Outcome::Unjudged(why));
                }
                Ok((way, row, task)) => {
                    let group = ready.entry(way).or_default();
                    group.rows.push((at, row));
                    group.tasks.push(task);
                }
            }
        }
        for (way, group) in ready {
            let Some(way) = place.stage.ways.get(way) else { continue };
            let expectations = self.expectations(way, place.stage.layer, &group.tasks);
            for (((at, row), task), expectation) in group.rows.into_iter().zip(&group.tasks).zip(expectations) {
                let is_new = tests.is_new(own, &row);
                let scores = |direction, test: &ScoreTest| {
                    if is_new {
                        tests.all.entry((own.point, own.layer, direction)).or_default().merge(test);
                    }
                };
                if let Some(judgement) = judgements.get_mut(at) {
                    judgement.outcome =
                        expectation.map_or_else(Outcome::Unjudged, |e| compare(&row.to_f64(), &e, scores));
                    judgement.assumed = task.arithmetic.assumed();
                    judgement.inputs.clone_from(&way.inputs);
                    judgement.values = task.recorded_len;
                }
            }
        }
        Ok(judgements)
    }

    fn expectations(&self, way: &Way, layer: i32, tasks: &[Task]) -> Vec<Result<Expectation, Unjudged>> {
        let layer = usize::try_from(layer).unwrap_or(0);
        match way.op {
            Op::Linear { weight, bias, softcap } => evaluate::linear(self.model, (weight, bias, softcap), tasks),
            op => tasks.iter().map(|task| evaluate::evaluate(self.model, op, task, layer)).collect(),
        }
    }

    /// The first way whose inputs are recorded, with the row and the inputs.
    fn prepare(
        &self,
        place: &Place<'_>,
        recorded: &Recorded<'_>,
        (own, pos): (Input, u64),
    ) -> Result<Result<(usize, Row, Task), Unjudged>, TraceError> {
        let (event, row) = match recorded.row(own, pos)? {
            Found::Row(event, row) => (event, row),
            Found::Nothing => return Ok(Err(Unjudged::NoPayload)),
            Found::Twice => return Ok(Err(Unjudged::RecordedTwice(own))),
        };
        let mut missing: Option<Vec<Input>> = None;
        for (number, way) in place.stage.ways.iter().enumerate() {
            let inputs = match recorded.inputs(&way.inputs, pos)? {
                Err(why) => return Ok(Err(why)),
                Ok(found) => found,
            };
            if !inputs.absent.is_empty() {
                missing = Some(missing.unwrap_or(inputs.absent));
                continue;
            }
            let mut task = self.task(place, event, (row.dtype, row.len(), pos), inputs.rows);
            let read = evaluate::as_read(way.op, self.model.config.head_dim, &task.arithmetic, &mut task.inputs);
            if let Err(unsupported) = read {
                return Ok(Err(unsupported.into()));
            }
            if way.op == Op::KvWrite && self.own_cache {
                task.others = recorded.others(&way.inputs, pos)?;
            }
            return Ok(Ok((number, row, task)));
        }
        Ok(Err(Unjudged::InputsMissing(missing.unwrap_or_default())))
    }

    /// What samples and hashes say of a row that cannot be judged as a whole.
    fn part(
        &self,
        place: &Place<'_>,
        recorded: &Recorded<'_>,
        (own, pos): (Input, u64),
        why: &Unjudged,
    ) -> Result<Option<Outcome>, TraceError> {
        if !matches!(why, Unjudged::NoPayload | Unjudged::InputsMissing(_)) {
            return Ok(None);
        }
        let Some((event, row)) = recorded.partial(own, pos)? else { return Ok(None) };
        for way in &place.stage.ways {
            let inputs = way.inputs.iter().map(|input| recorded.partial(*input, pos));
            let inputs = inputs.collect::<Result<Option<Vec<_>>, TraceError>>()?;
            let Some(inputs) = inputs else { continue };
            let whole = inputs.iter().all(|(_, input)| input.is_whole());
            if inputs.iter().any(|(_, input)| input.has_non_finite()) || !(whole || partial::is_by_element(way.op)) {
                continue;
            }
            let values = inputs.into_iter().map(|(_, input)| input.values).collect();
            let mut task = self.task(place, event, (row.dtype, row.values.len(), pos), values);
            if evaluate::as_read(way.op, self.model.config.head_dim, &task.arithmetic, &mut task.inputs).is_err() {
                continue;
            }
            let expectation = self.expectations(way, place.stage.layer, &[task]).pop();
            let Some(Ok(expectation)) = expectation else { continue };
            if whole && partial::has_hash_of(&row, &expectation) {
                return Ok(Some(Outcome::Exact { compared: row.values.len() }));
            }
            let Some((found, expectation)) = partial::known_part(&row, expectation, whole) else { continue };
            let outcome = compare(&found, &expectation, |_, _| {});
            return Ok(Some(partial::of_part(outcome, (found.len(), row.values.len()), why.clone())));
        }
        Ok(None)
    }

    fn task(
        &self,
        place: &Place<'_>,
        event: &Event,
        (dtype, len, pos): (Dtype, usize, u64),
        inputs: Vec<Vec<f64>>,
    ) -> Task {
        let mut arithmetic = Arithmetic::resolve(self.contract, place.phase, place.stage.point, dtype);
        if let Some(fields) = self.fitted.get(&(place.phase, place.stage.point)) {
            arithmetic = arithmetic.with(fields);
        }
        if let Some(tokens) = event.seq_len {
            arithmetic = arithmetic.of_pass(tokens);
        }
        Task {
            inputs,
            others: Vec::new(),
            pos: usize::try_from(pos).unwrap_or(usize::MAX - 1),
            pos_id: event.pos_id.unwrap_or(pos),
            token: event.token_id,
            recorded_len: len,
            arithmetic: arithmetic.holding(event.stored_dtype),
        }
    }
}

/// What one phase has recorded: prompts in the order of the events.
fn gather<'e>(events: &'e [Event], rows: &'e dyn Rows, phase: Phase) -> Vec<(&'e Arc<str>, Recorded<'e>)> {
    let mut prompts: Vec<(&Arc<str>, Recorded<'_>)> = Vec::new();
    let mut numbers: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    for event in events.iter().filter(|e| e.phase == phase) {
        let number = *numbers.entry(&event.prompt_id).or_insert(prompts.len());
        if number == prompts.len() {
            prompts.push((&event.prompt_id, Recorded::new(rows)));
        }
        if let Some((_, recorded)) = prompts.get_mut(number) {
            recorded.add(event);
        }
    }
    prompts
}

/// Score tests by point, layer and parameter.
#[derive(Default)]
struct Tests {
    all: BTreeMap<(Point, i32, Direction), ScoreTest>,
    /// Rows that have been counted. The same token gives the same rows in the first layer, wherever it stands: the same
    /// roundings over and over are one witness.
    seen: BTreeMap<Input, BTreeSet<u64>>,
}

impl Tests {
    fn is_new(&mut self, place: Input, row: &Row) -> bool {
        self.seen.entry(place).or_default().insert(row.hash(HashAlgo::Xxh3_64).value)
    }
}

/// Each test, and each point's tests of all layers together.
fn systematic(phase: Phase, tests: &BTreeMap<(Point, i32, Direction), ScoreTest>) -> Vec<SystematicJudgement> {
    let mut by_point: BTreeMap<(Point, Direction), ScoreTest> = BTreeMap::new();
    for ((point, _, direction), test) in tests {
        by_point.entry((*point, *direction)).or_default().merge(test);
    }
    let one = |((point, layer, direction), test): (&(Point, i32, Direction), &ScoreTest)| SystematicJudgement {
        phase,
        point: *point,
        layer: Some(*layer),
        direction: *direction,
        test: *test,
    };
    let whole = by_point.into_iter().map(|((point, direction), test)| SystematicJudgement {
        phase,
        point,
        layer: None,
        direction,
        test,
    });
    tests.iter().map(one).chain(whole).collect()
}

/// Rows of one stage that are computed in the same way.
#[derive(Default)]
struct Group {
    /// Number of the judgement, and the recorded row.
    rows: Vec<(usize, Row)>,
    tasks: Vec<Task>,
}

struct Place<'a> {
    prompt_id: &'a Arc<str>,
    phase: Phase,
    stage: &'a Stage,
}

impl Place<'_> {
    fn judgement(&self, pos: u64, outcome: Outcome) -> StageJudgement {
        let (point, layer) = (self.stage.point, self.stage.layer);
        let prompt_id = self.prompt_id.clone();
        let (assumed, inputs) = (Vec::new(), Vec::new());
        StageJudgement {
            prompt_id,
            phase: self.phase,
            point,
            layer,
            pos,
            outcome,
            assumed,
            inputs,
            values: 0,
            fitted: false,
        }
    }
}

/// Holds a row against its expectation; hands the row's score tests to `scores`.
pub(crate) fn compare(
    recorded: &[f64],
    expectation: &Expectation,
    mut scores: impl FnMut(Direction, &ScoreTest),
) -> Outcome {
    match expectation {
        Expectation::Noisy(expected) => {
            let (mut statistics, mut flags) = measure(recorded, expected);
            for (direction, derivative) in &expected.derivatives.directions {
                let mut test = ScoreTest::default();
                add_row(&mut test, recorded, expected, derivative);
                scores(*direction, &test);
                statistics.score = statistics.score.max(test.score());
                if test.is_flagged() {
                    flags.push(Flag::Score { direction: *direction, score: test.score() });
                }
            }
            if flags.is_empty() { Outcome::Clean(statistics) } else { Outcome::Flagged { flags, statistics } }
        }
        Expectation::Exact { candidates, judged } => {
            let outcomes = candidates.iter().map(|candidate| compare_exactly(recorded, candidate, judged));
            let best = outcomes.reduce(|best, other| if best.is_clean() || !other.is_clean() { best } else { other });
            best.unwrap_or(Outcome::Unjudged(Unjudged::NoPayload))
        }
    }
}

fn compare_exactly(recorded: &[f64], expected: &[f64], judged: &[bool]) -> Outcome {
    let (mut compared, mut differing, mut first, mut largest) = (0, 0, None, 0f64);
    for (at, (recorded, expected)) in recorded.iter().zip(expected).enumerate() {
        if !judged.is_empty() && !judged.get(at).copied().unwrap_or(false) {
            continue;
        }
        compared += 1;
        if recorded != expected {
            differing += 1;
            first.get_or_insert(at);
            let difference = (recorded - expected).abs();
            largest = if difference.is_nan() || largest.is_nan() { f64::NAN } else { largest.max(difference) };
        }
    }
    match first {
        None => Outcome::Exact { compared },
        Some(first) => Outcome::Mismatch { compared, differing, first, largest },
    }
}
