//! What one phase of one prompt has recorded, and which of it a stage needs.

use super::partial::Partial;
use crate::oracle::judgement::Unjudged;
use crate::oracle::stage::Input;
use driftprobe_trace::{Event, Point, Row, Rows, TraceError};
use std::collections::BTreeMap;

/// What one phase of one prompt has recorded, by place and position.
pub struct Recorded<'a> {
    rows: &'a dyn Rows,
    events: BTreeMap<Input, BTreeMap<u64, Vec<&'a Event>>>,
}

/// A stage's inputs at one position.
pub struct Inputs {
    /// Those that are not recorded.
    pub absent: Vec<Input>,
    /// The others, in the order asked for.
    pub rows: Vec<Vec<f64>>,
}

/// A row that was looked for.
pub enum Found<'a> {
    Nothing,
    Twice,
    Row(&'a Event, Row),
}

impl<'a> Recorded<'a> {
    pub fn new(rows: &'a dyn Rows) -> Recorded<'a> {
        Recorded { rows, events: BTreeMap::new() }
    }

    pub fn add(&mut self, event: &'a Event) {
        let Some(pos) = event.token_index() else { return };
        let place = Input { point: event.point, layer: event.layer };
        self.events.entry(place).or_default().entry(pos).or_default().push(event);
    }

    pub fn positions(&self, place: Input) -> impl Iterator<Item = u64> {
        self.events.get(&place).into_iter().flat_map(|by_pos| by_pos.keys().copied())
    }

    pub fn row(&self, place: Input, pos: u64) -> Result<Found<'a>, TraceError> {
        let events = self.events.get(&place).and_then(|by_pos| by_pos.get(&pos));
        match events.map(Vec::as_slice) {
            None | Some([]) => Ok(Found::Nothing),
            Some([event]) => Ok(self.rows.row(event)?.map_or(Found::Nothing, |row| Found::Row(event, row))),
            Some(_) => Ok(Found::Twice),
        }
    }

    /// What is known of a row that is recorded once, in whole or in part.
    pub fn partial(&self, place: Input, pos: u64) -> Result<Option<(&'a Event, Partial)>, TraceError> {
        let events = self.events.get(&place).and_then(|by_pos| by_pos.get(&pos));
        let Some([event]) = events.map(Vec::as_slice) else { return Ok(None) };
        let whole = self.rows.row(event)?.map(|row| Partial::whole(row.to_f64(), row.dtype));
        Ok(whole.or_else(|| Partial::of(event)).map(|partial| (*event, partial)))
    }

    /// The inputs of one position, and which of them are absent; or why they cannot be used.
    pub fn inputs(&self, places: &[Input], pos: u64) -> Result<Result<Inputs, Unjudged>, TraceError> {
        let (mut absent, mut inputs) = (Vec::new(), Vec::new());
        for &place in places {
            match self.row(place, pos)? {
                Found::Nothing => absent.push(place),
                Found::Twice => return Ok(Err(Unjudged::RecordedTwice(place))),
                Found::Row(_, row) => inputs.push((place, row.to_f64())),
            }
        }
        // Recorded scores hold −∞ where the mask hides a key.
        let is_usable =
            |place: &Input, x: &f64| x.is_finite() || (place.point == Point::AttnScores && *x == f64::NEG_INFINITY);
        let bad = inputs.iter().find(|(place, values)| !values.iter().all(|x| is_usable(place, x)));
        if let Some((place, _)) = bad.filter(|_| absent.is_empty()) {
            return Ok(Err(Unjudged::InputNotFinite(*place)));
        }
        Ok(Ok(Inputs { absent, rows: inputs.into_iter().map(|(_, values)| values).collect() }))
    }

    /// The same place at other positions.
    pub fn others(&self, places: &[Input], pos: u64) -> Result<Vec<(usize, Vec<f64>)>, TraceError> {
        let Some(&place) = places.first() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for other in self.positions(place).filter(|p| *p < pos) {
            if let (Found::Row(_, row), Ok(at)) = (self.row(place, other)?, usize::try_from(other)) {
                found.push((at, row.to_f64()));
            }
        }
        Ok(found)
    }
}
