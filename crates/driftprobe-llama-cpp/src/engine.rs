//! A GGUF file in llama.cpp, as an engine.

use crate::cache::Layout;
use crate::context::Context;
use crate::contract;
use crate::ffi;
use crate::observer::{Observer, Shapes};
use crate::options::{Device, OVERRIDE_KEY_MAX, Options};
use crate::places::Places;
use crate::session::LlamaCppSession;
use driftprobe_engine::{Engine, EngineError, Session, points_of};
use driftprobe_model::{Config, Format, Model};
use driftprobe_trace::{AttentionInfo, Contract, EngineInfo, Phase, Point};
use llama_cpp_sys_2 as sys;
use serde_json::{Map, Value, json};
use std::ffi::CString;
use std::ptr::NonNull;

/// Turns the Hadamard rotation off that llama.cpp applies to quantised caches: their rows would be no model's keys.
const NO_ROTATION: &str = "LLAMA_ATTN_ROT_DISABLE";

/// A model that llama.cpp has loaded.
pub struct LlamaCppEngine {
    model: NonNull<sys::llama_model>,
    config: Config,
    contract: Contract,
    options: Options,
    context_tokens: usize,
    shapes: Shapes,
}

impl Drop for LlamaCppEngine {
    fn drop(&mut self) {
        // SAFETY: made by `llama_model_load_from_file`, freed once, here; sessions borrow the engine, so none is left.
        unsafe { sys::llama_model_free(self.model.as_ptr()) };
    }
}

