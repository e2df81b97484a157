//! What the eval callback does: says which nodes are wanted, and hands their rows to the tap.

use crate::cache::Layout;
use crate::node::{Node, Unreadable};
use crate::places::{Places, Role, Seen};
use driftprobe_engine::{EngineError, Tap, TappedRow};
use driftprobe_trace::{Dtype, Point};
use llama_cpp_sys_2 as sys;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a model's graphs look like.
#[derive(Clone, Debug)]
pub struct Shapes {
    /// Which node is what.
    pub places: Places,
    /// How K lies in the cache.
    pub keys: Layout,
    /// How V lies in the cache.
    pub values: Layout,
    /// What is added to decode's positions, to make a mistake.
    pub decode_shift: i32,
}

/// The caches of one layer, as llama.cpp's graph has shown them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caches {
    /// K.
    pub keys: Option<NonNull<sys::ggml_tensor>>,
    /// V.
    pub values: Option<NonNull<sys::ggml_tensor>>,
}

/// The micro-batch that is being computed.
#[derive(Clone, Debug, Default)]
struct Micro {
    first: usize,
    tokens: usize,
    shifted: bool,
}

/// Scores that wait for softmax to tell what it does to them.
struct Waiting {
    layer: usize,
    /// Position, columns, and the values by heads.
    rows: Vec<(usize, usize, Vec<f32>)>,
}

/// Watches one context.
pub struct Observer {
    shapes: Shapes,
    /// The tap of the call at hand; it outlives that call.
    tap: Option<NonNull<Tap<'static>>>,
    next: usize,
    micro: Micro,
    /// Positions whose outputs are computed.
    flagged: Range<usize>,
    layer: usize,
    waiting: Option<Waiting>,
    failure: Option<EngineError>,
    /// Set with `failure`; what the abort callback looks at, from any thread.
    stop: Arc<AtomicBool>,
    caches: BTreeMap<usize, Caches>,
}

/// The eval callback. `ask`: is this node wanted? Otherwise: it has been computed.
///
/// # Safety
/// `data` is an [`Observer`] that nothing else uses during the call; `tensor` is a node of the graph at hand.
pub unsafe extern "C" fn on_node(tensor: *mut sys::ggml_tensor, ask: bool, data: *mut c_void) -> bool {
    // SAFETY: the observer that the context was made with, boxed and alive, by this function's contract. While llama.cpp
    // computes, it calls from one thread at a time and nobody else touches the observer.
    let Some(observer) = (unsafe { data.cast::<Observer>().as_mut() }) else { return false };
    // SAFETY: a node of the graph that is being computed, alive until the call returns.
    let Some(node) = (unsafe { Node::new(tensor) }) else { return false };
    match catch_unwind(AssertUnwindSafe(|| observer.node(node, ask))) {
        Ok(answer) => answer,
        // No panic may cross into C++.
        Err(_) => {
            observer.fail(foreign("the eval callback panicked".to_owned()));
            false
        }
    }
}

/// The abort callback: ends the computation once the observer has failed.
///
/// # Safety
/// `data` is the [`Observer::stop_flag`] of an observer that is alive.
pub unsafe extern "C" fn on_abort(data: *mut c_void) -> bool {
    // SAFETY: the flag is alive by this function's contract, and shared: only ever read and stored atomically.
    unsafe { data.cast::<AtomicBool>().as_ref() }.is_some_and(|stop| stop.load(Ordering::Relaxed))
}

fn foreign(what: String) -> EngineError {
    let hint = "this build knows the graphs of one version of llama.cpp: see docs/llama-cpp.md".to_owned();
    EngineError::Foreign { what: format!("llama.cpp: {what}"), hint }
}

impl From<Unreadable> for EngineError {
    fn from(e: Unreadable) -> EngineError {
        foreign(e.0)
    }
}

impl Observer {
    /// Of a context of this model.
    pub fn new(shapes: Shapes) -> Observer {
        Observer {
            shapes,
            tap: None,
            next: 0,
            micro: Micro::default(),
            flagged: 0..0,
            layer: 0,
            waiting: None,
            failure: None,
            stop: Arc::default(),
            caches: BTreeMap::new(),
        }
    }

    /// What [`on_abort`] looks at; lives as long as the observer.
    pub fn stop_flag(&self) -> *const AtomicBool {
        Arc::as_ptr(&self.stop)
    }

