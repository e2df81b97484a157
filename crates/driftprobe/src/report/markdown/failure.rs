//! Where the phases part: the first failure with its evidence, each forward pass, and the propagation tree.

use super::{Document, cell};
use crate::analysis::Analysis;
use crate::judge::JudgedPair;
use crate::report::escape::{code, json_for_display, markdown, markdown_sentence};
use crate::report::format::{distances, number, or_dash, recorded, scope, statistics};
use crate::report::{details, tree};
use crate::verdict::{FirstFailure, Parting, layer_of};
use driftprobe_trace::Event;
use std::collections::BTreeMap;

pub fn first_failure(out: &mut Document, analysis: &Analysis, first: &FirstFailure) {
    out.section("First failure");
    let position = first.pos_id.map_or_else(String::new, |position| format!(", position {position}"));
    let what = match first.parting {
        Parting::Differs => "the rows differ",
        Parting::Fault => "the stage is at fault",
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
        let is_it = |event: &Event| {
            (&*event.prompt_id, event.layer, event.point) == (&*first.prompt_id, first.layer, first.point)
                && first.pos_id == event.position()
        };
        if let Some(one) = analysis.unpaired.iter().find(|one| is_it(&one.event)) {
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
        if let crate::evidence::metrics::Scope::Sample { .. } = numbers.scope {
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
    if first.parting == Parting::Fault {
        out.push_str(" What lies between the two and was judged is no further off than rounding makes it.");
    }
    if !first.not_compared.is_empty() {
        let points: Vec<String> = (first.not_compared.iter())
            .map(|(layer, point)| format!("{}{}", code(point.id()), layer_of(*point, *layer)))
            .collect();
        out.push_str(&format!(" Not compared in between: {}.", points.join(", ")));
    }
    if let Some((from, to)) = first.skipped_layers {
        out.push_str(&format!(" Layers in between that were not recorded: {from} … {to}."));
    }
    out
}

/// The event as it would stand in a trace.
fn event_json(event: &Event) -> String {
    json_for_display(&serde_json::to_string_pretty(event).unwrap_or_default())
}

/// Where each forward pass first parts.
pub fn prompts(out: &mut Document, analysis: &Analysis) {
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

pub fn propagation(out: &mut Document, analysis: &Analysis) {
    if let Some(tree) = tree::to_tree(analysis) {
        out.section("Propagation");
        out.line(format!("{}\n", tree::LEGEND));
        out.block("text", &tree);
    }
}
