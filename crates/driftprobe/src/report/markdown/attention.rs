//! KV alignment: projection hashes, attention before and after softmax, and whether both phases hold one cache.

use super::Document;
use crate::analysis::Analysis;
use crate::judge::kv::{AttentionEvidence, AttentionStatistics, Consistency, KvIndicator, ProjectionHash};
use crate::report::escape::{code, markdown_sentence};
use crate::report::format::{number, or_dash};
use crate::verdict::hypotheses::modes;
use std::collections::{BTreeMap, BTreeSet};

pub fn alignment(out: &mut Document, analysis: &Analysis) {
    out.section("KV alignment analysis");
    out.line("### Projection hashes\n");
    projections(out, analysis);
    out.line("\n### Attention statistics\n");
    statistics(out, analysis);
    out.line("\n### KV alignment indicators\n");
    indicators(out, analysis);
}

fn projections(out: &mut Document, analysis: &Analysis) {
    let all = &analysis.attention.projections;
    if all.is_empty() {
        out.line("No projection was recorded: record `q_pre_rope`, `k_pre_rope` and `v_proj` in both phases.");
        return;
    }
    out.line(
        "Of the first recorded position of each prompt; the note is about all of them. Equal hashes prove equal rows;",
    );
    out.line("unlike ones show that the phases differ, by rounding or by a bug.\n");
    let hash = |one: &ProjectionHash, side: usize| {
        let hash = one.rows.first().and_then(|row| row.hashes.get(side).copied().flatten());
        hash.map_or_else(|| "none".to_owned(), |hash| hash.value.to_string())
    };
    let place = |one: &ProjectionHash| {
        let pos = one.rows.first().and_then(|row| row.pos);
        [code(one.projection.id()), one.layer.to_string(), code(&one.prompt_id), or_dash(pos)]
    };
    let Some(aligned) = &analysis.aligned else {
        let header = ["Tensor", "Layer", "Prompt", "Position", "Prefill", "Decode", "Notes"];
        let rows = all.iter().map(|one| {
            let [tensor, layer, prompt, pos] = place(one);
            [tensor, layer, prompt, pos, hash(one, 0), hash(one, 1), note(one)]
        });
        out.table(header, rows);
        return;
    };
    let rows = all.iter().map(|one| {
        let key = |one: &ProjectionHash| (one.layer, one.prompt_id.clone(), one.projection);
        let other = aligned.attention.projections.iter().find(|other| key(other) == key(one));
        let [tensor, layer, prompt, pos] = place(one);
        let (theirs, notes) = match other {
            Some(other) if note(one) == note(other) => (hash(other, 1), note(one)),
            Some(other) => (hash(other, 1), format!("{}; aligned: {}", note(one), markdown_sentence(&other.note()))),
            None => ("none".to_owned(), note(one)),
        };
        [tensor, layer, prompt, pos, hash(one, 0), hash(one, 1), theirs, notes]
    });
    let header = ["Tensor", "Layer", "Prompt", "Position", "Prefill", "Decode", "Decode, aligned", "Notes"];
    out.table(header, rows);
}

fn note(one: &ProjectionHash) -> String {
    let spelled =
        if one.point.id() == one.projection.id() { String::new() } else { format!(" (`{}`)", one.point.id()) };
    markdown_sentence(&format!("{}{spelled}", one.note()))
}

fn statistics(out: &mut Document, analysis: &Analysis) {
    let all: Vec<(&str, &AttentionStatistics)> = modes(analysis)
        .into_iter()
        .flat_map(|(mode, one)| one.attention.statistics.iter().map(move |s| (mode, s)))
        .collect();
    if all.is_empty() {
        out.line(
            "Nothing of attention was recorded: record `attn_scores` and `attn_probs`, or `q_post_rope` and `k_cache`.",
        );
        return;
    }
    let measured = |s: &&(&str, &AttentionStatistics)| s.1.before.value().is_some() || s.1.after.value().is_some();
    let header = [
        "Mode",
        "Layer",
        "Phase",
        "Pre-softmax min",
        "max",
        "mean",
        "Post-softmax min",
        "max",
        "mean",
        "entropy",
        "first token",
        "Source (pre, post)",
    ];
    if all.iter().any(|s| measured(&s)) {
        out.line(
        "Scaled scores before softmax and probabilities after it, over all prompts, positions and heads of a layer;",
    );
        out.line("entropy in nats, and the mass on the first token, are means over rows and heads.\n");
        out.table(header, all.iter().filter(measured).map(|(mode, s)| row(mode, s)));
    }
    let mut absent: BTreeMap<(&str, &str), BTreeSet<i32>> = BTreeMap::new();
    for (mode, s) in all.iter().filter(|s| !measured(s)) {
        absent.entry((mode, s.before.source())).or_default().insert(s.layer);
    }
    for ((mode, why), layers) in absent {
        let layers: Vec<String> = layers.iter().map(i32::to_string).collect();
        out.line(format!("Not measured in {mode}, layers {}: {}.\n", layers.join(", "), markdown_sentence(why)));
    }
}

