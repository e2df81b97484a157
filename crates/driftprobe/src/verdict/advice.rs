//! What a report says beside its tables: what the verdict rests on, what this run's evidence suggests to do next, and what
//! it cannot claim. Every sentence follows from something found in this run; nothing is said by default.

mod cure;
mod limits;

use crate::analysis::Analysis;
use crate::evidence::metrics::Scope;
use crate::evidence::{Bits, Means};
use crate::judge::{JudgedPair, PairVerdict};
use crate::pair::KeyField;
use crate::verdict::reason::ReasonCode;
use crate::verdict::{FirstFailure, Parting, SubVerdict, Verdict, layer_of};
use driftprobe_trace::{Event, Phase, Point};
use std::collections::{BTreeMap, BTreeSet};

/// Sentences for a reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// What the verdict rests on.
    pub rests_on: Vec<String>,
    /// What to do next, most telling first.
    pub recommendations: Vec<String>,
    /// What cannot be claimed.
    pub limits: Vec<String>,
}

/// Writes the sentences for an analysis (its own `advice` is not looked at).
pub fn advise(analysis: &Analysis) -> Advice {
    Advice {
        rests_on: rests_on(analysis),
        recommendations: recommendations(analysis),
        limits: limits::limits(analysis),
    }
}

fn rests_on(analysis: &Analysis) -> Vec<String> {
    let mut by_means: BTreeMap<&str, u64> = BTreeMap::new();
    for pair in &analysis.pairs {
        let means = match &pair.bits {
            Bits::Equal { by } => match by {
                Means::Payload => "equal by the bytes of both payloads",
                _ => "equal by a hash over the whole row",
            },
            Bits::EqualAsSampled { .. } => "equal over the values sampled",
            Bits::Differ { by: Means::Payload } => "different by the bytes of both payloads",
            Bits::Differ { by: Means::Hash } => "different by their hashes",
            Bits::Differ { by: Means::Sample } => "different in values sampled",
            Bits::Differ { by: Means::Statistics } => "different in their statistics",
            Bits::Incomparable { .. } => "not comparable",
        };
        *by_means.entry(means).or_default() += 1;
    }
    let mut out: Vec<String> =
        by_means.into_iter().map(|(means, count)| format!("{}: {means}", rows_of(count, "pair"))).collect();
    out.extend(limits::judged(analysis));
    let numbers = analysis.pairs.iter().filter(|pair| pair.numbers.is_some()).count() as u64;
    if numbers > 0 {
        out.push(format!("{}: distances measured in f64", rows_of(numbers, "pair")));
    }
    for repeat in &analysis.repeats {
        out.push(format!(
            "self-repeat {} of {}: {} of {} rows bit-equal",
            repeat.repeat, repeat.phase, repeat.equal, repeat.paired
        ));
    }
    out
}

/// `1 pair`, `2 pairs`.
pub(crate) fn rows_of(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn recommendations(analysis: &Analysis) -> Vec<String> {
    let mut out = vec![];
    out.extend(nothing(analysis).map(str::to_owned));
    out.extend(shifted_positions(analysis));
    out.extend(one_phase_only(analysis));
    out.extend(cure::of_causes(analysis));
    out.extend(cure::of_gaps(analysis));
    if let Some(first) = &analysis.verdict.first_failure {
        out.extend(at_first_failure(analysis, first));
    }
    out.extend(weak_keys(analysis));
    out.extend(without_payload(analysis));
    let reasons = &analysis.verdict.reasons;
    let mut told =
        vec![ReasonCode::WeaklyKeyed, ReasonCode::NothingCompared, ReasonCode::NonFinite, ReasonCode::Differs];
    if reasons.iter().any(|reason| reason.code == ReasonCode::NoManifest) {
        told.push(ReasonCode::ExpectedUnknown);
    }
    if analysis.verdict.first_failure.as_ref().is_some_and(|first| first.parting == Parting::Fault) {
        told.push(ReasonCode::Fault);
    }
    if !cure::of_gaps(analysis).is_empty() || !cure::searched(analysis).is_empty() {
        told.push(ReasonCode::GapFault);
    }
    for reason in reasons.iter().filter(|reason| !told.contains(&reason.code)) {
        out.push(format!("{} ({}): {}.", reason.code.id(), reason.count, reason.code.hint()));
    }
    out
}

/// What to do after a PASS.
fn nothing(analysis: &Analysis) -> Option<&'static str> {
    match (analysis.verdict.verdict, analysis.verdict.sub_verdict) {
        (Verdict::Pass, Some(SubVerdict::BitIdentical)) => Some("Nothing to mend: every pair is bit-equal."),
        (Verdict::Pass, _) => Some(
            "Nothing to mend: the drift is what rounding makes. Document it as expected; a gate on bit equality would only \
             ever alarm.",
        ),
        _ => None,
    }
}

