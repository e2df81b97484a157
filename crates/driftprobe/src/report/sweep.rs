//! A sweep for people and for programs: text, Markdown, TSV, JSON. Its picture is [`super::plot`]'s.

use super::escape::{cut, markdown, tsv};
use super::format::brief;
use super::gate::noise;
use super::schema::Num;
use super::schema::sweep::{OnsetEntry, PartingEntry, SpreadEntry, SweepReport, SweepValueEntry};
use super::terminal::{Span, Style, Styled};
use crate::sweep::{Onset, Parting, Spread, Step, Sweep};
use crate::verdict::Verdict;
use driftprobe_trace::Phase;
use std::fmt::Write as _;

/// Version of `sweep.json`.
pub const SCHEMA: u32 = 1;

/// Columns of the table on the terminal: value, verdict, drift of attention and of logits, each phase against the first.
const WIDTHS: [usize; 6] = [16, 13, 9, 9, 16, 15];

/// The summary, in at most 80 columns.
pub fn to_terminal(sweep: &Sweep) -> Styled {
    let mut out = Styled::default();
    out.line(Style::of(sweep.verdict()), format!("{} over {} of {}", sweep.verdict().id(), values(sweep), axis(sweep)));
    out.blank();
    let [value, verdict, drift, ..] = WIDTHS;
    let (before, wide) = (value + verdict, 2 * drift);
    let held = sweep.steps.iter().any(|step| step.against_first.is_some());
    let (parts, prefill, decode) =
        if held { ("PARTS FROM THE FIRST VALUE", "prefill", "decode") } else { ("", "", "") };
    out.line(Style::Dim, format!("{:before$}{:wide$}{parts}", "", "DECODE-PREFILL"));
    out.line(Style::Dim, columns(&["VALUE", "VERDICT", "attn_out", "logits", prefill, decode].map(str::to_owned)));
    for (index, step) in sweep.steps.iter().enumerate() {
        let cells = short(step, held && index == 0);
        let line = columns(&cells);
        let (before, rest) = split(&line, WIDTHS[0]);
        let (verdict, after) = split(rest, WIDTHS[1]);
        out.lines.push(vec![
            Span::new(Style::Strong, before),
            Span::new(Style::of(step.noise.verdict), verdict),
            Span::new(Style::Plain, after),
        ]);
    }
    let from = if held { "; from N: in rows of N keys and more" } else { "" };
    out.line(Style::Dim, format!("Largest relative L2 distance{from}"));
    for sentence in sentences(sweep) {
        out.wrapped("  ", Style::Plain, &sentence);
    }
    for step in sweep.steps.iter().filter(|step| step.noise.verdict != Verdict::Pass) {
        out.wrapped(&format!("  {}: ", cut(&step.value, 24)), Style::Bad, &step.noise.details());
    }
    out
}

fn values(sweep: &Sweep) -> String {
    format!("{} value{}", sweep.steps.len(), if sweep.steps.len() == 1 { "" } else { "s" })
}

fn axis(sweep: &Sweep) -> String {
    sweep.unit.map_or_else(|| sweep.axis.clone(), |unit| format!("{} ({unit})", sweep.axis))
}

/// Cells side by side, each cut to its width.
fn columns(cells: &[String; 6]) -> String {
    let cell = |(cell, width): (&String, usize)| format!("{:width$}", cut(cell, width - 1));
    cells.iter().zip(WIDTHS).map(cell).collect::<String>().trim_end().to_owned()
}

/// A line's first `chars` characters, and the rest.
fn split(line: &str, chars: usize) -> (&str, &str) {
    line.split_at(line.char_indices().nth(chars).map_or(line.len(), |(at, _)| at))
}

