//! The rows of one forward pass, on their way from the tap to the run.

use super::{Pass, Progress, RowKey, RowPlan, Watcher};
use crate::EngineError;
use crate::tap::{Receiver, TappedRow};
use driftprobe_trace::{HashAlgo, RowHash, RowRecord, RunWriter};
use std::collections::HashMap;

/// Receives one forward pass.
pub(super) struct Rows<'r> {
    /// Nobody, one mode's, or both modes'.
    pub(super) writers: Vec<&'r mut RunWriter>,
    pub(super) watcher: &'r mut dyn Watcher,
    pub(super) hashes: &'r mut HashMap<RowKey, RowHash>,
    pub(super) done: &'r mut u64,
    pub(super) total: u64,
    pub(super) prompt: (usize, &'r str, &'r [u32]),
    /// What computes it, and the repeat.
    pub(super) pass: (Pass, u32),
    pub(super) step: u64,
    pub(super) payloads: bool,
    pub(super) plan: Option<&'r RowPlan>,
}

impl Rows<'_> {
    /// Whether a row's bytes are kept: a repeat keeps only what differs from the run itself.
    fn keeps(&mut self, row: &TappedRow) -> Result<bool, EngineError> {
        let (pass, repeat) = self.pass;
        let key = (self.prompt.0, pass, row.point, row.layer, row.pos);
        let hash = hash_of(row);
        let planned = self.plan.is_none_or(|plan| plan.keeps(row.point, row.layer));
        if repeat == 0 {
            self.hashes.insert(key, hash);
            return Ok(self.payloads && planned);
        }
        // A repeat that is not planned for keeps no rows: how many of them would differ is not known beforehand.
        if self.plan.is_some() {
            return Ok(false);
        }
        Ok(self.payloads && self.hashes.get(&key) != Some(&hash))
    }
}

fn hash_of(row: &TappedRow) -> RowHash {
    RowHash { algo: HashAlgo::Xxh3_64, value: driftprobe_trace::xxh3_64(&row.bytes) }
}

fn write(writer: &mut RunWriter, record: RowRecord, sample: Option<&[u64]>) -> Result<(), EngineError> {
    match sample {
        Some(at) => writer.record_sampled(record, at)?,
        None => writer.record(record)?,
    }
    Ok(())
}

impl Receiver for Rows<'_> {
    fn row(&mut self, row: TappedRow) -> Result<(), EngineError> {
        let payload = self.keeps(&row)?;
        let token_id = self.prompt.2.get(row.pos).copied().unwrap_or_default();
        let left_out = self.plan.filter(|plan| !plan.keeps(row.point, row.layer));
        let sample = left_out.and_then(|plan| plan.sample(row.point, &row.shape));
        let record = RowRecord {
            point: row.point,
            layer: row.layer,
            step: self.step,
            pos_id: row.pos as u64,
            logical_tok_idx: row.pos as u64,
            token_id,
            seq_len: row.seq_len as u64,
            kv_len: Some(row.pos as u64 + 1),
            dtype: row.dtype,
            stored_dtype: None,
            shape: row.shape,
            bytes: row.bytes,
            logits_top: None,
            payload,
        };
        if let Some((last, others)) = self.writers.split_last_mut() {
            for writer in others {
                write(writer, record.clone(), sample.as_deref())?;
            }
            write(last, record, sample.as_deref())?;
        }
        Ok(())
    }

    fn layer(&mut self, layer: usize, tokens: usize) -> Result<(), EngineError> {
        let (pass, repeat) = self.pass;
        let phase = pass.phase();
        let progress = Progress { prompt_id: self.prompt.1, phase, repeat, layer, done: *self.done, total: self.total };
        *self.done += tokens as u64;
        if self.watcher.go_on(&progress) { Ok(()) } else { Err(EngineError::Interrupted) }
    }
}
