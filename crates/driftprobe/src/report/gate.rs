//! A gate's outcome for people and for programs: text, Markdown, TSV, JSON; JUnit and GitHub are [`super::ci`]'s.

mod cases;
mod json;
mod markdown;
mod text;

pub use cases::cases;
pub(super) use json::noise;
pub use json::{SCHEMA, to_json};
pub use markdown::to_markdown;
pub use text::to_terminal;

use super::escape::tsv;
use super::format::{brief, near_one, recorded};
use crate::gate::decide::deciding_for;
use crate::gate::matrix::Cell;
use crate::gate::{CheckResult, Deciding, Gate, Measure, Noise, PresetResult, Subject};
use driftprobe_trace::Mode;

/// One line of the table: one condition of one gate on one mode of one run, or one cell of the matrix.
#[derive(Clone, Debug, Default)]
struct Line {
    run: String,
    mode: &'static str,
    gate: &'static str,
    decides: bool,
    verdict: String,
    measure: &'static str,
    value: String,
    limit: String,
    compared: String,
    failed: String,
    at: String,
    details: String,
}

/// The columns of the TSV.
pub const COLUMNS: [&str; 12] = [
    "RUN", "MODE", "GATE", "DECIDES", "VERDICT", "MEASURE", "VALUE", "LIMIT", "COMPARED", "FAILED", "WORST_AT",
    "DETAILS",
];

/// The table, with a header and a line feed after every line.
pub fn to_tsv(gate: &Gate) -> String {
    let mut out = COLUMNS.join("\t") + "\n";
    for line in lines(gate) {
        let decides = if line.decides { "yes" } else { "no" };
        let cells = [
            &line.run,
            line.mode,
            line.gate,
            decides,
            &line.verdict,
            line.measure,
            &line.value,
            &line.limit,
            &line.compared,
            &line.failed,
            &line.at,
            &line.details,
        ];
        let cells: Vec<String> =
            cells.iter().map(|cell| if cell.is_empty() || *cell == "-" { "-".to_owned() } else { tsv(cell) }).collect();
        out.push_str(&cells.join("\t"));
        out.push('\n');
    }
    out
}

fn mode_id(mode: Option<Mode>) -> &'static str {
    mode.map_or("", Mode::id)
}

/// What is said of a preset: the guardrail's own name, or the verdict; and llama.cpp's band.
fn said(result: &PresetResult) -> String {
    let name = result.guardrail.map_or(result.verdict.id(), |name| name.id());
    result.band.map_or_else(|| name.to_owned(), |band| format!("{name} (band {band})"))
}

fn value(check: &CheckResult) -> String {
    match (check.value, check.measure) {
        (None, _) => "-".to_owned(),
        (Some(value), _) if value.is_nan() => "NaN".to_owned(),
        (Some(value), Measure::Differing) => value.to_string(),
        (Some(value), Measure::Cosine | Measure::SpanCosine) => near_one(value),
        (Some(value), Measure::Top1 | Measure::SpanTop1) => format!("{value:.4}"),
        (Some(value), _) => brief(value),
    }
}

fn limit(check: &CheckResult) -> String {
    format!("{} {}", check.limit.sign(), recorded(check.limit.bound()))
}

/// Where a value is worst; nowhere if nothing is lacking.
fn at(check: &CheckResult) -> Option<&str> {
    let perfect = matches!(check.measure, Measure::Top1 | Measure::SpanTop1) && check.value == Some(1.0);
    check.at.as_deref().filter(|_| !perfect && check.value != Some(0.0))
}

/// The noise model's verdict with what kind of PASS, or the cause.
fn noise_said(subject: &Subject) -> String {
    subject.noise.as_ref().map_or_else(|| "not judged: logits alone have no stages".to_owned(), Noise::said)
}

fn noise_details(subject: &Subject) -> String {
    subject.noise.as_ref().map_or_else(String::new, Noise::details)
}

fn lines(gate: &Gate) -> Vec<Line> {
    let mut lines = Vec::new();
    for subject in &gate.subjects {
        let deciding = deciding_for(subject, &gate.deciding);
        let run = || subject.name.clone();
        if subject.noise.is_some() {
            lines.push(Line {
                run: run(),
                gate: "noise",
                decides: deciding.contains(&Deciding::Noise),
                verdict: noise_said(subject),
                details: noise_details(subject),
                ..Line::default()
            });
        }
        for mode in &subject.modes {
            for result in &mode.presets {
                let of_check = |check: &CheckResult| Line {
                    run: run(),
                    mode: mode_id(mode.mode),
                    gate: result.preset.id,
                    decides: result.counts && deciding.contains(&Deciding::Presets),
                    verdict: said(result),
                    measure: check.measure.id(),
                    value: value(check),
                    limit: limit(check),
                    compared: check.compared.to_string(),
                    failed: check.failed.to_string(),
                    at: at(check).unwrap_or_default().to_owned(),
                    details: result.reasons.join("; "),
                };
                lines.extend(result.checks.iter().map(of_check));
            }
        }
        if let Some(baseline) = &subject.baseline {
            let line = |at: &str, details: String| Line {
                run: run(),
                gate: "baseline",
                decides: deciding.contains(&Deciding::Baseline),
                verdict: baseline.verdict.id().to_owned(),
                compared: baseline.stages.to_string(),
                failed: baseline.worse.len().to_string(),
                at: at.to_owned(),
                details,
                ..Line::default()
            };
            match baseline.worse.as_slice() {
                [] => lines.push(line("", baseline.reasons.join("; "))),
                worse => lines.extend(worse.iter().map(|worse| line(&worse.place, worse.what.clone()))),
            }
        }
    }
    for cell in gate.matrix.iter().flat_map(|matrix| &matrix.cells) {
        lines.push(Line {
            run: cell.runs.join(", "),
            gate: "matrix",
            decides: true,
            verdict: cell_said(cell).to_owned(),
            at: cell.axes.to_string(),
            details: cell_details(cell),
            ..Line::default()
        });
    }
    for (run, axes) in gate.matrix.iter().flat_map(|matrix| &matrix.extra) {
        lines.push(Line {
            run: run.clone(),
            gate: "matrix",
            verdict: "EXTRA".to_owned(),
            at: axes.to_string(),
            details: "in no cell of the matrix".to_owned(),
            ..Line::default()
        });
    }
    lines
}

/// Whether a cell is there, and once.
fn cell_said(cell: &Cell) -> &'static str {
    match cell.runs.len() {
        0 => "MISSING",
        1 => "FILLED",
        _ => "DOUBLE",
    }
}

/// `noise PASS, sglang FAIL`.
fn cell_details(cell: &Cell) -> String {
    let noise = cell.noise.map(|verdict| format!("noise {}", verdict.id()));
    let presets =
        cell.presets.iter().map(|(id, verdict, name)| format!("{id} {}", name.map_or(verdict.id(), |name| name.id())));
    noise.into_iter().chain(presets).collect::<Vec<_>>().join(", ")
}
