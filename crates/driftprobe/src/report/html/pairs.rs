//! The pairs: as data for the script, and as a table of those that tell most for whoever has none.

use super::thin::{PAIRS_MAX, choose};
use crate::judge::JudgedPair;
use crate::report::escape::{cut, html, json_in_html, visible};
use crate::report::plot::heat::{Kind, residual};
use crate::report::recordings::Recording;
use serde_json::{Number, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Rows that are in the markup itself.
const ROWS_SHOWN: usize = 40;
/// Different notes that the data hold, and how long one may be.
const NOTES_MAX: usize = 2000;
const NOTE_WIDTH: usize = 160;

const COLUMNS: [&str; 12] = [
    "Prompt",
    "Position",
    "Token",
    "Layer",
    "Point",
    "Verdict",
    "z prefill",
    "z decode",
    "rel L2",
    "max abs",
    "Hash prefill",
    "Hash decode",
];

/// The table with its filters.
pub fn table(recordings: &[Recording<'_>]) -> String {
    let total: usize = recordings.iter().map(|one| one.analysis.pairs.len()).sum();
    if total == 0 {
        return "<p>No pair of rows was compared.</p>\n".to_owned();
    }
    let mut out = String::from(
        "<p>One row a pair. <b>z</b>: how far a phase's row is from what its own inputs and the model give, in units of the \
         noise it must have (RMS; about 1 is clean, ∞: off where nothing may be). <b>rel L2</b> and <b>max abs</b>: how far \
         the phases are apart.</p>\n",
    );
    let chosen = choose(recordings, PAIRS_MAX);
    if chosen.len() < total {
        let _ = writeln!(
            out,
            "<p class=\"note\">{} of {total} pairs are shown: the worst of every cell, all that are at fault or not decided as \
             far as there is room, and others. The verdict is over all of them; drift.tsv lists them.</p>",
            chosen.len()
        );
    }
    out.push_str("<div id=\"filters\" class=\"filters\" hidden></div>\n");
    let mut telling: Vec<(usize, usize)> = chosen.into_iter().filter(|(recording, _)| *recording == 0).collect();
    let pair = |(recording, index): &(usize, usize)| recordings.get(*recording)?.analysis.pairs.get(*index);
    telling.sort_by_key(|at| (std::cmp::Reverse(pair(at).map(Kind::of)), *at));
    let of = telling.len();
    telling.truncate(ROWS_SHOWN);
    let _ = write!(
        out,
        "<p id=\"status\" class=\"status\" role=\"status\">The {} most telling of {of} pairs; the script of this page lists \
         all.</p>\n<div class=\"scroll\" role=\"region\" aria-label=\"List of pairs\" tabindex=\"0\"><table id=\"list\" \
         class=\"pairs\"><thead><tr>",
        telling.len()
    );
    for column in COLUMNS {
        let _ = write!(out, "<th scope=\"col\">{column}</th>");
    }
    out.push_str("<th scope=\"col\">Notes</th></tr></thead>\n<tbody>\n");
    for pair in telling.iter().filter_map(pair) {
        row(&mut out, pair);
    }
    out.push_str("</tbody></table></div>\n<div id=\"pages\" class=\"pages\" hidden></div>\n");
    out
}

fn row(out: &mut String, pair: &JudgedPair) {
    let kind = Kind::of(pair);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let size = |value: Option<f64>| or_dash(value.map(written));
    let [prefill, decode] = pair.stages.each_ref().map(|stage| stage.as_ref().and_then(residual));
    let hash = |event: &driftprobe_trace::Event| or_dash(event.hash.map(|hash| hash.value.to_string()));
    let layer = if pair.prefill.layer < 0 { "–".to_owned() } else { pair.prefill.layer.to_string() };
    let _ = write!(
        out,
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{layer}</td><td>{}</td><td><span class=\"mark k-{}\">{}</span> {}</td>",
        html(&pair.prefill.prompt_id),
        or_dash(pair.position().map(|position| position.to_string())),
        or_dash(pair.token_id().map(|token| token.to_string())),
        html(&pair.prefill.point_spelling),
        kind.id(),
        kind.glyph(),
        pair.verdict.id(),
    );
    let numbers = pair.numbers.as_ref();
    for text in [
        size(prefill),
        size(decode),
        size(numbers.and_then(|numbers| numbers.rel_l2)),
        size(numbers.map(|numbers| numbers.max_abs)),
        hash(&pair.prefill),
        hash(&pair.decode),
        note(pair),
    ] {
        let _ = write!(out, "<td>{}</td>", html(&text));
    }
    out.push_str("</tr>\n");
}

/// A number as the table has it, in the page's script as well: four digits.
fn written(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value.is_nan() => "NaN".to_owned(),
        value if value.is_infinite() => if value > 0.0 { "∞" } else { "−∞" }.to_owned(),
        value if (1e-3..1e4).contains(&value.abs()) => format!("{}", four(value)),
        value => format!("{value:.3e}"),
    }
}

/// Four significant digits.
fn four(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// A number as data; what JSON cannot hold is text.
fn number(value: Option<f64>) -> Value {
    match value {
        None => Value::Null,
        Some(value) if value.is_nan() => json!("NaN"),
        Some(value) => Number::from_f64(four(value)).map_or_else(|| json!(written(value)), Value::Number),
    }
}

/// What was noticed about a pair, in short.
fn note(pair: &JudgedPair) -> String {
    let notes: Vec<String> =
        pair.findings.iter().map(|finding| format!("{}: {}", finding.code.id(), finding.detail)).collect();
    cut(&visible(&notes.join("; ")), NOTE_WIDTH)
}

/// The pairs as data in the page. Names are counted, hashes are text: no digit of them may pass through a float.
pub fn data(recordings: &[Recording<'_>]) -> String {
    let [mut prompts, mut points, mut verdicts, mut kinds, mut notes] = [(); 5].map(|()| Names::default());
    let chosen = choose(recordings, PAIRS_MAX);
    let mut rows = vec![];
    for (recording, index) in &chosen {
        let Some(pair) = recordings.get(*recording).and_then(|one| one.analysis.pairs.get(*index)) else { continue };
        let event = &pair.prefill;
        let note = note(pair);
        let note = if note.is_empty() { Value::Null } else { notes.number(&note, NOTES_MAX) };
        let [prefill, decode] = pair.stages.each_ref().map(|stage| stage.as_ref().and_then(residual));
        let hash = |event: &driftprobe_trace::Event| event.hash.map(|hash| hash.value.to_string());
        let (ours, theirs) = (hash(event), hash(&pair.decode));
        // Equal hashes are written once.
        let theirs = if ours.is_some() && ours == theirs { json!(1) } else { json!(theirs) };
        rows.push(json!([
            recording,
            prompts.number(&visible(&event.prompt_id), usize::MAX),
            pair.position(),
            pair.token_id(),
            event.layer,
            points.number(event.point.id(), usize::MAX),
            verdicts.number(pair.verdict.id(), usize::MAX),
            kinds.number(Kind::of(pair).id(), usize::MAX),
            number(prefill),
            number(decode),
            number(pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2)),
            number(pair.numbers.as_ref().map(|numbers| numbers.max_abs)),
            ours,
            theirs,
            note,
        ]));
    }
    // From best to worst: its number here is how bad a pair is.
    let marks: Vec<[&str; 2]> = Kind::ALL.iter().map(|kind| [kind.id(), kind.glyph()]).collect();
    let names: Vec<&str> = recordings.iter().map(|one| one.name.as_str()).collect();
    let totals: Vec<usize> = recordings.iter().map(|one| one.analysis.pairs.len()).collect();
    let data = json!({
        "recordings": names,
        "totals": totals,
        "prompts": prompts.names,
        "points": points.names,
        "verdicts": verdicts.names,
        "kinds": kinds.names,
        "notes": notes.names,
        "marks": marks,
        "rows": rows,
    });
    format!("<script type=\"application/json\" id=\"data\">{}</script>\n", json_in_html(&data.to_string()))
}

/// Names by number, in the order in which they came.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    known: BTreeMap<String, usize>,
}

impl Names {
    /// A name's number; no new ones beyond `most`.
    fn number(&mut self, name: &str, most: usize) -> Value {
        if let Some(known) = self.known.get(name) {
            return json!(known);
        }
        if self.names.len() >= most {
            return Value::Null;
        }
        self.known.insert(name.to_owned(), self.names.len());
        self.names.push(name.to_owned());
        json!(self.names.len() - 1)
    }
}
