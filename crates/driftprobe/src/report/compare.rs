//! Two runs against each other, for people and for programs.

use super::escape::{markdown, markdown_sentence, tsv};
use super::format::{brief, distances, or_dash};
use super::json;
use super::schema::{CompareReport, ComparedPhaseEntry, ComparedRowEntry, OfRun};
use super::strip;
use super::suspects::cause_in_words;
use super::terminal::{Style, Styled, WIDTH, counted};
use crate::compare::Comparison;
use crate::judge::{JudgedPair, PairVerdict};
use crate::pair::place::describe;
use crate::verdict::Verdict;
use driftprobe_trace::Phase;
use std::fmt::Write as _;

/// Version of `compare.json`.
pub const SCHEMA: u32 = 1;

/// The summary of both phases, in at most 80 columns.
pub fn to_terminal(comparisons: &[Comparison]) -> Styled {
    let mut out = Styled::default();
    for (index, one) in comparisons.iter().enumerate() {
        if index > 0 {
            out.blank();
        }
        phase(&mut out, one);
    }
    out
}

fn phase(out: &mut Styled, one: &Comparison) {
    let style = Style::of(one.verdict);
    let sub = one.sub_verdict.map_or_else(String::new, |sub| format!(" ({})", sub.id()));
    out.line(style, format!("{}: {}{sub}", one.phase, one.verdict.id()));
    out.wrapped("  ", Style::Plain, &format!("{} against {}: {}", one.names[0], one.names[1], one.why));
    out.wrapped("  ", Style::Plain, &format!("{}.", counted(&one.counts, &one.pairs, one.judged)));
    if let Some(pair) = one.first.and_then(|at| one.pairs.get(at)) {
        let what = match pair.verdict {
            PairVerdict::Fault | PairVerdict::NonFinite => "First failure: ",
            _ => "First part at: ",
        };
        out.wrapped(what, Style::Strong, &describe(&pair.prefill));
        if let Some(numbers) = &pair.numbers {
            out.wrapped("  ", Style::Plain, &distances(numbers));
        }
    }
    for (side, cause) in &one.causes {
        let name = one.names.get(*side).map_or("", String::as_str);
        out.wrapped("Cause: ", Style::Bad, &format!("in {name}: {}", cause_in_words(cause)));
    }
    for (side, finding) in &one.contract_findings {
        let name = one.names.get(*side).map_or("", String::as_str);
        let text = format!("{name}, {}: {} ({} of noise)", finding.point, finding.variant.says, brief(finding.rms));
        out.wrapped("Contract: ", Style::Plain, &text);
    }
    let strip = strip::lines(&one.pairs, one.judged, WIDTH);
    if !strip.is_empty() {
        out.blank();
        out.lines.extend(strip);
    }
    for (heading, reasons) in [("Why it is no PASS", &one.reasons), ("Notes", &one.notes)] {
        if !reasons.is_empty() {
            out.blank();
            out.line(Style::Strong, heading);
        }
        for reason in reasons {
            let examples = reason.examples.join("; ");
            let text = format!("{reason}. {examples}");
            out.wrapped("  ", Style::Plain, text.trim_end_matches(". "));
        }
    }
}

/// The columns of the TSV.
pub const COLUMNS: [&str; 9] =
    ["PHASE", "PROMPT", "TOKEN_ID", "POS_ID", "LAYER", "TENSOR", "VERDICT", "AT_FAULT", "DETAILS"];

/// One line a pair, with a header and a line feed after every line.
pub fn to_tsv(comparisons: &[Comparison]) -> String {
    let mut out = COLUMNS.join("\t") + "\n";
    for one in comparisons {
        for pair in &one.pairs {
            let cells = cells(one, pair).map(|cell| if cell == "-" { cell } else { tsv(&cell) });
            out.push_str(&cells.join("\t"));
            out.push('\n');
        }
    }
    out
}

fn cells(one: &Comparison, pair: &JudgedPair) -> [String; 9] {
    let row = row(one, pair);
    [
        one.phase.id().to_owned(),
        row.prompt_id.to_owned(),
        or_dash(row.token_id),
        or_dash(row.pos_id.or(row.logical_tok_idx)),
        if row.layer < 0 { "-".to_owned() } else { row.layer.to_string() },
        row.point.to_owned(),
        row.verdict.to_owned(),
        or_dash(row.at_fault),
        pair.numbers.as_ref().map_or_else(|| row.findings.join("; "), distances),
    ]
}

