//! What a search of evaluation orders found, for people and for programs.

use super::escape::{markdown, markdown_sentence};
use super::schema::reach::{FindingEntry, MechanismEntry, PairsEntry, ReachReport, RowEntry, SkippedEntry};
use super::terminal::{Style, Styled};
use crate::reach::{Finding, Mechanism, Outcome, Reach, Skipped};
use driftprobe_trace::Point;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Version of `reach.json`.
pub const SCHEMA: u32 = 1;

/// Orders that are named at most, of those that are left of a point.
const ORDERS_SHOWN: usize = 16;

/// The summary, in at most 80 columns.
pub fn to_terminal(reach: &Reach) -> Styled {
    let mut out = Styled::default();
    out.line(Style::Strong, "Reachability");
    out.wrapped("  ", Style::Plain, &counts(reach));
    if reach.findings.is_empty() {
        out.wrapped("  ", Style::Warn, "Nothing could be searched.");
    }
    if reach.ended_early {
        out.wrapped("  ", Style::Warn, "The time was up before all was tried; give --seconds more.");
    }
    let mut points = BTreeSet::new();
    for mechanism in &reach.mechanisms {
        points.insert(mechanism.point);
        out.blank();
        out.line(Style::Good, mechanism.point.id());
        for line in lines(mechanism) {
            out.wrapped("  ", Style::Plain, &line);
        }
    }
    let single = reach.findings.iter().filter(|f| f.outcome.claim().is_some() && !points.contains(&f.point));
    for finding in single {
        out.blank();
        out.line(Style::Good, format!("{} of {} alone", finding.point, finding.phase));
        out.wrapped("  ", Style::Plain, &says(finding));
    }
    let open: Vec<&Finding> = reach.findings.iter().filter(|f| f.outcome.claim().is_none()).collect();
    if !open.is_empty() {
        out.blank();
        out.line(Style::Strong, "Not named");
    }
    for finding in open {
        let first = format!("  {} {}{}: ", finding.phase, finding.point, pass(finding));
        out.wrapped("  ", Style::Plain, &format!("{}{}", first.trim_start(), says(finding)));
    }
    if !reach.skipped.is_empty() {
        out.blank();
        out.line(Style::Strong, "Not searched");
    }
    for skipped in &reach.skipped {
        out.wrapped("  ", Style::Plain, &left(skipped));
    }
    out
}

/// How many pairs differ, and how much of it is named.
fn counts(reach: &Reach) -> String {
    let named = reach.findings.iter().filter(|finding| finding.outcome.claim().is_some()).count();
    let pairs = reach.pairs;
    format!(
        "{} of {} pairs differ in stages that are clean and could have another order; {named} of {} searches name one.",
        pairs.searched,
        pairs.all,
        reach.findings.len()
    )
}

fn lines(mechanism: &Mechanism) -> Vec<String> {
    if mechanism.same {
        return vec![format!("both phases: {}", mechanism.prefill), "What parts the rows are their inputs.".to_owned()];
    }
    let mut lines = vec![format!("prefill: {}", mechanism.prefill), format!("decode: {}", mechanism.decode)];
    lines.extend(mechanism.onset.map(|keys| format!("onset at kv_len {keys}")));
    lines
}

/// Tokens of the passes that a finding is about.
fn pass(finding: &Finding) -> String {
    finding.pass.map_or_else(String::new, |tokens| format!(" in passes of {tokens} tokens"))
}

/// What a finding says, in a sentence.
pub fn says(finding: &Finding) -> String {
    match &finding.outcome {
        Outcome::Claimed(claim) => claim.says.clone(),
        Outcome::Ambiguous { says, orders } => {
            let shown = says.iter().take(3).cloned().collect::<Vec<_>>().join("; or ");
            let more = if says.len() > 3 { "; or others" } else { "" };
            format!("{} orders give all recorded values of {} rows: {shown}{more}", orders.len(), finding.rows.len())
        }
        Outcome::Weak { why, .. } => format!("too little to tell orders apart: {why}"),
        Outcome::NotReproduced { some_alone: false } => format!("not among the {} orders tried", finding.tried),
        Outcome::NotReproduced { some_alone: true } => {
            format!("no one of the {} orders tried gives all rows, though one gives some by themselves", finding.tried)
        }
        Outcome::Unfinished => "the time was up".to_owned(),
    }
}

