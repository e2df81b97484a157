//! Models from files: what is read is right, what cannot be right is refused by name, and nothing in a file is believed.

mod dequantised;
mod hostile_folders;
mod hostile_gguf;
mod mapped;
mod refused_folders;
mod refused_gguf;
mod rope;
mod support;
mod tokenizers;
