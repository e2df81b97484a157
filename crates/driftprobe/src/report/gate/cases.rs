//! A gate as cases of a test report.

use super::{at, cell_details, cell_said, limit, mode_id, noise_details, noise_said, said, value};
use crate::gate::decide::deciding_for;
use crate::gate::matrix::Cell;
use crate::gate::{CheckResult, Deciding, Gate, GuardrailVerdict, PresetResult, Subject};
use crate::report::ci::{Case, Outcome, Suite};
use crate::verdict::Verdict;

/// A suite a run, and one for the matrix. What does not decide and does not pass is skipped, not failed, and says so.
pub fn cases(gate: &Gate) -> Vec<Suite> {
    let mut suites: Vec<Suite> = gate.subjects.iter().map(|subject| of_run(subject, &gate.deciding)).collect();
    if let Some(matrix) = &gate.matrix {
        let case = |cell: &Cell| Case {
            class: "matrix".to_owned(),
            name: cell.axes.to_string(),
            outcome: match cell_said(cell) {
                "MISSING" => Outcome::Error { kind: "INCOMPLETE", message: "no run fills this cell".to_owned() },
                _ => outcome(of_cell(cell, &gate.deciding), true, cell_details(cell)),
            },
            details: String::new(),
        };
        suites.push(Suite { name: "matrix".to_owned(), cases: matrix.cells.iter().map(case).collect() });
    }
    if gate.subjects.is_empty() {
        let outcome = Outcome::Error { kind: "INCONCLUSIVE", message: "there is no run".to_owned() };
        let case = Case { class: "gate".to_owned(), name: "runs".to_owned(), outcome, details: String::new() };
        suites.push(Suite { name: "gate".to_owned(), cases: vec![case] });
    }
    suites
}

/// The worst of what decides and is there; the baseline is not one of cells.
fn of_cell(cell: &Cell, deciding: &[Deciding]) -> Verdict {
    let noise = cell.noise.filter(|_| deciding.contains(&Deciding::Noise));
    let by_presets = deciding.contains(&Deciding::Presets) || cell.noise.is_none();
    let drift = |name: Option<GuardrailVerdict>| name == Some(GuardrailVerdict::ExpectedDrift);
    let presets =
        cell.presets.iter().filter(|(_, _, name)| by_presets && !drift(*name)).map(|(_, verdict, _)| *verdict);
    match (noise, presets.clone().next()) {
        // Nothing decides here.
        (None, None) => Verdict::Pass,
        _ => Verdict::worst(noise.into_iter().chain(presets)),
    }
}

fn outcome(verdict: Verdict, decides: bool, message: String) -> Outcome {
    match (verdict, decides) {
        (Verdict::Pass, _) => Outcome::Passed,
        (_, false) => Outcome::Skipped { message: format!("{} beside, does not decide: {message}", verdict.id()) },
        (Verdict::Fail, true) => Outcome::Failed { kind: "FAIL", message },
        (Verdict::Inconclusive, true) => Outcome::Error { kind: "INCONCLUSIVE", message },
    }
}

fn of_run(subject: &Subject, deciding: &[Deciding]) -> Suite {
    let deciding = deciding_for(subject, deciding);
    let mut cases = Vec::new();
    if let Some(noise) = &subject.noise {
        let message = format!("{} {}", noise_said(subject), noise_details(subject));
        cases.push(Case {
            class: "noise".to_owned(),
            name: "noise".to_owned(),
            outcome: outcome(noise.verdict, deciding.contains(&Deciding::Noise), message.trim_end().to_owned()),
            details: noise.why.clone(),
        });
    }
    for mode in &subject.modes {
        for result in &mode.presets {
            let decides = result.counts && deciding.contains(&Deciding::Presets);
            let class = ["preset", mode_id(mode.mode)].into_iter().filter(|part| !part.is_empty());
            cases.push(Case {
                class: class.collect::<Vec<_>>().join("."),
                name: result.preset.id.to_owned(),
                // Drift that the guardrail expects is as it should be.
                outcome: match result.counts {
                    true => outcome(result.verdict, decides, in_words(result)),
                    false => Outcome::Passed,
                },
                details: format!("{}: {}", said(result), result.preset.formula),
            });
        }
    }
    if let Some(baseline) = &subject.baseline {
        let worse = baseline.worse.iter().map(|worse| format!("{}: {}", worse.place, worse.what));
        let told: Vec<String> = worse.chain(baseline.reasons.iter().cloned()).collect();
        cases.push(Case {
            class: "baseline".to_owned(),
            name: "no worse than the baseline".to_owned(),
            outcome: outcome(baseline.verdict, deciding.contains(&Deciding::Baseline), told.join("\n")),
            details: format!("{} stages, {} tests", baseline.stages, baseline.tests),
        });
    }
    Suite { name: subject.name.clone(), cases }
}

/// What failed, or why nothing can be said.
fn in_words(result: &PresetResult) -> String {
    let check = |check: &CheckResult| {
        let at = at(check).map_or_else(String::new, |at| format!(" at {at}"));
        format!("{} {}, limit {}{at}", check.measure.id(), value(check), limit(check))
    };
    let failed = result.checks.iter().filter(|one| one.failed > 0).map(check);
    failed.chain(result.reasons.iter().cloned()).collect::<Vec<_>>().join("; ")
}