fn left(skipped: &Skipped) -> String {
    format!("{} {}, {} rows: {}", skipped.phase, skipped.point, skipped.rows, skipped.why)
}

/// All of it as Markdown.
pub fn to_markdown(reach: &Reach) -> String {
    let mut out = format!("# Reachability\n\n{}\n", counts(reach));
    if reach.findings.is_empty() {
        out.push_str("\nNothing could be searched.\n");
    }
    if reach.ended_early {
        out.push_str("\nThe time was up before all was tried.\n");
    }
    if !reach.mechanisms.is_empty() {
        out.push_str("\n## Mechanisms\n\n");
    }
    for mechanism in &reach.mechanisms {
        let _ = writeln!(
            out,
            "- {}: {}",
            markdown_sentence(&format!("`{}`", mechanism.point)),
            markdown(&mechanism.to_string())
        );
    }
    if !reach.findings.is_empty() {
        out.push_str("\n## Searches\n\n| phase | point | outcome | what | orders tried | refuted | in ≥ 8 values | left | rows | values |\n");
        out.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    }
    for finding in &reach.findings {
        let cells = [
            format!("{}{}", finding.phase, pass(finding)),
            finding.point.to_string(),
            finding.outcome.id().to_owned(),
            says(finding),
            finding.tried.to_string(),
            finding.refuted.to_string(),
            finding.refuted_well.to_string(),
            orders(finding).len().to_string(),
            finding.rows.len().to_string(),
            finding.values.to_string(),
        ];
        let _ = writeln!(out, "| {} |", cells.map(|cell| markdown(&cell)).join(" | "));
    }
    if !reach.skipped.is_empty() {
        out.push_str("\n## Not searched\n\n");
    }
    for skipped in &reach.skipped {
        let _ = writeln!(out, "- {}", markdown(&left(skipped)));
    }
    out
}

fn orders(finding: &Finding) -> &[crate::reach::order::Order] {
    match &finding.outcome {
        Outcome::Claimed(claim) => &claim.orders,
        Outcome::Ambiguous { orders, .. } | Outcome::Weak { orders, .. } => orders,
        Outcome::NotReproduced { .. } | Outcome::Unfinished => &[],
    }
}

/// `reach.json`, with a line feed at its end.
pub fn to_json(reach: &Reach) -> String {
    let pairs = reach.pairs;
    let report = ReachReport {
        schema: SCHEMA,
        ended_early: reach.ended_early,
        pairs: PairsEntry {
            all: pairs.all,
            equal: pairs.equal,
            searched: pairs.searched,
            at_fault: pairs.faulty,
            one_result: pairs.exact,
            other: pairs.other,
        },
        mechanisms: reach.mechanisms.iter().map(mechanism).collect(),
        findings: reach.findings.iter().map(finding).collect(),
        skipped: reach.skipped.iter().map(skipped).collect(),
    };
    // Nothing in it can fail to be text: there are no floats.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

fn mechanism(one: &Mechanism) -> MechanismEntry<'_> {
    MechanismEntry {
        point: Point::id(one.point),
        says: one.to_string(),
        prefill: &one.prefill,
        decode: &one.decode,
        same_order: one.same,
        onset_kv_len: one.onset,
    }
}

fn finding(one: &Finding) -> FindingEntry<'_> {
    let left = orders(one);
    FindingEntry {
        phase: one.phase.id(),
        point: one.point.id(),
        pass_tokens: one.pass,
        outcome: one.outcome.id(),
        says: says(one),
        open: one.outcome.claim().map_or(&[], |claim| claim.open.as_slice()),
        orders: left.iter().take(ORDERS_SHOWN).map(|order| order.id()).collect(),
        orders_left: left.len(),
        orders_tried: one.tried,
        orders_refuted: one.refuted,
        orders_refuted_well: one.refuted_well,
        values_compared: one.values,
        telling_rows: one.telling_rows,
        longest_kv_len: one.longest,
        rows: one
            .rows
            .iter()
            .map(|row| RowEntry { prompt_id: &row.prompt_id, layer: row.layer, logical_tok_idx: row.pos })
            .collect(),
    }
}

fn skipped(one: &Skipped) -> SkippedEntry<'_> {
    SkippedEntry { phase: one.phase.id(), point: one.point.id(), rows: one.rows, why: &one.why }
}
