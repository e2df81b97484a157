//! `drift.tsv`: one line a pair and one an event without a partner, in the columns of GRETA's first tool.
//!
//! FIRST_FAIL is the code of a row that is at fault, is not finite, or has no partner; without a model, of a row that
//! differs as well. ROOT_CAUSE repeats it only where the evidence carries it as a cause: at the first fault of a phase, and
//! where a row is not finite or nothing pairs. `-` stands for none.

use super::details;
use super::escape::tsv;
use super::format::or_dash;
use crate::analysis::{Analysis, Unpaired};
use crate::judge::{JudgedPair, PairVerdict};
use crate::verdict::TRACE_OFFSET;

/// The columns.
pub const COLUMNS: [&str; 8] =
    ["PROMPT", "TOKEN_ID", "POS_ID", "LAYER", "TENSOR", "FIRST_FAIL", "ROOT_CAUSE", "DETAILS"];

/// The table, with a header and a line feed after every line.
pub fn to_tsv(analysis: &Analysis) -> String {
    let mut out = COLUMNS.join("\t") + "\n";
    for cells in rows(analysis) {
        let escaped: Vec<String> =
            cells.iter().map(|cell| if cell == "-" { cell.clone() } else { tsv(cell) }).collect();
        out.push_str(&escaped.join("\t"));
        out.push('\n');
    }
    out
}

/// The rows of the table, unescaped: pairs and events without a partner, in search order.
pub fn rows(analysis: &Analysis) -> Vec<[String; 8]> {
    let mut rows: Vec<_> = analysis.pairs.iter().map(|pair| (pair.place, of_pair(analysis, pair))).collect();
    rows.extend(analysis.unpaired.iter().map(|one| (one.place, of_unpaired(one))));
    rows.sort_by_key(|(place, _)| *place);
    rows.into_iter().map(|(_, cells)| cells).collect()
}

/// FIRST_FAIL and ROOT_CAUSE of a pair.
fn codes(analysis: &Analysis, pair: &JudgedPair) -> [String; 2] {
    let dash = || "-".to_owned();
    let code = || pair.code().to_owned();
    let fails = pair.fails(analysis.examination.is_some());
    match pair.verdict {
        PairVerdict::NonFinite => [code(), code()],
        _ if fails && is_cause(analysis, pair) => [code(), code()],
        _ if fails => [code(), dash()],
        _ => [dash(), dash()],
    }
}

/// Whether this is the first fault of a phase.
fn is_cause(analysis: &Analysis, pair: &JudgedPair) -> bool {
    let event = &pair.prefill;
    let place = (&*event.prompt_id, event.token_index(), event.layer, event.point);
    let mut causes = analysis.examination.iter().flat_map(|examination| &examination.causes);
    causes.any(|cause| (&*cause.prompt_id, Some(cause.pos), cause.layer, cause.point) == place)
}

fn of_pair(analysis: &Analysis, pair: &JudgedPair) -> [String; 8] {
    let [first_fail, root_cause] = codes(analysis, pair);
    [
        pair.prefill.prompt_id.to_string(),
        or_dash(pair.token_id()),
        or_dash(pair.position()),
        layer(pair.prefill.layer),
        pair.prefill.point_spelling.to_string(),
        first_fail,
        root_cause,
        details::of_pair(pair),
    ]
}

fn of_unpaired(one: &Unpaired) -> [String; 8] {
    let code = if one.one_phase { "-" } else { TRACE_OFFSET };
    [
        one.event.prompt_id.to_string(),
        or_dash(one.event.token_id),
        or_dash(one.event.position()),
        layer(one.event.layer),
        one.event.point_spelling.to_string(),
        code.to_owned(),
        code.to_owned(),
        details::of_unpaired(one),
    ]
}

fn layer(layer: i32) -> String {
    if layer < 0 { "-".to_owned() } else { layer.to_string() }
}
