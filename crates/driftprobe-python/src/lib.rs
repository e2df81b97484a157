//! The native half of the Python package: writing runs, judging them, and the command line.

mod error;
mod judge;
mod logprobs;
mod model;
mod writer;

use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs the command line `driftprobe ARGS` and returns its exit status.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
    let words = std::iter::once(OsString::from("driftprobe")).chain(args);
    // An interpreter is no binary that could be copied to another machine.
    py.detach(|| driftprobe_cli::main_with(words, None))
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<writer::Writer>()?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(judge::analyze, module)?)?;
    module.add_function(wrap_pyfunction!(logprobs::logprobs, module)?)?;
    module.add_function(wrap_pyfunction!(logprobs::shows_delta, module)?)?;
    module.add_function(wrap_pyfunction!(model::describe_model, module)?)?;
    module.add_function(wrap_pyfunction!(model::describe_machine, module)?)?;
    module.add_function(wrap_pyfunction!(model::points, module)?)?;
    Ok(())
}