    /// Prepares for a call that feeds tokens from position `first`, with outputs at `flagged`.
    ///
    /// # Safety
    /// `tap` lives, and is used by nobody else, until [`Observer::end`].
    pub unsafe fn begin(&mut self, tap: &mut Tap<'_>, first: usize, flagged: Range<usize>) {
        self.tap = Some(NonNull::from(tap).cast());
        (self.next, self.flagged, self.layer) = (first, flagged, 0);
        (self.waiting, self.failure) = (None, None);
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Ends it, and says what went wrong.
    pub fn end(&mut self) -> Option<EngineError> {
        self.tap = None;
        self.failure.take()
    }

    /// The caches of a layer, once the graph has shown them.
    pub fn caches(&self, layer: usize) -> Caches {
        self.caches.get(&layer).copied().unwrap_or_default()
    }

    /// How many tokens the call has been seen to compute.
    pub fn fed(&self) -> usize {
        self.next
    }

    fn fail(&mut self, e: EngineError) {
        self.failure.get_or_insert(e);
        self.stop.store(true, Ordering::Relaxed);
    }

    fn node(&mut self, node: Node<'_>, ask: bool) -> bool {
        if self.failure.is_some() {
            return false;
        }
        let name = |node: Option<Node<'_>>| node.map_or("", |n| Node::name(&n)).to_owned();
        let (fed_by, root) = (name(node.source(1)), name(Some(node.root())));
        let seen = Seen { name: node.name(), op: node.op(), fed_by: &fed_by, root: &root };
        let Some(role) = self.shapes.places.role(&seen, self.layer) else { return false };
        let outcome = if ask { self.asked(&node, &role) } else { self.computed(&node, &role).map(|()| true) };
        outcome.unwrap_or_else(|e| {
            self.fail(e);
            false
        })
    }

    fn tap(&mut self) -> Option<&mut Tap<'static>> {
        // SAFETY: set by `begin`, whose caller keeps the tap alive and to itself until `end`. The longer lifetime goes no
        // further than this observer's methods.
        self.tap.map(|mut tap| unsafe { tap.as_mut() })
    }

    /// Whether a node is wanted; and what can be known before it is computed.
    fn asked(&mut self, node: &Node<'_>, role: &Role) -> Result<bool, EngineError> {
        match role {
            Role::Start => {
                self.micro = Micro { first: self.next, tokens: node.len(1), shifted: false };
                self.next += self.micro.tokens;
                let points = self.shapes.places.start();
                Ok(self.any_wanted(&points))
            }
            Role::Rows(points, _) => {
                if let [(Point::AttnNormOut, layer)] = points[..] {
                    self.layer = layer;
                    let tokens = self.micro.tokens;
                    self.tap().map_or(Ok(()), |tap| tap.enter(layer, tokens))?;
                }
                if let [(Point::QPostRope | Point::KPostRope, _)] = points[..] {
                    self.shift_positions(node)?;
                }
                Ok(self.any_wanted(points))
            }
            // Scores are shown once softmax has told what it adds to them.
            Role::Scores(layer) => Ok(self.any_wanted(&[(Point::AttnScores, *layer)])),
            Role::Softmax(layer) => {
                let wanted = [(Point::AttnScores, *layer), (Point::AttnProbs, *layer)];
                Ok(self.any_wanted(&wanted))
            }
            Role::KeysWritten(layer) => {
                self.caches.entry(*layer).or_default().keys = NonNull::new(node.root().address().cast_mut());
                Ok(self.any_wanted(&[(Point::KCache, *layer)]))
            }
            Role::ValuesWritten(layer) => {
                self.caches.entry(*layer).or_default().values = NonNull::new(node.root().address().cast_mut());
                Ok(self.any_wanted(&[(Point::VCache, *layer)]))
            }
        }
    }

