//! Rows without those that are damaged or cannot be read: what is not what was recorded is no stage's input either.

use crate::evidence::Side;
use crate::pair::place::describe;
use driftprobe_trace::{Event, HashCheck, PayloadRef, Row, Rows, TraceError};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// A run's rows but for the damaged ones.
pub struct Sound<'a> {
    rows: &'a dyn Rows,
    /// Files and keys.
    damaged: BTreeSet<(&'a str, &'a str)>,
    /// Places of rows that were sound and could not be read any more.
    lost: Mutex<BTreeSet<String>>,
}

impl<'a> Sound<'a> {
    /// Without those of these events that are not what was recorded.
    pub fn of(rows: &'a dyn Rows, doubtful: impl IntoIterator<Item = &'a Event>) -> Sound<'a> {
        let damaged = |event: &&Event| event.payload.is_some() && Side::load(event, rows).damage.is_some();
        let damaged = doubtful.into_iter().filter(damaged).filter_map(|event| event.payload.as_ref());
        Sound { rows, damaged: damaged.map(key).collect(), lost: Mutex::default() }
    }
}

impl Sound<'_> {
    /// Places of rows that could not be read while they were judged, and were not known to be damaged.
    pub fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn key(payload: &PayloadRef) -> (&str, &str) {
    (&payload.file, &payload.key)
}

impl Rows for Sound<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        match &event.payload {
            Some(payload) if self.damaged.contains(&key(payload)) => Ok(None),
            // The others were read when they were compared, or nobody looked: that one of them is not there is told by itself.
            _ => Ok(self.rows.row(event).unwrap_or_else(|_| {
                let place =
                    format!("{}: {}: its row could not be read while it was judged", event.phase, describe(event));
                self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
                None
            })),
        }
    }

    fn verify(&self, event: &Event) -> Result<HashCheck, TraceError> {
        self.rows.verify(event)
    }
}
