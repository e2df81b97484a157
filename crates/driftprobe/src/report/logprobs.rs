//! Log-probabilities for people and for programs: text, Markdown, TSV, JSON, and a picture.

mod json;
mod markdown;
mod text;

pub use super::plot::ratio::draw as picture;
pub use json::{SCHEMA, to_json};
pub use markdown::to_markdown;
pub use text::to_terminal;

use super::escape::tsv;
use super::format::{brief, near_one, share};
use crate::logprobs::{Judged, Link, Metrics, Pair};

/// The picture's title.
pub const PICTURE_TITLE: &str = "Log-probabilities: decode against prefill";

/// Tokens that reports list.
const TOKENS_LISTED: usize = 10;
/// Sequences that reports for people list.
const SEQUENCES_LISTED: usize = 8;

/// The columns of the TSV.
pub const COLUMNS: [&str; 8] =
    ["SEQUENCE", "INDEX", "TOKEN_ID", "STATUS", "PREFILL_LOGPROB", "DECODE_LOGPROB", "DELTA", "RATIO"];

/// Every token that was read, compared or not, with a header and a line feed after every line.
pub fn to_tsv(judged: &Judged) -> String {
    let mut out = COLUMNS.join("\t") + "\n";
    for row in &judged.mismatch.rows {
        let [ours, theirs] = row.scores;
        let ids: Vec<String> = [ours, theirs].iter().flatten().map(|(id, _)| id.to_string()).collect();
        let id = match ids.as_slice() {
            [ours, theirs] if ours != theirs => format!("{ours}/{theirs}"),
            [id, ..] => id.clone(),
            [] => "-".to_owned(),
        };
        let logprob = |score: Option<(u32, f64)>| score.map_or_else(|| "-".to_owned(), |(_, p)| p.to_string());
        let delta = match (row.why_not, ours, theirs) {
            (None, Some((_, ours)), Some((_, theirs))) => Some(theirs - ours),
            _ => None,
        };
        let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:e}"));
        let cells = [
            tsv(&row.sequence),
            row.index.to_string(),
            id,
            row.why_not.map_or("COMPARED", |code| code.id()).to_owned(),
            logprob(ours),
            logprob(theirs),
            or_dash(delta),
            or_dash(delta.map(f64::exp)),
        ];
        out.push_str(&cells.join("\t"));
        out.push('\n');
    }
    out
}

/// A figure, and what it is called.
type Figure = (&'static str, String);

/// What was measured, in the order of reports.
fn figures(metrics: &Metrics) -> Vec<Figure> {
    let m = metrics;
    let ratios = [m.ratio_min, m.ratio_p50, m.ratio_p99, m.ratio_max].map(ratio);
    vec![
        ("mean |Δ|", brief(m.mean_abs_delta)),
        ("max |Δ|", brief(m.max_abs_delta)),
        ("k1 = mean −Δ", brief(m.k1)),
        ("k2 = mean Δ²/2", brief(m.k2)),
        ("k3 = mean e^Δ−1−Δ", brief(m.k3)),
        ("ratio e^Δ", format!("min {}, median {}, p99 {}, max {}", ratios[0], ratios[1], ratios[2], ratios[3])),
        ("ratio not 0.5 to 2", outside(m)),
        ("χ² = mean e^2Δ − 1", brief(m.chi2)),
        (
            "perplexity",
            format!(
                "prefill {:.4}, decode {:.4}, ratio {}",
                m.perplexity_prefill,
                m.perplexity_decode,
                ratio(m.perplexity_ratio)
            ),
        ),
        ("correlation of p", if m.correlation.is_nan() { "-".to_owned() } else { near_one(m.correlation) }),
        ("Δ = 0", share(m.equal, m.tokens)),
    ]
}

fn outside(metrics: &Metrics) -> String {
    share((metrics.ratio_outside * metrics.tokens as f64).round() as u64, metrics.tokens)
}

/// A ratio: what it lacks to 1 is what matters.
fn ratio(value: f64) -> String {
    match (value - 1.0).abs() {
        0.0 => "1".to_owned(),
        off if off < 1e-3 => format!("1 {} {off:.1e}", if value > 1.0 { "+" } else { "−" }),
        _ => brief(value),
    }
}

/// What a trace says besides its sentence: whether it shows what was measured.
fn reproduced(link: &Link, pair: &Pair) -> String {
    let (Some(delta), Some(reproduces)) = (link.delta, link.reproduces(pair)) else {
        return "The run holds no logits of the token, so that whether it shows the same Δ is not known.".to_owned();
    };
    match reproduces {
        true => format!("The run shows it too: Δ = {} there.", brief(delta)),
        false => format!(
            "The run does not show it: Δ = {} there, {} as measured. What it says does not explain the token.",
            brief(delta),
            brief(pair.delta())
        ),
    }
}
