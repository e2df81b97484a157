//! What the crates know of a model, a machine and the points, as JSON for the Python side.

use crate::error::OrRaise;
use driftprobe_model::{Model, ModelError};
use driftprobe_trace::Point;
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The model at `path` as `manifest.model` has it: path, format, architecture and fingerprint of its weights.
#[pyfunction]
pub fn describe_model(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    let described = py.detach(|| {
        let model = Model::open(&path)?;
        let described = serde_json::to_value(driftprobe_cli::model_info(&path, &model)).unwrap_or(Value::Null);
        Ok::<_, ModelError>(described.to_string())
    });
    described.or_raise(py)
}

/// `manifest.host` and `manifest.env` of this machine and process.
#[pyfunction]
pub fn describe_machine() -> String {
    let host = serde_json::to_value(driftprobe_cli::host()).unwrap_or(Value::Null);
    json!({"host": host, "env": driftprobe_cli::variables()}).to_string()
}

/// Every point in the order of the computation, and whether it exists once a layer.
#[pyfunction]
pub fn points() -> Vec<(&'static str, bool)> {
    Point::ALL.iter().map(|point| (point.id(), point.layered())).collect()
}
