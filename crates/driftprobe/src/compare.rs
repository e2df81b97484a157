//! One phase of two runs against each other: two engines, or two settings of one.
//!
//! Each run is judged by itself, against its own model and contract; then the rows of one phase are paired across the two. What a
//! pair is called follows from both: rounding, an arithmetic that was not declared, or a fault of the one or the other.

mod layout;
mod rows;

use crate::analysis::PairCounts;
use crate::cause::Cause;
use crate::judge::attribute::attribute_by;
use crate::judge::examine::{Doubt, Examination, Oracle, Sound, Standing, examine, within_layers};
use crate::judge::exercise::tested;
use crate::judge::{JudgedPair, PairVerdict, judge};
use crate::oracle::fit;
use crate::pair::coverage::expect;
use crate::pair::place::{Places, describe, describe_row};
use crate::pair::{Loose, pair};
use crate::progress::{Progress, Watch, Work};
use crate::verdict::grounds::{no_power, pair_reasons};
use crate::verdict::reason::{Reason, ReasonCode, Reasons};
use crate::verdict::{SubVerdict, Verdict};
use driftprobe_trace::{Event, Manifest, Phase, Point, Rows, Run};
use layout::Reorder;
use rows::{BothRows, in_one_type, relabelled};
use std::collections::BTreeSet;

/// One of the two runs.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// What reports call it.
    pub name: &'a str,
    /// The run.
    pub run: &'a Run,
    /// Its payloads; mostly the run itself.
    pub rows: &'a dyn Rows,
    /// What it is held against.
    pub oracle: Option<Oracle<'a>>,
}

/// What comparing one phase gave.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What the two runs are called.
    pub names: [String; 2],
    /// The phase.
    pub phase: Phase,
    /// The verdict.
    pub verdict: Verdict,
    /// What kind of PASS.
    pub sub_verdict: Option<SubVerdict>,
    /// One sentence for it.
    pub why: String,
    /// Why it is no PASS.
    pub reasons: Vec<Reason>,
    /// What was noticed besides.
    pub notes: Vec<Reason>,
    /// The pairs, in the order of the search; of each the first run's event is its `prefill`, the second's its `decode`.
    pub pairs: Vec<JudgedPair>,
    /// Pairs by verdict.
    pub counts: PairCounts,
    /// Index of the pair in which a run is first at fault; where none is, in which they first part.
    pub first: Option<usize>,
    /// What explains the faults of this phase, by run.
    pub causes: Vec<(usize, Cause)>,
    /// Arithmetics of this phase that a contract does not declare, by run.
    pub contract_findings: Vec<(usize, fit::Finding)>,
    /// Whether a model judged both runs.
    pub judged: bool,
}

