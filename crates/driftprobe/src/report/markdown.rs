//! `drift.md`: the report for people, from the verdict down to every single pair.
//!
//! A section without content is left out or says that nothing was recorded; there is no placeholder.

use super::escape::{code, json_for_display, markdown, markdown_sentence};
use super::format::{distances, number, or_dash, recorded, scope, share, statistics};
use super::{details, tree, tsv};
use crate::analysis::Analysis;
use crate::judge::JudgedPair;
use crate::reason::Reason;
use crate::verdict::{FirstFailure, Parting, Verdict, layer_of};
use driftprobe_trace::{Event, Manifest, Phase, Point};
use serde_json::Value;
use std::collections::BTreeMap;

/// The report as Markdown.
pub fn to_markdown(analysis: &Analysis) -> String {
    let mut out = Document::default();
    head(&mut out, analysis);
    rests_on(&mut out, analysis);
    summary(&mut out, analysis);
    breakdown(&mut out, analysis);
    if let Some(first) = &analysis.verdict.first_failure {
        first_failure(&mut out, analysis, first);
        prompts(&mut out, analysis);
    }
    propagation(&mut out, analysis);
    repeats(&mut out, analysis);
    coverage(&mut out, analysis);
    provenance(&mut out, analysis);
    list(&mut out, "Recommendations", &analysis.advice.recommendations);
    list(&mut out, "What this report cannot claim", &analysis.advice.limits);
    results(&mut out, analysis);
    out.text
}

/// Markdown as it grows.
#[derive(Default)]
struct Document {
    text: String,
}

impl Document {
    fn section(&mut self, title: &str) {
        self.text.push_str(&format!("\n## {title}\n\n"));
    }

    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// A table; cells are Markdown already.
    fn table<const N: usize>(&mut self, header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
        self.line(format!("| {} |", header.join(" | ")));
        self.line(format!("|{}", " --- |".repeat(N)));
        for row in rows {
            self.line(format!("| {} |", row.join(" | ")));
        }
    }

    /// A fenced block. No line of `body` may begin with three backticks; ours begin with JSON or a tree.
    fn block(&mut self, language: &str, body: &str) {
        self.line(format!("```{language}"));
        self.line(body.trim_end());
        self.line("```");
    }
}

fn head(out: &mut Document, analysis: &Analysis) {
    let run = &analysis.verdict;
    let title = analysis.options.title.as_deref().unwrap_or("Prefill and decode: drift report");
    out.line(format!("# {}", markdown(title)));
    out.line("");
    if let Some(date) = &analysis.options.date {
        out.line(format!("Date: {}\n", markdown(date)));
    }
    let sub = run.sub_verdict.map_or_else(String::new, |sub| format!(" ({})", code(sub.id())));
    out.line(format!("**Verdict: {}**{sub} · exit status {}", run.verdict.id(), analysis.exit_code()));
    out.line("");
    let why = markdown_sentence(&run.root_cause_why);
    out.line(match (run.root_cause, run.verdict) {
        (Some(cause), _) => format!("**Root cause: {}**: {why}.", code(cause)),
        (None, Verdict::Pass) => format!("**Root cause:** none; {why}."),
        (None, _) => format!("**Root cause:** not shown; {why}."),
    });
    let headings =
        [("Why it is no PASS", &run.reasons), ("Noticed besides, without bearing on the verdict", &run.notes)];
    for (heading, reasons) in headings {
        if !reasons.is_empty() {
            out.section(heading);
            out.table(["Reason", "Count", "What is the case", "What would settle it"], reasons.iter().map(reason));
        }
    }
}

fn reason(reason: &Reason) -> [String; 4] {
    let examples: Vec<String> = reason.examples.iter().map(|example| markdown_sentence(example)).collect();
    let more = if reason.count > examples.len() as u64 { " …" } else { "" };
    let examples = if examples.is_empty() { String::new() } else { format!(": {}{more}", examples.join(" · ")) };
    [
        code(reason.code.id()),
        reason.count.to_string(),
        markdown_sentence(reason.code.sentence()) + &examples,
        markdown_sentence(reason.code.hint()),
    ]
}