/// A field of the key by whose constant shift the unpaired events of each prompt miss one another.
fn shifted_positions(analysis: &Analysis) -> Option<String> {
    let fields: [(KeyField, Value); 2] =
        [(KeyField::LogicalTokIdx, |event| event.logical_tok_idx), (KeyField::PosId, |event| event.pos_id)];
    fields.into_iter().find_map(|(field, value)| {
        let shifts = shift_by_prompt(analysis, value)?;
        let name = field.name();
        let parts: Vec<String> = (shifts.iter())
            .filter(|(_, shift)| **shift != 0)
            .map(|(prompt, shift)| {
                format!("{} {} in `{prompt}`", shift.abs(), if *shift < 0 { "lower" } else { "higher" })
            })
            .collect();
        (!parts.is_empty()).then(|| {
            format!("Decode's `{name}` is {} than prefill's: check where decode starts to count.", parts.join(", "))
        })
    })
}

/// Reads a field of the key.
type Value = fn(&Event) -> Option<u64>;

/// Decode's value minus prefill's, for each prompt with unpaired events; `None` if a prompt has no single one.
fn shift_by_prompt(analysis: &Analysis, value: Value) -> Option<BTreeMap<&str, i128>> {
    let mut values: BTreeMap<(&str, i32, Point), [Vec<u64>; 2]> = BTreeMap::new();
    for one in analysis.unpaired.iter().filter(|one| !one.one_phase) {
        let event = &one.event;
        let [prefill, decode] = values.entry((&event.prompt_id, event.layer, event.point)).or_default();
        let side = if event.phase == Phase::Prefill { prefill } else { decode };
        side.push(value(event)?);
    }
    let mut shifts: BTreeMap<&str, i128> = BTreeMap::new();
    for ((prompt, _, _), [mut prefill, mut decode]) in values {
        prefill.sort_unstable();
        decode.sort_unstable();
        if prefill.len() != decode.len() {
            return None;
        }
        for (p, d) in prefill.iter().zip(&decode) {
            let shift = i128::from(*d) - i128::from(*p);
            if *shifts.entry(prompt).or_insert(shift) != shift {
                return None;
            }
        }
    }
    Some(shifts)
}

fn one_phase_only(analysis: &Analysis) -> Option<String> {
    let (only, other) = match analysis.coverage.found {
        [1..=u64::MAX, 0] => (Phase::Prefill, Phase::Decode),
        [0, 1..=u64::MAX] => (Phase::Decode, Phase::Prefill),
        _ => return None,
    };
    Some(format!(
        "All events are of the {only} phase: record {other} as well, and check that its events say so in `phase`."
    ))
}

fn at_first_failure(analysis: &Analysis, first: &FirstFailure) -> Vec<String> {
    let mut out = vec![];
    let place = format!("`{}`{}", first.point, layer_of(first.point, first.layer));
    match (first.parting, first.phase) {
        (Parting::Unpaired, _) => return out,
        (Parting::NonFinite, Some(phase)) => {
            out.push(format!(
                "Look at {place} in {phase}: it is the first row that is not finite, and the other phase's is."
            ));
        }
        (Parting::NonFinite, None) => {
            out.push(format!("Look at {place} in both phases: it is the first row that is not finite."));
        }
        (Parting::Fault, _) if analysis.cause().is_some() => return out,
        (Parting::Fault, phase) => {
            let phase = phase.map_or("both phases".to_owned(), |phase| phase.to_string());
            return vec![format!(
                "Look at {place} in {phase}: it is the first stage that is not what its inputs and the model give."
            )];
        }
        (Parting::Differs, _) => {}
    }
    let recordable = |point: Point| !analysis.one_phase.iter().any(|(one, _)| *one == point);
    let mut wanted: Vec<String> = (by_layer(&first.not_compared, recordable).into_iter())
        .map(|(layer, points)| match layer {
            0.. => format!("{} of layer {layer}", points.join(", ")),
            _ => points.join(", "),
        })
        .collect();
    wanted.extend(first.skipped_layers.map(|(from, to)| match from == to {
        true => format!("layer {from}"),
        false => format!("layers {from} … {to}"),
    }));
    let before = first.last_equal.and_then(|index| analysis.pairs.get(index)).filter(|pair| sure(pair));
    if let (true, Some(before)) = (wanted.is_empty() && first.parting == Parting::Differs, before) {
        out.push(format!(
            "Look at the stage that makes {place}: `{}`{} is bit-equal, and nothing between the two is left to compare.",
            before.prefill.point,
            layer_of(before.prefill.point, before.prefill.layer)
        ));
    }
    if let Some(pair) = first.pair.and_then(|index| analysis.pairs.get(index)) {
        out.extend(about_inputs(analysis, pair, &place));
    }
    if !wanted.is_empty() {
        out.push(format!(
            "Record {} in both phases: the difference at {place} arises there or at `{}` itself.",
            wanted.join(" and "),
            first.point
        ));
    }
    out
}

