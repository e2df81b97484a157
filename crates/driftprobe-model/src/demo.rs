//! The embedded model's files (made by `cargo xtask train`).

pub const CONFIG: &[u8] = include_bytes!("../demo/config.json");
pub const WEIGHTS: &[u8] = include_bytes!("../demo/model.safetensors");
pub const TOKENIZER: &[u8] = include_bytes!("../demo/tokenizer.json");
