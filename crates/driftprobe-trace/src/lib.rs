//! The trace format of driftprobe: what a **run** on disk is, and how to read and write one.
mod dtype;
mod event;
mod point;

pub use dtype::Dtype;
pub use event::{Event, HashAlgo, LogitsTop, PayloadRef, Phase, RowHash, RowStats, Sample, Source};
pub use point::Point;