/// Compares both phases of two runs, prefill first.
pub fn compare(sides: [Side<'_>; 2], progress: &mut Watch<'_>) -> Vec<Comparison> {
    // Where the runs share no place within the layers, nothing else may tell that nothing would have been seen.
    let power = Phase::ALL.into_iter().any(|phase| {
        let [ours, theirs] = sides.map(|side| within_layers(&side.run.events, phase));
        ours.is_disjoint(&theirs)
    });
    let examined = sides.map(|side| {
        let side = Side { oracle: side.oracle.map(|oracle| Oracle { power: oracle.power || power, ..oracle }), ..side };
        let sound = Sound::of(side.rows, side.oracle.iter().flat_map(|_| &side.run.events));
        let examined = side.oracle.map(|oracle| examine((side.run, &sound), &oracle, progress));
        match sound.lost().into_iter().next() {
            Some(lost) => Some(Err(Doubt::Rows(lost))),
            None => examined,
        }
    });
    Phase::ALL.into_iter().map(|phase| compare_phase(&sides, &examined, phase, progress)).collect()
}

type Examined = Option<Result<Examination, Doubt>>;

fn compare_phase(
    sides: &[Side<'_>; 2],
    examined: &[Examined; 2],
    phase: Phase,
    progress: &mut Watch<'_>,
) -> Comparison {
    let names = sides.each_ref().map(|side| side.name.to_owned());
    let events = [0, 1].map(|side| relabelled(sides, side, phase));
    let [ours, theirs] = events.each_ref().map(|events| events.iter().collect::<Vec<&Event>>());
    let all: Vec<Event> = events.iter().flatten().cloned().collect();
    let manifests = sides.each_ref().map(|side| side.run.manifest.as_ref());
    let named = manifests.iter().flatten().flat_map(|m| m.prompts.iter().flatten()).map(|prompt| prompt.id.as_str());
    let places = Places::new(named, &all);
    let pairing = pair(&ours, &theirs);
    let reorder = Reorder::between(sides);
    let rows = BothRows::new(sides, reorder);
    let total = pairing.links.len() as u64;
    let mut pairs: Vec<JudgedPair> = (0u64..)
        .zip(&pairing.links)
        .filter_map(|(done, link)| {
            progress(Progress { work: Work::Pairs, done, total });
            let [ours, theirs] = in_one_type(ours.get(link.reference)?, theirs.get(link.candidate)?);
            let theirs = if reorder.is_some() { Reorder::event(theirs) } else { theirs };
            Some(judge(&ours, &theirs, link.absent.clone(), places.of(&ours), &rows))
        })
        .collect();
    pairs.sort_by_key(|pair| (pair.place, pair.prefill.logical_tok_idx));
    let judged = examined.iter().all(|examined| matches!(examined, Some(Ok(_))));
    let stands = |side: usize, event: &Event| standing(examined.get(side).and_then(Option::as_ref), event, phase);
    attribute_by(&mut pairs, &stands, [&names[0], &names[1]]);
    for pair in pairs.iter_mut().filter(|pair| pair.verdict.is_good()) {
        // Embeddings that are stored in different types differ, and each is what its own token gives.
        pair.findings.retain(|finding| finding.code != ReasonCode::PairingInDoubt);
    }
    pairs.iter_mut().flat_map(|pair| &mut pair.findings).for_each(|finding| rename(&mut finding.detail, &names));

    let mut reasons = Reasons::default();
    for (side, name) in names.iter().enumerate() {
        let (Some(of), Some(examined)) = (sides.get(side), examined.get(side)) else { continue };
        side_reasons((of, name), examined.as_ref(), phase, &mut reasons);
        if let Some(Ok(examination)) = examined
            && let Some(why) = no_power(examination, &pairs, &[phase])
        {
            reasons.add(ReasonCode::NoPower, format!("{name}: {why}"));
        }
    }
    let loose = [(0, &ours, &pairing.reference_loose), (1, &theirs, &pairing.candidate_loose)];
    for (side, events, loose) in loose {
        loose_reasons((events, loose), (manifests[1 - side], &names[side]), phase, &mut reasons);
    }
    pair_reasons(&pairs, &mut reasons);
    tested(&pairs, &mut reasons);
    if reorder.is_some() && pairs.iter().any(|pair| Reorder::concerns(pair.prefill.point)) {
        reasons.add(ReasonCode::Reordered, format!("in the order of {}", names[0]));
    }
    if sides[0].run.dir == sides[1].run.dir {
        reasons.add(ReasonCode::NotIndependent, "both are the same run");
    } else if same_settings(manifests) {
        reasons.add(ReasonCode::SameSettings, "");
    }
    reach(names, phase, (pairs, judged), (examined, reasons))
}

/// What a run's own judgement says of a relabelled event.
fn standing(
    examined: Option<&Result<Examination, Doubt>>,
    event: &Event,
    phase: Phase,
) -> (Option<crate::oracle::StageJudgement>, Standing) {
    let own = Event { phase, ..event.clone() };
    match examined {
        None => (None, Standing::Unknown("no model was given".to_owned())),
        Some(Err(doubt)) => (None, Standing::Unknown(doubt.to_string())),
        Some(Ok(examination)) => (examination.of(&own).cloned(), examination.standing(&own)),
    }
}

/// Puts the runs' names in the place of the phases' at the beginning of a detail.
fn rename(detail: &mut String, names: &[String; 2]) {
    for (word, name) in ["prefill", "decode"].into_iter().zip(names) {
        if let Some(rest) = detail.strip_prefix(word) {
            *detail = format!("{name}{rest}");
            return;
        }
    }
}

/// What is wrong with one run, as far as this phase rests on it.
fn side_reasons(
    (side, name): (&Side<'_>, &str),
    examined: Option<&Result<Examination, Doubt>>,
    phase: Phase,
    reasons: &mut Reasons,
) {
    match &side.run.manifest {
        None => reasons.add(ReasonCode::NoManifest, name),
        Some(manifest) if !manifest.complete => reasons.add(ReasonCode::Incomplete, name),
        Some(_) => {}
    }
    let events: Vec<&Event> = side.run.events.iter().collect();
    let expectation = expect(side.run.manifest.as_ref(), &events);
    for why in &expectation.unknown {
        reasons.add(ReasonCode::ExpectedUnknown, format!("{name}: {why}"));
    }
    for row in expectation.missing.iter().filter(|row| row.phase == phase) {
        let place = describe_row(&row.prompt_id, Some(row.logical_tok_idx), row.layer, row.point.id());
        reasons.add(ReasonCode::ExpectedMissing, format!("{name}: {place}"));
    }
    for (index, why) in &expectation.unexpected {
        if let Some(event) = events.get(*index).filter(|event| event.phase == phase) {
            reasons.add(ReasonCode::Unexpected, format!("{name}: {}: {why}", describe(event)));
        }
    }
    match examined {
        Some(Err(doubt)) => reasons.add(doubt.code(), format!("{name}: {doubt}")),
        Some(Ok(examination)) => {
            for finding in examination.contract_findings.iter().filter(|finding| finding.phase == phase) {
                let example = format!("{name}, {}: {}", finding.point, finding.variant.says);
                reasons.add(ReasonCode::ContractFinding, example);
            }
        }
        None => {}
    }
}

/// Rows of one run without a partner. What the other run does not promise is told and blocks nothing.
fn loose_reasons(
    (events, loose): (&[&Event], &[Loose]),
    (other, name): (Option<&Manifest>, &str),
    phase: Phase,
    reasons: &mut Reasons,
) {
    let mut only: BTreeSet<(Point, bool)> = BTreeSet::new();
    for one in loose {
        let Some(event) = events.get(one.index) else { continue };
        let points = other.and_then(|manifest| manifest.points.as_ref()).map(|points| points.of(phase));
        let layers = other.and_then(|manifest| manifest.layers.as_ref());
        let no_point = points.is_some_and(|points| !points.contains(&event.point));
        let no_layer = event.point.layered() && layers.is_some_and(|layers| !layers.contains(&event.layer));
        if no_point || no_layer {
            only.insert((event.point, no_point));
        } else {
            let why = one.why.to_string().replace("the other phase", "the other run");
            reasons.add(ReasonCode::Unpaired, format!("{name}: {}: {why}", describe(event)));
        }
    }
    for (point, _) in only {
        reasons.add(ReasonCode::OneRunPoint, format!("{point}: {name} only"));
    }
}

/// Whether both runs say that they are of one engine with one setting on one kind of machine.
fn same_settings([ours, theirs]: [Option<&Manifest>; 2]) -> bool {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return false };
    ours.engine.is_some()
        && (&ours.engine, &ours.contract, &ours.env, &ours.host, ours.mode)
            == (&theirs.engine, &theirs.contract, &theirs.env, &theirs.host, theirs.mode)
}

/// Where a run leaves in this phase what the model gives, whether the other run has that row or not.
fn own_fault(examination: &Examination, phase: Phase) -> Option<String> {
    let row = |prompt: &str, pos: u64, layer: i32, point: Point| describe_row(prompt, Some(pos), layer, point.id());
    let cause = examination.causes.iter().find(|cause| cause.phase == phase);
    let cause = cause.map(|cause| row(&cause.prompt_id, cause.pos, cause.layer, cause.point));
    let stage = examination.faults().find(|stage| stage.phase == phase);
    let stage = stage.map(|stage| row(&stage.prompt_id, stage.pos, stage.layer, stage.point));
    let gap = examination.study.gaps.iter().find(|gap| gap.flagged && gap.phase == phase);
    let gap = gap.map(|gap| row(&gap.prompt_id, gap.pos as u64, gap.to.layer, gap.to.point));
    let tokens = examination.study.tokens.iter().find(|token| token.flagged && token.phase == phase);
    let tokens = tokens.map(|token| row(&token.prompt_id, token.pos as u64, token.layer, token.point));
    cause.or(stage).or(gap).or(tokens)
}

fn reach(
    names: [String; 2],
    phase: Phase,
    (pairs, judged): (Vec<JudgedPair>, bool),
    (examined, reasons): (&[Examined; 2], Reasons),
) -> Comparison {
    let (reasons, notes) = reasons.into_parts();
    let fails = |pair: &JudgedPair| matches!(pair.verdict, PairVerdict::Fault | PairVerdict::NonFinite);
    let fault = pairs.iter().position(fails);
    let first = fault.or_else(|| pairs.iter().position(JudgedPair::parts));
    let all_good = pairs.iter().all(|pair| pair.verdict.is_good());
    let identical = pairs.iter().all(|pair| pair.verdict == PairVerdict::Identical);
    let elsewhere = [0, 1].into_iter().find_map(|side| {
        let of = examined.get(side)?.as_ref()?.as_ref().ok()?;
        Some(format!("{} is at fault by itself: {}", names.get(side)?, own_fault(of, phase)?))
    });
    let (verdict, why) = match fault.and_then(|at| pairs.get(at)) {
        Some(pair) => {
            let whose = match pair.phase {
                Some(Phase::Prefill) => format!("in {}", names[0]),
                Some(Phase::Decode) => format!("in {}", names[1]),
                None => "in both".to_owned(),
            };
            let what = if pair.verdict == PairVerdict::Fault {
                "is not what its own inputs and the model give, by more than rounding can"
            } else {
                "is not finite"
            };
            (Verdict::Fail, format!("{} {whose} {what}", describe(&pair.prefill)))
        }
        // What follows from a fault is inherited; the fault may lie in a row that the other run has not.
        None if elsewhere.is_some() => (Verdict::Fail, elsewhere.unwrap_or_default()),
        None if !pairs.is_empty() && all_good && reasons.is_empty() => {
            let why = match identical {
                true => "every row is bit-equal",
                false => "every row that differs is, in each run, within the rounding that its arithmetic must have",
            };
            (Verdict::Pass, why.to_owned())
        }
        None => (Verdict::Inconclusive, "the reasons say what is open".to_owned()),
    };
    let sub = if identical { SubVerdict::BitIdentical } else { SubVerdict::StructuralDrift };
    let of_both = |side: usize| examined.get(side).and_then(|e| e.as_ref()?.as_ref().ok()).map(|e| (side, e));
    let examinations: Vec<(usize, &Examination)> = [0, 1].into_iter().filter_map(of_both).collect();
    let causes = examinations.iter().flat_map(|(side, e)| e.causes.iter().map(|cause| (*side, cause.clone())));
    let findings = examinations.iter().flat_map(|(side, e)| e.contract_findings.iter().map(|f| (*side, f.clone())));
    Comparison {
        names,
        phase,
        verdict,
        sub_verdict: (verdict == Verdict::Pass).then_some(sub),
        why,
        reasons,
        notes,
        counts: PairCounts::of(&pairs),
        first,
        causes: causes.filter(|(_, cause)| cause.phase == phase).collect(),
        contract_findings: findings.filter(|(_, finding)| finding.phase == phase).collect(),
        pairs,
        judged,
    }
}
