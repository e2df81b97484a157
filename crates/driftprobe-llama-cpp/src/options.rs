//! How llama.cpp is asked to compute.

use driftprobe_engine::EngineError;
use std::fmt;
use std::str::FromStr;

/// Type in which the KV cache holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16, llama.cpp's default.
    F16,
    /// Blocks of 32 bytes with an f16 scale. llama.cpp holds V so only with flash attention.
    Q8_0,
}

impl CacheType {
    /// Name as it stands on the command line and in a contract.
    pub const fn id(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Q8_0 => "q8_0",
        }
    }
}

impl FromStr for CacheType {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let all = [CacheType::F32, CacheType::F16, CacheType::Q8_0];
        all.into_iter().find(|t| t.id() == s).ok_or_else(|| "expected f32, f16 or q8_0".to_owned())
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

/// Where llama.cpp computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// On the CPU, whatever else is built in.
    Cpu,
    /// On the GPU that is built in (cargo features `cuda`, `rocm`, `vulkan`, `metal`): all layers.
    Gpu,
}

/// All options. The default is llama.cpp's own, but for flash attention, which is off (llama.cpp chooses by itself), and
/// for the rows of the output, all of which are computed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it computes.
    pub device: Device,
    /// Whether attention is fused. What is fused shows no scores and no probabilities.
    pub flash_attention: bool,
    /// Type of the KV cache.
    pub kv_cache: CacheType,
    /// Tokens that the context holds: at least the longest sequence. `None`: as many as the model was trained for.
    pub context_tokens: Option<usize>,
    /// Tokens a micro-batch: longer batches are split.
    pub ubatch_tokens: usize,
    /// Whether only rows that are wanted go through the last layer's end and the output matrix, as in ordinary use.
    /// Otherwise all rows of a prefill do, and take the kernels of many rows there too.
    pub prune: bool,
    /// Threads; `None`: one a core.
    pub threads: Option<usize>,
    /// Base of the rotary embedding in place of the model's.
    pub rope_base: Option<f32>,
    /// Metadata of the GGUF file in place of its own: key and number.
    pub overrides: Vec<(String, f64)>,
    /// A mistake, for tests of the probe: added to the positions that decode's rotary embeddings are given.
    #[doc(hidden)]
    pub decode_shift: i32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            device: Device::Cpu,
            flash_attention: false,
            kv_cache: CacheType::F16,
            context_tokens: None,
            ubatch_tokens: 512,
            prune: false,
            threads: None,
            rope_base: None,
            overrides: Vec::new(),
            decode_shift: 0,
        }
    }
}

/// Longest key of an override: llama.cpp's field has 128 bytes.
pub const OVERRIDE_KEY_MAX: usize = 127;

impl Options {
    /// Refuses what llama.cpp cannot do.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let refuse = |what: String, hint: &str| Err(EngineError::request(what, hint));
        if self.ubatch_tokens == 0 || self.context_tokens == Some(0) || self.threads == Some(0) {
            let what = "micro-batch, context and threads must not be 0".to_owned();
            return refuse(what, "give counts from 1, or leave them out");
        }
        if self.kv_cache == CacheType::Q8_0 && !self.flash_attention {
            let what = "llama.cpp holds V as q8_0 only with flash attention".to_owned();
            return refuse(what, "add --flash-attention on, or take --kv-cache f16");
        }
        match self.overrides.iter().find(|(key, _)| key.len() > OVERRIDE_KEY_MAX || key.contains('\0')) {
            Some((key, _)) => refuse(format!("{key:?} is no metadata key"), "give at most 127 bytes, without NUL"),
            None => Ok(()),
        }
    }

    /// Threads that are used.
    pub(crate) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(cores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantised_cache_needs_flash_attention() {
        let quantised = Options { kv_cache: CacheType::Q8_0, ..Options::default() };
        let refused = quantised.check().unwrap_err();
        assert!(refused.to_string().contains("q8_0") && refused.hint().unwrap().contains("--flash-attention on"));
        assert!(Options { flash_attention: true, ..quantised }.check().is_ok());
    }

    #[test]
    fn nothing_of_nothing_is_asked_for() {
        let ok = Options::default();
        assert!(ok.check().is_ok());
        assert!(Options { ubatch_tokens: 0, ..ok.clone() }.check().is_err());
        assert!(Options { threads: Some(0), ..ok.clone() }.check().is_err());
        assert!(Options { overrides: vec![("x".repeat(128), 1.0)], ..ok }.check().is_err());
    }

    #[test]
    fn names_of_cache_types_are_read_back() {
        for name in ["f32", "f16", "q8_0"] {
            assert_eq!(name.parse::<CacheType>().unwrap().to_string(), name);
        }
        assert!("q4_0".parse::<CacheType>().unwrap_err().contains("q8_0"));
    }
}
