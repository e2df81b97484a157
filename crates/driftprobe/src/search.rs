//! Finishing the search: what lies around a fault, or around where the phases part, is recorded again with all points.

mod again;

pub use again::{Differing, differing};

use crate::analysis::Analysis;
use crate::evidence::Bits;
use crate::judge::JudgedPair;
use crate::verdict::modes::withhold;
use crate::verdict::reason::{Reason, ReasonCode};
use crate::verdict::{Parting, Verdict};
use driftprobe_trace::{LeftOutBy, Phase, Point};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Layers that one round of the search records at most.
const LAYERS_A_ROUND: usize = 8;

/// How much further apart, by a factor, a layer must bring the phases than the layer before had them, to be where they part
/// beyond what layers do: where nothing else is known.
const JUMP_MIN: f64 = 8.0;

/// Layers of which not all rows were recorded, and what is looked for in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// The phase that leaves what the model gives.
    pub phase: Phase,
    /// The prompt in which it was seen.
    pub prompt_id: Arc<str>,
    /// The first of the layers.
    pub first: usize,
    /// The last of them.
    pub last: usize,
}

impl Between {
    /// The layers to record: all of them, or as many as one round takes, evenly spread.
    pub fn layers(&self) -> BTreeSet<usize> {
        let count = self.last + 1 - self.first;
        let wanted = count.min(LAYERS_A_ROUND);
        (0..wanted).map(|at| self.first + (at * count + count / 2) / wanted.max(1)).map(|l| l.min(self.last)).collect()
    }

    /// With the layer before and the layer after.
    fn widened(self, layers: usize) -> Between {
        let last = (self.last + 1).min(layers.saturating_sub(1));
        Between { first: self.first.saturating_sub(1), last, ..self }
    }
}

/// Where the first fault of an analysis lies between recorded layers, or in one that was left out, if it does. `layers` is
/// how many the model has.
pub fn between(analysis: &Analysis, layers: usize) -> Option<Between> {
    let examination = analysis.examination.as_ref()?;
    let first = analysis.verdict.first_failure.as_ref().filter(|first| first.parting == Parting::Fault)?;
    let recording = analysis.manifest.as_ref().and_then(|manifest| manifest.recording.as_ref());
    let left_out = |layer: i32| recording.is_some_and(|plan| plan.sampled.iter().any(|g| g.layers.contains(&layer)));
    let here = |gap: &&crate::simulate::Gap| {
        gap.flagged && gap.prompt_id == first.prompt_id && (gap.to.point, gap.to.layer) == (first.point, first.layer)
    };
    let Some(gap) = examination.study.gaps.iter().find(here) else {
        // A sample shows the fault: where in what was not recorded it begins is not known.
        return recording.filter(|_| left_out(first.layer)).and_then(|_| around(analysis, layers));
    };
    let start = usize::try_from(gap.from.layer + 1).ok()?;
    let end = match gap.to.layer {
        ..0 => layers,
        layer => usize::try_from(layer).ok()? + usize::from(left_out(layer)),
    };
    // Within a recorded layer nothing is gained by recording it again.
    let whole = gap.from.point == Point::ResidualPostMlp || gap.from.point == Point::EmbedOut;
    let found = || Between { phase: gap.phase, prompt_id: gap.prompt_id.clone(), first: start, last: end - 1 };
    let found = (whole && start < end).then(found)?;
    Some(if recording.is_some() { found.widened(layers) } else { found })
}

