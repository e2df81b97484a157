//! Where the record is finer than the contract: rows that hold values which the declared storage format does not have.
//! Judged under the contract they would have more noise than they can have, or be wrong for not being rounded.

use super::Finding;
use crate::oracle::float::Float;
use crate::oracle::judgement::{PhaseJudgement, StageJudgement};
use crate::oracle::replay::Replay;
use crate::oracle::variants::kept_as_recorded;
use driftprobe_trace::{Dtype, Event, Phase, Point, Row, Rows, TraceError};
use std::collections::{BTreeMap, BTreeSet};

/// Points of a phase all of whose rows are finer than declared. They are judged again, in place, as they are recorded.
pub(super) fn fit(
    replay: &mut Replay<'_>,
    (events, rows): (&[Event], &dyn Rows),
    phase: Phase,
    judged: &mut PhaseJudgement,
) -> Result<Vec<Finding>, TraceError> {
    let mut findings = Vec::new();
    for (point, dtype) in points(events, phase) {
        let Some(declared) = replay.storage(phase, point, dtype).filter(|d| *d < Float::of(dtype)) else { continue };
        if !all_finer(events, rows, (phase, point), declared)? {
            continue;
        }
        let variant = kept_as_recorded(point, Float::of(dtype));
        let better = replay.only(point, phase, &variant.fields).phase(events, rows, phase)?;
        replay.declare(phase, point, variant.fields.clone());
        let of_point: Vec<&StageJudgement> = judged.stages.iter().filter(|stage| stage.point == point).collect();
        findings.push(Finding::of(variant, (phase, point), &of_point, &better));
        super::replace(judged, point, better);
    }
    Ok(findings)
}

/// The points of a phase, with the dtype of their rows; none of which rows have several.
fn points(events: &[Event], phase: Phase) -> BTreeMap<Point, Dtype> {
    let mut of: BTreeMap<Point, BTreeSet<Dtype>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.phase == phase) {
        of.entry(event.point).or_default().extend(event.dtype);
    }
    of.into_iter()
        .filter_map(|(point, dtypes)| Some((point, (dtypes.len() == 1).then(|| dtypes.first().copied())??)))
        .collect()
}

/// Whether every row that holds anything holds a value which the format does not have. No row: no.
fn all_finer(
    events: &[Event],
    rows: &dyn Rows,
    (phase, point): (Phase, Point),
    format: Float,
) -> Result<bool, TraceError> {
    let mut any = false;
    for event in events.iter().filter(|event| (event.phase, event.point) == (phase, point)) {
        let Some(row) = rows.row(event)? else { continue };
        if !holds_something(&row) {
            continue;
        }
        if !row.values().any(|value| value.is_finite() && format.round(value) != value) {
            return Ok(false);
        }
        any = true;
    }
    Ok(any)
}

fn holds_something(row: &Row) -> bool {
    row.values().any(|value| value.is_finite() && value != 0.0)
}
