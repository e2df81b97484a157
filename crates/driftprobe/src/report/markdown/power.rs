//! What the run would have shown, and where rounding drove the phases apart.

use super::Document;
use super::judged::without_model;
use crate::analysis::Analysis;
use crate::cause::UNEXPLAINED;
use crate::judge::examine::Examination;
use crate::report::escape::{code, markdown, markdown_sentence};
use crate::report::format::{brief, p_value};
use crate::report::power::{BugPower, Slots, by_bug, shown};
use crate::verdict::hypotheses::modes;
use driftprobe_trace::{Phase, Point};
use std::collections::{BTreeMap, BTreeSet};

pub fn power(out: &mut Document, analysis: &Analysis) {
    out.section("Power: what this run would have shown");
    let Some(examination) = &analysis.examination else {
        out.line(without_model(analysis, "what a bug would have changed in these rows is computed with the model"));
        return;
    };
    let all = by_bug(&examination.power);
    if all.is_empty() {
        out.line("Nothing: no stage is recorded with what it is computed from.");
        return;
    }
    let (seen, of, _) = shown(examination);
    out.line(format!(
        "{seen} of {of} bugs of the catalogue would have shown in each phase that can have them. Each was put"
    ));
    out.line(
        "into recorded rows (some of each point); D = √(Σd²/σ²) is its effect in units of noise, in the row that shows",
    );
    out.line("least of it (`exact`: a stage without noise, where anything shows). Sizes are the smallest that would have been\nfound.\n");
    let (named, unnamed): (Vec<&BugPower>, Vec<&BugPower>) = all.iter().partition(|bug| bug.id != UNEXPLAINED);
    let rows = named.iter().filter(|bug| bug.seen > 0).map(|bug| {
        let effect = bug.effect.map_or("sizes only".to_owned(), effect);
        let [what, one, every] = sizes(bug);
        [
            code(bug.id),
            bug.phase.to_string(),
            points(bug),
            format!("{} / {}", bug.seen, bug.rows),
            effect,
            what,
            one,
            every,
        ]
    });
    let header = ["Bug", "Phase", "Shows at", "Seen / rows", "D", "Size", "Smallest, one row", "Smallest, all rows"];
    out.table(header, rows);
    if unnamed.iter().any(|bug| !bug.smallest.is_empty()) {
        out.line("\nChanges of whatever origin, at any of the points that were judged:\n");
        let rows = unnamed.iter().flat_map(|bug| {
            let row = |(what, [one, every]): (&&str, &[f64; 2])| {
                [bug.phase.to_string(), (*what).to_owned(), size(*one), size(*every)]
            };
            bug.smallest.iter().map(row).collect::<Vec<_>>()
        });
        out.table(["Phase", "Change", "Smallest, one row", "Smallest, all rows"], rows);
    }
    unseen(out, examination, &named);
}

/// A stage without freedom, or a mask, has no noise in which anything could hide.
fn effect(d: f64) -> String {
    if d.is_infinite() { "exact".to_owned() } else { brief(d) }
}

fn points(bug: &BugPower) -> String {
    bug.points.iter().map(|point| code(point.id())).collect::<Vec<_>>().join(", ")
}

/// A size that was looked for from 2⁻⁴⁰ to 1.
fn size(size: f64) -> String {
    match size {
        _ if !size.is_finite() => "none up to 1".to_owned(),
        // The rows are at fault without it.
        _ if size < 1e-11 => "any: rows at fault".to_owned(),
        _ => brief(size),
    }
}

fn sizes(bug: &BugPower) -> [String; 3] {
    match bug.smallest.iter().next() {
        Some((what, [one, all])) => [(*what).to_owned(), size(*one), size(*all)],
        None => ["-"; 3].map(str::to_owned),
    }
}

/// What this run could not have seen, or not everywhere, and why.
fn unseen(out: &mut Document, examination: &Examination, all: &[&BugPower]) {
    let slots = Phase::ALL.map(|phase| (phase, Slots::of(examination, phase)));
    for (phase, slots) in slots.iter().filter(|(_, slots)| slots.show("KV_FOREIGN_ROW")) {
        out.line(format!(
            "\n{} cached rows of {phase} were held against the prompts' tokens: a stale, duplicated, swapped or foreign row \
             differs by about its own size, rounding by {} of it at most.",
            slots.rows,
            brief(slots.rounding)
        ));
    }
    out.line("\n### What it could not have seen\n");
    // One line for a bug, a size and a reason: its points and phases.
    type Where = (BTreeSet<Point>, BTreeSet<Phase>);
    let mut lines: BTreeMap<(&str, &str), Where> = BTreeMap::new();
    for bug in all.iter().filter(|bug| !slots.iter().any(|(phase, slots)| *phase == bug.phase && slots.show(bug.id))) {
        for one in &bug.unseen {
            let (points, phases) = lines.entry((&one.named, &one.why)).or_default();
            points.insert(one.point);
            phases.insert(bug.phase);
        }
    }
    for ((named, why), (points, phases)) in &lines {
        let points: Vec<String> = points.iter().map(|point| code(point.id())).collect();
        let phases: Vec<String> = phases.iter().map(Phase::to_string).collect();
        let (phases, points) = (phases.join(" and "), points.join(", "));
        out.line(format!("- {} in {phases}, at {points}: {}", markdown(named), markdown_sentence(why)));
    }
    out.line("- A wrong cached row that attention gives less weight than its noise, in what attention makes of it");
    out.line("- Weights, config or tokens that are wrong for the engine and for this report alike");
    out.line("- A tensor that was recorded and is not the one that the engine went on with");
    out.line("- Prompts, positions, layers and points that were not recorded");
}

pub fn places(out: &mut Document, analysis: &Analysis) {
    out.section("Observed drift against draws of rounding");
    let all = modes(analysis);
    let drifts: Vec<_> = all
        .iter()
        .filter_map(|(mode, one)| Some((*mode, one.examination.as_ref()?.study.end_to_end.as_ref()?)))
        .collect();
    if drifts.is_empty() {
        out.line(match analysis.examination.is_some() {
            false => without_model(analysis, "what rounding makes of the prompts is drawn with the model"),
            true => "Not measured: no row of a prompt that was simulated from its tokens differs.".to_owned(),
        });
        return;
    }
    out.line(
        "RMS difference of the phases, relative to the rows' size: observed, and as independent draws of rounding make",
    );
    out.line(
        "it (Monte Carlo from the prompts' tokens). Engines round less often than the draws do, so ratios below 1 are",
    );
    out.line("ordinary.\n");
    for (mode, drift) in &drifts {
        out.line(format!(
            "{mode}: observed over expected {}, p = {}, {} rows, {} draws.\n",
            brief(drift.observed_over_expected),
            p_value(drift.p_value),
            drift.rows,
            drift.draws
        ));
    }
    let rows = drifts.iter().flat_map(|(mode, drift)| {
        drift.places.iter().map(|place| {
            let layer = if place.layer < 0 { "-".to_owned() } else { place.layer.to_string() };
            let ratio = if place.ratio().is_nan() { "-".to_owned() } else { brief(place.ratio()) };
            let point = code(place.point.id());
            let [observed, expected] = [place.observed, place.expected].map(brief);
            [markdown(mode), point, layer, place.rows.to_string(), observed, expected, ratio]
        })
    });
    out.table(["Mode", "Point", "Layer", "Rows", "Observed", "Expected", "Ratio"], rows);
}