/// What a second pass is to record whole: the layer in which the phases first part beyond what rounding can do, else (where
/// no prompt could be simulated) the first that brings them apart far more than the layer before, else the first in which
/// they part at all; and the layers beside it. None: nothing parts.
pub fn around(analysis: &Analysis, layers: usize) -> Option<Between> {
    let run = &analysis.verdict;
    let failure =
        run.first_failure.as_ref().filter(|first| matches!(first.parting, Parting::Fault | Parting::NonFinite));
    let at = |layer: i32, point: Point| match usize::try_from(layer) {
        Ok(layer) => layer,
        Err(_) if point == Point::EmbedOut => 0,
        Err(_) => layers.saturating_sub(1),
    };
    let of = |phase: Option<Phase>, prompt_id: &Arc<str>, layer: usize| Between {
        phase: phase.unwrap_or(Phase::Decode),
        prompt_id: prompt_id.clone(),
        first: layer,
        last: layer,
    };
    let found = match (failure, jump(analysis)) {
        (Some(first), _) => of(first.phase, &first.prompt_id, at(first.layer, first.point)),
        (None, Some(pair)) => of(None, &pair.prefill.prompt_id, at(pair.prefill.layer, pair.prefill.point)),
        (None, None) => {
            let first = run.first_difference.as_ref()?;
            of(first.phase, &first.prompt_id, at(first.layer, first.point))
        }
    };
    Some(found.widened(layers))
}

/// The first layer that brings the phases far more apart than the one before it had them, where no simulation says more.
fn jump(analysis: &Analysis) -> Option<&JudgedPair> {
    let simulated = analysis.examination.as_ref().is_some_and(|e| e.study.skipped.is_empty());
    let mut last: BTreeMap<(usize, u64), f64> = BTreeMap::new();
    analysis.pairs.iter().filter(|pair| !simulated && pair.prefill.point == Point::ResidualPostMlp).find(|pair| {
        let apart = match (&pair.bits, pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2)) {
            (Bits::Equal { .. }, _) => 0.0,
            (_, Some(rel_l2)) => rel_l2,
            _ => return false,
        };
        let before = last.insert((pair.place.prompt, pair.place.position), apart);
        before.is_some_and(|before| before > 0.0 && apart > JUMP_MIN * before)
    })
}

/// The layers that a run was asked to record.
pub fn recorded_layers(analysis: &Analysis) -> BTreeSet<i32> {
    analysis.manifest.iter().flat_map(|manifest| manifest.layers.iter().flatten().copied()).collect()
}

/// An analysis with the rounds of the search that followed it; the last one's finding is its own, and the worst verdict of
/// all of them counts.
pub fn with_search(mut analysis: Analysis, rounds: Vec<Arc<Analysis>>) -> Analysis {
    let open = analysis.verdict.first_failure.as_ref().is_some_and(|first| first.parting == Parting::Fault);
    let found = rounds.last().and_then(|last| Some((last, last.verdict.first_failure.as_ref()?)));
    let found = found.filter(|(_, found)| found.parting == Parting::Fault);
    let two_passes = analysis
        .manifest
        .as_ref()
        .and_then(|m| m.recording.as_ref())
        .is_some_and(|recording| recording.by == LeftOutBy::FirstPass);
    if let Some(lacking) = second_pass_lacks(&analysis, &rounds).filter(|_| two_passes) {
        let why = format!("{lacking} is not here");
        add(
            &mut analysis.verdict.reasons,
            Reason { code: ReasonCode::NoSecondPass, count: 1, examples: vec![lacking] },
        );
        withhold(&mut analysis.verdict, why);
    }
    if let Some((last, found)) = found.filter(|_| open || two_passes) {
        let names: Vec<String> = recorded_layers(last).iter().map(i32::to_string).collect();
        analysis.verdict.verdict = Verdict::worst([analysis.verdict.verdict, last.verdict.verdict]);
        analysis.verdict.root_cause = last.verdict.root_cause;
        analysis.verdict.root_cause_why =
            format!("recorded again with layers {}: {}", names.join(", "), last.verdict.root_cause_why);
        let mut first = found.clone();
        (first.pair, first.last_equal) = (None, None);
        analysis.verdict.first_failure = Some(first);
    }
    let mut changed = open || two_passes;
    for round in &rounds {
        changed |= hold_against(&mut analysis, round);
    }
    if two_passes {
        let rank = |analysis: &Analysis| analysis.verdict.verdict.rank();
        let worst = rounds.iter().max_by_key(|round| rank(round));
        if let Some(worst) = worst.filter(|round| rank(round) > rank(&analysis)) {
            analysis.verdict.verdict = worst.verdict.verdict;
            analysis.verdict.root_cause_why = format!("in the second pass, {}", worst.verdict.root_cause_why);
        }
        let reasons = rounds.iter().flat_map(|round| &round.verdict.reasons);
        reasons.for_each(|reason| add(&mut analysis.verdict.reasons, reason.clone()));
        if analysis.verdict.verdict != Verdict::Pass {
            analysis.verdict.sub_verdict = None;
        }
    }
    analysis.search = rounds;
    if changed {
        analysis.advice = crate::verdict::advice::advise(&analysis);
    }
    analysis
}

