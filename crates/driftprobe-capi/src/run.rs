//! A run that is being written: described first, then row by row from any thread, then closed.

use crate::error::Failure;
use driftprobe_trace::{Manifest, Phase, Point, PointSet, PromptInfo, RowRecord, RunWriter};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

/// Bytes of one prompt's phase that are kept in memory before they are written.
const PENDING_BYTES_MAX: usize = 64 << 20;

/// A run that is being written.
pub struct Recording {
    state: Mutex<State>,
}

struct State {
    dir: PathBuf,
    overwrite: bool,
    manifest: Manifest,
    /// None before the first row.
    writer: Option<RunWriter>,
    /// Rows that are not written yet, by prompt and phase.
    pending: BTreeMap<(String, Phase), Pending>,
}

#[derive(Default)]
struct Pending {
    rows: Vec<RowRecord>,
    bytes: usize,
}

impl Recording {
    /// A run that will lie in `dir`. The folder is made with the first row.
    pub fn new(dir: PathBuf, overwrite: bool) -> Recording {
        let manifest = Manifest::default();
        let state = State { dir, overwrite, manifest, writer: None, pending: BTreeMap::new() };
        Recording { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked while holding it has left rows that are whole or not there.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Fields of the manifest, in place of those that are there.
    pub fn describe(&self, json: &str) -> Result<(), Failure> {
        let fields: Map<String, Value> = serde_json::from_str(json)
            .map_err(|e| Failure::invalid(format!("not one JSON object: {e}; hint: fields as in manifest.json")))?;
        self.change(|manifest| {
            let mut whole = match serde_json::to_value(&*manifest) {
                Ok(Value::Object(whole)) => whole,
                _ => Map::new(),
            };
            for (key, value) in fields {
                if ["schema", "complete"].contains(&key.as_str()) {
                    return Err(Failure::invalid(format!("{key} is not the engine's to say")));
                }
                whole.insert(key, value);
            }
            let text = Value::Object(whole).to_string();
            *manifest = Manifest::parse(&text, std::path::Path::new("the description"))?;
            Ok(())
        })
    }

    /// A prompt, with all tokens that prefill is fed.
    pub fn prompt(&self, id: &str, tokens: Vec<u32>) -> Result<(), Failure> {
        self.change(|manifest| {
            let prompts = manifest.prompts.get_or_insert_default();
            if prompts.iter().any(|prompt| prompt.id == id) {
                return Err(Failure::invalid(format!("prompt {id} is there already")));
            }
            prompts.push(PromptInfo { id: id.to_owned(), tokens, ..PromptInfo::default() });
            Ok(())
        })
    }

    /// What the run promises: layers, points and decode steps.
    pub fn promise(&self, layers: &[u32], points: &[Point], steps: u32) -> Result<(), Failure> {
        let layers: BTreeSet<i32> = layers.iter().filter_map(|layer| i32::try_from(*layer).ok()).collect();
        if steps == 0 || points.is_empty() {
            return Err(Failure::invalid("nothing is expected: give at least one point and one decode step"));
        }
        self.change(|manifest| {
            manifest.layers = Some(layers.into_iter().collect());
            manifest.points = Some(PointSet::Both(points.to_vec()));
            manifest.steps = Some(steps);
            Ok(())
        })
    }

    /// Records a variable of the environment, if it is set.
    pub fn variable(&self, name: &str) -> Result<(), Failure> {
        let Ok(value) = std::env::var(name) else { return Ok(()) };
        self.change(|manifest| {
            manifest.env.insert(name.to_owned(), value);
            Ok(())
        })
    }

    fn change(&self, change: impl FnOnce(&mut Manifest) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.writer.is_some() {
            return Err(Failure::state("rows have been traced already; hint: describe the run before its first row"));
        }
        let mut changed = state.manifest.clone();
        change(&mut changed)?;
        state.manifest = changed;
        Ok(())
    }

    /// Whether the run promises this point of this layer.
    pub fn wants(&self, point: Point, layer: i32) -> bool {
        let state = self.lock();
        let manifest = &state.manifest;
        let points = |set: &PointSet| Phase::ALL.into_iter().any(|phase| set.of(phase).contains(&point));
        let layered = !point.layered() || manifest.layers.as_ref().is_none_or(|layers| layers.contains(&layer));
        layered && manifest.points.as_ref().is_none_or(points)
    }

    /// Takes one row.
    pub fn trace(&self, prompt: String, phase: Phase, row: RowRecord) -> Result<(), Failure> {
        let mut state = self.lock();
        state.start()?;
        let pending = state.pending.entry((prompt.clone(), phase)).or_default();
        pending.bytes += row.bytes.len();
        pending.rows.push(row);
        if pending.bytes >= PENDING_BYTES_MAX { state.write(&(prompt, phase)) } else { Ok(()) }
    }

    /// Writes all rows that are pending.
    pub fn flush(&self) -> Result<(), Failure> {
        self.lock().write_all()
    }

    /// Ends the run.
    pub fn close(self, complete: bool) -> Result<(), Failure> {
        let mut state = self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.start()?;
        state.write_all()?;
        if let Some(writer) = state.writer.take() {
            writer.finish(complete)?;
        }
        Ok(())
    }
}

impl State {
    fn start(&mut self) -> Result<(), Failure> {
        if self.writer.is_none() {
            let start = if self.overwrite { RunWriter::overwrite } else { RunWriter::create };
            self.writer = Some(start(&self.dir, self.manifest.clone())?);
        }
        Ok(())
    }

    fn write_all(&mut self) -> Result<(), Failure> {
        let keys: Vec<(String, Phase)> = self.pending.keys().cloned().collect();
        keys.iter().try_for_each(|key| self.write(key))
    }

    fn write(&mut self, key: &(String, Phase)) -> Result<(), Failure> {
        let (Some(writer), Some(pending)) = (&mut self.writer, self.pending.remove(key)) else { return Ok(()) };
        writer.begin(&key.0, key.1)?;
        for row in pending.rows {
            writer.record(row)?;
        }
        Ok(writer.flush_prompt()?)
    }
}
