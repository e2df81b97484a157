//! A run that is being written from Python, row by row.

use crate::error::{OrRaise, error};
use driftprobe_trace::{Dtype, MANIFEST_FILE, Manifest, Phase, Point, RowRecord, RunWriter, TraceError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::{Path, PathBuf};

const CLOSED: &str = "the run was closed already";

/// Writes one run. Closed without `finish`, it leaves a run that is marked incomplete.
#[pyclass(module = "driftprobe._native")]
pub struct Writer {
    inner: Option<RunWriter>,
    dir: PathBuf,
}

/// Which row of which forward pass: step, position, token, tokens in the pass, and keys that the row attends over.
type Place = (u64, u64, u32, u64, Option<u64>);

impl Writer {
    fn open(&mut self, py: Python<'_>) -> PyResult<&mut RunWriter> {
        self.inner.as_mut().ok_or_else(|| error(py, CLOSED, Some("make a new one")))
    }
}

fn manifest(text: &str, dir: &Path) -> Result<Manifest, TraceError> {
    Manifest::parse(text, &dir.join(MANIFEST_FILE))
}

#[pymethods]
impl Writer {
    /// Starts a run in `dir` with the manifest in this JSON.
    #[new]
    #[pyo3(signature = (dir, manifest_json, overwrite=false))]
    fn new(py: Python<'_>, dir: PathBuf, manifest_json: &str, overwrite: bool) -> PyResult<Writer> {
        let described = manifest(manifest_json, &dir).or_raise(py)?;
        let start = if overwrite { RunWriter::overwrite } else { RunWriter::create };
        let inner = py.detach(|| start(&dir, described)).or_raise(py)?;
        Ok(Writer { inner: Some(inner), dir })
    }

    /// Replaces the manifest that will be written at the end.
    fn describe(&mut self, py: Python<'_>, manifest_json: &str) -> PyResult<()> {
        let described = manifest(manifest_json, &self.dir).or_raise(py)?;
        *self.open(py)?.manifest_mut() = described;
        Ok(())
    }

    /// Starts a prompt's phase, `prefill` or `decode`; what is pending of another is written first.
    fn begin(&mut self, py: Python<'_>, prompt_id: &str, phase: &str) -> PyResult<()> {
        let known = Phase::ALL.into_iter().find(|known| known.id() == phase);
        let phase = known.ok_or_else(|| error(py, format!("no phase {phase}"), Some("prefill or decode")))?;
        let writer = self.open(py)?;
        py.detach(|| writer.begin(prompt_id, phase)).or_raise(py)
    }

    /// Takes one row: where it stands, and its little-endian bytes of this dtype and shape.
    #[pyo3(signature = (point, place, values, payload=true))]
    fn row(
        &mut self,
        py: Python<'_>,
        point: (String, i32),
        place: Place,
        values: (String, Vec<u64>, Bound<'_, PyBytes>),
        payload: bool,
    ) -> PyResult<()> {
        let ((point, layer), (step, pos_id, token_id, seq_len, kv_len)) = (point, place);
        let (dtype, shape, data) = values;
        let record = RowRecord {
            point: Point::parse(&point).ok_or_else(|| error(py, format!("no point {point}"), None))?,
            layer,
            step,
            pos_id,
            logical_tok_idx: pos_id,
            token_id,
            seq_len,
            kv_len,
            dtype: Dtype::parse(&dtype).ok_or_else(|| error(py, format!("no dtype {dtype}"), None))?,
            stored_dtype: None,
            shape,
            bytes: data.as_bytes().to_vec(),
            logits_top: None,
            payload,
        };
        let writer = self.open(py)?;
        py.detach(|| writer.record(record)).or_raise(py)
    }

    /// Ends the run.
    fn finish(&mut self, py: Python<'_>, complete: bool) -> PyResult<()> {
        let writer = self.inner.take().ok_or_else(|| error(py, CLOSED, None))?;
        py.detach(|| writer.finish(complete)).or_raise(py).map(|_| ())
    }
}
