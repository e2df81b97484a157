//! What the model says of a run, as data.

use crate::cause::{Candidate, Cause, Examined, PowerRow, UNEXPLAINED};
use crate::oracle::fit::Finding;
use crate::report::schema::*;
use crate::report::suspects;
use crate::simulate::EndToEnd;
use std::collections::BTreeMap;

pub fn of(cause: &Cause) -> CauseEntry {
    let best = cause.candidates.first();
    CauseEntry {
        hypothesis: best.map_or(UNEXPLAINED, |candidate| candidate.id),
        candidates: cause.candidates.iter().map(candidate).collect(),
        parameters: best.map(|candidate| parameters(&candidate.parameters)).unwrap_or_default(),
        phase: cause.phase.id(),
        prompt_id: cause.prompt_id.to_string(),
        logical_tok_idx: cause.pos,
        layer: cause.layer,
        layers: cause.layers.clone(),
        point: cause.point.id(),
        systematic: cause.systematic,
        noise_rms_before: Num(cause.noise_rms_before),
        noise_rms_after: best.map(|candidate| Num(candidate.noise_rms_after)),
        evidence: cause.evidence.clone(),
        tested: cause.tested.iter().map(candidate).collect(),
    }
}

fn parameters(all: &[(String, String)]) -> BTreeMap<String, String> {
    all.iter().cloned().collect()
}

fn candidate(candidate: &Candidate) -> CandidateEntry {
    CandidateEntry {
        hypothesis: candidate.id,
        parameters: parameters(&candidate.parameters),
        noise_rms_after: Num(candidate.noise_rms_after),
        accepted: candidate.accepted,
    }
}

pub fn contract(finding: &Finding) -> ContractEntry {
    ContractEntry {
        phase: finding.phase.id(),
        point: finding.point.id(),
        layers: finding.layers.clone(),
        rows: finding.rows as u64,
        id: finding.variant.id.clone(),
        says: finding.variant.says.clone(),
        noise_rms_declared: Num(finding.rms_declared),
        noise_rms: Num(finding.rms),
    }
}

pub fn power(row: &PowerRow) -> PowerEntry {
    PowerEntry {
        hypothesis: row.id,
        parameters: parameters(&row.parameters),
        phase: row.phase.id(),
        point: row.point.id(),
        rows: row.rows as u64,
        seen: row.seen as u64,
        effect: row.effect.map(Num),
        smallest: row.smallest.as_ref().map(|smallest| SmallestEntry {
            what: smallest.what,
            one_row: Num(smallest.one_row),
            all_rows: Num(smallest.all_rows),
        }),
        unseen: row.unseen.clone(),
    }
}

pub fn suspect(examined: &Examined) -> SuspectEntry {
    let (outcome, says) = suspects::outcome(examined);
    SuspectEntry { suspect: examined.suspect.to_string(), phase: examined.phase.id(), outcome, says }
}

pub fn end_to_end(drift: &EndToEnd) -> EndToEndEntry {
    EndToEndEntry {
        p_value: Num(drift.p_value),
        observed_over_expected: Num(drift.observed_over_expected),
        rows: drift.rows as u64,
        draws: drift.draws as u64,
        places: (drift.places.iter())
            .map(|place| PlaceDriftEntry {
                point: place.point.id(),
                layer: place.layer,
                rows: place.rows as u64,
                observed: Num(place.observed),
                expected: Num(place.expected),
                expected_low: Num(place.drawn[0]),
                expected_high: Num(place.drawn[1]),
            })
            .collect(),
    }
}