fn rests_on(out: &mut Document, analysis: &Analysis) {
    if analysis.advice.rests_on.is_empty() {
        out.section("What this verdict rests on");
        out.line("No pair of rows was compared.");
    } else {
        list(out, "What this verdict rests on", &analysis.advice.rests_on);
    }
}

fn summary(out: &mut Document, analysis: &Analysis) {
    let counts = &analysis.counts;
    let of = |count| share(count, counts.total);
    out.section("Summary");
    let mut rows = vec![
        ["Total pairs".to_owned(), counts.total.to_string()],
        ["Identical (bit-equal over the whole row)".to_owned(), of(counts.identical)],
        ["Undecided".to_owned(), of(counts.undecided)],
        ["… of them with rows that differ".to_owned(), of(counts.differing)],
        ["Not finite".to_owned(), of(counts.non_finite)],
        ["Missing comparison".to_owned(), of(counts.missing)],
        ["Recorded hashes match".to_owned(), of(counts.hash_match)],
        ["Recorded hashes differ".to_owned(), of(counts.hash_differ)],
        ["Events without a partner".to_owned(), analysis.coverage.unpaired.to_string()],
    ];
    if let Some(agree) = next_token(analysis) {
        rows.push(["Next token (top-1) agrees".to_owned(), agree]);
    }
    out.table(["Metric", "Value"], rows);
}

fn next_token(analysis: &Analysis) -> Option<String> {
    let answers: Vec<bool> =
        analysis.pairs.iter().filter_map(|pair| pair.logits.as_ref().and_then(|logits| logits.agree())).collect();
    let agree = answers.iter().filter(|agree| **agree).count();
    (!answers.is_empty()).then(|| format!("{agree} of {} positions", answers.len()))
}

fn breakdown(out: &mut Document, analysis: &Analysis) {
    if analysis.codes.is_empty() {
        return;
    }
    out.section("Failure breakdown");
    out.line("Where rows part, in the order of the search. A code names a place, not a cause.\n");
    let rows = analysis.codes.iter().map(|(id, count)| {
        let whole = if *id == crate::verdict::TRACE_OFFSET {
            analysis.coverage.found.iter().sum()
        } else {
            analysis.counts.total
        };
        let share = if whole == 0 { "-".to_owned() } else { format!("{:.2}%", *count as f64 * 100.0 / whole as f64) };
        [code(id), count.to_string(), share]
    });
    out.table(["Code", "Count", "Share"], rows);
}

