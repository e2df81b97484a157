//! What the oracle makes of a pair: rounding that starts here, drift that was inherited, or a fault, and of which phase.

use crate::evidence::Bits;
use crate::examine::Examination;
use crate::judge::{Finding, JudgedPair, PairVerdict};
use crate::oracle::stats::Flag;
use crate::oracle::{Input, Outcome, StageJudgement};
use crate::reason::ReasonCode;
use driftprobe_trace::{Phase, Point};
use std::collections::BTreeMap;

/// Where a pair stands: prompt, position, layer and point.
type Key = (usize, u64, i32, Point);

/// Refines the verdicts of pairs that are compared; pairs of the search order.
pub fn attribute(pairs: &mut [JudgedPair], examination: &Examination) {
    let key = |pair: &JudgedPair| (pair.place.prompt, pair.place.position, pair.prefill.layer, pair.prefill.point);
    let equal: BTreeMap<Key, bool> =
        pairs.iter().map(|pair| (key(pair), matches!(pair.bits, Bits::Equal { .. }))).collect();
    for pair in pairs {
        let stages = [&pair.prefill, &pair.decode].map(|event| examination.of(event).cloned());
        let systematic = [&pair.prefill, &pair.decode].map(|event| examination.is_systematic(event));
        pair.stages = stages;
        let at_fault = pair.stages.each_ref().map(|stage| stage.as_ref().is_some_and(|s| s.outcome.is_fault()));
        let faulty = [at_fault[0] || systematic[0], at_fault[1] || systematic[1]];
        if matches!(pair.verdict, PairVerdict::NonFinite) || !is_trusted(pair) {
            continue;
        }
        if faulty != [false, false] {
            fault(pair, faulty, systematic);
        } else if matches!(pair.bits, Bits::Differ { .. }) {
            let clean = |stage: &Option<StageJudgement>| stage.as_ref().is_some_and(|s| s.outcome.is_clean());
            if pair.stages.iter().all(clean) && cache_is_judged(pair) {
                let inputs_equal = inputs_equal(pair, &equal);
                let contract = pair.stages.iter().flatten().any(|stage| stage.fitted);
                pair.findings.retain(|finding| finding.code != ReasonCode::Differs);
                pair.verdict = match (contract, inputs_equal) {
                    (true, _) => PairVerdict::Contract,
                    (false, true) => PairVerdict::Structural,
                    (false, false) => PairVerdict::Inherited,
                };
            } else {
                unjudged(pair);
            }
        }
    }
}

/// Whether the events' own evidence is sound: what is damaged, dependent or contradictory carries no claim.
fn is_trusted(pair: &JudgedPair) -> bool {
    let unsound = [ReasonCode::NotIndependent, ReasonCode::PayloadDamaged, ReasonCode::Contradiction];
    !pair.findings.iter().any(|finding| unsound.contains(&finding.code))
}

fn fault(pair: &mut JudgedPair, faulty: [bool; 2], systematic: [bool; 2]) {
    pair.verdict = PairVerdict::Fault;
    pair.findings.retain(|finding| finding.code != ReasonCode::Differs);
    pair.phase = match faulty {
        [true, false] => Some(Phase::Prefill),
        [false, true] => Some(Phase::Decode),
        _ => None,
    };
    let mut findings = vec![];
    for (at, phase) in [Phase::Prefill, Phase::Decode].into_iter().enumerate() {
        let stage = pair.stages.get(at).and_then(Option::as_ref).filter(|stage| stage.outcome.is_fault());
        if let Some(stage) = stage {
            findings.push(format!("{phase}: {}", in_words(&stage.outcome)));
        } else if systematic.get(at).copied().unwrap_or(false) {
            findings.push(format!("{phase}: small in this row, too much over all rows of the point together"));
        }
    }
    pair.findings.extend(findings.into_iter().map(|detail| Finding { code: ReasonCode::Fault, detail }));
}

/// Whether the rows of a cache that differ are among those whose sources were recorded: the last ones, up to its own.
fn cache_is_judged(pair: &JudgedPair) -> bool {
    let (Some(cache), Some(first)) = (pair.cache, pair.cache.and_then(|cache| cache.first_differing)) else {
        return true;
    };
    let judged = |stage: &StageJudgement| match &stage.outcome {
        // Values compared, of all that the row has.
        Outcome::Exact { compared } => {
            let values = stage.values.max(1) as u64;
            *compared as u64 * cache.positions / values
        }
        _ => 0,
    };
    let judged = pair.stages.iter().flatten().map(judged).min().unwrap_or(0);
    first >= cache.positions.saturating_sub(judged)
}

/// Says why a difference is not judged.
fn unjudged(pair: &mut JudgedPair) {
    if let Some(cache) = pair.cache.filter(|_| !cache_is_judged(pair)) {
        let detail = format!(
            "rows of earlier positions differ (the first is {}), and what was written there was not recorded",
            cache.first_differing.unwrap_or_default()
        );
        pair.findings.push(Finding { code: ReasonCode::NotJudged, detail });
    }
    let why = |(phase, stage): (Phase, &Option<StageJudgement>)| match stage {
        None => Some(format!("{phase}: nothing of this row to judge")),
        Some(stage) => match &stage.outcome {
            Outcome::Unjudged(why) => Some(format!("{phase}: {why}")),
            _ => None,
        },
    };
    let phases = [Phase::Prefill, Phase::Decode].into_iter().zip(&pair.stages);
    let findings: Vec<Finding> =
        phases.filter_map(why).map(|detail| Finding { code: ReasonCode::NotJudged, detail }).collect();
    pair.findings.extend(findings);
}

/// Whether what the stage was computed from is bit-equal between the phases, as far as both phases have it.
fn inputs_equal(pair: &JudgedPair, equal: &BTreeMap<Key, bool>) -> bool {
    let inputs: Vec<Input> = pair.stages.iter().flatten().flat_map(|stage| stage.inputs.iter().copied()).collect();
    let known = inputs
        .iter()
        .filter_map(|input| equal.get(&(pair.place.prompt, pair.place.position, input.layer, input.point)));
    let known: Vec<bool> = known.copied().collect();
    known.iter().all(|equal| *equal) && (inputs.is_empty() || !known.is_empty())
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
