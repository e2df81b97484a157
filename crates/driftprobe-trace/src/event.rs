//! One event: one row of one point, as an engine reported it.

use crate::row::{GRETA_HASHED_VALUES, element_count};
use crate::{Dtype, Point, Row, TraceError};
use std::fmt;
use std::sync::Arc;

/// Which of the two ways of computing a token an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The whole prompt at once.
    Prefill,
    /// One token at a time against the KV cache.
    Decode,
}

/// How a row's hash was made. Hashes by different algorithms cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashAlgo {
    /// xxh3-64 over the little-endian bytes of the whole row.
    Xxh3_64,
    /// 64-bit FNV-1a over the first 256 values' f32 words, as GRETA writes it.
    GretaFnv1a256,
}

/// A row's hash. Unsigned 64 bits end to end: many values exceed 2^53 and 2^63.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowHash {
    /// How it was made.
    pub algo: HashAlgo,
    /// Its value.
    pub value: u64,
}

/// Statistics of a row, over its finite values, in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowStats {
    /// Smallest finite value.
    pub min: Option<f64>,
    /// Largest finite value.
    pub max: Option<f64>,
    /// Mean of the finite values.
    pub mean: Option<f64>,
    /// Sum of the absolute finite values.
    pub abs_sum: Option<f64>,
    /// Count of NaNs.
    pub nan: Option<u64>,
    /// Count of infinities.
    pub inf: Option<u64>,
    /// Count of values that are not zero, NaN included.
    pub nz_count: Option<u64>,
}

/// Some values of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The values; may hold NaN and infinities.
    pub values: Vec<f64>,
    /// Their indices in the row; `None`: the first values.
    pub idx: Option<Vec<u64>>,
}

/// Where a row's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PayloadRef {
    /// Path of a safetensors file, relative to the run's folder, `/`-separated.
    pub file: Arc<str>,
    /// Name of the tensor in it.
    pub key: Arc<str>,
}

/// What `stage_logits` says beside the row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogitsTop {
    /// Token with the largest logit.
    pub top1_id: Option<u32>,
    /// Its logit.
    pub top1_logit: Option<f64>,
    /// Token with the second largest logit.
    pub top2_id: Option<u32>,
    /// Its logit.
    pub top2_logit: Option<f64>,
    /// top1 − top2.
    pub gap: Option<f64>,
    /// Vocabulary size.
    pub vocab: Option<u64>,
}

/// One row of one point. An absent field is `None`: "not known", never guessed.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The prompt's id.
    pub prompt_id: Arc<str>,
    /// The phase, taken from the event and not from the file name.
    pub phase: Phase,
    /// The phase as it was spelled (`prefill_last`, `decode0`, …). Not part of any key.
    pub phase_spelling: Arc<str>,
    /// The point.
    pub point: Point,
    /// The point as it was spelled (`x_in`, …).
    pub point_spelling: Arc<str>,
    /// The layer; −1 for unlayered points, whatever was written.
    pub layer: i32,
    /// Decode step (0 in prefill). Not part of any key.
    pub step: Option<u64>,
    /// Position id fed to the rotary embedding.
    pub pos_id: Option<u64>,
    /// Index of the token in the prompt.
    pub logical_tok_idx: Option<u64>,
    /// The token fed at this row.
    pub token_id: Option<u32>,
    /// Tokens in this forward pass (not the cache's length).
    pub seq_len: Option<u64>,
    /// Keys that this row attends over.
    pub kv_len: Option<u64>,
    /// Storage type of the row.
    pub dtype: Option<Dtype>,
    /// Type that the cache holds, if another than the one consumed.
    pub stored_dtype: Option<Dtype>,
    /// Shape of the row; only the element count binds.
    pub shape: Option<Vec<u64>>,
    /// Hash of the row.
    pub hash: Option<RowHash>,
    /// Statistics of the row.
    pub stats: RowStats,
    /// Sampled values.
    pub sample: Option<Sample>,
    /// Where the whole row lies.
    pub payload: Option<PayloadRef>,
    /// Set on `stage_logits`.
    pub logits: Option<LogitsTop>,
    /// Where the event was read.
    pub source: Source,
}

