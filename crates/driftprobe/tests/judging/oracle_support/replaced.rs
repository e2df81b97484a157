//! Runs whose rows another kernel would have given.

use driftprobe_trace::{Event, Phase, Point, Row, Rows, Run, TraceError};
use std::collections::BTreeMap;

/// A run with some rows in place of its own, by phase, point, layer and position. Fused attention shows no probabilities.
pub struct Replaced<'a> {
    pub run: &'a Run,
    pub rows: BTreeMap<(Phase, Point, i32, u64), Row>,
}

impl Rows for Replaced<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let key = (event.phase, event.point, event.layer, event.pos_id.unwrap_or_default());
        if matches!(event.point, Point::AttnProbs | Point::AttnScores) {
            return Ok(None);
        }
        self.rows.get(&key).map_or_else(|| self.run.row(event), |row| Ok(Some(row.clone())))
    }
}

/// What the run recorded of a point beside this event.
pub fn values(run: &Run, of: &Event, point: Point) -> Vec<f32> {
    let same = |e: &&Event| (e.phase, e.point, e.layer, e.pos_id) == (of.phase, point, of.layer, of.pos_id);
    run.row(run.events.iter().find(same).unwrap()).unwrap().unwrap().values().map(|x| x as f32).collect()
}