fn short(step: &Step, first: bool) -> [String; 6] {
    let drift = |spread: &Option<Spread>| spread.map_or_else(|| "-".to_owned(), |spread| brief(spread.max));
    let against = |at: usize| match (&step.against_first, first) {
        (_, true) => "(first)".to_owned(),
        (None, false) => String::new(),
        (Some(both), false) => both.get(at).map_or_else(String::new, brief_onset),
    };
    [
        step.value.clone(),
        step.noise.verdict.id().to_owned(),
        drift(&step.phases.attn_out),
        drift(&step.phases.logits),
        against(0),
        against(1),
    ]
}

/// In a word or two.
fn brief_onset(parting: &Parting) -> String {
    match &parting.onset {
        Some(Onset { equal_to: None, .. }) => "everywhere".to_owned(),
        Some(onset) => format!("from {}", onset.kv_len),
        None if parting.compared == 0 => "not compared".to_owned(),
        None if parting.not_compared > 0 => format!("not in {}", parting.compared),
        None => "nowhere".to_owned(),
    }
}

/// What the table is too narrow for: where each value parts from the first, and where decode parts from prefill.
pub(super) fn sentences(sweep: &Sweep) -> Vec<String> {
    let Some(first) = sweep.steps.first() else { return vec![] };
    let mut out = vec![];
    for step in &sweep.steps {
        let against = step.against_first.iter().flatten().zip(Phase::ALL);
        for (parting, phase) in against {
            out.push(format!("{}, {phase}: {}", step.value, parted(parting, &first.value)));
        }
    }
    for step in sweep.steps.iter().filter(|step| step.phases.onset.is_some_and(|onset| onset.equal_to.is_some())) {
        out.push(format!("{}, decode: {}", step.value, parted(&step.phases, "prefill")));
    }
    out.extend(across(sweep));
    out
}

/// Between which values of a number decode begins to part from prefill.
fn across(sweep: &Sweep) -> Option<String> {
    let mut steps: Vec<&Step> = sweep.steps.iter().filter(|step| step.number.is_some()).collect();
    steps.sort_by(|a, b| a.number.partial_cmp(&b.number).unwrap_or(std::cmp::Ordering::Equal));
    let parts = |step: &Step| step.phases.onset.is_some();
    let at = steps.iter().position(|step| parts(step))?;
    let before = steps.get(at.checked_sub(1)?)?;
    let [from, rest @ ..] = steps.get(at..)? else { return None };
    let all = rest.iter().all(|step| parts(step)) && before.phases.compared > 0;
    all.then(|| format!("prefill and decode are bit-equal up to {} and part from {} on", before.value, from.value))
}

fn parted(parting: &Parting, other: &str) -> String {
    let rows = format!("{} of {} rows bit-equal", parting.equal, parting.compared);
    let left = match parting.not_compared {
        0 => String::new(),
        count => format!(", {count} not compared whole"),
    };
    match &parting.onset {
        None if parting.compared == 0 => format!("no row was compared with {other}'s{left}"),
        None => format!("bit-equal to {other} in all {} rows compared{left}", parting.compared),
        Some(onset) => {
            let layer = if onset.layer < 0 { String::new() } else { format!("layer {}, ", onset.layer) };
            let place = format!("{layer}{}", onset.point);
            let from = match onset.equal_to {
                Some(keys) => {
                    format!("bit-equal to {other} up to kv_len {keys}, parts from kv_len {} on", onset.kv_len)
                }
                None => format!("parts from {other} already in the shortest row (kv_len {})", onset.kv_len),
            };
            let beyond = match onset.equal_beyond {
                0 => String::new(),
                count => format!(", though {count} longer ones are equal"),
            };
            format!("{from}{beyond} ({place}; {rows}{left})")
        }
    }
}

/// The columns of the TSV.
pub const COLUMNS: [&str; 12] = [
    "VALUE",
    "VERDICT",
    "DETAILS",
    "COMPARED",
    "EQUAL",
    "ATTN_OUT_MEDIAN",
    "ATTN_OUT_MAX",
    "LOGITS_MEDIAN",
    "LOGITS_MAX",
    "DECODE_FROM_PREFILL",
    "PREFILL_FROM_FIRST",
    "DECODE_FROM_FIRST",
];

