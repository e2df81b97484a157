//! Judging a run: the same as `driftprobe analyze`, without its files.

use crate::error::{OrRaise, error};
use driftprobe::report;
use driftprobe_cli::Failure;
use driftprobe_trace::Contract;
use pyo3::prelude::*;
use std::path::PathBuf;

/// Judges the run at `run` and returns drift.json, drift.md, drift.tsv and drift.html as texts. `contract` is a preset's name, a file, or
/// (beginning with a brace) JSON.
#[pyfunction]
#[pyo3(signature = (run, model=None, contract=None, simulate=None))]
pub fn analyze(
    py: Python<'_>,
    run: PathBuf,
    model: Option<PathBuf>,
    contract: Option<&str>,
    simulate: Option<f64>,
) -> PyResult<(String, String, String, String)> {
    let contract = contract.map(|contract| parse(py, contract)).transpose()?;
    let analysis = py.detach(|| {
        let analysis = driftprobe_cli::judge_lying(&run, model.as_deref(), contract.as_ref(), simulate)?;
        let [json, markdown, tsv, html] =
            [report::to_json, report::to_markdown, report::to_tsv, report::to_html].map(|render| render(&analysis));
        Ok::<_, Failure>((json, markdown, tsv, html))
    });
    analysis.or_raise(py)
}

fn parse(py: Python<'_>, contract: &str) -> PyResult<Contract> {
    if !contract.trim_start().starts_with('{') {
        return driftprobe_cli::contract(contract).or_raise(py);
    }
    let hint = "the fields are those of manifest.contract in docs/trace-format.md";
    serde_json::from_str(contract).map_err(|e| error(py, format!("not a contract: {e}"), Some(hint)))
}
