//! The modes of a run: what each came to, and every tensor's drift in both.

use super::Document;
use crate::analysis::Analysis;
use crate::report::escape::{code, markdown};
use crate::report::format::{or_dash, p_value};
use crate::verdict::hypotheses::modes;
use crate::verdict::modes::{Drift, Says};
use crate::verdict::{FirstFailure, Verdict, layer_of};

pub fn execution(out: &mut Document, analysis: &Analysis) {
    out.section("Execution summary");
    let rows = modes(analysis).into_iter().enumerate().map(|(number, (mode, one))| {
        let own = if number == 0 { analysis.own_verdict.unwrap_or(one.verdict.verdict) } else { one.verdict.verdict };
        // Where both are there, the report's first failure may be that of the other mode.
        let first = match own {
            _ if own == one.verdict.verdict => one.verdict.first_failure.as_ref(),
            Verdict::Inconclusive => one.verdict.first_difference.as_ref(),
            _ => None,
        };
        let counts = &one.counts;
        let good = counts.identical + counts.structural + counts.inherited + counts.contract;
        let bad = counts.fault + counts.non_finite;
        let p = one.examination.as_ref().and_then(|e| e.study.end_to_end.as_ref()).map(|drift| p_value(drift.p_value));
        [
            mode.to_owned(),
            own.id().to_owned(),
            first.map_or_else(|| "none".to_owned(), place),
            format!("{good} / {bad}"),
            (counts.total - good - bad).to_string(),
            counts.differing.to_string(),
            p.unwrap_or_else(|| "not measured".to_owned()),
        ]
    });
    let header = ["Mode", "Status", "First failure", "Pass / fail", "Open", "Differ in bits", "p end to end"];
    out.table(header, rows);
    if analysis.aligned.is_none() {
        out.line("\nThe run has this one mode; `driftprobe run --mode both` makes the other.");
    }
}

fn place(first: &FirstFailure) -> String {
    let position = first.pos_id.map_or_else(String::new, |pos| format!(", position {pos}"));
    let place = format!("{}{}", code(&first.point_spelling), layer_of(first.point, first.layer));
    format!("{place}, prompt {}{position} ({})", code(&first.prompt_id), code(first.code))
}

/// Per tensor: drift as designed, drift aligned, and what the two say.
pub fn side_by_side(out: &mut Document, analysis: &Analysis) {
    out.section("As designed against aligned");
    if analysis.modes.is_empty() {
        let mode = modes(analysis).first().map_or("not_recorded", |(mode, _)| *mode);
        out.line(format!(
            "Only one mode was recorded ({}): whether drift was in what the cache held, or is made by the decode step, \
             was not measured. `driftprobe run --mode both` measures it.",
            code(mode)
        ));
        return;
    }
    out.line(
        "Largest relative L2 distance of decode from prefill, and pairs that differ; `as_designed`: decode reads the",
    );
    out.line("cache that it built, `kv_aligned`: prefill's.\n");
    let rows = analysis.modes.iter().map(|row| {
        let layer = (row.layer >= 0).then_some(row.layer);
        let says = row.says.in_words();
        [code(row.point.id()), or_dash(layer), drift(&row.as_designed), drift(&row.kv_aligned), markdown(says)]
    });
    out.table(["Tensor", "Layer", "As designed", "Aligned", "What it says"], rows);
    let count = |says: Says| analysis.modes.iter().filter(|row| row.says == says).count();
    out.line(format!(
        "\nOf {} tensors: {} bit-equal in both, {} drift no more with prefill's cache, {} less than half as much, {} stay, \
         {} drift only then, {} are not known.",
        analysis.modes.len(),
        count(Says::None),
        count(Says::Cache),
        count(Says::MostlyCache),
        count(Says::Step),
        count(Says::OnlyAligned),
        count(Says::Unknown),
    ));
}

fn drift(drift: &Drift) -> String {
    match (drift.pairs, drift.differing) {
        (0, _) => "not recorded".to_owned(),
        (_, 0) => "0".to_owned(),
        (pairs, differing) => {
            let size = drift.rel_l2.map_or_else(|| "size not known".to_owned(), super::number);
            format!("{size} ({differing} of {pairs})")
        }
    }
}
