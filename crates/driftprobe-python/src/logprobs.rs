//! Judging two files of log-probabilities: the same as `driftprobe logprobs`.

use crate::error::OrRaise;
use driftprobe::logprobs::{Limits, Measure, shows};
use driftprobe::report::logprobs::{to_json, to_markdown, to_tsv};
use driftprobe_cli::{Failure, Known};
use pyo3::prelude::*;
use std::path::PathBuf;

/// Limits: mean of |Δ|, ratio, mean of k3, and presets.
type Given = (Option<f64>, Option<f64>, Option<f64>, Vec<String>);

/// The engine in a line, how its tokens were chosen, and which tokens were traced in which runs.
type Told = (Option<String>, Option<String>, Vec<(String, u64, PathBuf)>);

/// Judges prefill's and decode's file and returns logprobs.json, logprobs.md and logprobs.tsv as texts; writes them and the
/// picture into `report`, if that is given.
#[pyfunction]
#[pyo3(signature = (prefill, decode, limits, known, report=None))]
pub fn logprobs(
    py: Python<'_>,
    prefill: PathBuf,
    decode: PathBuf,
    limits: Given,
    known: Told,
    report: Option<PathBuf>,
) -> PyResult<(String, String, String)> {
    let (mean_abs, ratio, k3, presets) = limits;
    let limits = Limits::default()
        .with(Measure::MeanAbs, mean_abs, "max_mean_abs")
        .with(Measure::Ratio, ratio, "max_ratio")
        .with(Measure::K3, k3, "max_k3");
    let limits = presets.iter().fold(limits, |limits, preset| limits.with_preset(preset));
    let (engine, sampling, traced) = known;
    let texts = py.detach(|| {
        let judged = driftprobe_cli::judge_files(&prefill, &decode, &limits, Known { engine, sampling, traced })?;
        if let Some(report) = report {
            driftprobe_cli::write_logprobs(&judged, &report)?;
        }
        Ok::<_, Failure>((to_json(&judged), to_markdown(&judged), to_tsv(&judged)))
    });
    texts.or_raise(py)
}

/// Whether the run in this folder shows the Δ of a token that was measured.
#[pyfunction]
pub fn shows_delta(py: Python<'_>, run: PathBuf, token_id: u32, measured: f64) -> PyResult<bool> {
    let found = py.detach(|| driftprobe_cli::run_delta(&run, token_id)).or_raise(py)?;
    Ok(shows(found, measured))
}
