//! Many prompts of many runs in one report: text, Markdown, TSV, JSON.

use super::escape::{cut, markdown, tsv, visible};
use super::format::{brief, or_dash, share};
use super::schema::Num;
use super::suspects::with_parameters;
use super::terminal::{Style, Styled};
use crate::digest::{Merged, MergedFailure, ModeDigest, StageDigest, UnitLine};
use crate::verdict::Verdict;
use crate::verdict::reason::Reason;
use std::fmt::Write as _;

/// Units that did not pass which the terminal names.
const NAMED_MAX: usize = 8;

/// Lines of the table of units in the Markdown; the TSV has all.
const MARKDOWN_UNITS_MAX: usize = 200;

/// Columns that a unit's name takes on the terminal.
const NAME_COLUMNS: usize = 38;

/// The verdict with what kind of PASS.
fn headline(merged: &Merged) -> String {
    let sub = merged.sub_verdict.map_or_else(String::new, |sub| format!(" ({})", sub.id()));
    format!("{}{sub}: {} of {}", merged.verdict.id(), prompts(merged.promised), runs(merged.runs))
}

fn prompts(count: u64) -> String {
    format!("{count} prompt{}", if count == 1 { "" } else { "s" })
}

fn runs(count: u64) -> String {
    format!("{count} run{}", if count == 1 { "" } else { "s" })
}

/// `3 PASS, 1 FAIL, 0 INCONCLUSIVE, 0 missing`.
fn tally(merged: &Merged) -> String {
    let Merged { pass, fail, inconclusive, missing, .. } = merged;
    format!("{pass} PASS, {fail} FAIL, {inconclusive} INCONCLUSIVE, {missing} missing")
}

fn failure(first: &MergedFailure) -> String {
    let place = first.place.in_words(&first.prompt);
    let cause = first.cause.as_ref();
    let cause = cause.map(|cause| format!(" · {}", with_parameters(&cause.hypothesis, cause.parameters.iter())));
    format!("{}: {place} · {}{}", first.run, first.place.code, cause.unwrap_or_default())
}

fn verdict_of(unit: &UnitLine) -> String {
    let sub = unit.sub_verdict.map_or_else(String::new, |sub| format!(" ({})", sub.id()));
    format!("{}{sub}", unit.verdict.id())
}

/// What a unit did not pass by: the first failure, or else the reasons.
fn details(unit: &UnitLine) -> String {
    let reasons: Vec<&str> = unit.reasons.iter().map(|code| code.id()).collect();
    let place = unit.first_failure.as_ref().map(|place| match &unit.cause {
        Some(cause) => format!("{place} · {cause}"),
        None => place.clone(),
    });
    match (unit.verdict, place) {
        (Verdict::Pass, _) => "-".to_owned(),
        (Verdict::Fail, Some(place)) => place,
        _ => reasons.join(", "),
    }
}

/// The summary, in at most 80 columns.
pub fn to_terminal(merged: &Merged) -> Styled {
    let mut out = Styled::default();
    out.line(Style::of(merged.verdict), headline(merged));
    out.line(Style::Plain, format!("  {}", tally(merged)));
    for mode in &merged.modes {
        let pairs = &mode.pairs;
        let equal = share(pairs.identical, pairs.total);
        let said = format!(
            "{} pairs, {equal} bit-equal, {} at fault",
            pairs.total,
            pairs.fault.saturating_add(pairs.non_finite)
        );
        out.line(Style::Plain, format!("  {}: {said}", mode.id()));
    }
    if let Some(first) = &merged.first_failure {
        out.wrapped("  first failure: ", Style::Bad, &failure(first));
    }
    for cause in &merged.causes {
        let said = format!("{} in {}, first {}: {}", cause.hypothesis, prompts(cause.units), cause.run, cause.prompt);
        out.wrapped("  cause: ", Style::Plain, &said);
    }
    for reason in &merged.reasons {
        out.wrapped("  ", Style::Warn, &reason.to_string());
        if let Some(first) = reason.examples.first() {
            out.wrapped("    first: ", Style::Dim, first);
        }
        out.wrapped("    hint: ", Style::Dim, reason.code.hint());
    }
    let mut others = merged.units.iter().filter(|unit| unit.verdict != Verdict::Pass);
    for unit in others.by_ref().take(NAMED_MAX) {
        let name = cut(&visible(&format!("{}: {}", unit.run, unit.prompt)), NAME_COLUMNS);
        out.wrapped(&format!("  {name}  "), Style::of(unit.verdict), &details(unit));
    }
    let more = others.count();
    if more > 0 {
        out.line(Style::Dim, format!("  and {more} more that did not pass: merged.tsv has all"));
    }
    out
}

/// The columns of the TSV.
pub const COLUMNS: [&str; 11] = [
    "RUN",
    "PROMPT",
    "VERDICT",
    "SUB_VERDICT",
    "ROOT_CAUSE",
    "CAUSE",
    "FIRST_FAILURE",
    "PAIRS",
    "IDENTICAL",
    "FAULT",
    "REASONS",
];

fn cells(unit: &UnitLine) -> [String; 11] {
    let reasons: Vec<&str> = unit.reasons.iter().map(|code| code.id()).collect();
    [
        unit.run.clone(),
        unit.prompt.clone(),
        unit.verdict.id().to_owned(),
        or_dash(unit.sub_verdict.map(|sub| sub.id())),
        or_dash(unit.root_cause.as_ref()),
        or_dash(unit.cause.as_ref()),
        or_dash(unit.first_failure.as_ref()),
        unit.pairs.to_string(),
        unit.identical.to_string(),
        unit.fault.to_string(),
        or_dash(Some(reasons.join(",")).filter(|codes| !codes.is_empty())),
    ]
}

