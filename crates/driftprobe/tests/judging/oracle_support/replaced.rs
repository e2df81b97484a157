//! Runs whose rows another kernel would have given.

use driftprobe::oracle::Replay;
use driftprobe::oracle::fit::fit;
use driftprobe_model::Model;
use driftprobe_trace::{Contract, Event, Phase, Point, Row, Rows, Run, TraceError};
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

/// What is found of a point in decode, and how many of its rows are left at fault.
pub fn found(model: &Model, rows: &Replaced<'_>, contract: &Contract, point: Point) -> (Vec<String>, usize) {
    let mut replay = Replay::new(model, rows.run.manifest.as_ref()).with_contract(contract);
    let events = &rows.run.events;
    let mut judged = Phase::ALL.map(|phase| replay.phase(events, rows, phase).unwrap());
    let findings = fit(&mut replay, (events, rows), &mut judged, &|_, _| true).unwrap();
    let own = findings.iter().filter(|f| f.point == point && f.phase == Phase::Decode);
    let faults = judged[1].stages.iter().filter(|s| s.point == point && s.outcome.is_fault()).count();
    (own.map(|f| f.variant.id.clone()).collect(), faults)
}
