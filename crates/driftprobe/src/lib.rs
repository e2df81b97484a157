//! The judging core of driftprobe.
pub mod pair;
