//! Payloads out of the tables of a partition: a row group's at a time, mapped where they are not compressed.

use crate::table::{Place, Table};
use driftprobe_trace::{Event, PayloadRef, Row, TraceError};
use parquet::data_type::ByteArray;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of decompressed payloads that are kept for the next question.
const KEPT_BYTES_MAX: u64 = 512 << 20;

/// Bytes that a row keeps.
struct Held(ByteArray);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.data()
    }
}

/// A row group's payloads, row by row.
type Rows = Arc<Vec<Option<ByteArray>>>;

/// Row groups that were asked for last.
#[derive(Default)]
struct Kept {
    groups: BTreeMap<(usize, usize), (Rows, u64)>,
    order: VecDeque<(usize, usize)>,
    bytes: u64,
}

/// Payloads of one partition.
#[derive(Default)]
pub struct Payloads {
    tables: Vec<Arc<Table>>,
    places: HashMap<PayloadRef, (usize, Place)>,
    /// Further rows with the same name of a payload.
    again: HashMap<PayloadRef, Vec<(usize, Place)>>,
    kept: Mutex<Kept>,
}

impl Payloads {
    /// Adds a table and where in it payloads lie.
    pub fn add(&mut self, table: Arc<Table>, places: Vec<(PayloadRef, Place)>) {
        let at = self.tables.len();
        for (payload, place) in places {
            match self.places.entry(payload) {
                Entry::Occupied(known) => self.again.entry(known.key().clone()).or_default().push((at, place)),
                Entry::Vacant(free) => drop(free.insert((at, place))),
            }
        }
        self.tables.push(table);
    }

    /// The row that `event` points to, checked against what the event says of it.
    ///
    /// # Errors
    /// If its bytes are not there, or of another dtype or size than the event says.
    pub fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let Some(payload) = &event.payload else { return Ok(None) };
        let Some((table, place)) = self.places.get(payload) else { return Ok(None) };
        let path = self.tables.get(*table).map(|table| table.path.clone()).unwrap_or_default();
        let refuse = |message: String| TraceError::Payload {
            path: path.clone(),
            key: payload.key.to_string(),
            event: event.source.clone(),
            message,
        };
        let bytes = self.bytes(*table, place)?.ok_or_else(|| refuse("its bytes are not in the table".to_owned()))?;
        for (table, place) in self.again.get(payload).into_iter().flatten() {
            if self.bytes(*table, place)?.is_none_or(|other| other.data() != bytes.data()) {
                return Err(refuse("two rows of the table say to hold it, and hold different bytes".to_owned()));
            }
        }
        if let (Some(told), Some(stated)) = (place.dtype, event.dtype)
            && told != stated
        {
            return Err(refuse(format!("its dtype is {told}, the event says {stated}")));
        }
        let dtype = place.dtype.or(event.dtype);
        let dtype =
            dtype.ok_or_else(|| refuse("neither dtype nor payload_dtype says what its bytes are".to_owned()))?;
        let shape = event.shape.as_ref().or(place.shape.as_ref());
        let shape =
            shape.ok_or_else(|| refuse("neither shape nor payload_shape says what its bytes are".to_owned()))?;
        Row::shared(dtype, shape.clone(), Arc::new(Held(bytes))).map(Some).map_err(|e| refuse(e.to_string()))
    }

    fn bytes(&self, table: usize, place: &Place) -> Result<Option<ByteArray>, TraceError> {
        Ok(self.group(table, place.group)?.get(place.row).cloned().flatten())
    }

    fn group(&self, table: usize, group: usize) -> Result<Rows, TraceError> {
        // Held while a group is read, so that no two threads read the same one.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((rows, _)) = kept.groups.get(&(table, group)) {
            return Ok(rows.clone());
        }
        let Some(from) = self.tables.get(table) else { return Ok(Rows::default()) };
        if !from.has_payloads() {
            return Ok(Rows::default());
        }
        let (rows, bytes) = from.payloads(group)?;
        let rows = Arc::new(rows);
        kept.groups.insert((table, group), (rows.clone(), bytes));
        kept.order.push_back((table, group));
        kept.bytes += bytes;
        while kept.bytes > KEPT_BYTES_MAX && kept.order.len() > 1 {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some((_, freed)) = kept.groups.remove(&oldest) {
                kept.bytes -= freed;
            }
        }
        Ok(rows)
    }
}

impl std::fmt::Debug for Payloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Payloads")
    }
}