fn first_failure(out: &mut Document, analysis: &Analysis, first: &FirstFailure) {
    out.section("First failure");
    let position = first.pos_id.map_or_else(String::new, |position| format!(", position {position}"));
    let what = match first.parting {
        Parting::Differs => "the rows differ",
        Parting::NonFinite => "a row is not finite",
        Parting::Unpaired => "nothing pairs, from here on",
    };
    out.line(format!(
        "**Location:** {}{}, prompt {}{position}: {what} ({}).\n",
        code(&first.point_spelling),
        layer_of(first.point, first.layer),
        code(&first.prompt_id),
        code(first.code),
    ));
    let Some(pair) = first.pair.and_then(|index| analysis.pairs.get(index)) else {
        if let Some(one) = analysis.unpaired.first() {
            out.line(format!("{}.\n", markdown_sentence(&details::of_unpaired(one))));
            out.block("json", &event_json(&one.event));
        }
        return;
    };
    let cells = |name: &str, of: fn(&Event) -> Option<String>| {
        [name.to_owned(), cell(of(&pair.prefill)), cell(of(&pair.decode))]
    };
    let title = |event: &Event| {
        format!("{} ({})", event.phase_spelling, event.step.map_or("no step".to_owned(), |step| format!("step {step}")))
    };
    let header = [markdown(&title(&pair.prefill)), markdown(&title(&pair.decode))];
    out.table(
        ["", &header[0], &header[1]],
        [
            cells("Hash", |event| event.hash.map(|hash| hash.value.to_string())),
            cells("Hash algorithm", |event| event.hash.map(|hash| hash.algo.to_string())),
            cells("seq_len", |event| event.seq_len.map(|seq_len| seq_len.to_string())),
            cells("dtype", |event| event.dtype.map(|dtype| dtype.to_string())),
            cells("shape", |event| event.shape.as_ref().map(|shape| format!("{shape:?}"))),
            cells("min", |event| event.stats.min.map(recorded)),
            cells("max", |event| event.stats.max.map(recorded)),
            cells("mean", |event| event.stats.mean.map(recorded)),
        ]
        .into_iter()
        .filter(|row| row[1] != "-" || row[2] != "-"),
    );
    out.line("");
    if let Some(numbers) = &pair.numbers {
        out.line(format!("Distance: {}.\n", markdown(&distances(numbers))));
        if let crate::metrics::Scope::Sample { .. } = numbers.scope {
            out.line(format!("Only {} are known of both sides.\n", scope(numbers)));
        }
    } else if pair.statistics.is_empty() {
        out.line("How far the rows are apart is not recorded: no payload, sample or statistics of both.\n");
    } else {
        out.line(format!(
            "No payload or sample of both sides was recorded. Statistics that differ (prefill / decode): {}.\n",
            markdown(&statistics(&pair.statistics))
        ));
    }
    out.line(before(analysis, first));
    out.section("Sample evidence");
    for (name, event) in [("Prefill", &pair.prefill), ("\nDecode", &pair.decode)] {
        let point = code(&event.point_spelling);
        let source = code(&event.source.to_string());
        out.line(format!("{name}: {point}{}, {source}\n", layer_of(event.point, event.layer)));
        out.block("json", &event_json(event));
    }
}

/// What stands before the first failure in the same forward pass.
fn before(analysis: &Analysis, first: &FirstFailure) -> String {
    let mut out = match first.last_equal.and_then(|index| analysis.pairs.get(index)) {
        Some(last) => {
            let event = &last.prefill;
            format!(
                "The last equal row before it is {}{}.",
                code(&event.point_spelling),
                layer_of(event.point, event.layer)
            )
        }
        None => "No row before it in this forward pass is known to be equal.".to_owned(),
    };
    if !first.not_compared.is_empty() {
        let points: Vec<String> = first.not_compared.iter().map(|point| code(point.id())).collect();
        out.push_str(&format!(" Not compared in between: {}.", points.join(", ")));
    }
    out
}

fn cell(text: Option<String>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| markdown(&text))
}

/// The event as it would stand in a trace.
fn event_json(event: &Event) -> String {
    json_for_display(&serde_json::to_string_pretty(event).unwrap_or_default())
}

/// Where each forward pass first parts.
fn prompts(out: &mut Document, analysis: &Analysis) {
    /// A pair of the pass, the first that parts, and how many part of how many.
    type Pass<'a> = (&'a JudgedPair, Option<&'a JudgedPair>, [u64; 2]);
    let mut passes: BTreeMap<(usize, u64), Pass<'_>> = BTreeMap::new();
    for pair in &analysis.pairs {
        let key = (pair.place.prompt, pair.place.position);
        let (_, first, [differing, total]) = passes.entry(key).or_insert((pair, None, [0, 0]));
        *total += 1;
        if pair.parts() {
            *differing += 1;
            first.get_or_insert(pair);
        }
    }
    if passes.len() < 2 {
        return;
    }
    out.section("Where each forward pass first parts");
    let rows = passes.values().map(|(any, first, [differing, total])| {
        let place = first.map_or_else(
            || "-".to_owned(),
            |pair| {
                format!("{}{}", code(&pair.prefill.point_spelling), layer_of(pair.prefill.point, pair.prefill.layer))
            },
        );
        let drift = first.and_then(|pair| pair.numbers.as_ref()).and_then(|numbers| numbers.rel_l2);
        [
            code(&any.prefill.prompt_id),
            or_dash(any.position()),
            place,
            drift.map_or_else(|| "-".to_owned(), number),
            format!("{differing} of {total}"),
        ]
    });
    out.table(["Prompt", "Position", "First parts at", "rel L2 there", "Pairs that part"], rows);
}

