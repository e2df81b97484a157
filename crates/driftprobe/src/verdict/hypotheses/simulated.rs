//! What simulations from the tokens say: of stretches that were not recorded, of cached rows, and of the whole.

use super::measured::{NO_MODEL, row};
use super::{Evidence, Supports, modes};
use crate::analysis::Analysis;
use crate::report::format::{brief, p_value};
use crate::simulate::Study;
use crate::verdict::grounds::P_VALUE_MIN;

/// Of stretches and cached rows where there are any, and of the whole.
pub(super) fn evidence(analysis: &Analysis) -> Vec<Evidence> {
    let gaps = against(analysis, "Stretches that were not recorded, replayed through the model", &|study| {
        study.gaps.iter().map(|gap| (gap.flagged, gap.ratio)).collect()
    });
    let slots = against(analysis, "Cached rows, against the prompt's tokens", &|study| {
        study.tokens.iter().filter(|one| one.slot.is_some()).map(|one| (one.flagged, one.distance_ratio)).collect()
    });
    gaps.into_iter().chain(slots).chain([end_to_end(analysis)]).collect()
}

/// Rows by whether rounding explains them, and their distance in units of the draws'.
fn against(analysis: &Analysis, what: &'static str, of: &dyn Fn(&Study) -> Vec<(bool, f64)>) -> Option<Evidence> {
    let (mut parts, mut flagged) = (vec![], 0);
    for (mode, one) in modes(analysis) {
        let all = one.examination.as_ref().map(|e| of(&e.study)).unwrap_or_default();
        if all.is_empty() {
            continue;
        }
        let off = all.iter().filter(|(flagged, _)| *flagged).count();
        flagged += off;
        // NaN counts as larger than anything.
        let larger = |a: f64, b: f64| if b <= a { a } else { b };
        let largest = all.iter().map(|(_, ratio)| *ratio).fold(0.0, larger);
        let clean = all.len() - off;
        parts.push(format!("{mode}: {clean} of {} within rounding, largest ratio {}", all.len(), brief(largest)));
    }
    let measured = parts.join("; ");
    match (parts.is_empty(), flagged) {
        (true, _) => None,
        (_, 0) => {
            Some(row(what, measured, (Supports::Structural, "they are as far from exact as rounding makes them")))
        }
        _ => Some(row(what, measured, (Supports::Mismatch, "rounding cannot make rows that far off"))),
    }
}

fn end_to_end(analysis: &Analysis) -> Evidence {
    let what = "Difference of the phases end to end, against draws of rounding (Monte Carlo)";
    let (mut parts, mut least) = (vec![], f64::INFINITY);
    for (mode, one) in modes(analysis) {
        let Some(drift) = one.examination.as_ref().and_then(|e| e.study.end_to_end.as_ref()) else { continue };
        let p = if drift.p_value.is_nan() { 0.0 } else { drift.p_value };
        least = least.min(p);
        parts.push(format!(
            "{mode}: observed over expected {}, p = {} ({} rows, {} draws)",
            brief(drift.observed_over_expected),
            p_value(p),
            drift.rows,
            drift.draws
        ));
    }
    let measured = parts.join("; ");
    match (parts.is_empty(), analysis.examination.is_some()) {
        (true, false) => row(what, NO_MODEL, (Supports::NotMeasured, "give the model (--model)")),
        (true, true) => row(
            what,
            "no row of a prompt that was simulated differs, observed or drawn",
            (Supports::NotMeasured, "name the prompts' tokens in the manifest, and allow the simulation (--simulate)"),
        ),
        _ if least >= P_VALUE_MIN => {
            row(what, measured, (Supports::Structural, "rounding by itself makes them differ that much"))
        }
        _ => row(what, measured, (Supports::Mismatch, "rounding does not make them differ that much")),
    }
}
