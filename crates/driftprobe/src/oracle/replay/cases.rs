//! Recorded rows made ready to be computed again, under other assumptions than the contract's and the model's.

use super::{Place, Replay, gather};
use crate::oracle::evaluate::Task;
use crate::oracle::stage::{Input, Op, Stage};
use driftprobe_model::Model;
use driftprobe_trace::{Event, Phase, Point, Rows, TraceError};
use std::sync::Arc;

/// One recorded row of a stage, with what it is computed from.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub prompt_id: Arc<str>,
    pub point: Point,
    /// −1 for unlayered points.
    pub layer: i32,
    /// Index of the token in the prompt.
    pub pos: u64,
    /// How it is computed, by the sharpest way whose inputs are recorded.
    pub op: Op,
    pub recorded: Vec<f64>,
    pub task: Task,
}

impl Case {
    /// The layer as an index; 0 for unlayered points, which do not ask.
    pub fn layer_index(&self) -> usize {
        usize::try_from(self.layer).unwrap_or(0)
    }
}

impl Replay<'_> {
    /// The model.
    pub(crate) fn model(&self) -> &Model {
        self.model
    }

    /// The graph of stages, in the order of the computation.
    pub(crate) fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The judgeable rows of one phase that are wanted (by prompt, place and position), in the order of
    /// [`Replay::phase`].
    ///
    /// # Errors
    /// If a payload is damaged or missing.
    pub(crate) fn cases(
        &self,
        events: &[Event],
        rows: &dyn Rows,
        phase: Phase,
        wanted: &dyn Fn(&str, Input, u64) -> bool,
    ) -> Result<Vec<Case>, TraceError> {
        let mut cases = Vec::new();
        for (prompt_id, recorded) in &gather(events, rows, phase) {
            for stage in &self.stages {
                let own = Input { point: stage.point, layer: stage.layer };
                let place = Place { prompt_id, phase, stage };
                let positions: Vec<u64> = recorded.positions(own).filter(|pos| wanted(prompt_id, own, *pos)).collect();
                for pos in positions {
                    let Ok((way, row, task)) = self.prepare(&place, recorded, (own, pos))? else { continue };
                    let Some(way) = stage.ways.get(way) else { continue };
                    let (Input { point, layer }, prompt_id) = (own, (*prompt_id).clone());
                    cases.push(Case { prompt_id, point, layer, pos, op: way.op, recorded: row.to_f64(), task });
                }
            }
        }
        Ok(cases)
    }
}
