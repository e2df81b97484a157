//! Writing a run. Payloads come first, then the events that point to them, and `complete: true` last, so that a run
//! that is cut short at any moment can be read and says that it was.

mod payloads;

use crate::filename::FileNames;
use crate::folder::{check_run, delete_run, holds_run, sweep, take, write_manifest};
use crate::manifest::Manifest;
use crate::run::{TENSORS_DIR, TRACES_DIR};
use crate::{Dtype, Event, HashAlgo, LogitsTop, Phase, Point, Row, Sample, TraceError};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many of a row's first values an event holds, unless asked otherwise.
pub const SAMPLE_VALUES: usize = 8;

/// A row as an engine hands it over.
#[derive(Clone, Debug)]
pub struct RowRecord {
    /// The point.
    pub point: Point,
    /// The layer; ignored for unlayered points.
    pub layer: i32,
    /// 0 in prefill; 1, 2 … in decode.
    pub step: u64,
    /// Position id fed to the rotary embedding.
    pub pos_id: u64,
    /// Index of the token in the prompt.
    pub logical_tok_idx: u64,
    /// The token fed at this row.
    pub token_id: u32,
    /// Tokens in this forward pass.
    pub seq_len: u64,
    /// Keys that this row attends over.
    pub kv_len: Option<u64>,
    /// Storage type of the row.
    pub dtype: Dtype,
    /// Type that the cache holds, if another.
    pub stored_dtype: Option<Dtype>,
    /// Shape of the row.
    pub shape: Vec<u64>,
    /// Its little-endian bytes.
    pub bytes: Vec<u8>,
    /// For logits: the two largest; computed from the row if absent.
    pub logits_top: Option<LogitsTop>,
    /// Whether the bytes are kept as a payload.
    pub payload: bool,
}

/// Rows of one prompt and phase that are not on disk yet.
struct Pending {
    prompt_id: Arc<str>,
    phase: Phase,
    rows: Vec<(Event, Option<Row>)>,
}

/// Writes one run. Holds the rows of one prompt and phase at a time.
///
/// Dropped without [`RunWriter::finish`], it leaves a readable run that is marked incomplete.
pub struct RunWriter {
    dir: PathBuf,
    manifest: Manifest,
    names: FileNames,
    traces: BTreeMap<(Arc<str>, Phase), String>,
    pending: Option<Pending>,
    /// Bytes of payloads and events so far.
    written: u64,
    limit: Option<u64>,
    compress: bool,
    /// Holds the folder against other writers.
    held: Option<File>,
}

impl RunWriter {
    /// Starts a run in `dir`, which is made if it is not there, and writes its manifest with `complete: false`.
    ///
    /// # Errors
    /// [`TraceError::RunExists`] if a run lies there; [`TraceError::InUse`] if another writer is at work there; otherwise what
    /// the system says.
    pub fn create(dir: &Path, manifest: Manifest) -> Result<RunWriter, TraceError> {
        let held = take(dir)?;
        if holds_run(dir) {
            return Err(TraceError::RunExists { path: dir.to_owned() });
        }
        RunWriter::start(dir, manifest, held)
    }

    /// As [`RunWriter::create`], but a run that lies there is deleted first: its manifest, traces, payloads,
    /// self-repeats and reports (which would speak of another run), and nothing else.
    ///
    /// # Errors
    /// [`TraceError::NotOurs`] if something lies there that no manifest says is a run; [`TraceError::InUse`] if another writer
    /// is at work there; otherwise what the system says.
    pub fn overwrite(dir: &Path, manifest: Manifest) -> Result<RunWriter, TraceError> {
        RunWriter::replace(dir, manifest, take(dir)?)
    }

