//! Stages that were judged beforehand: those of some layers of one prompt, for whoever judges the prompt as a whole.
//!
//! A stage's judgement needs its own recorded inputs and nothing else, so that somebody else may make it. All that goes on
//! from there (score tests over layers, fits, causes, simulation) is the business of whoever has all of them.

use super::recorded::Recorded;
use super::{Place, Replay, Tests, gather};
use crate::oracle::judgement::StageJudgement;
use crate::oracle::stage::{Input, Stage};
use crate::oracle::stats::{Direction, ScoreTest};
use driftprobe_trace::{Event, Phase, Rows, TraceError};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What one stage of one phase of a prompt gave.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedStage {
    /// The phase.
    pub phase: Phase,
    /// The point and layer.
    pub place: Input,
    /// Row by row, in the order of positions.
    pub rows: Vec<StageJudgement>,
    /// Over all rows.
    pub tests: Vec<(Direction, ScoreTest)>,
}

/// Stages of one prompt that were judged before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beforehand {
    stages: BTreeMap<(Phase, Input), JudgedStage>,
}

impl Beforehand {
    /// These stages.
    pub fn new(stages: impl IntoIterator<Item = JudgedStage>) -> Beforehand {
        Beforehand { stages: stages.into_iter().map(|stage| ((stage.phase, stage.place), stage)).collect() }
    }

    /// And these.
    pub fn extend(&mut self, other: Beforehand) {
        self.stages.extend(other.stages);
    }

    /// The stages, prefill's first.
    pub fn stages(&self) -> impl Iterator<Item = &JudgedStage> {
        self.stages.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.stages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// What is known of a stage: of this prompt, and of exactly the rows that are recorded.
    pub(super) fn of(
        &self,
        (prompt_id, phase): (&Arc<str>, Phase),
        stage: &Stage,
        recorded: &Recorded<'_>,
    ) -> Option<(Vec<Vec<StageJudgement>>, Tests)> {
        let place = place_of(stage);
        let known = self.stages.get(&(phase, place))?;
        let own = known.rows.iter().all(|row| row.prompt_id == *prompt_id);
        if !own || !known.rows.iter().map(|row| row.pos).eq(recorded.positions(place)) {
            return None;
        }
        let tests = known.tests.iter().map(|(direction, test)| ((place.point, place.layer, *direction), *test));
        Some((vec![known.rows.clone()], Tests { all: tests.collect(), ..Tests::default() }))
    }
}

impl Replay<'_> {
    /// Judges the wanted stages of a run of one prompt; of several prompts none.
    ///
    /// # Errors
    /// If a payload is damaged or missing.
    pub fn beforehand(
        &self,
        events: &[Event],
        rows: &dyn Rows,
        wanted: &(dyn Fn(Input) -> bool + Sync),
    ) -> Result<Beforehand, TraceError> {
        let mut all = Beforehand::default();
        for phase in Phase::ALL {
            let prompts = gather(events, rows, phase);
            let [(prompt_id, recorded)] = prompts.as_slice() else { continue };
            let one = |stage: &Stage| {
                let place = place_of(stage);
                let mut tests = Tests::default();
                let rows = self.stage(&Place { prompt_id, phase, stage }, recorded, &mut tests)?;
                let tests = tests.all.into_iter().map(|((.., direction), test)| (direction, test)).collect();
                Ok(JudgedStage { phase, place, rows, tests })
            };
            let judged = self.stages.par_iter().filter(|stage| wanted(place_of(stage))).map(one);
            let judged = judged.collect::<Result<Vec<_>, TraceError>>()?;
            all.extend(Beforehand::new(judged.into_iter().filter(|stage| !stage.rows.is_empty())));
        }
        Ok(all)
    }

    /// The places whose rows judging the wanted stages may read.
    pub fn reads(&self, wanted: &dyn Fn(Input) -> bool) -> BTreeSet<Input> {
        let stages = self.stages.iter().filter(|stage| wanted(place_of(stage)));
        let of = |stage: &Stage| {
            let inputs = stage.ways.iter().flat_map(|way| way.inputs.iter().copied());
            inputs.chain([place_of(stage)]).collect::<Vec<_>>()
        };
        stages.flat_map(of).collect()
    }
}

fn place_of(stage: &Stage) -> Input {
    Input { point: stage.point, layer: stage.layer }
}
