//! What the tests and chores of several crates share: random numbers, random models, expected values, distances.
//!
//! For tests only: it panics where a file is not what it should be.

mod dice;
mod distance;
mod expected;
mod gguf;

pub use dice::Dice;
pub use distance::worst_row;
pub use expected::{Expected, expected_path};
pub use gguf::{LlamaShape, random_llama, write_llama};
