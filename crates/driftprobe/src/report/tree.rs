//! The propagation tree: one forward pass, layer by layer, each row with its mark and its distance.

use super::escape::visible;
use super::format::{mark, number, statistics};
use crate::analysis::Analysis;
use crate::evidence::metrics::Scope;
use crate::judge::{JudgedPair, PairVerdict};
use crate::pair::place::Part;

/// What the marks mean.
pub const LEGEND: &str = "✓ bit-equal · ≈ differs as rounding makes it · ✗ at fault · ~ equal as far as sampled · ≠ differs · ! not finite · ? not decided";

/// The forward pass (prompt and position) that the tree shows: that of the first failure, else the first one.
pub fn to_tree(analysis: &Analysis) -> Option<String> {
    let at_failure = analysis.verdict.first_failure.as_ref().and_then(|first| first.pair);
    let shown = analysis.pairs.get(at_failure.unwrap_or(0))?;
    let same_pass =
        |pair: &&JudgedPair| (pair.place.prompt, pair.place.position) == (shown.place.prompt, shown.place.position);
    let pairs: Vec<&JudgedPair> = analysis.pairs.iter().filter(same_pass).collect();
    let position = shown.position().map_or_else(String::new, |position| format!(", position {position}"));
    let mut out = format!("{}{position}\n", visible(&shown.prefill.prompt_id));

    let mut groups: Vec<Vec<&JudgedPair>> = vec![];
    for pair in pairs {
        let same_layer = |group: &Vec<&JudgedPair>| {
            group.last().is_some_and(|last| {
                pair.place.part == Part::Layer && (last.place.part, last.place.layer) == (Part::Layer, pair.place.layer)
            })
        };
        match groups.last_mut().filter(|group| same_layer(group)) {
            Some(group) => group.push(pair),
            None => groups.push(vec![pair]),
        }
    }
    let width = groups.iter().flatten().map(|pair| pair.prefill.point_spelling.len()).max().unwrap_or(0);
    let last = groups.len().saturating_sub(1);
    for (index, group) in groups.iter().enumerate() {
        let (branch, trunk) = if index == last { ("└──", "   ") } else { ("├──", "│  ") };
        let Some(first) = group.first() else { continue };
        if first.place.part != Part::Layer {
            out.push_str(&format!("{branch} {}\n", row(first, width + 4, shown, at_failure.is_some())));
            continue;
        }
        out.push_str(&format!("{branch} layer {}\n", first.prefill.layer));
        for (index, pair) in group.iter().enumerate() {
            let branch = if index + 1 == group.len() { "└──" } else { "├──" };
            out.push_str(&format!("{trunk} {branch} {}\n", row(pair, width, shown, at_failure.is_some())));
        }
    }
    Some(out)
}

fn row(pair: &JudgedPair, width: usize, shown: &JudgedPair, failed: bool) -> String {
    let first = if failed && std::ptr::eq(pair, shown) { "  ← first" } else { "" };
    let text = format!("{:width$}  {} {}{first}", visible(&pair.prefill.point_spelling), mark(pair), distance(pair));
    text.trim_end().to_owned()
}

fn distance(pair: &JudgedPair) -> String {
    let mut parts = vec![];
    match &pair.numbers {
        Some(numbers) if numbers.differing > 0 => {
            parts.extend(numbers.rel_l2.map(|rel_l2| format!("rel L2 {}", number(rel_l2))));
            parts.push(format!("max abs {}", number(numbers.max_abs)));
            parts.extend(numbers.max_ulp.map(|ulp| format!("{ulp} ULP")));
            if matches!(numbers.scope, Scope::Sample { .. }) {
                parts.push(format!("in {} sampled values", numbers.compared));
            }
        }
        None if pair.parts() && !pair.statistics.is_empty() => parts.push(statistics(&pair.statistics)),
        _ => {}
    }
    if let Some(cache) = pair.cache.filter(|cache| cache.first_differing.is_some()) {
        parts.push(format!("{} of {} positions equal", cache.equal, cache.positions));
    }
    if pair.verdict == PairVerdict::NonFinite {
        parts.extend(pair.findings.first().map(|finding| finding.detail.clone()));
    }
    parts.join(", ")
}
