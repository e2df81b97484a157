//! The grounds of a verdict: every reason against PASS and every note that a run gives.

use crate::analysis::Unpaired;
use crate::judge::JudgedPair;
use crate::judge::attribute::in_words;
use crate::judge::examine::Examination;
use crate::judge::left_out::LeftOut;
use crate::judge::repeat::RepeatOutcome;
use crate::oracle::StageJudgement;
use crate::pair::Pairing;
use crate::pair::coverage::Expectation;
use crate::pair::place::{Part, describe, describe_row};
use crate::simulate::EndToEnd;
use crate::verdict::reason::{ReasonCode, Reasons};
use driftprobe_trace::{Event, Note, ObserverEffect, Phase, Point, Run};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What reading the run and its manifest gave.
pub fn run_reasons(run: &Run, expectation: &Expectation, unexpected: &[(String, String)], reasons: &mut Reasons) {
    match &run.manifest {
        None => reasons.add(ReasonCode::NoManifest, ""),
        Some(manifest) if !manifest.complete => reasons.add(ReasonCode::Incomplete, ""),
        Some(_) => {}
    }
    if let Some(shard) = run.manifest.as_ref().and_then(|manifest| manifest.shard.as_ref()) {
        let own = run.manifest.iter().flat_map(|manifest| manifest.prompts.iter().flatten());
        let own: BTreeSet<&str> = own.map(|prompt| prompt.id.as_str()).collect();
        let lacking = shard.prompts.iter().filter(|id| !own.contains(id.as_str())).count();
        if shard.of > 1 || lacking > 0 {
            let others = "are in others; --by-prompt judges all together";
            let detail = format!("shard {} of {}: {lacking} prompts {others}", shard.index, shard.of);
            reasons.add(ReasonCode::MissingShard, detail);
        }
    }
    for note in &run.notes {
        match note {
            // Told by their own reasons.
            Note::ManifestMissing | Note::Incomplete | Note::UnknownPoint { .. } => {}
            Note::EmptyRepeat { .. } => reasons.add(ReasonCode::RepeatIncomplete, note.to_string()),
            Note::HashAlgoAssumed { .. }
            | Note::UnknownHashAlgo { .. }
            | Note::UnknownDtype { .. }
            | Note::UnknownField { .. }
            | Note::IgnoredFile { .. }
            | Note::UnknownEvent { .. } => reasons.add(ReasonCode::RecordingNotes, note.to_string()),
            // A torn line, and whatever later versions note, bears on the evidence until shown otherwise.
            other => reasons.add(ReasonCode::ReadingFindings, other.to_string()),
        }
    }
    for unmapped in &run.unmapped {
        reasons.add(ReasonCode::UnmappedPoints, format!("`{}`", unmapped.point));
    }
    for why in &expectation.unknown {
        reasons.add(ReasonCode::ExpectedUnknown, why.clone());
    }
    for row in &expectation.missing {
        let place = describe_row(&row.prompt_id, Some(row.logical_tok_idx), row.layer, row.point.id());
        reasons.add(ReasonCode::ExpectedMissing, format!("{} {place}", row.phase));
    }
    for (place, why) in unexpected {
        reasons.add(ReasonCode::Unexpected, format!("{place}: {why}"));
    }
    for (point, phase) in &expectation.one_phase {
        reasons.add(ReasonCode::OnePhasePoint, format!("{point}: {phase} only"));
    }
    if let Some(left_out) = LeftOut::of(run) {
        reasons.add_many(ReasonCode::LeftOut, left_out.rows, left_out.in_words());
    }
    if let Some(observer) = run.manifest.as_ref().and_then(|manifest| manifest.observer.as_ref()) {
        observer_reasons(observer, reasons);
    }
}

/// What tracing did to the logits.
fn observer_reasons(observer: &ObserverEffect, reasons: &mut Reasons) {
    for (phase, logits) in [(Phase::Prefill, &observer.prefill), (Phase::Decode, &observer.decode)] {
        let differing = logits.rows.saturating_sub(logits.equal);
        if differing > 0 {
            let largest = logits.max_abs.map_or_else(|| "not finite".to_owned(), |max| format!("{max:.3e}"));
            let example = format!("{phase}: {differing} of {} rows of logits, max abs {largest}", logits.rows);
            reasons.add_many(ReasonCode::ObserverEffect, differing, example);
        }
    }
}

