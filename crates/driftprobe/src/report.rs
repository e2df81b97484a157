//! Renderings of an [`Analysis`](crate::Analysis): for people (`drift.html`, `drift.md`, the terminal, pictures), for
//! spreadsheets (`drift.tsv`) and for programs (`drift.json`).
//!
//! Each is a pure function to text, and the same analysis gives the same bytes. Text that comes from a trace is data: it is
//! escaped for the format that it goes into ([`escape`]).

pub mod ci;
pub mod compare;
mod details;
pub mod escape;
pub(crate) mod format;
pub mod gate;
pub mod html;
pub mod json;
pub mod logprobs;
pub mod markdown;
pub mod merged;
pub mod plot;
mod power;
pub mod reach;
pub(crate) mod recordings;
pub mod schema;
mod strip;
pub(crate) mod suspects;
pub mod sweep;
pub mod terminal;
mod tree;
pub mod tsv;

pub use html::to_html;
pub use json::to_json;
pub use markdown::to_markdown;
pub use plot::{Picture, Plot, picture};
pub use terminal::{Span, Style, Styled, to_terminal};
pub use tsv::to_tsv;
