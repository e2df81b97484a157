//! Rows without those that are damaged: what is not what was recorded is no stage's input either.

use crate::analysis::Unpaired;
use crate::evidence::Side;
use crate::judge::JudgedPair;
use crate::verdict::reason::ReasonCode;
use driftprobe_trace::{Event, HashCheck, PayloadRef, Row, Rows, TraceError};

/// A run's rows but for the damaged ones.
pub struct Sound<'a> {
    rows: &'a dyn Rows,
    damaged: Vec<PayloadRef>,
}

impl<'a> Sound<'a> {
    /// What comparing them has told of.
    pub fn of(rows: &'a dyn Rows, pairs: &[JudgedPair], unpaired: &[Unpaired]) -> Sound<'a> {
        let told = |pair: &&JudgedPair| pair.findings.iter().any(|one| one.code == ReasonCode::PayloadDamaged);
        let doubtful = pairs.iter().filter(told).flat_map(|pair| [&pair.prefill, &pair.decode]);
        // Those without a partner have not been told of; they are few.
        let all = doubtful.chain(unpaired.iter().map(|one| &one.event));
        let damaged = all.filter(|event| Side::load(event, rows).damage.is_some());
        Sound { rows, damaged: damaged.filter_map(|event| event.payload.clone()).collect() }
    }
}

impl Rows for Sound<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        match &event.payload {
            Some(payload) if self.damaged.contains(payload) => Ok(None),
            _ => self.rows.row(event),
        }
    }

    fn verify(&self, event: &Event) -> Result<HashCheck, TraceError> {
        self.rows.verify(event)
    }
}
