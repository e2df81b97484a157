//! What the oracle makes of a pair: rounding that starts here, drift that was inherited, or a fault, and of which phase.

use crate::evidence::Bits;
use crate::judge::examine::{Examination, Standing};
use crate::judge::{Finding, JudgedPair, PairVerdict};
use crate::oracle::stats::Flag;
use crate::oracle::{Input, Outcome, StageJudgement};
use crate::verdict::reason::ReasonCode;
use driftprobe_trace::{Event, Phase, Point};
use std::collections::BTreeMap;

/// Where a pair stands: prompt, position, layer and point.
type Key = (usize, u64, i32, Point);

/// Refines the verdicts of pairs that are compared; pairs of the search order.
pub fn attribute(pairs: &mut [JudgedPair], examination: &Examination) {
    let stands = |_: usize, event: &Event| (examination.of(event).cloned(), examination.standing(event));
    attribute_by(pairs, &stands, Phase::ALL.map(Phase::id));
}

/// What is known of one side's event: its stage's judgement, and where that leaves the row.
pub type Stands<'a> = dyn Fn(usize, &Event) -> (Option<StageJudgement>, Standing) + 'a;

/// As [`attribute`], where `stands` says of each side's event what is known of it, and `names` are the sides'.
pub fn attribute_by(pairs: &mut [JudgedPair], stands: &Stands<'_>, names: [&str; 2]) {
    let key = |pair: &JudgedPair| (pair.place.prompt, pair.place.position, pair.prefill.layer, pair.prefill.point);
    let equal: BTreeMap<Key, bool> =
        pairs.iter().map(|pair| (key(pair), matches!(pair.bits, Bits::Equal { .. }))).collect();
    for pair in pairs {
        let [(ours, our_standing), (theirs, their_standing)] = [stands(0, &pair.prefill), stands(1, &pair.decode)];
        pair.stages = [ours, theirs];
        if matches!(pair.verdict, PairVerdict::NonFinite) || !is_trusted(pair) {
            continue;
        }
        let standings = [our_standing, their_standing];
        let wrong = |standing: &Standing| matches!(standing, Standing::Fault(_) | Standing::Gap(_));
        if standings.iter().any(wrong) {
            fault(pair, &standings, names);
        } else if matches!(pair.bits, Bits::Differ { .. }) {
            let last_rows = last_rows_differ(pair);
            let clean = |standing: &Standing| match standing {
                Standing::Clean => true,
                Standing::LastRows(_) => last_rows,
                _ => false,
            };
            if standings.iter().any(is_left_out) && standings.iter().all(|one| clean(one) || is_left_out(one)) {
                // Its own values stay undecided; what follows it is judged.
                pair.findings.retain(|finding| finding.code != ReasonCode::Differs);
                let detail = "known by a sample, as planned; the stretch around it ends within rounding".to_owned();
                pair.findings.push(Finding { code: ReasonCode::LeftOut, detail });
            } else if standings.iter().all(clean) {
                let inputs_equal = inputs_equal(pair, &equal);
                let contract = pair.stages.iter().flatten().any(|stage| stage.fitted);
                pair.findings.retain(|finding| finding.code != ReasonCode::Differs);
                pair.verdict = match (contract, inputs_equal) {
                    (true, _) => PairVerdict::Contract,
                    (false, true) => PairVerdict::Structural,
                    (false, false) => PairVerdict::Inherited,
                };
            } else {
                unjudged(pair, &standings, names);
            }
        } else if standings.iter().any(|standing| matches!(standing, Standing::LeftOpen(_))) {
            // Rows that are equal may be wrong alike: whole ones would have been judged.
            pair.verdict = PairVerdict::Undecided;
            unjudged(pair, &standings, names);
        }
    }
}

fn is_left_out(standing: &Standing) -> bool {
    matches!(standing, Standing::LeftOut)
}

