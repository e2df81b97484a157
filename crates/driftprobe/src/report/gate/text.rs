//! A gate on the terminal, in at most 80 columns.

use super::{at, cell_details, cell_said, limit, mode_id, noise_details, noise_said, said, value};
use crate::gate::decide::deciding_for;
use crate::gate::matrix;
use crate::gate::{CheckResult, Deciding, Gate, PresetResult, Subject};
use crate::report::terminal::{Span, Style, Styled};
use crate::verdict::Verdict;

/// Cells, or causes, that are listed; more are counted.
const LISTED_MAX: usize = 40;

/// The summary of a gate.
pub fn to_terminal(gate: &Gate) -> Styled {
    let mut out = Styled::default();
    let by: Vec<&str> = gate.decided_by().iter().map(|one| one.id()).collect();
    out.line(Style::of(gate.verdict), format!("{} (decided by: {})", gate.verdict.id(), by.join(", ")));
    for why in &gate.why {
        out.wrapped("  ", Style::Plain, why);
    }
    if let Some(overall) = gate.guardrail {
        out.wrapped("  guardrail: ", Style::Plain, overall.id());
    }
    for subject in &gate.subjects {
        out.blank();
        of_run(&mut out, subject, &gate.deciding);
    }
    if let Some(matrix) = &gate.matrix {
        out.blank();
        of_matrix(&mut out, matrix);
    }
    out
}

fn heading(out: &mut Styled, name: &str, verdict: Verdict, said: &str, decides: bool) {
    let role = if decides { "decides" } else { "beside" };
    out.lines.push(vec![
        Span::new(Style::Plain, format!("  {name:<20} ")),
        Span::new(Style::of(verdict), said),
        Span::new(Style::Dim, format!("  {role}")),
    ]);
}

fn of_run(out: &mut Styled, subject: &Subject, deciding: &[Deciding]) {
    let deciding = deciding_for(subject, deciding);
    out.wrapped("", Style::Strong, &subject.name);
    match &subject.noise {
        Some(noise) => {
            heading(out, "noise", noise.verdict, &noise_said(subject), deciding.contains(&Deciding::Noise));
            let details = noise_details(subject);
            if !details.is_empty() {
                out.wrapped("    ", Style::Plain, &details);
            }
        }
        None => out.wrapped("  noise: ", Style::Dim, &noise_said(subject)),
    }
    for mode in &subject.modes {
        for result in &mode.presets {
            of_preset(out, (mode_id(mode.mode), result), result.counts && deciding.contains(&Deciding::Presets));
        }
    }
    if let Some(baseline) = &subject.baseline {
        let decides = deciding.contains(&Deciding::Baseline);
        heading(out, "baseline", baseline.verdict, baseline.verdict.id(), decides);
        let text = format!("{} stages compared, {} tests for a rise", baseline.stages, baseline.tests);
        out.wrapped("    ", Style::Dim, &text);
        for worse in baseline.worse.iter().take(LISTED_MAX) {
            out.wrapped("    worse: ", Style::Plain, &format!("{}: {}", worse.place, worse.what));
        }
        more(out, baseline.worse.len());
        for reason in &baseline.reasons {
            out.wrapped("    ", Style::Plain, reason);
        }
    }
}

fn more(out: &mut Styled, count: usize) {
    if count > LISTED_MAX {
        out.line(Style::Dim, format!("    {} more", count - LISTED_MAX));
    }
}

fn of_preset(out: &mut Styled, (mode, result): (&str, &PresetResult), decides: bool) {
    heading(out, result.preset.id, result.verdict, &said(result), decides);
    let mode = if mode.is_empty() { String::new() } else { format!("{mode}: ") };
    for check in result.checks.iter().filter(|check| check.value.is_some()) {
        out.wrapped(&format!("    {mode}"), Style::Plain, &of_check(check));
    }
    for reason in &result.reasons {
        out.wrapped(&format!("    {mode}"), Style::Plain, reason);
    }
}

fn of_check(check: &CheckResult) -> String {
    let at = at(check).map_or_else(String::new, |at| format!(", worst at {at}"));
    let failed =
        if check.failed > 0 { format!(", {} of {} fail", check.failed, check.compared) } else { String::new() };
    format!("{} {}, limit {}{failed}{at}", check.measure.id(), value(check), limit(check))
}

fn of_matrix(out: &mut Styled, matrix: &matrix::Outcome) {
    let missing = matrix.missing().count();
    let state = if matrix.is_complete() { "complete" } else { "INCOMPLETE" };
    let text =
        format!("Matrix: {state}, {} cells, {missing} missing, {} extra", matrix.cells.len(), matrix.extra.len());
    out.line(Style::Strong, text);
    // What is missing comes first, so that it is seen however many cells there are.
    let filled = matrix.cells.iter().filter(|cell| !cell.runs.is_empty());
    for cell in matrix.missing().chain(filled).take(LISTED_MAX) {
        let style = if cell.runs.is_empty() { Style::Warn } else { Style::Plain };
        let details = cell_details(cell);
        let runs = if cell.runs.len() > 1 { format!(" by {}", cell.runs.join(", ")) } else { String::new() };
        let rest = if details.is_empty() { String::new() } else { format!(": {details}") };
        out.wrapped(&format!("  {:<8} ", cell_said(cell)), style, &format!("{}{runs}{rest}", cell.axes));
    }
    more(out, matrix.cells.len());
    for (run, axes) in matrix.extra.iter().take(LISTED_MAX) {
        out.wrapped("  EXTRA    ", Style::Dim, &format!("{run}: {axes}"));
    }
    more(out, matrix.extra.len());
}
