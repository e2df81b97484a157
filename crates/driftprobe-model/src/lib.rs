//! Models for driftprobe: what an architecture is ([`Config`]), its weights as mapped files ([`Weights`]), and its tokenizer.
//!
//! Two sources are read, Hugging Face folders (`config.json` + safetensors) and GGUF files, and come out the same:
//! one [`Config`], and weights under their Hugging Face names. Weights stay where they are: a [`Weight`] is a view into a
//! mapped file, dequantised row by row on demand. What is not supported is refused by name before any work is done.

#[doc(hidden)]
pub mod bytes;
mod config;
mod demo;
mod dequant;
mod error;
mod gguf;
mod hf;
mod isolate;
mod layout;
mod model;
pub mod reference;
mod rope;
mod tokenizer;
mod weights;

pub use config::{Activation, Architecture, Config};
pub use dequant::ggml_dtype;
pub use error::ModelError;
pub use layout::{WeightId, expected_weights};
pub use model::{Format, Model};
pub use rope::{Rope, RopeLayout, RopeScaling};
pub use tokenizer::Tokenizer;
pub use weights::{Weight, WeightDtype, Weights};