fn propagation(out: &mut Document, analysis: &Analysis) {
    if let Some(tree) = tree::to_tree(analysis) {
        out.section("Propagation");
        out.line(format!("{}\n", tree::LEGEND));
        out.block("text", &tree);
    }
}

fn repeats(out: &mut Document, analysis: &Analysis) {
    out.section("Self-repeats");
    if analysis.repeats.is_empty() {
        out.line("Not recorded: whether the engine repeats itself bit for bit is not known.");
        return;
    }
    let rows = analysis.repeats.iter().map(|repeat| {
        let [lacking, extra] = repeat.without_partner;
        let noise = match repeat.noise {
            Some(noise) => {
                let rel_l2 = noise.rel_l2.map_or_else(String::new, |rel_l2| format!(", rel L2 {}", number(rel_l2)));
                format!("max abs {}{rel_l2}", number(noise.max_abs))
            }
            None if repeat.differing > 0 => "not recorded".to_owned(),
            None if repeat.equal > 0 => "0".to_owned(),
            None => "-".to_owned(),
        };
        [
            repeat.repeat.to_string(),
            repeat.phase.to_string(),
            format!("{} of {}", repeat.equal, repeat.paired),
            repeat.equal_as_sampled.to_string(),
            repeat.differing.to_string(),
            (repeat.not_comparable + lacking + extra).to_string(),
            noise,
            cell(repeat.first_differing.clone()),
        ]
    });
    let header = [
        "Repeat",
        "Phase",
        "Bit-equal",
        "Equal as sampled",
        "Differ",
        "Not compared",
        "Noise floor",
        "First that differs",
    ];
    out.table(header, rows);
}

fn coverage(out: &mut Document, analysis: &Analysis) {
    let coverage = &analysis.coverage;
    out.section("Coverage");
    let expected = coverage.expected.map_or_else(|| "not known".to_owned(), |expected| expected.to_string());
    let row = |name: &str, value: String| [name.to_owned(), value];
    out.table(
        ["Rows", "Count"],
        [
            row("Promised by the manifest (both phases)", expected),
            row("Found (prefill + decode)", format!("{} + {}", coverage.found[0], coverage.found[1])),
            row("Promised and not found", coverage.missing.to_string()),
            row("Paired", coverage.paired.to_string()),
            row("… of them weakly keyed", coverage.weakly_keyed.to_string()),
            row("Without a partner", coverage.unpaired.to_string()),
            row("Not promised", coverage.unexpected.to_string()),
            row("Duplicate keys", coverage.duplicates.to_string()),
            row("Of unknown points", coverage.unmapped.to_string()),
        ],
    );
    missing(out, analysis);
    if !analysis.unexpected.is_empty() {
        out.line("\n### Not promised\n");
        for (place, why) in &analysis.unexpected {
            out.line(format!("- {}: {}", markdown(place), markdown_sentence(why)));
        }
    }
    if !analysis.one_phase.is_empty() {
        out.line("\n### Points of one phase, expected of neither\n");
        for (point, phase) in &analysis.one_phase {
            out.line(format!("- {} ({phase} only)", code(point.id())));
        }
    }
    if !analysis.unmapped.is_empty() {
        out.line("\n### Events of unknown points\n");
        for (source, point) in &analysis.unmapped {
            out.line(format!("- {}: {}", code(source), code(point)));
        }
    }
    list_under(out, "Noticed on reading", &analysis.reading_notes);
}

