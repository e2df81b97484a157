//! Failures as Python meets them: `driftprobe.Error` with a hint.

use driftprobe_cli::Failure;
use driftprobe_model::ModelError;
use driftprobe_trace::TraceError;
use pyo3::prelude::*;
use std::fmt::Display;

/// `driftprobe.Error(what, hint)`.
pub fn error(py: Python<'_>, what: impl Display, hint: Option<&str>) -> PyErr {
    let made = py
        .import("driftprobe.errors")
        .and_then(|module| module.getattr("Error"))
        .and_then(|class| class.call1((what.to_string(), hint)));
    match made {
        Ok(value) => PyErr::from_value(value),
        Err(e) => e,
    }
}

/// What the crates say, as `driftprobe.Error`.
pub trait OrRaise<T> {
    /// The value, or the error that Python is to see.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, Failure> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|e| error(py, e.what(), e.hint()))
    }
}

impl<T> OrRaise<T> for Result<T, TraceError> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|e| error(py, &e, Some(e.hint())))
    }
}

impl<T> OrRaise<T> for Result<T, ModelError> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|e| error(py, &e, e.hint().as_deref()))
    }
}