/// Most noise, relative to a row's size, that a contract may allow at a point: bf16 stores to 0.2%, and a bug that is to be
/// told from noise must be larger than it.
const NOISE_MAX: f64 = 0.05;

/// Least share of the noise that a contract allows which residuals fill, RMS; the formulas are of the worst order of summation,
/// which orders with short partial sums stay a few times below.
const FILLED_MIN: f64 = 0.01;

/// Below this p-value the phases' difference is no draw of rounding.
pub const P_VALUE_MIN: f64 = 1e-3;

/// Why none of these pairs, all of them at the ends, would have shown a bug of these phases. Rows within the layers are held
/// against the tokens' own forward pass besides, which the table of bugs does not count.
pub fn no_power(examination: &Examination, pairs: &[JudgedPair], phases: &[Phase]) -> Option<String> {
    let power = || examination.power.iter().filter(|row| phases.contains(&row.phase));
    let ends = pairs.iter().all(|pair| Part::of(pair.prefill.point) != Part::Layer);
    let nothing = ends && power().next().is_some() && power().all(|row| row.seen == 0);
    nothing.then(|| format!("{} tries of bugs at points, none seen", power().count()))
}

/// What the model gave, as far as no pair tells it.
pub fn examination_reasons(examination: &Examination, pairs: &[JudgedPair], reasons: &mut Reasons) {
    for finding in &examination.contract_findings {
        reasons.add(
            ReasonCode::ContractFinding,
            format!("{}, {}: {}", finding.phase, finding.point, finding.variant.says),
        );
    }
    for (phase, point, noise) in examination.loosest() {
        if noise.is_nan() || noise > NOISE_MAX {
            let example = format!("{phase}, {point}: noise of {:.1}% of the row's size", noise * 100.0);
            reasons.add(ReasonCode::LooseContract, example);
        }
    }
    for (phase, point, filled) in examination.filled() {
        // Residuals of exactly nothing are those of zeros and copies.
        if filled > 0.0 && filled < FILLED_MIN {
            let example = format!("{phase}, {point}: the residuals fill {filled:.1e} of the noise allowed");
            reasons.add(ReasonCode::LooserThanSeen, example);
        }
    }
    if let Some(why) = no_power(examination, pairs, &Phase::ALL) {
        reasons.add(ReasonCode::NoPower, why);
    }
    for difference in &examination.config_differs {
        reasons.add(ReasonCode::ConfigDiffers, difference.as_str());
    }
    for (field, points) in examination.assumed() {
        let points: Vec<&str> = points.iter().map(|point| point.id()).collect();
        reasons.add(ReasonCode::Assumed, format!("{field} ({})", points.join(", ")));
    }
    for (prompt, why) in &examination.study.skipped {
        reasons.add(ReasonCode::NotSimulated, format!("{prompt}: {why}"));
    }
    // What is at fault drives the phases apart; there is nothing more to say of that.
    let sound = examination.faults().next().is_none()
        && examination.causes.is_empty()
        && !examination.study.gaps.iter().any(|gap| gap.flagged);
    let too_much = |drift: &&EndToEnd| sound && (drift.p_value.is_nan() || drift.p_value < P_VALUE_MIN);
    if let Some(drift) = examination.study.end_to_end.as_ref().filter(too_much) {
        let ratio = drift.observed_over_expected;
        reasons.add(ReasonCode::TooMuchDrift, format!("{ratio:.3} times as far, p = {:.1e}", drift.p_value));
    }
    // Faults that stand in a pair are told by the pair.
    let paired: BTreeSet<_> = pairs.iter().flat_map(|pair| pair.stages.iter().flatten()).map(row_of_stage).collect();
    for stage in examination.faults().filter(|stage| !paired.contains(&row_of_stage(stage))) {
        let place = describe_row(&stage.prompt_id, Some(stage.pos), stage.layer, stage.point.id());
        reasons.add(ReasonCode::Fault, format!("{} {place}: {}", stage.phase, in_words(&stage.outcome)));
    }
}

