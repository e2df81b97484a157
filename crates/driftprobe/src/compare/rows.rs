//! The rows of two runs in the place of two phases'.

use super::Side;
use super::layout::Reorder;
use driftprobe_trace::{Dtype, Event, PayloadRef, Phase, Row, Rows, TraceError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The events of one side's phase as pairing and judging take them: first and second run in the place of prefill and decode,
/// and payloads told apart.
pub(super) fn relabelled(sides: &[Side<'_>; 2], side: usize, phase: Phase) -> Vec<Event> {
    let Some(of) = sides.get(side) else { return Vec::new() };
    let own = of.run.events.iter().filter(|event| event.phase == phase);
    let place = if side == 0 { Phase::Prefill } else { Phase::Decode };
    own.map(|event| Event {
        phase: place,
        // How many tokens a pass has is one of the things in which two engines may differ.
        seq_len: None,
        payload: event.payload.as_ref().map(|payload| PayloadRef {
            file: Arc::from(format!("{side}/{}", payload.file)),
            key: payload.key.clone(),
        }),
        ..event.clone()
    })
    .collect()
}

/// Two engines may store a row in different types: both are then compared in the wider one, where hashes say nothing.
pub(super) fn in_one_type(ours: &Event, theirs: &Event) -> [Event; 2] {
    let wider = match (ours.dtype, theirs.dtype) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            if [ours, theirs].contains(&Dtype::F64) {
                Dtype::F64
            } else {
                Dtype::F32
            }
        }
        _ => return [ours.clone(), theirs.clone()],
    };
    [ours, theirs].map(|event| Event { dtype: Some(wider), hash: None, ..event.clone() })
}

/// The same values in another type, which holds them exactly; none if it does not.
fn widened(row: Row, dtype: Dtype) -> Option<Row> {
    if row.dtype == dtype {
        return Some(row);
    }
    let bytes: Vec<u8> = match dtype {
        Dtype::F64 => row.values().flat_map(f64::to_le_bytes).collect(),
        Dtype::F32 if row.dtype != Dtype::F64 => row.values().flat_map(|value| (value as f32).to_le_bytes()).collect(),
        _ => return None,
    };
    Row::new(dtype, row.shape.clone(), bytes).ok()
}

/// The rows of both runs. A relabelled event finds its own by the number that stands before its payload's file.
pub(super) struct BothRows<'a> {
    events: BTreeMap<(String, &'a str), (&'a dyn Rows, &'a Event)>,
    /// Of the second's.
    reorder: Option<Reorder>,
}

impl<'a> BothRows<'a> {
    pub(super) fn new(sides: &[Side<'a>; 2], reorder: Option<Reorder>) -> BothRows<'a> {
        let mut events = BTreeMap::new();
        for (number, side) in sides.iter().enumerate() {
            for event in &side.run.events {
                if let Some(payload) = &event.payload {
                    events.insert((format!("{number}/{}", payload.file), &*payload.key), (side.rows, event));
                }
            }
        }
        BothRows { events, reorder }
    }
}

impl Rows for BothRows<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let Some(payload) = &event.payload else { return Ok(None) };
        let Some((rows, own)) = self.events.get(&(payload.file.to_string(), &*payload.key)) else { return Ok(None) };
        let row = rows.row(own)?.and_then(|row| widened(row, event.dtype?));
        let reorder = self.reorder.filter(|_| Reorder::concerns(event.point) && event.phase == Phase::Decode);
        Ok(match reorder {
            Some(reorder) => row.and_then(|row| reorder.row(&row)),
            None => row,
        })
    }
}