/// The verdict on each phase, its reasons, and every pair.
pub fn to_markdown(comparisons: &[Comparison]) -> String {
    let mut out = format!("# Comparison: {}\n", verdict(comparisons).id());
    for one in comparisons {
        let sub = one.sub_verdict.map_or_else(String::new, |sub| format!(" ({})", sub.id()));
        let names = one.names.each_ref().map(|name| markdown(name));
        let _ = writeln!(out, "\n## {}: {}{sub}\n", one.phase, one.verdict.id());
        let _ = writeln!(out, "{} against {}: {}\n", names[0], names[1], markdown_sentence(&one.why));
        let _ = writeln!(out, "{}.\n", counted(&one.counts, &one.pairs, one.judged));
        for reason in one.reasons.iter().chain(&one.notes) {
            let text = format!("`{}` ({}): {}", reason.code.id(), reason.count, reason.code.sentence());
            let _ = writeln!(out, "- {}", markdown_sentence(&text));
        }
        let _ = writeln!(out, "\n| {} |\n|{}", COLUMNS[1..].join(" | "), "---|".repeat(COLUMNS.len() - 1));
        for pair in &one.pairs {
            let cells = cells(one, pair).map(|cell| markdown(&cell));
            let _ = writeln!(out, "| {} |", cells[1..].join(" | "));
        }
    }
    out
}

/// `compare.json`, with a line feed at its end.
pub fn to_json(comparisons: &[Comparison]) -> String {
    let none = ["".to_owned(), "".to_owned()];
    let report = CompareReport {
        schema: SCHEMA,
        verdict: verdict(comparisons).id(),
        runs: comparisons.first().map_or(&none, |one| &one.names),
        phases: comparisons.iter().map(phase_entry).collect(),
    };
    // Nothing in it can fail to be text: numbers that are not finite are strings.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

/// The worst of the phases; of none, nothing is known.
pub fn verdict(comparisons: &[Comparison]) -> Verdict {
    Verdict::worst(comparisons.iter().map(|one| one.verdict))
}

fn phase_entry(one: &Comparison) -> ComparedPhaseEntry<'_> {
    let name = |side: usize| one.names.get(side).map_or("", String::as_str);
    ComparedPhaseEntry {
        phase: one.phase.id(),
        verdict: one.verdict.id(),
        sub_verdict: one.sub_verdict.map(|sub| sub.id()),
        why: &one.why,
        judged: one.judged,
        reasons: one.reasons.iter().map(json::reason).collect(),
        notes: one.notes.iter().map(json::reason).collect(),
        first: one.first,
        causes: one.causes.iter().map(|(side, c)| OfRun { run: name(*side), entry: json::cause::of(c) }).collect(),
        contract_findings: one
            .contract_findings
            .iter()
            .map(|(side, finding)| OfRun { run: name(*side), entry: json::cause::contract(finding) })
            .collect(),
        rows: one.pairs.iter().map(|pair| row(one, pair)).collect(),
    }
}

fn row<'a>(one: &'a Comparison, pair: &'a JudgedPair) -> ComparedRowEntry<'a> {
    let fails = matches!(pair.verdict, PairVerdict::Fault | PairVerdict::NonFinite);
    let whose = match pair.phase {
        Some(Phase::Prefill) => one.names[0].as_str(),
        Some(Phase::Decode) => one.names[1].as_str(),
        None => "both",
    };
    ComparedRowEntry {
        prompt_id: &pair.prefill.prompt_id,
        logical_tok_idx: pair.prefill.logical_tok_idx,
        pos_id: pair.prefill.pos_id,
        token_id: pair.prefill.token_id,
        layer: pair.prefill.layer,
        point: pair.prefill.point.id(),
        verdict: pair.verdict.id(),
        at_fault: fails.then_some(whose),
        numbers: pair.numbers.as_ref().map(json::numbers),
        findings: pair.findings.iter().map(|f| format!("{}: {}", f.code.id(), f.detail)).collect(),
    }
}