/// What of the second pass that the manifest promises is not among the rounds.
fn second_pass_lacks(analysis: &Analysis, rounds: &[Arc<Analysis>]) -> Option<String> {
    let manifest = analysis.manifest.as_ref()?;
    let Some(promised) = &manifest.second_pass else {
        return Some("the second of two passes, which was not begun".to_owned());
    };
    let id = promised.prompt_id.as_ref()?;
    // Judged by prompt, the round belongs to one of them.
    let prompt = manifest.prompts.iter().flatten().find(|prompt| prompt.id == *id)?;
    let is_it = |round: &&Arc<Analysis>| {
        let theirs = round.manifest.iter().flat_map(|manifest| manifest.prompts.iter().flatten());
        let layers = recorded_layers(round);
        theirs.into_iter().any(|theirs| theirs.id == prompt.id && theirs.tokens == prompt.tokens)
            && promised.layers.iter().all(|layer| layers.contains(layer))
            && round.coverage.paired > 0
            && (analysis.aligned.is_none() || round.aligned.is_some())
    };
    let names: Vec<String> = promised.layers.iter().map(i32::to_string).collect();
    let lacking = || format!("prompt {id} with layers {}, in all modes of the run", names.join(", "));
    (!rounds.iter().any(|round| is_it(&round))).then(lacking)
}

/// Adds a reason; one that stands there already keeps its own count.
fn add(reasons: &mut Vec<Reason>, reason: Reason) {
    if !reasons.iter().any(|known| known.code == reason.code) {
        reasons.push(reason);
        reasons.sort_by_key(|reason| reason.code);
    }
}

/// Rows that both recorded must be the same ones: an engine that gives others the second time has shown nothing of the first.
fn hold_against(analysis: &mut Analysis, round: &Analysis) -> bool {
    let found = differing(analysis, round);
    if found.rows == 0 {
        return false;
    }
    let code = ReasonCode::NotRepeatable;
    let layers: Vec<String> = recorded_layers(round).iter().map(i32::to_string).collect();
    let example = format!(
        "recorded again with layers {}: {} of {} rows that were recorded before are others now, first {}",
        layers.join(", "),
        found.rows,
        found.of,
        found.first.unwrap_or_default()
    );
    add(&mut analysis.verdict.reasons, Reason { code, count: found.rows, examples: vec![example] });
    let why = "the engine does not repeat itself from one recording to the next";
    withhold(&mut analysis.verdict, why.to_owned());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_layers_are_all_recorded_and_many_evenly() {
        let between = |first, last| Between { phase: Phase::Decode, prompt_id: Arc::from("p"), first, last };
        assert_eq!(between(3, 3).layers(), BTreeSet::from([3]));
        assert_eq!(between(5, 7).layers(), BTreeSet::from([5, 6, 7]));
        let many = between(9, 79).layers();
        assert_eq!(many.len(), LAYERS_A_ROUND);
        assert!(many.iter().all(|layer| (9..=79).contains(layer)));
        assert_eq!(between(0, 0).widened(9), between(0, 1));
        assert_eq!(between(8, 8).widened(9), between(7, 8));
    }
}
