//! A gate as Markdown: for a step summary, or a pull request.

use super::{Line, cell_details, cell_said, lines};
use crate::gate::{Deciding, Gate};
use crate::report::escape::{markdown, markdown_sentence};
use std::fmt::Write as _;

/// The gate's outcome, its table, and the matrix.
pub fn to_markdown(gate: &Gate) -> String {
    let by: Vec<&str> = gate.decided_by().iter().map(|one| one.id()).collect();
    let mut out = format!("# Gate: {}\n\nDecided by: {}.\n", gate.verdict.id(), by.join(", "));
    if let Some(overall) = gate.guardrail {
        let _ = writeln!(out, "\nGuardrail: `{}`.", overall.id());
    }
    out.push('\n');
    for why in &gate.why {
        let _ = writeln!(out, "- {}", markdown_sentence(why));
    }
    let lines = lines(gate);
    let gates: Vec<&Line> = lines.iter().filter(|line| line.gate != "matrix").collect();
    if !gates.is_empty() {
        out.push_str("\n| run | mode | gate | decides | verdict | measured | limit | failed | worst at |\n");
        out.push_str("|---|---|---|---|---|---|---|---|---|\n");
    }
    for line in &gates {
        let decides = if line.decides { "yes" } else { "" };
        let measured = format!("{} {}", line.measure, line.value);
        let failed =
            if line.compared.is_empty() { String::new() } else { format!("{} of {}", line.failed, line.compared) };
        let cells =
            [&line.run, line.mode, line.gate, decides, &line.verdict, measured.trim(), &line.limit, &failed, &line.at];
        let cells: Vec<String> = cells.iter().map(|cell| markdown(cell)).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    details(&mut out, &gates);
    matrix(&mut out, gate);
    if !gate.decided_by().contains(&Deciding::Presets)
        && gates.iter().any(|line| !line.measure.is_empty() && !line.decides)
    {
        out.push_str("\nPresets stand beside the noise model and do not decide; `--decide preset` lets them.\n");
    }
    out
}

/// Why gates are not better, each reason once.
fn details(out: &mut String, gates: &[&Line]) {
    let mut told: Vec<(&str, &str, &str)> = Vec::new();
    for line in gates.iter().filter(|line| !line.details.is_empty()) {
        let one = (line.run.as_str(), line.gate, line.details.as_str());
        if !told.contains(&one) {
            told.push(one);
        }
    }
    if !told.is_empty() {
        out.push('\n');
    }
    for (run, gate, details) in told {
        let _ = writeln!(out, "- {} · {gate}: {}", markdown(run), markdown_sentence(details));
    }
}

fn matrix(out: &mut String, gate: &Gate) {
    let Some(matrix) = &gate.matrix else { return };
    let state = if matrix.is_complete() { "complete" } else { "INCOMPLETE" };
    let missing = matrix.missing().count();
    let _ = writeln!(out, "\n## Matrix: {state}\n\n{} cells, {missing} missing.\n", matrix.cells.len());
    out.push_str("| cell | status | runs | verdicts |\n|---|---|---|---|\n");
    for cell in &matrix.cells {
        let cells = [cell.axes.to_string(), cell_said(cell).to_owned(), cell.runs.join(", "), cell_details(cell)];
        let cells: Vec<String> = cells.iter().map(|cell| markdown(cell)).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    for (run, axes) in &matrix.extra {
        let _ = writeln!(out, "| {} | EXTRA | {} | |", markdown(&axes.to_string()), markdown(run));
    }
}
