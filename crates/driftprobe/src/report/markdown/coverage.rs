//! What the report rests on beside the pairs: self-repeats, coverage, and what the run says of itself.

use super::{Document, cell, list_under};
use crate::analysis::Analysis;
use crate::report::escape::{code, markdown, markdown_sentence};
use crate::report::format::number;
use driftprobe_trace::{LogitsCompared, Manifest, Phase, Point};
use serde_json::Value;
use std::collections::BTreeMap;

pub fn repeats(out: &mut Document, analysis: &Analysis) {
    out.section("Self-repeats");
    if let Some(observer) = analysis.manifest.as_ref().and_then(|manifest| manifest.observer.as_ref()) {
        let said =
            |logits: &LogitsCompared| format!("{} of {} rows of logits are bit-equal", logits.equal, logits.rows);
        let (prefill, decode) = (said(&observer.prefill), said(&observer.decode));
        out.line(format!("Traced against untraced: in prefill {prefill}, in decode {decode}.\n"));
    }
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

pub fn coverage(out: &mut Document, analysis: &Analysis) {
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
            row("… of them of points that only one phase gives", analysis.one_phase_rows().to_string()),
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

pub fn provenance(out: &mut Document, analysis: &Analysis) {
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