fn row_of_stage(stage: &StageJudgement) -> (Phase, Arc<str>, u64, i32, Point) {
    (stage.phase, stage.prompt_id.clone(), stage.pos, stage.layer, stage.point)
}

/// Keys that stand more than once.
pub fn duplicate_reasons(pairing: &Pairing, prefill: &[&Event], decode: &[&Event], reasons: &mut Reasons) {
    for (side, duplicates) in [(prefill, &pairing.reference_duplicates), (decode, &pairing.candidate_duplicates)] {
        for event in duplicates.iter().filter_map(|index| side.get(*index)) {
            reasons.add(ReasonCode::DuplicateKeys, format!("{}: {} {}", event.source, event.phase, describe(event)));
        }
    }
}

/// What the pairs gave.
pub fn pair_reasons(pairs: &[JudgedPair], reasons: &mut Reasons) {
    if pairs.is_empty() {
        reasons.add(ReasonCode::NothingCompared, "");
    }
    let mut vacuous: BTreeMap<Point, [u64; 2]> = BTreeMap::new();
    for pair in pairs {
        let place = describe(&pair.prefill);
        // What was left out is told of the run as a whole.
        for finding in pair.findings.iter().filter(|finding| finding.code != ReasonCode::LeftOut) {
            reasons.add(finding.code, format!("{place}: {}", finding.detail));
        }
        if !pair.absent.is_empty() {
            let fields: Vec<&str> = pair.absent.iter().map(|field| field.name()).collect();
            reasons.add(ReasonCode::WeaklyKeyed, format!("{place}: no {}", fields.join(", ")));
        }
        let [all, empty] = vacuous.entry(pair.prefill.point).or_default();
        *all += 1;
        *empty += u64::from(pair.vacuous.is_some());
    }
    for (point, [all, empty]) in vacuous {
        if all == empty {
            reasons.add_many(ReasonCode::Vacuous, all, format!("{point}: all {all} pairs"));
        }
    }
}

/// Events without a partner.
pub fn unpaired_reasons(unpaired: &[Unpaired], reasons: &mut Reasons) {
    for one in unpaired {
        let place = format!("{} {}", one.event.phase, describe(&one.event));
        if one.nan > 0 {
            reasons.add(ReasonCode::NonFinite, format!("{place}: {} NaN", one.nan));
        }
        if !one.one_phase {
            reasons.add(ReasonCode::Unpaired, format!("{place}: {}", one.why));
        }
    }
}

/// Phases that do not repeat themselves, and what is lacking of the repeats that the manifest promises.
pub fn repeat_reasons(promised: u32, repeats: &[RepeatOutcome], reasons: &mut Reasons) {
    let there: BTreeSet<u32> = repeats.iter().map(|outcome| outcome.repeat).collect();
    if let Some(first) = (1..=promised).find(|number| !there.contains(number)) {
        let missing = u64::from(promised) - there.range(1..=promised).count() as u64;
        reasons.add_many(ReasonCode::RepeatMissing, missing, format!("repeat {first} of {promised} is not there"));
    }
    for outcome in repeats {
        let which = format!("repeat {} of {}", outcome.repeat, outcome.phase);
        let [lacking, _] = outcome.without_partner;
        if lacking > 0 && outcome.repeat <= promised {
            reasons.add_many(ReasonCode::RepeatMissing, lacking, format!("{which} lacks {lacking} rows"));
        }
        if outcome.differing > 0 {
            let example = format!("{which}: {} of {} rows differ", outcome.differing, outcome.paired);
            reasons.add_many(ReasonCode::NotRepeatable, outcome.differing, example);
        }
        let lost = outcome.not_comparable + outcome.without_partner.iter().sum::<u64>();
        if lost > 0 {
            reasons.add_many(ReasonCode::RepeatIncomplete, lost, format!("{which}: {lost} rows"));
        }
    }
}