/// Points by layer, as code spans.
fn by_layer(rows: &[(i32, Point)], keep: impl Fn(Point) -> bool) -> BTreeMap<i32, Vec<String>> {
    let mut out: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (layer, point) in rows.iter().filter(|(_, point)| keep(*point)) {
        out.entry(*layer).or_default().push(format!("`{point}`"));
    }
    out
}

/// Whether a pair is proven to be equal and to be one row.
fn sure(pair: &JudgedPair) -> bool {
    pair.verdict == PairVerdict::Identical && pair.absent.is_empty()
}

/// What the rows that attention reads say of a first failure at or after them.
fn about_inputs(analysis: &Analysis, pair: &JudgedPair, place: &str) -> Vec<String> {
    let inputs: Vec<&JudgedPair> = (analysis.pairs.iter())
        .filter(|other| {
            (other.place.prompt, other.place.position) == (pair.place.prompt, pair.place.position)
                && other.prefill.layer == pair.prefill.layer
                && matches!(other.prefill.point, Point::QPostRope | Point::KCache | Point::VCache)
        })
        .collect();
    let attention = pair.prefill.point.is_of_attention();
    if attention && inputs.len() == 3 && inputs.iter().all(|other| sure(other)) {
        let positions = inputs.iter().find_map(|other| other.cache).map(|cache| cache.positions);
        let rows = positions.map_or_else(String::new, |positions| format!(" rows 0 … {}", positions.saturating_sub(1)));
        return vec![format!(
            "Everything that attention reads at layer {} is bit-equal (`q_post_rope`, `k_cache`, `v_cache`{rows}): as far as these \
             are the rows it read, the difference at {place} is made by the attention computation itself, not by what the \
             cache holds.",
            pair.prefill.layer
        )];
    }
    inputs.into_iter().filter_map(|other| about_cache(other, place, attention)).collect()
}

fn about_cache(pair: &JudgedPair, place: &str, attention: bool) -> Option<String> {
    let cache = pair.cache?;
    let point = pair.prefill.point;
    let own = cache.positions.saturating_sub(1);
    match (cache.first_differing, cache.last_differing) {
        (Some(first), _) if first == own && own > 0 => Some(format!(
            "`{point}`{}: rows 0 … {} are bit-equal, only the row of this very position differs: what the cache holds of earlier \
             positions is not the cause.",
            layer_of(point, pair.prefill.layer),
            own - 1
        )),
        (None, _) if attention => Some(format!(
            "`{point}` rows 0 … {} of that layer are bit-equal while {place} differs: what this cache holds is not the cause.",
            own
        )),
        (Some(first), Some(last)) => Some(format!(
            "`{point}`{}: {} of {} positions differ, the first is {first}, the last {last}; look at what writes them.",
            layer_of(point, pair.prefill.layer),
            cache.positions - cache.equal,
            cache.positions
        )),
        _ => None,
    }
}

/// Differences of unknown size.
fn without_payload(analysis: &Analysis) -> Option<String> {
    let judged = analysis.examination.is_some();
    let unmeasured = |pair: &&JudgedPair| {
        let whole = pair.numbers.as_ref().is_some_and(|numbers| !matches!(numbers.scope, Scope::Sample { .. }));
        matches!(pair.bits, Bits::Differ { .. }) && !whole && !(judged && pair.verdict.is_good())
    };
    let count = analysis.pairs.iter().filter(unmeasured).count() as u64;
    (count > 0).then(|| {
        format!(
            "Record payloads: how far the rows of {} are apart is not known from the whole row.",
            rows_of(count, "differing pair")
        )
    })
}

/// Which points lack which key fields.
fn weak_keys(analysis: &Analysis) -> Option<String> {
    let mut points: BTreeMap<&[KeyField], BTreeSet<&str>> = BTreeMap::new();
    for pair in analysis.pairs.iter().filter(|pair| !pair.absent.is_empty()) {
        points.entry(&pair.absent).or_default().insert(&pair.prefill.point_spelling);
    }
    let parts: Vec<String> = (points.iter())
        .map(|(fields, points)| {
            let fields: Vec<String> = fields.iter().map(|field| format!("`{}`", field.name())).collect();
            let points: Vec<String> = points.iter().map(|point| format!("`{point}`")).collect();
            format!("{} in events of {}", fields.join(" and "), points.join(", "))
        })
        .collect();
    if parts.is_empty() { None } else { Some(format!("Write {}.", parts.join("; "))) }
}