impl LlamaCppEngine {
    /// Loads a GGUF file that the model was opened from.
    ///
    /// # Errors
    /// When it is no GGUF file, an option does not fit, or llama.cpp cannot load it.
    pub fn new(model: &Model, options: Options) -> Result<LlamaCppEngine, EngineError> {
        options.check()?;
        if model.format != Format::Gguf {
            let what = format!("{}: llama.cpp reads GGUF files only", model.path.display());
            return Err(EngineError::request(what, "convert the model with llama.cpp's convert_hf_to_gguf.py"));
        }
        if options.flash_attention && options.kv_cache == crate::CacheType::Q8_0 {
            keep_rows_as_they_are();
        }
        ffi::start();
        let loaded = load(model, &options)?;
        let context_tokens = options.context_tokens.or(model.config.max_position_embeddings).unwrap_or(4096);
        let c = &model.config;
        let layout = |transposed| Layout { heads: (c.num_key_value_heads, c.head_dim), transposed };
        let shapes = Shapes {
            places: Places::new(c),
            keys: layout(false),
            values: layout(!options.flash_attention),
            decode_shift: options.decode_shift,
        };
        let contract = contract::of(model, &options)?;
        Ok(LlamaCppEngine { model: loaded, config: c.clone(), contract, options, context_tokens, shapes })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    pub(crate) fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    fn context(&self, observer: Option<Observer>) -> Result<Context, EngineError> {
        let of = (&self.options, self.context_tokens);
        // SAFETY: sessions, which hold the context, borrow the engine, which holds the model.
        unsafe { Context::new(self.model, of, observer, self.config.vocab_size) }
    }
}

/// Unless the environment says otherwise.
fn keep_rows_as_they_are() {
    if std::env::var_os(NO_ROTATION).is_none() {
        // SAFETY: llama.cpp reads the variable when a context is made, which this thread does later on; the probe itself
        // has no thread that reads or writes the environment beside it.
        unsafe { std::env::set_var(NO_ROTATION, "1") };
    }
}

fn load(model: &Model, options: &Options) -> Result<NonNull<sys::llama_model>, EngineError> {
    let path = CString::new(model.path.as_os_str().as_encoded_bytes()).map_err(|_| {
        EngineError::request(format!("{:?} holds a NUL", model.path), "name the file without NUL characters")
    })?;
    let overrides = overrides(&options.overrides);
    // SAFETY: has no preconditions.
    let mut parameters = unsafe { sys::llama_model_default_params() };
    parameters.n_gpu_layers = if options.device == Device::Cpu { 0 } else { -1 };
    if !options.overrides.is_empty() {
        parameters.kv_overrides = overrides.as_ptr();
    }
    // SAFETY: a NUL-terminated path, and parameters whose list of overrides ends with an empty key and outlives the call.
    let loaded = unsafe { sys::llama_model_load_from_file(path.as_ptr(), parameters) };
    let failed = || {
        let what = format!("{} could not be loaded", model.path.display());
        ffi::failure(what, "try the file with llama.cpp itself; the pinned version may not know it")
    };
    let loaded = NonNull::new(loaded).ok_or_else(failed)?;
    ffi::forget_messages();
    Ok(loaded)
}

/// Ended by an empty key. Keys that are too long were refused before.
fn overrides(all: &[(String, f64)]) -> Vec<sys::llama_model_kv_override> {
    let one = |key: &str, value: f64| {
        let mut name = [0; OVERRIDE_KEY_MAX + 1];
        name.iter_mut().zip(key.bytes().take(OVERRIDE_KEY_MAX)).for_each(|(to, from)| *to = from as std::ffi::c_char);
        sys::llama_model_kv_override {
            tag: sys::LLAMA_KV_OVERRIDE_TYPE_FLOAT,
            key: name,
            __bindgen_anon_1: sys::llama_model_kv_override__bindgen_ty_1 { val_f64: value },
        }
    };
    all.iter().map(|(key, value)| one(key, *value)).chain([one("", 0.0)]).collect()
}

/// Names of the devices that take part.
fn devices(device: Device) -> Vec<String> {
    // SAFETY: have no preconditions; a device's name is never freed.
    let name = |at| unsafe {
        let device = sys::ggml_backend_dev_get(at);
        (sys::ggml_backend_dev_type(device), ffi::text(sys::ggml_backend_dev_name(device)))
    };
    // SAFETY: has no preconditions.
    let all = (0..unsafe { sys::ggml_backend_dev_count() }).map(name);
    let takes_part =
        |of: &sys::ggml_backend_dev_type| (*of == sys::GGML_BACKEND_DEVICE_TYPE_CPU) == (device == Device::Cpu);
    all.filter(|(of, _)| takes_part(of)).map(|(_, name)| name).collect()
}

impl Engine for LlamaCppEngine {
    fn info(&self) -> EngineInfo {
        // SAFETY: have no preconditions; the strings are never freed.
        let (llama, ggml) = unsafe { (ffi::text(sys::llama_version()), ffi::text(sys::ggml_version())) };
        let attention = Some(if self.options.flash_attention { "flash" } else { "naive" }.to_owned());
        let mut extra = Map::new();
        let mut say = |key: &str, value: Value| extra.insert(key.to_owned(), value);
        say("context_tokens", json!(self.context_tokens));
        say("prune", json!(self.options.prune));
        if let Some(base) = self.options.rope_base {
            say("rope_base", json!(base));
        }
        if !self.options.overrides.is_empty() {
            let all: Map<String, Value> = self.options.overrides.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            say("overrides", Value::Object(all));
        }
        EngineInfo {
            name: Some("llama.cpp".to_owned()),
            version: Some(format!("{llama}, ggml {ggml}")),
            backend: Some("ggml".to_owned()),
            device: Some(devices(self.options.device).join(", ")),
            threads: u32::try_from(self.options.threads()).ok(),
            batch: Some(1),
            chunk_tokens: Some(self.options.ubatch_tokens as u64),
            attention: Some(AttentionInfo { prefill: attention.clone(), decode: attention, ..Default::default() }),
            extra,
        }
    }

    fn contract(&self) -> Contract {
        self.contract.clone()
    }

    fn points(&self, _: Phase) -> Vec<Point> {
        let fused = self.options.flash_attention;
        let within = [Point::AttnScores, Point::AttnProbs];
        points_of(&self.config).filter(|point| !fused || !within.contains(point)).collect()
    }

    fn layers(&self) -> usize {
        self.config.num_hidden_layers
    }

    fn vocab(&self) -> usize {
        self.config.vocab_size
    }

    fn session(&self) -> Result<Box<dyn Session + '_>, EngineError> {
        let context = self.context(Some(Observer::new(self.shapes.clone())))?;
        Ok(Box::new(LlamaCppSession::new(self, context)))
    }

    fn unwatched_session(&self) -> Result<Box<dyn Session + '_>, EngineError> {
        Ok(Box::new(LlamaCppSession::new(self, self.context(None)?)))
    }
}