/// One line a unit, with a header and a line feed after every line.
pub fn to_tsv(merged: &Merged) -> String {
    let mut out = COLUMNS.join("\t") + "\n";
    for unit in &merged.units {
        let cells = cells(unit).map(|cell| if cell == "-" { cell } else { tsv(&cell) });
        let _ = writeln!(out, "{}", cells.join("\t"));
    }
    out
}

/// `merged.json`, with a line feed at its end.
pub fn to_json(merged: &Merged) -> String {
    // Nothing in it can fail to be text: numbers that are not finite are strings.
    serde_json::to_string_pretty(merged).unwrap_or_default() + "\n"
}

/// The verdict, what it rests on, every stage, and the units that did not pass.
pub fn to_markdown(merged: &Merged) -> String {
    let mut out = format!("# {}\n\n{}.\n", markdown(&headline(merged)), tally(merged));
    if let Some(first) = &merged.first_failure {
        let _ = writeln!(out, "\nFirst failure: {}.", markdown(&failure(first)));
    }
    for cause in &merged.causes {
        let (name, count) = (markdown(&cause.hypothesis), prompts(cause.units));
        let first = markdown(&format!("{}: {}", cause.run, cause.prompt));
        let _ = writeln!(out, "\nCause in {count}: {name} (first {first}).");
    }
    reasons(&mut out, "Why it is no PASS", &merged.reasons);
    reasons(&mut out, "Notes", &merged.notes);
    merged.modes.iter().for_each(|mode| mode_table(&mut out, mode));
    units(&mut out, merged);
    out.push_str("\nEvery prompt was judged by itself; sums are over all of them. merged.tsv has one line a prompt.\n");
    out
}

fn reasons(out: &mut String, title: &str, reasons: &[Reason]) {
    if reasons.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n## {title}\n");
    for reason in reasons {
        let _ = writeln!(out, "- {}", markdown(&reason.to_string()));
        for example in &reason.examples {
            let _ = writeln!(out, "  - {}", markdown(example));
        }
        if reason.code.blocking() {
            let _ = writeln!(out, "  - to settle it: {}", markdown(reason.code.hint()));
        }
    }
}

fn mode_table(out: &mut String, mode: &ModeDigest) {
    let pairs = &mode.pairs;
    let _ = writeln!(out, "\n## {}: {}\n", markdown(mode.id()), mode.verdict.id());
    let promised = or_dash(mode.coverage.expected);
    let [prefill, decode] = mode.coverage.found;
    let _ = writeln!(
        out,
        "{} pairs of {prefill} rows of prefill and {decode} of decode ({promised} promised, {} missing): {} bit-equal, {} \
         parted by rounding, {} at fault, {} not finite, {} open.",
        pairs.total,
        mode.coverage.missing,
        pairs.identical,
        pairs.structural.saturating_add(pairs.inherited).saturating_add(pairs.contract),
        pairs.fault,
        pairs.non_finite,
        pairs.missing.saturating_add(pairs.undecided),
    );
    for repeat in &mode.repeats {
        let (number, phase) = (repeat.repeat, repeat.phase);
        let _ = writeln!(out, "\nRepeat {number} of {phase}: {} of {} rows bit-equal.", repeat.equal, repeat.paired);
    }
    for finding in &mode.contract_findings {
        let (phase, point, says) = (finding.phase, finding.point, markdown(&finding.says));
        let _ = writeln!(out, "\nContract, {phase}, {point}: {says} ({} rows).", finding.rows);
    }
    out.push_str(
        "\n| layer | point | rows | bit-equal | rounding | fault | open | residual, RMS noise | largest rel L2 |\n",
    );
    out.push_str("|---|---|---|---|---|---|---|---|---|\n");
    mode.stages.iter().for_each(|stage| stage_line(out, stage));
}

fn stage_line(out: &mut String, stage: &StageDigest) {
    let layer = if stage.layer < 0 { "-".to_owned() } else { stage.layer.to_string() };
    let number = |number: Option<Num>| or_dash(number.map(|Num(value)| brief(value)));
    let StageDigest { point, rows, identical, rounding, fault, open, .. } = stage;
    let (rms, distance) = (number(stage.noise_rms), number(stage.rel_l2));
    let _ = writeln!(
        out,
        "| {layer} | {point} | {rows} | {identical} | {rounding} | {fault} | {open} | {rms} | {distance} |"
    );
}

fn units(out: &mut String, merged: &Merged) {
    let mut others = merged.units.iter().filter(|unit| unit.verdict != Verdict::Pass).peekable();
    if others.peek().is_none() {
        return;
    }
    out.push_str("\n## Prompts that did not pass\n\n| run | prompt | verdict | details |\n|---|---|---|---|\n");
    for unit in others.by_ref().take(MARKDOWN_UNITS_MAX) {
        let [run, prompt, verdict, details] =
            [&unit.run, &unit.prompt, &verdict_of(unit), &details(unit)].map(|cell| markdown(cell));
        let _ = writeln!(out, "| {run} | {prompt} | {verdict} | {details} |");
    }
    let more = others.count();
    if more > 0 {
        let _ = writeln!(out, "\nAnd {more} more.");
    }
}
