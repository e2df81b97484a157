//! Runs as a partitioned Parquet dataset: one row an event, which DuckDB, pandas and Polars open, and driftprobe judges.
//!
//! What is read passes through the same acceptance as lines of JSON do; docs/parquet.md has the schema.
mod buffer;
#[doc(hidden)]
pub mod bytes;
mod column;
mod columns;
mod dataset;
mod error;
mod export;
mod footer;
mod index;
mod layout;
mod leaf;
mod pages;
mod place;
mod recordings;
mod store;
mod table;
mod thrift;
mod write;

pub use dataset::{is_dataset, open, open_index, open_inner, runs};
pub use export::{Export, Exported, export};
pub use index::Index;