/// Whether the rows of a cache that differ are among the last ones, whose sources were recorded.
fn last_rows_differ(pair: &JudgedPair) -> bool {
    let Some((cache, first)) = pair.cache.and_then(|cache| Some((cache, cache.first_differing?))) else { return false };
    let judged = |stage: &StageJudgement| match &stage.outcome {
        Outcome::Exact { compared } => *compared as u64 * cache.positions / stage.values.max(1) as u64,
        _ => 0,
    };
    let judged = pair.stages.iter().map(|stage| stage.as_ref().map_or(0, judged)).min().unwrap_or(0);
    first >= cache.positions.saturating_sub(judged)
}

/// Whether the events' own evidence is sound: what is damaged, dependent or contradictory carries no claim.
fn is_trusted(pair: &JudgedPair) -> bool {
    !pair.findings.iter().any(|finding| finding.code.is_unsound())
}

fn fault(pair: &mut JudgedPair, standings: &[Standing; 2], names: [&str; 2]) {
    pair.verdict = PairVerdict::Fault;
    pair.findings.retain(|finding| finding.code != ReasonCode::Differs);
    let wrong = standings.each_ref().map(|standing| matches!(standing, Standing::Fault(_) | Standing::Gap(_)));
    pair.phase = match wrong {
        [true, false] => Some(Phase::Prefill),
        [false, true] => Some(Phase::Decode),
        _ => None,
    };
    for (name, standing) in names.into_iter().zip(standings) {
        let (code, detail) = match standing {
            Standing::Fault(detail) => (ReasonCode::Fault, detail),
            Standing::Gap(detail) => (ReasonCode::GapFault, detail),
            _ => continue,
        };
        pair.findings.push(Finding { code, detail: format!("{name}: {detail}") });
    }
}

/// Says why a difference is not judged.
fn unjudged(pair: &mut JudgedPair, standings: &[Standing; 2], names: [&str; 2]) {
    for (name, standing) in names.into_iter().zip(standings) {
        if let Standing::Unknown(why) | Standing::LastRows(why) | Standing::LeftOpen(why) = standing {
            pair.findings.push(Finding { code: ReasonCode::NotJudged, detail: format!("{name}: {why}") });
        }
    }
}

/// Whether what the stage was computed from is bit-equal between the phases, as far as both phases have it. Of a row that
/// only the tokens judge, it is not known and not claimed.
fn inputs_equal(pair: &JudgedPair, equal: &BTreeMap<Key, bool>) -> bool {
    let embeds = pair.prefill.point == Point::EmbedOut;
    let inputs: Vec<Input> = pair.stages.iter().flatten().flat_map(|stage| stage.inputs.iter().copied()).collect();
    let known = inputs
        .iter()
        .filter_map(|input| equal.get(&(pair.place.prompt, pair.place.position, input.layer, input.point)));
    let known: Vec<bool> = known.copied().collect();
    known.iter().all(|equal| *equal) && (embeds || !known.is_empty())
}

/// What was found, for people.
pub fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Clean(s) => format!("within rounding: RMS {:.2} of the noise it must have", s.rms),
        Outcome::Exact { compared } => format!("exactly what it must be ({compared} values)"),
        Outcome::Mismatch { compared, differing, first, largest } => format!(
            "{differing} of {compared} values are not what they must be exactly (first at {first}, largest difference {largest:.3e})"
        ),
        Outcome::Flagged { flags, statistics } => {
            let flags: Vec<String> = flags.iter().map(flag_in_words).collect();
            format!("not rounding: RMS {:.3e} of the noise it must have ({})", statistics.rms, flags.join("; "))
        }
        Outcome::Unjudged(why) => format!("not judged: {why}"),
    }
}

fn flag_in_words(flag: &Flag) -> String {
    match flag {
        Flag::NonFinite { at } => format!("element {at} is not finite"),
        Flag::Mask { at } => format!("element {at} is hidden by the mask and shown, or the other way round"),
        Flag::CellRms { cell, z } => format!("cell {cell} has RMS {z:.3e}"),
        Flag::Element { at, z } => format!("element {at} is off by {z:.3e} units"),
        Flag::Unrounded { at, size } => format!("element {at} is {size:.3e} units beyond its last rounding"),
        Flag::Score { direction, score } => format!("score {score:.1} along {}", direction.name()),
    }
}
