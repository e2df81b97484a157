//! The trace format of driftprobe: what a **run** on disk is, and how to read and write one.
//!
//! [`Run::open`] reads strictly and streams; [`RunWriter`] writes so that a run cut short stays readable and says so.
//! Hashes are `u64` from end to end. This crate gives no verdict.
mod accept;
mod blocks;
mod by_prompt;
#[doc(hidden)]
pub mod bytes;
mod contract;
mod dtype;
mod each;
mod error;
mod event;
mod expected;
mod filename;
mod files;
mod folder;
mod hash;
mod index;
mod json;
mod line;
mod lines;
mod manifest;
mod names;
mod notes;
mod observer;
mod packed;
mod payload;
mod point;
mod quick;
mod raw;
mod reading;
mod recording;
mod row;
mod run;
mod scalar;
mod seen;
mod stats;
mod tensors;
mod write;

pub use accept::Unmapped;
pub use by_prompt::{ByPrompt, Promises};
pub use contract::{Contract, ContractFields, FewRows};
pub use dtype::Dtype;
pub use each::{Folder, Given, each_event};
pub use error::{RowError, TraceError};
pub use event::{Event, HashAlgo, HashCheck, LogitsTop, PayloadRef, Phase, RowHash, RowStats, Sample, Source};
pub use expected::ExpectedKey;
pub use files::{read_file, regular};
pub use folder::{
    LAYERS_DIR, Part, REMOTE_FILE, REPORT_DIR, UNITS_DIR, check_run, is_plan_name, is_report, replace_file,
    replace_run, take as take_folder, wait_for as wait_for_folder, write_manifest,
};
pub use hash::{GRETA_OFFSET_BASIS, xxh3_64, xxh3_128, xxh3_128_text};
pub use index::RunIndex;
pub use json::quote_bare_words;
pub use lines::{Gunzip, MAX_LINE_BYTES};
pub use manifest::{
    AttentionInfo, EngineInfo, HostInfo, MANIFEST_FILE, Manifest, Mode, ModelInfo, PointSet, PromptInfo, SCHEMA,
    ShardInfo,
};
pub use notes::Note;
pub use observer::{LogitsCompared, ObserverEffect};
pub use point::{Only, Point};
pub use raw::{RawEvent, RawPayload};
pub use reading::Reading;
pub use recording::{Compression, LeftOutBy, RECORDING_VERSION, Recording, RowGroup, SecondPass, grouped, sampled_at};
pub use row::{GRETA_HASHED_VALUES, Row, element_count};
pub use run::{
    ALIGNED_DIR, MANIFEST_BYTES_MAX, Rows, Run, SEARCH_PREFIX, Store, TENSORS_DIR, TRACES_DIR, check_rounds,
    is_part_of_run, repeat_dirs,
};
pub use scalar::{Hash64, Num, Text};
pub use seen::Seen;
pub use write::{RowRecord, RunWriter, SAMPLE_VALUES};
