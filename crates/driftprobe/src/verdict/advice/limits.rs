//! What a report cannot claim, and what it rests on where a model judged the run.

use super::rows_of;
use crate::analysis::Analysis;
use crate::judge::PairVerdict;
use crate::verdict::Verdict;
use std::collections::BTreeSet;

/// What cannot be claimed.
pub(super) fn limits(analysis: &Analysis) -> Vec<String> {
    let mut out = vec![];
    let judged = analysis.examination.is_some();
    let open = |pair: &&crate::judge::JudgedPair| pair.verdict == PairVerdict::Undecided && pair.parts();
    let open = analysis.pairs.iter().filter(open).count() as u64;
    if analysis.counts.differing > 0 && !judged {
        out.push(format!(
            "That any of the {} is a fault, or is none: rounding makes rows differ too, and without a model nothing here \
             measures it.",
            rows_of(analysis.counts.differing, "difference")
        ));
    } else if open > 0 {
        out.push(format!(
            "That any of {} that could not be judged is a fault, or is none.",
            rows_of(open, "difference")
        ));
    }
    match judged {
        _ if analysis.counts.total == 0 => {}
        true => out.push(
            "That weights, config and tokens are the right ones: engine and report read the same, and what is wrong in \
             them is wrong in both."
                .to_owned(),
        ),
        false => out.push(
            "That either phase computes the model correctly: what is wrong in both alike shows no difference.".to_owned(),
        ),
    }
    if analysis.verdict.verdict == Verdict::Pass {
        out.push("Anything of prompts, positions, layers and points that were not recorded.".to_owned());
    }
    if let Some(left_out) = &analysis.left_out {
        out.push(format!("Anything of values that were left out: {}.", left_out.in_words()));
    }
    if judged {
        out.extend(replayed(analysis));
    } else if analysis.verdict.verdict != Verdict::Pass
        && let Some(layers) = skipped_layers(analysis)
    {
        out.push(layers);
    }
    if !analysis.one_phase.is_empty() {
        let points: Vec<String> =
            analysis.one_phase.iter().map(|(point, phase)| format!("`{point}` ({phase} only)")).collect();
        out.push(format!("Anything of {}: only one phase gives it.", points.join(", ")));
    }
    if analysis.repeats.is_empty() {
        out.push("That the engine repeats itself bit for bit: no self-repeat was recorded.".to_owned());
    }
    out
}

fn skipped_layers(analysis: &Analysis) -> Option<String> {
    let layers: BTreeSet<i32> =
        analysis.pairs.iter().map(|pair| pair.prefill.layer).filter(|layer| *layer >= 0).collect();
    let (first, last) = (layers.first()?, layers.last()?);
    let gaps = i64::from(*last) - i64::from(*first) + 1 > layers.len() as i64;
    let names: Vec<String> = layers.iter().map(i32::to_string).collect();
    gaps.then(|| format!("Where between the recorded layers ({}) a difference arises or grows.", names.join(", ")))
}

/// Stretches that were not recorded are judged as a whole.
fn replayed(analysis: &Analysis) -> Option<String> {
    let smaller = "a fault there that moves the next recorded row by less than rounding does is not seen";
    match analysis.examination.as_ref().map_or(0, |e| e.study.gaps.len()) {
        0 => None,
        gaps => {
            Some(format!("What happens inside stretches that were not recorded ({gaps} were replayed): {smaller}."))
        }
    }
}

/// What the model judged, for the list of what the verdict rests on.
pub(super) fn judged(analysis: &Analysis) -> Vec<String> {
    let Some(examination) = &analysis.examination else { return vec![] };
    let stages = || examination.phases.iter().flat_map(|phase| &phase.stages);
    let clean = stages().filter(|stage| stage.outcome.is_clean()).count();
    let faulty = stages().filter(|stage| stage.outcome.is_fault()).count();
    let study = &examination.study;
    let mut out = vec![format!(
        "{} stage rows held against the model, each computed in float64 from its own recorded inputs: {clean} within \
         rounding, {faulty} not",
        clean + faulty
    )];
    if !study.tokens.is_empty() {
        out.push(format!("{} rows held against simulations from the prompts' tokens", study.tokens.len()));
    }
    out
}
