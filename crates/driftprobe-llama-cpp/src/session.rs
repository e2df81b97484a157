//! One sequence in llama.cpp: feeding tokens, and the cache's rows.

use crate::batch::Batch;
use crate::cache::{Layout, by_row};
use crate::context::Context;
use crate::engine::LlamaCppEngine;
use crate::node::Node;
use driftprobe_engine::{EngineError, KvRows, Session, Tap};
use llama_cpp_sys_2 as sys;
use std::ops::Range;
use std::ptr::NonNull;

pub struct LlamaCppSession<'m> {
    engine: &'m LlamaCppEngine,
    context: Context,
    tokens: usize,
}

impl<'m> LlamaCppSession<'m> {
    pub fn new(engine: &'m LlamaCppEngine, context: Context) -> LlamaCppSession<'m> {
        LlamaCppSession { engine, context, tokens: 0 }
    }

    /// Feeds tokens with outputs at `flagged`, and returns the logits of `wanted`, both as positions.
    fn feed(
        &mut self,
        tokens: &[u32],
        (flagged, wanted): (&Range<usize>, &Range<usize>),
        tap: &mut Tap<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let first = self.tokens;
        let end = first + tokens.len();
        self.check(tokens, end)?;
        let hint = "tokenise the prompt with the model's own tokenizer";
        let batch = Batch::new(tokens, first, flagged);
        let mut batch = batch.ok_or_else(|| EngineError::request("a token or position is too large", hint))?;
        if let Some(observer) = self.context.observer() {
            // SAFETY: `tap` is borrowed until this function returns, and used here only after `end`.
            unsafe { observer.begin(tap, first, flagged.clone()) };
        }
        let outcome = self.context.decode(&mut batch);
        if let Some(observer) = self.context.observer() {
            let fed = observer.fed();
            if let Some(e) = observer.end() {
                return Err(e);
            }
            outcome?;
            if fed != end {
                let what = format!("llama.cpp: {} tokens were fed and {} seen in its graphs", end - first, fed - first);
                let hint = "this build knows the graphs of one version of llama.cpp: see docs/llama-cpp.md".to_owned();
                return Err(EngineError::Foreign { what, hint });
            }
        } else {
            outcome?;
            for layer in 0..self.engine.config().num_hidden_layers {
                tap.enter(layer, tokens.len())?;
            }
        }
        self.tokens = end;
        let start = wanted.start.max(first);
        self.context.logits(start - first..wanted.end.min(end).max(start) - first)
    }

    fn check(&self, tokens: &[u32], end: usize) -> Result<(), EngineError> {
        let (vocab, room) = (self.engine.config().vocab_size, self.engine.context_tokens());
        if tokens.is_empty() {
            return Err(EngineError::request("no tokens are fed", "feed at least one"));
        }
        if let Some(token) = tokens.iter().find(|t| **t as usize >= vocab) {
            let what = format!("token {token} is not in the vocabulary of {vocab}");
            return Err(EngineError::request(what, "tokenise the prompt with the model's own tokenizer"));
        }
        if end > room {
            let what = format!("{end} tokens do not fit the context of {room}");
            return Err(EngineError::request(what, "make the engine with a larger context"));
        }
        Ok(())
    }

    /// The caches of a layer with their layouts, K and V; the rows must be there.
    fn caches(&self, layer: usize, rows: &Range<usize>) -> Result<[(Node<'_>, Layout); 2], EngineError> {
        let missing = || {
            let what = format!("layer {layer} has no cache rows {rows:?}");
            EngineError::request(what, "ask for rows that have been fed, in a session that is watched")
        };
        if rows.start > rows.end || rows.end > self.tokens {
            return Err(missing());
        }
        let caches = self.context.observed().map(|o| o.caches(layer)).unwrap_or_default();
        let shapes = self.engine.shapes();
        let node = |tensor: Option<NonNull<sys::ggml_tensor>>| {
            // SAFETY: the cache's tensors live as long as their context, which `self` holds.
            tensor.and_then(|tensor| unsafe { Node::new(tensor.as_ptr()) }).ok_or_else(missing)
        };
        Ok([(node(caches.keys)?, shapes.keys), (node(caches.values)?, shapes.values)])
    }
}

impl Session for LlamaCppSession<'_> {
    fn len(&self) -> usize {
        self.tokens
    }

    fn prefill(&mut self, tokens: &[u32], logits: Range<usize>, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError> {
        let all = self.tokens..self.tokens + tokens.len();
        if logits.end > all.end || logits.start < all.start && !logits.is_empty() {
            let what = format!("logits of the positions {logits:?} while {all:?} are fed");
            return Err(EngineError::request(what, "ask for positions that this call feeds"));
        }
        // Whoever wants no row at all only fills the cache.
        let flagged = if self.engine.options().prune || logits.is_empty() { logits.clone() } else { all };
        self.feed(tokens, (&flagged, &logits), tap)
    }

    fn decode(&mut self, token: u32, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError> {
        let own = self.tokens..self.tokens + 1;
        self.feed(&[token], (&own, &own), tap)
    }

    fn kv(&self, layer: usize, rows: Range<usize>) -> Result<KvRows, EngineError> {
        self.context.synchronize();
        let [(keys, of_keys), (values, of_values)] = self.caches(layer, &rows)?;
        let (k, v) = (of_keys.rows(&keys, rows.end)?, of_values.rows(&values, rows.end)?);
        let (heads, width) = of_keys.heads;
        Ok(KvRows {
            dtype: k.dtype,
            shape: (heads, rows.len(), width),
            k: k.by_head(rows.clone(), of_keys.heads),
            v: v.by_head(rows, of_values.heads),
        })
    }

    fn set_kv(&mut self, layer: usize, first: usize, rows: &KvRows) -> Result<(), EngineError> {
        self.context.synchronize();
        let [(keys, of_keys), (values, of_values)] = self.caches(layer, &(first..first + rows.shape.1))?;
        let misshapen = || EngineError::request("rows of another shape or type", "align only caches of one model");
        let by_row = |bytes| by_row(bytes, rows.dtype, rows.shape).ok_or_else(misshapen);
        if of_keys.heads != (rows.shape.0, rows.shape.2) {
            return Err(misshapen());
        }
        let (k, v) = (by_row(&rows.k)?, by_row(&rows.v)?);
        // SAFETY: the context is synchronised and computes nothing while `self` is borrowed.
        unsafe { of_keys.overwrite(&keys, first, &k)? };
        // SAFETY: as above.
        unsafe { of_values.overwrite(&values, first, &v)? };
        Ok(())
    }
}