    /// As [`RunWriter::overwrite`], in the folder of this name within this run's: whoever holds that one holds this one too.
    ///
    /// # Errors
    /// As [`RunWriter::overwrite`].
    pub fn inside(&self, name: &str, manifest: Manifest) -> Result<RunWriter, TraceError> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).map_err(TraceError::io("make the folder", &dir))?;
        RunWriter::replace(&dir, manifest, None)
    }

    fn replace(dir: &Path, manifest: Manifest, held: Option<File>) -> Result<RunWriter, TraceError> {
        if holds_run(dir) {
            check_run(dir)?;
            delete_run(dir)?;
        }
        RunWriter::start(dir, manifest, held)
    }

    /// Begins anew, with another manifest: what was written so far is deleted.
    ///
    /// # Errors
    /// What the system says.
    pub fn restart(&mut self, manifest: Manifest) -> Result<(), TraceError> {
        let dir = self.dir.clone();
        for own in [dir.join(TRACES_DIR), dir.join(TENSORS_DIR)] {
            fs::remove_dir_all(&own).map_err(TraceError::io("delete", &own))?;
        }
        *self = RunWriter::start(&dir, manifest, self.held.take())?;
        Ok(())
    }

    fn start(dir: &Path, mut manifest: Manifest, held: Option<File>) -> Result<RunWriter, TraceError> {
        let make = |folder: &Path| fs::create_dir_all(folder).map_err(TraceError::io("make the folder", folder));
        sweep(dir)?;
        manifest.complete = false;
        write_manifest(dir, &manifest)?;
        make(&dir.join(TRACES_DIR))?;
        make(&dir.join(TENSORS_DIR))?;
        Ok(RunWriter {
            dir: dir.to_owned(),
            manifest,
            names: FileNames::default(),
            traces: BTreeMap::new(),
            pending: None,
            written: 0,
            limit: None,
            compress: false,
            held,
        })
    }

    /// Bytes of payloads and events that may be written at most; more are refused before they are written.
    pub fn set_limit(&mut self, bytes: Option<u64>) {
        self.limit = bytes;
    }

    /// Whether files of payloads are compressed, where that pays: see `compression` in the manifest.
    pub fn set_compression(&mut self, on: bool) {
        self.compress = on;
    }

    /// Bytes of payloads and events that were written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The manifest that [`RunWriter::finish`] will write; what becomes known during the run is put in here.
    pub fn manifest_mut(&mut self) -> &mut Manifest {
        &mut self.manifest
    }

    /// Starts one prompt's phase; what is pending of another is written first.
    ///
    /// # Errors
    /// As [`RunWriter::flush_prompt`].
    pub fn begin(&mut self, prompt_id: &str, phase: Phase) -> Result<(), TraceError> {
        self.flush_prompt()?;
        self.pending = Some(Pending { prompt_id: Arc::from(prompt_id), phase, rows: Vec::new() });
        Ok(())
    }

    /// Takes one row: hashes it, takes its statistics, and keeps its bytes until the phase is written.
    ///
    /// # Errors
    /// [`TraceError::Record`] if no phase was begun, if the bytes are not of this dtype and shape, or if a layered point
    /// has a negative layer.
    pub fn record(&mut self, record: RowRecord) -> Result<(), TraceError> {
        self.record_at(record, None)
    }

    /// As [`RunWriter::record`], but the event's sample holds the values at these indices in place of the first ones.
    ///
    /// # Errors
    /// As [`RunWriter::record`]; and if an index lies outside the row.
    pub fn record_sampled(&mut self, record: RowRecord, at: &[u64]) -> Result<(), TraceError> {
        self.record_at(record, Some(at))
    }

    fn record_at(&mut self, record: RowRecord, at: Option<&[u64]>) -> Result<(), TraceError> {
        let (point, layer) = (record.point, if record.point.layered() { record.layer } else { -1 });
        let prompt_id = self.pending.as_ref().map_or_else(String::new, |p| p.prompt_id.to_string());
        let refuse = |message: String| TraceError::Record { prompt_id, point: point.id(), layer, message };
        let Some(pending) = &mut self.pending else {
            return Err(refuse("`record` before `begin`".to_owned()));
        };
        if point.layered() && layer < 0 {
            return Err(refuse("the point exists once a layer, from 0".to_owned()));
        }
        let row = match Row::new(record.dtype, record.shape, record.bytes) {
            Ok(row) => row,
            Err(e) => return Err(refuse(e.to_string())),
        };
        let event = Event {
            phase_spelling: pending.phase.spelling(record.step),
            step: Some(record.step),
            pos_id: Some(record.pos_id),
            logical_tok_idx: Some(record.logical_tok_idx),
            token_id: Some(record.token_id),
            seq_len: Some(record.seq_len),
            kv_len: record.kv_len,
            dtype: Some(record.dtype),
            stored_dtype: record.stored_dtype,
            shape: Some(row.shape.clone()),
            logits: record.logits_top,
            ..Event::at(pending.prompt_id.clone(), pending.phase, point, layer)
        };
        let mut event = described(event, &row);
        if let Some(at) = at {
            event.sample = Some(sample(&row, at).map_err(refuse)?);
        }
        pending.rows.push((event, record.payload.then_some(row)));
        Ok(())
    }

    /// Takes an event of which not everything is known (what is `None` stays so), as importers have them. `row` fills in
    /// what follows from its bytes (dtype, shape, hash, statistics, sample and top logits) and is kept as a payload; without
    /// one the event is taken as it is, but for a payload, which would be another run's.
    ///
    /// # Errors
    /// [`TraceError::Record`] if no phase was begun, if the event is of another prompt or phase than the one that was, or if
    /// a layered point has a negative layer.
    pub fn record_event(&mut self, event: Event, row: Option<Row>) -> Result<(), TraceError> {
        let (point, layer) = (event.point, event.layer);
        let refuse = |message: &str| TraceError::Record {
            prompt_id: event.prompt_id.to_string(),
            point: point.id(),
            layer,
            message: message.to_owned(),
        };
        let Some(pending) = &mut self.pending else {
            return Err(refuse("`record_event` before `begin`"));
        };
        if (&pending.prompt_id, pending.phase) != (&event.prompt_id, event.phase) {
            return Err(refuse("another prompt or phase than the one that was begun"));
        }
        if point.layered() && layer < 0 {
            return Err(refuse("the point exists once a layer, from 0"));
        }
        let event = match &row {
            Some(row) => described(event, row),
            None => Event { payload: None, ..event },
        };
        pending.rows.push((event, row));
        Ok(())
    }

    /// Writes what is pending: the payloads (a whole file, renamed into place), then the events that point to them.
    ///
    /// # Errors
    /// What the system says, with the path.
    pub fn flush_prompt(&mut self) -> Result<(), TraceError> {
        let Some(mut pending) = self.pending.take() else { return Ok(()) };
        if pending.rows.is_empty() {
            return Ok(());
        }
        self.mark_last(&mut pending);
        self.write_payloads(&mut pending)?;
        self.write_events(&pending)
    }

    /// Ends the run: writes what is pending and replaces the manifest.
    ///
    /// # Errors
    /// As [`RunWriter::flush_prompt`].
    pub fn finish(mut self, complete: bool) -> Result<Manifest, TraceError> {
        self.flush_prompt()?;
        self.manifest.complete = complete;
        write_manifest(&self.dir, &self.manifest)?;
        Ok(self.manifest)
    }

    /// Spells the events of prefill's last row `prefill_last`.
    fn mark_last(&self, pending: &mut Pending) {
        if pending.phase != Phase::Prefill {
            return;
        }
        let prompt = self.manifest.prompts.iter().flatten().find(|p| *p.id == *pending.prompt_id);
        let known = prompt.and_then(|p| (p.tokens.len() as u64).checked_sub(1));
        let last = known.or_else(|| pending.rows.iter().filter_map(|(e, _)| e.logical_tok_idx).max());
        let spelling: Arc<str> = Arc::from("prefill_last");
        for (event, _) in &mut pending.rows {
            if last.is_some() && event.logical_tok_idx == last {
                event.phase_spelling = spelling.clone();
            }
        }
    }

    fn write_events(&mut self, pending: &Pending) -> Result<(), TraceError> {
        let key = (pending.prompt_id.clone(), pending.phase);
        let name = match self.traces.get(&key) {
            Some(name) => name.clone(),
            None => {
                let suffix = match pending.phase {
                    Phase::Prefill => "_trace.jsonl",
                    Phase::Decode => "_decode_trace.jsonl",
                };
                let name = self.names.unique(&pending.prompt_id, suffix);
                self.traces.insert(key, name.clone());
                name
            }
        };
        let path = self.dir.join(TRACES_DIR).join(name);
        let mut lines = Vec::with_capacity(pending.rows.len() * 512);
        for (event, _) in &pending.rows {
            serde_json::to_writer(&mut lines, event).map_err(|e| TraceError::io("write", &path)(e.into()))?;
            lines.push(b'\n');
        }
        self.count(lines.len() as u64, &path)?;
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.write_all(&lines)?;
            file.sync_data()
        };
        write().map_err(TraceError::io("write", &path))
    }
}

/// The values at these indices.
fn sample(row: &Row, at: &[u64]) -> Result<Sample, String> {
    let all = row.to_f64();
    let value = |at: &u64| usize::try_from(*at).ok().and_then(|at| all.get(at)).copied();
    let values: Option<Vec<f64>> = at.iter().map(value).collect();
    let values = values.ok_or_else(|| format!("a sample index lies outside the row's {} values", all.len()))?;
    Ok(Sample { values, idx: Some(at.to_vec()) })
}

/// The event with what its row's bytes say of it.
fn described(event: Event, row: &Row) -> Event {
    let sample: Vec<f64> = row.values().take(SAMPLE_VALUES).collect();
    Event {
        dtype: Some(row.dtype),
        shape: Some(row.shape.clone()),
        hash: Some(row.hash(HashAlgo::Xxh3_64)),
        stats: row.stats(),
        sample: (!sample.is_empty()).then_some(Sample { values: sample, idx: None }),
        payload: None,
        logits: (event.point == Point::Logits).then(|| event.logits.unwrap_or_else(|| row.logits_top())),
        ..event
    }
}