fn row(mode: &str, s: &AttentionStatistics) -> [String; 12] {
    let [min, max, mean] = match s.before.value() {
        Some(of) => [of.min, of.max, of.mean].map(number),
        None => ["-", "-", "-"].map(str::to_owned),
    };
    let [low, high, middle, entropy, first] = match s.after.value() {
        Some(of) => [of.values.min, of.values.max, of.values.mean, of.entropy, of.first_mass].map(number),
        None => ["-"; 5].map(str::to_owned),
    };
    let source = match (s.before.source(), s.after.source()) {
        (before, after) if before == after => before.to_owned(),
        (before, after) => format!("{before}, {after}"),
    };
    let source = markdown_sentence(&source);
    [
        mode.to_owned(),
        s.layer.to_string(),
        s.phase.to_string(),
        min,
        max,
        mean,
        low,
        high,
        middle,
        entropy,
        first,
        source,
    ]
}

fn indicators(out: &mut Document, analysis: &Analysis) {
    let all: Vec<(&str, &KvIndicator)> = modes(analysis)
        .into_iter()
        .flat_map(|(mode, one)| one.attention.indicators.iter().map(move |i| (mode, i)))
        .collect();
    if all.is_empty() {
        out.line("No cache was recorded in both phases: record `k_cache` and `v_cache`.");
        return;
    }
    out.line(
        "Consistent: all cached rows that both phases hold are bit-equal, over all prompts and recorded positions;",
    );
    out.line("rows are counted once for each recorded position that reads them.\n");
    let rows = all.iter().map(|(mode, one)| {
        [
            (*mode).to_owned(),
            one.layer.to_string(),
            consistency(&one.k),
            consistency(&one.v),
            truth(one.aligned()).to_owned(),
            interpretation(one),
        ]
    });
    out.table(["Mode", "Layer", "K hash consistency", "V hash consistency", "K-V aligned", "Interpretation"], rows);
    let layers = |evidence: &AttentionEvidence| {
        let aligned = evidence.indicators.iter().filter(|one| one.aligned() == Some(true)).count();
        format!("{aligned} of {} layers", evidence.indicators.len())
    };
    let summary: Vec<String> =
        modes(analysis).iter().map(|(mode, one)| format!("{mode} {}", layers(&one.attention))).collect();
    out.line(format!("\nK-V aligned: {}.", markdown_sentence(&summary.join(", "))));
}

fn truth(known: Option<bool>) -> &'static str {
    match known {
        Some(true) => "True",
        Some(false) => "False",
        None => "not known",
    }
}

fn consistency(of: &Consistency) -> String {
    let truth = truth(of.consistent());
    if of.caches == 0 {
        return "not recorded".to_owned();
    }
    let rows = match of.held {
        0 => format!("{} of {} caches differ", of.differing, of.caches),
        held => format!("{} of {held} rows equal", of.equal),
    };
    let first = of.first_differing.map_or_else(String::new, |pos| format!(", first that differs: position {pos}"));
    format!("{truth}: {rows}{first}")
}

fn interpretation(one: &KvIndicator) -> String {
    let [k, v] = [&one.k, &one.v].map(Consistency::consistent);
    let earlier = one.k.earlier + one.v.earlier;
    match (one.aligned(), k, v) {
        (Some(true), ..) => "both phases hold the same K and V".to_owned(),
        (Some(false), ..) if earlier == 0 && one.k.held + one.v.held > 0 => {
            "only rows of the newest position differ: what the cache holds of earlier ones is the same".to_owned()
        }
        (Some(false), Some(false), Some(false)) => "K and V of earlier positions differ".to_owned(),
        (Some(false), Some(false), _) => "K differs".to_owned(),
        (Some(false), ..) => "V differs".to_owned(),
        (None, ..) => "not comparable over whole rows".to_owned(),
    }
}