/// File and line of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Path relative to the run's folder.
    pub file: Arc<str>,
    /// Line number, from 1.
    pub line: u64,
}

/// What a payload's bytes say of its event's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashCheck {
    /// The event has no payload.
    NoPayload,
    /// The event has no hash (or none that this version knows).
    NoHash,
    /// The hash is that of the bytes.
    Matches,
}

impl HashAlgo {
    /// Name as it stands in an event.
    pub const fn id(self) -> &'static str {
        match self {
            HashAlgo::Xxh3_64 => "xxh3-64",
            HashAlgo::GretaFnv1a256 => "greta-fnv1a-256",
        }
    }

    /// The algorithm of this name.
    pub fn parse(name: &str) -> Option<HashAlgo> {
        [HashAlgo::Xxh3_64, HashAlgo::GretaFnv1a256].into_iter().find(|a| a.id() == name)
    }

    /// How many of a row's `elements` values the hash covers.
    pub fn covers(self, elements: u64) -> u64 {
        match self {
            HashAlgo::Xxh3_64 => elements,
            HashAlgo::GretaFnv1a256 => elements.min(GRETA_HASHED_VALUES),
        }
    }
}

impl Event {
    /// An event of which only its place is known; the names are those of [`Phase::id`] and [`Point::id`].
    pub fn at(prompt_id: Arc<str>, phase: Phase, point: Point, layer: i32) -> Event {
        Event {
            prompt_id,
            phase,
            phase_spelling: Arc::from(phase.id()),
            point,
            point_spelling: Arc::from(point.id()),
            layer: if point.layered() { layer } else { -1 },
            step: None,
            pos_id: None,
            logical_tok_idx: None,
            token_id: None,
            seq_len: None,
            kv_len: None,
            dtype: None,
            stored_dtype: None,
            shape: None,
            hash: None,
            stats: RowStats::default(),
            sample: None,
            payload: None,
            logits: None,
            source: Source { file: Arc::from(""), line: 0 },
        }
    }

    /// Which token of the prompt it is, from 0: its index, else its position id.
    pub fn token_index(&self) -> Option<u64> {
        self.logical_tok_idx.or(self.pos_id)
    }

    /// The position that reports name: its position id, else its index in the prompt. The two differ where a prompt is
    /// padded or continued.
    pub fn position(&self) -> Option<u64> {
        self.pos_id.or(self.logical_tok_idx)
    }

    /// Number of values of the row, if its shape is known.
    pub fn elements(&self) -> Option<u64> {
        self.shape.as_deref().and_then(element_count)
    }

    /// Whether a field of the pair key is absent: engines forget `token_id`, `pos_id`, `logical_tok_idx`.
    pub fn is_weakly_keyed(&self) -> bool {
        self.token_id.is_none() || self.pos_id.is_none() || self.logical_tok_idx.is_none()
    }

    /// Whether `row`'s bytes have the event's hash. GRETA's hash covers the first 256 values only.
    ///
    /// # Errors
    /// [`TraceError::PayloadHash`] if they have not.
    pub fn verify(&self, row: &Row) -> Result<HashCheck, TraceError> {
        let Some(recorded) = self.hash else { return Ok(HashCheck::NoHash) };
        let computed = row.hash(recorded.algo);
        if computed == recorded {
            return Ok(HashCheck::Matches);
        }
        let payload = self.payload.as_ref();
        Err(TraceError::PayloadHash {
            path: payload.map(|p| p.file.as_ref().into()).unwrap_or_default(),
            key: payload.map(|p| p.key.to_string()).unwrap_or_default(),
            event: self.source.clone(),
            recorded,
            computed,
        })
    }
}

impl fmt::Display for HashAlgo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

/// `algorithm:decimal`.
impl fmt::Display for RowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algo, self.value)
    }
}

/// `file:line`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}
