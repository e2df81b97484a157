//! Log-probabilities as Markdown: for a report, or a pull request.

use super::text::counted;
use super::{SEQUENCES_LISTED, TOKENS_LISTED, figures, ratio, reproduced};
use crate::logprobs::Judged;
use crate::report::escape::{code, markdown, markdown_sentence};
use crate::report::format::brief;
use std::fmt::Write as _;

/// The outcome, the figures, and the worst sequences and tokens.
pub fn to_markdown(judged: &Judged) -> String {
    let mismatch = &judged.mismatch;
    let mut out = format!("# Log-probabilities: {}\n\n", judged.outcome.id());
    let _ = writeln!(out, "{}.\n", counted(mismatch.metrics.tokens, mismatch.sequences.len()));
    for why in &judged.why {
        let _ = writeln!(out, "- {}", markdown_sentence(why));
    }
    let origin = &judged.origin;
    let _ = writeln!(out, "\nPrefill: {}. Decode: {}.", code(&origin.prefill), code(&origin.decode));
    for (name, says) in [("Engine", &origin.engine), ("Tokens", &origin.sampling)] {
        if let Some(says) = says {
            let _ = writeln!(out, "{name}: {}.", markdown(says));
        }
    }
    findings(&mut out, judged);
    if mismatch.metrics.tokens > 0 {
        out.push_str("\nΔ = ln p(decode) − ln p(prefill).\n\n| over all tokens | |\n|---|---|\n");
        for (name, value) in figures(&mismatch.metrics) {
            let _ = writeln!(out, "| {} | {} |", markdown(name), markdown(&value));
        }
    }
    if !judged.checks.is_empty() {
        out.push_str("\n| limit of | measured | limit | from | verdict |\n|---|---|---|---|---|\n");
    }
    for check in &judged.checks {
        let (name, value, limit) = (markdown(check.measure.name()), brief(check.value), brief(check.limit));
        let _ = writeln!(out, "| {name} | {value} | ≤ {limit} | {} | {} |", check.from, check.verdict.id());
    }
    if mismatch.metrics.tokens > 0 {
        sequences(&mut out, judged);
    }
    if !mismatch.pairs.is_empty() || !mismatch.unsound.is_empty() {
        tokens(&mut out, judged);
    }
    out
}

fn findings(out: &mut String, judged: &Judged) {
    if judged.mismatch.findings.is_empty() {
        return;
    }
    out.push_str("\n| finding | tokens | what | such as | hint |\n|---|---|---|---|---|\n");
    for finding in &judged.mismatch.findings {
        let (id, count, sentence) = (finding.code.id(), finding.count, finding.code.sentence());
        let (examples, hint) = (markdown(&finding.examples.join("; ")), markdown_sentence(finding.code.hint()));
        let _ = writeln!(out, "| `{id}` | {count} | {sentence} | {examples} | {hint} |");
    }
}

fn sequences(out: &mut String, judged: &Judged) {
    out.push_str("\n| worst sequences | tokens | mean \\|Δ\\| | k3 | Σ Δ | worst token |\n|---|---|---|---|---|---|\n");
    for one in judged.mismatch.worst_sequences(SEQUENCES_LISTED) {
        let m = &one.metrics;
        let (name, mean, k3, sum) =
            (markdown(&one.sequence), brief(m.mean_abs_delta), brief(m.k3), brief(one.sum_delta));
        let _ = writeln!(out, "| {name} | {} | {mean} | {k3} | {sum} | {} |", m.tokens, one.worst);
    }
}

fn tokens(out: &mut String, judged: &Judged) {
    let worst = judged.mismatch.worst(TOKENS_LISTED);
    out.push_str("\n| worst tokens | index | token | prefill | decode | Δ | ratio |\n|---|---|---|---|---|---|---|\n");
    for pair in &worst {
        let (name, delta, ratio) = (markdown(&pair.sequence), brief(pair.delta()), ratio(pair.delta().exp()));
        let (prefill, decode) = (pair.prefill, pair.decode);
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {prefill:.4} | {decode:.4} | {delta} | {ratio} |",
            pair.index, pair.token_id
        );
    }
    for pair in worst {
        let Some(link) = judged.link(pair) else { continue };
        let place = format!("{}, token {}", pair.sequence, pair.index);
        let sub = link.sub_verdict.map_or_else(String::new, |sub| format!(" ({})", sub.id()));
        let _ = writeln!(
            out,
            "\n**{} traced: {}{sub}.** {}. {} Run: {}.",
            markdown(&place),
            link.verdict.id(),
            markdown_sentence(&link.says),
            reproduced(link, pair),
            code(&link.run)
        );
        for cause in &link.causes {
            let _ = writeln!(out, "- {}", markdown_sentence(cause));
        }
    }
}
