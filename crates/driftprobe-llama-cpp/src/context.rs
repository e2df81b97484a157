//! A context of llama.cpp: one sequence, its cache, and who watches it.

use crate::batch::Batch;
use crate::ffi;
use crate::observer::{Observer, on_abort, on_node};
use crate::options::{CacheType, Device, Options};
use driftprobe_engine::EngineError;
use llama_cpp_sys_2 as sys;
use std::ops::Range;
use std::ptr::NonNull;

/// A context, freed with this.
pub struct Context {
    context: NonNull<sys::llama_context>,
    /// Boxed, so that its address stays what the context was told; freed after the context.
    observer: Option<NonNull<Observer>>,
    vocab: usize,
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `llama_init_from_model`, freed once, here.
        unsafe { sys::llama_free(self.context.as_ptr()) };
        if let Some(observer) = self.observer {
            // SAFETY: made by `Box::into_raw`, freed once, here, after the context that pointed to it.
            drop(unsafe { Box::from_raw(observer.as_ptr()) });
        }
    }
}

/// llama.cpp's number of a cache type.
const fn ggml_type(cache: CacheType) -> sys::ggml_type {
    match cache {
        CacheType::F32 => sys::GGML_TYPE_F32,
        CacheType::F16 => sys::GGML_TYPE_F16,
        CacheType::Q8_0 => sys::GGML_TYPE_Q8_0,
    }
}

fn parameters(options: &Options, tokens: usize) -> Option<sys::llama_context_params> {
    // SAFETY: has no preconditions.
    let mut p = unsafe { sys::llama_context_default_params() };
    let tokens = u32::try_from(tokens).ok()?;
    let threads = i32::try_from(options.threads()).ok()?;
    (p.n_ctx, p.n_batch, p.n_seq_max) = (tokens, tokens, 1);
    p.n_ubatch = u32::try_from(options.ubatch_tokens).ok()?.min(tokens);
    (p.n_threads, p.n_threads_batch) = (threads, threads);
    (p.type_k, p.type_v) = (ggml_type(options.kv_cache), ggml_type(options.kv_cache));
    p.flash_attn_type = match options.flash_attention {
        true => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        false => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    if let Some(base) = options.rope_base {
        p.rope_freq_base = base;
    }
    // All positions stay in the cache of windowed layers too, each in its own cell.
    p.swa_full = true;
    if options.device == Device::Cpu {
        (p.offload_kqv, p.op_offload) = (false, false);
    }
    Some(p)
}

impl Context {
    /// A context of this model for so many tokens, watched or not.
    ///
    /// # Errors
    /// When llama.cpp refuses, for instance for want of memory.
    ///
    /// # Safety
    /// The model outlives the context.
    pub unsafe fn new(
        model: NonNull<sys::llama_model>,
        (options, tokens): (&Options, usize),
        observer: Option<Observer>,
        vocab: usize,
    ) -> Result<Context, EngineError> {
        let too_large = || ffi::failure(format!("a context of {tokens} tokens"), "take a shorter prompt");
        let mut parameters = parameters(options, tokens).ok_or_else(too_large)?;
        let observer = observer.map(|o| NonNull::from(Box::leak(Box::new(o))));
        if let Some(observer) = observer {
            parameters.cb_eval = Some(on_node);
            parameters.cb_eval_user_data = observer.as_ptr().cast();
            parameters.abort_callback = Some(on_abort);
            // SAFETY: the observer was boxed just now; only the address of its flag is taken.
            let stop = unsafe { observer.as_ref() }.stop_flag();
            parameters.abort_callback_data = stop.cast_mut().cast();
        }
        // SAFETY: a live model, by this function's contract, and parameters that hold for the context's life.
        let context = unsafe { sys::llama_init_from_model(model.as_ptr(), parameters) };
        match NonNull::new(context) {
            Some(context) => {
                ffi::forget_messages();
                Ok(Context { context, observer, vocab })
            }
            None => {
                if let Some(observer) = observer {
                    // SAFETY: boxed above, and no context points to it.
                    drop(unsafe { Box::from_raw(observer.as_ptr()) });
                }
                Err(ffi::failure("no context could be made", "take a shorter prompt or a smaller cache type"))
            }
        }
    }

    /// Its observer, while nothing is computed.
    pub fn observer(&mut self) -> Option<&mut Observer> {
        // SAFETY: boxed and alive as long as `self`; the context uses it only inside of `decode`, which borrows `self`.
        self.observer.map(|mut observer| unsafe { observer.as_mut() })
    }

    /// Its observer, to look at.
    pub fn observed(&self) -> Option<&Observer> {
        // SAFETY: as above.
        self.observer.map(|observer| unsafe { observer.as_ref() })
    }

    /// Computes a batch.
    ///
    /// # Errors
    /// When llama.cpp fails.
    pub fn decode(&mut self, batch: &mut Batch) -> Result<(), EngineError> {
        // SAFETY: a live context; the batch's arrays have as many elements as it says and outlive the call.
        let status = unsafe { sys::llama_decode(self.context.as_ptr(), batch.raw()) };
        if status == 0 {
            return Ok(());
        }
        let what = match status {
            1 => "the cache has no room for the batch".to_owned(),
            2 => "the computation was stopped".to_owned(),
            other => format!("computing the batch failed with status {other}"),
        };
        Err(ffi::failure(what, "look at what it said; if it ran out of memory, take a shorter prompt"))
    }

    /// Waits for all that is computed elsewhere.
    pub fn synchronize(&self) {
        // SAFETY: a live context.
        unsafe { sys::llama_synchronize(self.context.as_ptr()) };
    }

    /// Logits of some tokens of the last batch, by their index in it.
    ///
    /// # Errors
    /// When they were not computed.
    pub fn logits(&mut self, indices: Range<usize>) -> Result<Vec<f32>, EngineError> {
        let mut all = Vec::with_capacity(indices.len() * self.vocab);
        for index in indices {
            let number = i32::try_from(index).unwrap_or(-1);
            // SAFETY: a live context; llama.cpp checks the index and gives null where there are no logits.
            let row = unsafe { sys::llama_get_logits_ith(self.context.as_ptr(), number) };
            if row.is_null() {
                return Err(ffi::failure(format!("token {index} of the batch has no logits"), "flag it for output"));
            }
            // SAFETY: not null, so `vocab` values of the last batch, which stay until the next one.
            all.extend_from_slice(unsafe { std::slice::from_raw_parts(row, self.vocab) });
        }
        Ok(all)
    }
}