/// Promised rows that were not found: one line for each phase, prompt, position and point, with its layers.
fn missing(out: &mut Document, analysis: &Analysis) {
    if analysis.missing.is_empty() {
        return;
    }
    let mut groups: BTreeMap<(usize, u64, Point, Phase), Vec<i32>> = BTreeMap::new();
    let mut ranks: BTreeMap<&str, usize> = BTreeMap::new();
    let mut names = vec![];
    for row in &analysis.missing {
        let rank = *ranks.entry(&row.prompt_id).or_insert_with(|| {
            names.push(&row.prompt_id);
            names.len() - 1
        });
        groups.entry((rank, row.logical_tok_idx, row.point, row.phase)).or_default().push(row.layer);
    }
    out.line("\n### Promised and not found\n");
    let rows = groups.into_iter().map(|((rank, position, point, phase), layers)| {
        let layers: Vec<String> =
            layers.iter().map(|layer| if *layer < 0 { "-".to_owned() } else { layer.to_string() }).collect();
        let prompt = names.get(rank).map_or_else(String::new, |name| code(name));
        [phase.to_string(), prompt, position.to_string(), code(point.id()), layers.join(", ")]
    });
    out.table(["Phase", "Prompt", "Position", "Point", "Layers"], rows);
}

fn provenance(out: &mut Document, analysis: &Analysis) {
    out.section("Paths and environment");
    let Some(manifest) = &analysis.manifest else {
        out.line("Not recorded: the run has no manifest.");
        return;
    };
    let mut rows = vec![];
    let mut known = |name: &str, value: Option<String>| rows.extend(value.map(|value| [name.to_owned(), value]));
    known("Mode", manifest.mode.map(|mode| mode.id().to_owned()));
    known("Complete", Some(if manifest.complete { "yes" } else { "no" }.to_owned()));
    known(
        "Prompts",
        manifest.prompts.as_ref().map(|prompts| {
            let prompts: Vec<String> =
                prompts.iter().map(|prompt| format!("{} ({} tokens)", prompt.id, prompt.tokens.len())).collect();
            prompts.join(", ")
        }),
    );
    known("Steps", manifest.steps.map(|steps| steps.to_string()));
    known(
        "Layers",
        manifest.layers.as_ref().map(|layers| layers.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")),
    );
    known("Seed", manifest.seed.map(|seed| seed.to_string()));
    known("Commit of the engine", manifest.git.clone());
    for (name, value) in flattened(manifest) {
        known(&name, Some(value));
    }
    let rows = rows.into_iter().map(|[name, value]| [markdown(&name), markdown(&value)]);
    out.table(["What", "Recorded"], rows);
}

/// Engine, model, host, contract and environment as `part.field`, in a fixed order.
fn flattened(manifest: &Manifest) -> Vec<(String, String)> {
    fn flatten(name: String, value: &Value, out: &mut Vec<(String, String)>) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                fields.iter().for_each(|(field, value)| flatten(format!("{name}.{field}"), value, out))
            }
            Value::String(text) => out.push((name, text.clone())),
            other => out.push((name, other.to_string())),
        }
    }
    let mut out = vec![];
    let parts = [
        ("engine", serde_json::to_value(&manifest.engine)),
        ("model", serde_json::to_value(&manifest.model)),
        ("host", serde_json::to_value(&manifest.host)),
        ("contract", serde_json::to_value(&manifest.contract)),
        ("env", serde_json::to_value(&manifest.env)),
    ];
    for (name, value) in parts {
        flatten(name.to_owned(), &value.unwrap_or_default(), &mut out);
    }
    out
}

fn list(out: &mut Document, title: &str, sentences: &[String]) {
    if !sentences.is_empty() {
        out.section(title);
        for sentence in sentences {
            out.line(format!("- {}", markdown_sentence(sentence)));
        }
    }
}

fn list_under(out: &mut Document, title: &str, sentences: &[String]) {
    if !sentences.is_empty() {
        out.line(format!("\n### {title}\n"));
        for sentence in sentences {
            out.line(format!("- {}", markdown_sentence(sentence)));
        }
    }
}

fn results(out: &mut Document, analysis: &Analysis) {
    out.section("Detailed results");
    let rows = tsv::rows(analysis);
    if rows.is_empty() {
        out.line("No event was read.");
        return;
    }
    out.line("FIRST_FAIL is where rows part; ROOT_CAUSE is given only where the evidence carries a cause.\n");
    out.table(tsv::COLUMNS, rows.iter().map(|cells| cells.each_ref().map(|cell| markdown(cell))));
}
