//! Writing a run. Payloads come first, then the events that point to them, and `complete: true` last, so that a run
//! that is cut short at any moment can be read and says that it was.

use crate::filename::FileNames;
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::run::{ALIGNED_DIR, SEARCH_PREFIX, TENSORS_DIR, TRACES_DIR, repeat_number};
use crate::tensors::{self, Tensor};
use crate::{Dtype, Event, HashAlgo, LogitsTop, PayloadRef, Phase, Point, Row, RowStats, Sample, Source, TraceError};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many of a row's first values an event holds, unless asked otherwise.
pub const SAMPLE_VALUES: usize = 8;

/// What `analyze` writes into `report/`.
const REPORT_FILES: [&str; 5] = ["drift.md", "drift.tsv", "drift.json", "drift.html", "junit.xml"];

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
    sample_values: usize,
    names: FileNames,
    traces: BTreeMap<(Arc<str>, Phase), String>,
    pending: Option<Pending>,
}

impl RunWriter {
    /// Starts a run in `dir`, which is made if it is not there, and writes its manifest with `complete: false`.
    ///
    /// # Errors
    /// [`TraceError::RunExists`] if a run lies there; otherwise what the system says.
    pub fn create(dir: &Path, manifest: Manifest) -> Result<RunWriter, TraceError> {
        if holds_run(dir) {
            return Err(TraceError::RunExists { path: dir.to_owned() });
        }
        RunWriter::start(dir, manifest)
    }

    /// As [`RunWriter::create`], but a run that lies there is deleted first: its manifest, traces, payloads,
    /// self-repeats and reports (which would speak of another run), and nothing else.
    ///
    /// # Errors
    /// [`TraceError::NotOurs`] if something lies there that no manifest says is a run; otherwise what the system says.
    pub fn overwrite(dir: &Path, manifest: Manifest) -> Result<RunWriter, TraceError> {
        if holds_run(dir) {
            let path = dir.join(MANIFEST_FILE);
            let is_run = fs::read_to_string(&path).is_ok_and(|text| Manifest::parse(&text, &path).is_ok());
            if !is_run {
                return Err(TraceError::NotOurs { path: dir.to_owned() });
            }
            delete_run(dir)?;
        }
        RunWriter::start(dir, manifest)
    }

    fn start(dir: &Path, mut manifest: Manifest) -> Result<RunWriter, TraceError> {
        let make = |folder: &Path| fs::create_dir_all(folder).map_err(io_error("make the folder", folder));
        make(dir)?;
        manifest.complete = false;
        write_manifest(dir, &manifest)?;
        make(&dir.join(TRACES_DIR))?;
        make(&dir.join(TENSORS_DIR))?;
        Ok(RunWriter {
            dir: dir.to_owned(),
            manifest,
            sample_values: SAMPLE_VALUES,
            names: FileNames::default(),
            traces: BTreeMap::new(),
            pending: None,
        })
    }

    /// How many of a row's first values its event holds.
    pub fn set_sample_values(&mut self, count: usize) {
        self.sample_values = count;
    }

    /// The manifest as it stands.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
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
        let spelling = match pending.phase {
            Phase::Prefill => Arc::from("prefill"),
            Phase::Decode => Arc::from(format!("decode{}", record.step.saturating_sub(1))),
        };
        let event = Event {
            prompt_id: pending.prompt_id.clone(),
            phase: pending.phase,
            phase_spelling: spelling,
            point,
            point_spelling: Arc::from(point.id()),
            layer,
            step: Some(record.step),
            pos_id: Some(record.pos_id),
            logical_tok_idx: Some(record.logical_tok_idx),
            token_id: Some(record.token_id),
            seq_len: Some(record.seq_len),
            kv_len: record.kv_len,
            dtype: Some(record.dtype),
            stored_dtype: record.stored_dtype,
            shape: Some(row.shape.clone()),
            hash: None,
            stats: RowStats::default(),
            sample: None,
            payload: None,
            logits: record.logits_top,
            source: Source { file: Arc::from(""), line: 0 },
        };
        let (event, row) = (described(event, &row, self.sample_values), record.payload.then_some(row));
        pending.rows.push((event, row));
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
            Some(row) => described(event, row, self.sample_values),
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

    fn write_payloads(&mut self, pending: &mut Pending) -> Result<(), TraceError> {
        if pending.rows.iter().all(|(_, row)| row.is_none()) {
            return Ok(());
        }
        let stem = self.names.unique(&pending.prompt_id, &format!(".{}.safetensors", pending.phase));
        let file: Arc<str> = Arc::from(format!("{TENSORS_DIR}/{stem}"));
        let mut keys = FileNames::default();
        for (event, row) in &mut pending.rows {
            if row.is_some() {
                let row_index = event.logical_tok_idx.unwrap_or_default();
                let key = keys.unique_key(format!("{}.{}.{row_index}", event.point, event.layer));
                event.payload = Some(PayloadRef { file: file.clone(), key: Arc::from(key) });
            }
        }
        let list: Vec<Tensor<'_>> = pending
            .rows
            .iter()
            .filter_map(|(event, row)| Some(Tensor { key: event.payload.as_ref()?.key.clone(), row: row.as_ref()? }))
            .collect();
        let path = self.dir.join(&*file);
        tensors::write(&path, &list).map_err(io_error("write", &path))
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
            serde_json::to_writer(&mut lines, event).map_err(|e| io_error("write", &path)(e.into()))?;
            lines.push(b'\n');
        }
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.write_all(&lines)?;
            file.sync_data()
        };
        write().map_err(io_error("write", &path))
    }
}

/// The event with what its row's bytes say of it.
fn described(event: Event, row: &Row, sample_values: usize) -> Event {
    let sample: Vec<f64> = row.values().take(sample_values).collect();
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

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TraceError {
    let path = path.to_owned();
    move |source| TraceError::Io { action, path, source }
}

fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<(), TraceError> {
    let path = dir.join(MANIFEST_FILE);
    let write = || -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(manifest)?;
        text.push(b'\n');
        replace(&path, |file| file.write_all(&text))
    };
    write().map_err(io_error("write", &path))
}

/// Writes a whole file and renames it into place; nobody ever sees a part of it.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let result = File::create(&part).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    match result.and_then(|()| fs::rename(&part, path)) {
        Ok(()) => Ok(()),
        Err(e) => {
            // The part is of no use to anyone; that it cannot be deleted either adds nothing to the first error.
            let _ = fs::remove_file(&part);
            Err(e)
        }
    }
}

fn holds_run(dir: &Path) -> bool {
    let has_entries = |folder: &str| fs::read_dir(dir.join(folder)).is_ok_and(|mut entries| entries.next().is_some());
    dir.join(MANIFEST_FILE).exists() || has_entries(TRACES_DIR) || has_entries(TENSORS_DIR)
}

fn delete_run(dir: &Path) -> Result<(), TraceError> {
    let reports = REPORT_FILES.iter().map(|name| dir.join("report").join(name));
    for file in reports.chain([dir.join(MANIFEST_FILE)]).filter(|f| f.exists()) {
        fs::remove_file(&file).map_err(io_error("delete", &file))?;
    }
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let of_run = name == TRACES_DIR || name == TENSORS_DIR || repeat_number(name).is_some();
        let inner = (name == ALIGNED_DIR || name.starts_with(SEARCH_PREFIX)) && holds_run(&path);
        if (of_run || inner) && path.is_dir() {
            fs::remove_dir_all(&path).map_err(io_error("delete", &path))?;
        }
    }
    Ok(())
}
