//! Engines that driftprobe can drive, and the recorder that makes a run out of one.
//!
//! An [`Engine`] computes tokens in two ways, prefill and decode, and shows a [`Tap`] what it computes on the way. The
//! [`record`] module turns that into a run on disk. No engine ever sees a verdict.

mod embedded;
mod error;
pub mod faulty;
mod points;
pub mod record;
mod settings;
mod tap;

pub use embedded::EmbeddedEngine;
pub use error::EngineError;
pub use faulty::{Fault, FaultKind, FaultyEngine};
pub use points::points_of;
pub use settings::{DecodeAttention, PrefillAttention, QuantisedMatmul, Settings, Storage};
pub use tap::{Receiver, Selection, Tap, TappedRow};

use driftprobe_trace::{Contract, Dtype, EngineInfo, Phase, Point};
use std::ops::Range;

/// Something that computes the same tokens by prefill and by decode.
pub trait Engine {
    /// Name, version, backend, device and attention, as the manifest has them.
    fn info(&self) -> EngineInfo;

    /// The arithmetic that the engine claims.
    fn contract(&self) -> Contract;

    /// The points that this phase can show.
    fn points(&self, phase: Phase) -> Vec<Point>;

    /// Layers of the model.
    fn layers(&self) -> usize;

    /// Vocabulary size: token ids are below it.
    fn vocab(&self) -> usize;

    /// A new sequence with an empty cache.
    ///
    /// # Errors
    /// When the device has no room for the cache.
    fn session(&self) -> Result<Box<dyn Session + '_>, EngineError>;

    /// A session that is never tapped, in the way in which the engine runs for its users: an engine that must be told
    /// beforehand that it will be watched is not told so.
    ///
    /// # Errors
    /// As [`Engine::session`].
    fn unwatched_session(&self) -> Result<Box<dyn Session + '_>, EngineError> {
        self.session()
    }
}

/// One sequence and its KV cache.
pub trait Session {
    /// Tokens in the cache.
    fn len(&self) -> usize;

    /// Whether the cache is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Prefills `tokens` behind what the cache holds, and returns the logits of the positions in `logits`
    /// (`logits.len() × vocab` values; positions count from the start of the sequence).
    ///
    /// # Errors
    /// When a token is not in the vocabulary, a position is not among those fed, or the device fails.
    fn prefill(&mut self, tokens: &[u32], logits: Range<usize>, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError>;

    /// Feeds one token and returns its logits (`vocab` values).
    ///
    /// # Errors
    /// As [`Session::prefill`].
    fn decode(&mut self, token: u32, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError>;

    /// Some rows of one layer's cache, as the cache holds them.
    ///
    /// # Errors
    /// When the layer or the rows are not there.
    fn kv(&self, layer: usize, rows: Range<usize>) -> Result<KvRows, EngineError>;

    /// Overwrites rows of one layer's cache, from row `first`.
    ///
    /// # Errors
    /// When the layer or the rows are not there, or the rows are of another shape.
    fn set_kv(&mut self, layer: usize, first: usize, rows: &KvRows) -> Result<(), EngineError>;
}

/// Rows of one layer's KV cache: K after the rotary embedding, and V.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRows {
    /// Type of the values.
    pub dtype: Dtype,
    /// Key heads, rows, width of a head.
    pub shape: (usize, usize, usize),
    /// Little-endian bytes of K.
    pub k: Vec<u8>,
    /// Little-endian bytes of V.
    pub v: Vec<u8>,
}