    /// Makes the mistake that was asked for, in the positions that all rotary embeddings of the graph read.
    fn shift_positions(&mut self, rope: &Node<'_>) -> Result<(), EngineError> {
        let shift = self.shapes.decode_shift;
        if shift == 0 || self.micro.tokens != 1 || self.micro.shifted {
            return Ok(());
        }
        self.micro.shifted = true;
        let Some(positions) = rope.source(1) else { return Ok(()) };
        let shifted: Vec<u8> = positions
            .bytes(0, size_of::<i32>())?
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|pos| i32::from_le_bytes(*pos).wrapping_add(shift).to_le_bytes())
            .collect();
        // SAFETY: llama.cpp asks for a node before it computes it or any node after it, so nothing reads the input meanwhile.
        unsafe { positions.write(0, &shifted)? };
        Ok(())
    }

    /// The wanted positions of this micro-batch.
    fn wanted(&mut self, point: Point, layer: usize) -> Range<usize> {
        let Micro { first, tokens, .. } = self.micro;
        let positions = self.tap().and_then(|tap| tap.positions(point, layer)).unwrap_or(0..0);
        let start = positions.start.max(first);
        start..positions.end.min(first + tokens).max(start)
    }

    fn any_wanted(&mut self, points: &[(Point, usize)]) -> bool {
        points.iter().any(|(point, layer)| !self.wanted(*point, *layer).is_empty())
    }

    fn computed(&mut self, node: &Node<'_>, role: &Role) -> Result<(), EngineError> {
        match role {
            Role::Start => self.show_rows(node, &self.shapes.places.start(), 1),
            Role::Rows(points, axis) => self.show_rows(node, points, *axis),
            Role::Scores(layer) => self.hold_scores(node, *layer),
            Role::Softmax(layer) => {
                self.show_scores(node, *layer)?;
                self.show_probs(node, *layer)
            }
            Role::KeysWritten(layer) => self.show_cache(&node.root(), Point::KCache, *layer),
            Role::ValuesWritten(layer) => self.show_cache(&node.root(), Point::VCache, *layer),
        }
    }

    /// Which row of a node is this position's; none where the node has only rows of outputs, and this is none.
    fn row_of(&self, pos: usize, rows: usize) -> Option<usize> {
        let Micro { first, tokens, .. } = self.micro;
        if rows == tokens {
            return pos.checked_sub(first);
        }
        let start = self.flagged.start.max(first);
        let outputs = start..self.flagged.end.min(first + tokens).max(start);
        (outputs.len() == rows && outputs.contains(&pos)).then(|| pos - outputs.start)
    }

    fn show_rows(&mut self, node: &Node<'_>, points: &[(Point, usize)], axis: usize) -> Result<(), EngineError> {
        for (point, layer) in points {
            for pos in self.wanted(*point, *layer) {
                let Some(row) = self.row_of(pos, node.len(axis)) else { continue };
                let values = node.row(axis, row, usize::MAX)?;
                let shape = if axis == 2 { vec![node.len(1), node.len(0)] } else { vec![node.len(0)] };
                self.put((*point, *layer, pos), &shape, &values)?;
            }
        }
        Ok(())
    }

    fn hold_scores(&mut self, node: &Node<'_>, layer: usize) -> Result<(), EngineError> {
        let mut rows = Vec::new();
        for pos in self.wanted(Point::AttnScores, layer) {
            let Some(row) = self.row_of(pos, node.len(1)) else { continue };
            rows.push((pos, pos + 1, node.row(1, row, pos + 1)?));
        }
        self.waiting = Some(Waiting { layer, rows });
        Ok(())
    }

    /// score = kq·scale + mask, as softmax computes it in f32 before anything else.
    fn show_scores(&mut self, softmax: &Node<'_>, layer: usize) -> Result<(), EngineError> {
        let Some(waiting) = self.waiting.take().filter(|w| w.layer == layer) else { return Ok(()) };
        let scale = softmax.parameter_f32(0);
        for (pos, columns, mut values) in waiting.rows {
            let row = self.row_of(pos, softmax.len(1)).unwrap_or(usize::MAX);
            let mask = match softmax.source(1) {
                Some(mask) => mask.mask_row(row, columns)?,
                None => vec![0.0; columns],
            };
            for head in values.chunks_mut(columns.max(1)) {
                head.iter_mut().zip(&mask).for_each(|(score, mask)| *score = *score * scale + mask);
            }
            let shape = [values.len() / columns.max(1), columns];
            self.put((Point::AttnScores, layer, pos), &shape, &values)?;
        }
        Ok(())
    }

    fn show_probs(&mut self, node: &Node<'_>, layer: usize) -> Result<(), EngineError> {
        for pos in self.wanted(Point::AttnProbs, layer) {
            let Some(row) = self.row_of(pos, node.len(1)) else { continue };
            let values = node.row(1, row, pos + 1)?;
            self.put((Point::AttnProbs, layer, pos), &[values.len() / (pos + 1), pos + 1], &values)?;
        }
        Ok(())
    }

    /// The cache's rows up to each wanted position: cell i holds position i, since a context holds one sequence.
    fn show_cache(&mut self, cache: &Node<'_>, point: Point, layer: usize) -> Result<(), EngineError> {
        let wanted = self.wanted(point, layer);
        let layout = if point == Point::KCache { self.shapes.keys } else { self.shapes.values };
        if wanted.is_empty() {
            return Ok(());
        }
        let rows = layout.rows(cache, wanted.end)?;
        for pos in wanted {
            let bytes = rows.by_head(0..pos + 1, layout.heads);
            let shape = [layout.heads.0, pos + 1, layout.heads.1];
            self.put_bytes((point, layer, pos), &shape, (rows.dtype, bytes))?;
        }
        Ok(())
    }

    fn put(&mut self, at: (Point, usize, usize), shape: &[usize], values: &[f32]) -> Result<(), EngineError> {
        self.put_bytes(at, shape, (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
    }

    fn put_bytes(
        &mut self,
        (point, layer, pos): (Point, usize, usize),
        shape: &[usize],
        (dtype, bytes): (Dtype, Vec<u8>),
    ) -> Result<(), EngineError> {
        let layer = if point.layered() { i32::try_from(layer).unwrap_or(i32::MAX) } else { -1 };
        let shape = shape.iter().map(|d| *d as u64).collect();
        let row = TappedRow { point, layer, pos, seq_len: self.micro.tokens, dtype, shape, bytes };
        self.tap().map_or(Ok(()), |tap| tap.put(row))
    }
}