fn cells(step: &Step, first: &str) -> [String; 12] {
    let spread = |spread: &Option<Spread>, get: fn(&Spread) -> f64| {
        spread.as_ref().map_or_else(|| "-".to_owned(), |spread| brief(get(spread)))
    };
    let against = |at: usize| {
        let one = step.against_first.as_ref().and_then(|both| both.get(at));
        one.map_or_else(|| "-".to_owned(), |one| parted(one, first))
    };
    let details = step.noise.details();
    [
        step.value.clone(),
        step.noise.said(),
        if details.is_empty() { "-".to_owned() } else { details },
        step.phases.compared.to_string(),
        step.phases.equal.to_string(),
        spread(&step.phases.attn_out, |one| one.median),
        spread(&step.phases.attn_out, |one| one.max),
        spread(&step.phases.logits, |one| one.median),
        spread(&step.phases.logits, |one| one.max),
        parted(&step.phases, "prefill"),
        against(0),
        against(1),
    ]
}

fn rows(sweep: &Sweep) -> impl Iterator<Item = [String; 12]> {
    let first = sweep.steps.first().map_or("", |step| step.value.as_str());
    sweep.steps.iter().map(move |step| cells(step, first))
}

/// One line a value, with a header and a line feed after every line.
pub fn to_tsv(sweep: &Sweep) -> String {
    let mut out = COLUMNS.join("\t") + "\n";
    for cells in rows(sweep) {
        let cells = cells.map(|cell| if cell == "-" { cell } else { tsv(&cell) });
        let _ = writeln!(out, "{}", cells.join("\t"));
    }
    out
}

/// The table and what it says.
pub fn to_markdown(sweep: &Sweep) -> String {
    let mut out = format!("# Sweep of {}: {}\n\n", markdown(&axis(sweep)), sweep.verdict().id());
    for sentence in sentences(sweep) {
        let _ = writeln!(out, "- {}", markdown(&sentence));
    }
    let _ = writeln!(out, "\n| {} |\n|{}", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
    for cells in rows(sweep) {
        let _ = writeln!(out, "| {} |", cells.map(|cell| markdown(&cell)).join(" | "));
    }
    out.push_str("\nDistances are relative L2 over whole rows. The picture is sweep.svg.\n");
    out
}

/// `sweep.json`, with a line feed at its end.
pub fn to_json(sweep: &Sweep) -> String {
    let against = |step: &Step, at: usize| step.against_first.as_ref().and_then(|both| both.get(at)).map(parting);
    let value = |step| -> SweepValueEntry<'_> {
        let step: &Step = step;
        SweepValueEntry {
            value: &step.value,
            number: step.number.map(Num),
            noise: noise(&step.noise),
            phases: parting(&step.phases),
            prefill_against_first: against(step, 0),
            decode_against_first: against(step, 1),
        }
    };
    let report = SweepReport {
        schema: SCHEMA,
        generator: concat!("driftprobe ", env!("CARGO_PKG_VERSION")).to_owned(),
        axis: &sweep.axis,
        unit: sweep.unit,
        verdict: sweep.verdict().id(),
        values: sweep.steps.iter().map(value).collect(),
    };
    // Nothing in it can fail to be text: numbers that are not finite are strings.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

fn parting(one: &Parting) -> PartingEntry {
    let spread = |spread: &Option<Spread>| {
        spread.as_ref().map(|one| SpreadEntry { rows: one.rows, median: Num(one.median), max: Num(one.max) })
    };
    PartingEntry {
        compared: one.compared,
        equal: one.equal,
        not_compared: one.not_compared,
        onset: one.onset.map(|onset| OnsetEntry {
            point: onset.point.id(),
            layer: onset.layer,
            kv_len: onset.kv_len,
            equal_to: onset.equal_to,
            equal_beyond: onset.equal_beyond,
        }),
        attn_out: spread(&one.attn_out),
        logits: spread(&one.logits),
        along: one.along.iter().map(|(keys, distance)| (*keys, Num(*distance))).collect(),
    }
}
