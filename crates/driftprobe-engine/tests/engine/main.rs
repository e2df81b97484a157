//! The embedded engine and the recorder: what is shown is what was computed, the two paths are two and both right, and a
//! run on disk holds what its manifest says.

mod aligned;
mod batches;
mod contracts;
mod demo;
mod determinism;
mod faulty;
mod integer;
mod interrupted;
mod paths;
mod plans;
mod recorded;
mod requests;
mod stages;
mod support;
mod tapping;
