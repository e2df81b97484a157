//! Log-probabilities on the terminal, in at most 80 columns.

use super::{SEQUENCES_LISTED, TOKENS_LISTED, figures, ratio, reproduced};
use crate::logprobs::{Judged, Link, Outcome, Pair, SequenceMetrics};
use crate::report::escape::{cut, visible};
use crate::report::format::brief;
use crate::report::terminal::{Style, Styled};

/// Columns of a sequence's name.
const NAME: usize = 22;

/// The summary.
pub fn to_terminal(judged: &Judged) -> Styled {
    let mut out = Styled::default();
    let mismatch = &judged.mismatch;
    let head = match judged.outcome {
        Outcome::Measured => Style::Strong,
        Outcome::Verdict(verdict) => Style::of(verdict),
    };
    let (tokens, sequences) = (mismatch.metrics.tokens, mismatch.sequences.len());
    out.line(head, format!("{}: {}", judged.outcome.id(), counted(tokens, sequences)));
    for why in &judged.why {
        out.wrapped("  ", Style::Plain, why);
    }
    for finding in &mismatch.findings {
        let first = format!("  {} ({}): ", finding.code.id(), finding.count);
        out.wrapped(&first, Style::Warn, &finding.examples.join("; "));
        out.wrapped("    hint: ", Style::Dim, finding.code.hint());
    }
    if let Some(engine) = &judged.origin.engine {
        out.wrapped("Engine: ", Style::Dim, engine);
    }
    if let Some(sampling) = &judged.origin.sampling {
        out.wrapped("Tokens: ", Style::Dim, sampling);
    }
    if tokens > 0 {
        out.blank();
        out.line(Style::Strong, "Δ = ln p(decode) − ln p(prefill), over all tokens");
        for (name, value) in figures(&mismatch.metrics) {
            out.wrapped(&format!("  {name:<20} "), Style::Plain, &value);
        }
    }
    for check in &judged.checks {
        let first = format!("  {:<12} ", check.verdict.id());
        let (name, value, limit) = (check.measure.name(), brief(check.value), brief(check.limit));
        out.wrapped(&first, Style::of(check.verdict), &format!("{name} {value}, limit ≤ {limit} ({})", check.from));
    }
    if tokens > 0 {
        of_sequences(&mut out, judged);
    }
    if !mismatch.pairs.is_empty() || !mismatch.unsound.is_empty() {
        of_tokens(&mut out, judged);
    }
    out
}

/// `64 tokens of 1 sequence, decode against prefill`.
pub(super) fn counted(tokens: u64, sequences: usize) -> String {
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let (of_tokens, of_sequences) = (plural(tokens), plural(sequences as u64));
    format!("{tokens} token{of_tokens} of {sequences} sequence{of_sequences}, decode against prefill")
}

fn of_sequences(out: &mut Styled, judged: &Judged) {
    out.blank();
    let head = ["tokens", "mean |Δ|", "k3", "Σ Δ", "worst token"];
    let line = |name: &str, [tokens, mean, k3, sum, worst]: [&str; 5]| {
        format!("{name:<w$} {tokens:>7} {mean:>10} {k3:>10} {sum:>10} {worst:>12}", w = NAME + 2)
    };
    out.line(Style::Strong, line("Worst sequences", head));
    for one in judged.mismatch.worst_sequences(SEQUENCES_LISTED) {
        let SequenceMetrics { metrics: m, sum_delta, worst, .. } = one;
        let cells = [m.tokens.to_string(), brief(m.mean_abs_delta), brief(m.k3), brief(*sum_delta), worst.to_string()];
        out.line(Style::Plain, line(&format!("  {}", name(&one.sequence)), cells.each_ref().map(String::as_str)));
    }
    let more = judged.mismatch.sequences.len().saturating_sub(SEQUENCES_LISTED);
    if more > 0 {
        out.line(Style::Dim, format!("  {more} more"));
    }
}

fn of_tokens(out: &mut Styled, judged: &Judged) {
    out.blank();
    let line = |name: &str, [index, id, prefill, decode, delta, ratio]: [&str; 6]| {
        format!("{name:<w$} {index:>6} {id:>7} {prefill:>8} {decode:>8} {delta:>9} {ratio:>11}", w = NAME + 2)
    };
    out.line(Style::Strong, line("Worst tokens", ["index", "token", "prefill", "decode", "Δ", "ratio"]));
    let worst = judged.mismatch.worst(TOKENS_LISTED);
    if worst.is_empty() {
        out.line(Style::Dim, "  none: all scores are equal");
    }
    for pair in worst {
        let logprob = |value: f64| format!("{value:.3}");
        let (index, id) = (pair.index.to_string(), pair.token_id.to_string());
        let (prefill, decode) = (logprob(pair.prefill), logprob(pair.decode));
        let cells = [index, id, prefill, decode, brief(pair.delta()), ratio(pair.delta().exp())];
        out.line(Style::Plain, line(&format!("  {}", name(&pair.sequence)), cells.each_ref().map(String::as_str)));
        if let Some(link) = judged.link(pair) {
            of_link(out, link, pair);
        }
    }
}

fn of_link(out: &mut Styled, link: &Link, pair: &Pair) {
    let sub = link.sub_verdict.map_or_else(String::new, |sub| format!(" ({})", sub.id()));
    out.wrapped("    traced: ", Style::of(link.verdict), &format!("{}{sub}: {}.", link.verdict.id(), link.says));
    for cause in &link.causes {
        out.wrapped("    cause: ", Style::Bad, cause);
    }
    out.wrapped("    ", Style::Dim, &reproduced(link, pair));
    out.wrapped("    run: ", Style::Dim, &link.run);
}

fn name(sequence: &str) -> String {
    cut(&visible(sequence), NAME)
}
