//! llama.cpp as an engine: the nodes of its own graph are the points, read through its eval callback.
//!
//! [`LlamaCppEngine`] opens a GGUF file with llama.cpp and gives sessions, each a context of its own. What llama.cpp
//! computes it computes by itself; this crate only reads along, and reads and writes the KV
//! cache. The names of the nodes are those of the one version of llama.cpp that `Cargo.toml` pins.

mod batch;
mod cache;
mod context;
mod contract;
mod engine;
mod ffi;
mod node;
mod observer;
mod options;
mod places;
mod session;

pub use engine::LlamaCppEngine;
pub use options::{CacheType, Device, Options};
