//! Files of a dataset over bytes in memory, for fuzzers and tests: what [`open`](crate::open()) reads from one.

use crate::Index;
use crate::layout::{INVENTORY, Inventory};
use crate::leaf::Leaf;
use crate::table::Table;
use driftprobe_trace::{Run, TraceError};
use std::path::Path;
use std::sync::Arc;

const NAME: &str = "t.parquet";

/// The run that a file of these bytes is.
///
/// # Errors
/// As [`open`](crate::open()).
pub fn open(bytes: Vec<u8>) -> Result<Run, TraceError> {
    let path = Path::new(NAME);
    Leaf::of_file(path).read(vec![Arc::new(Table::of_bytes(path, bytes)?)], None)
}

/// The same, to be read prompt by prompt.
///
/// # Errors
/// As [`open_index`](crate::open_index).
pub fn open_index(bytes: Vec<u8>) -> Result<Index, TraceError> {
    let path = Path::new(NAME);
    Index::of_tables(Leaf::of_file(path), vec![Arc::new(Table::of_bytes(path, bytes)?)])
}

/// An inventory of these bytes, written again.
///
/// # Errors
/// If it says nothing that can be understood.
pub fn inventory(bytes: &[u8]) -> Result<Vec<u8>, TraceError> {
    let inventory = Inventory::parse(Path::new(INVENTORY), bytes)?;
    // Its keys are texts: it can be written.
    Ok(serde_json::to_vec(&inventory).unwrap_or_default())
}
