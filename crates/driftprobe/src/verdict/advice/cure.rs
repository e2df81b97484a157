//! Where to look, by the bug that explains what is off; and what to record where nothing was.

use crate::analysis::Analysis;
use crate::cause::bugs::bug_of;
use crate::cause::{Candidate, Cause};
use crate::search::recorded_layers;
use crate::simulate::Gap;
use crate::verdict::layer_of;
use std::collections::BTreeSet;

/// One sentence a cause, of both modes and of the search, each once.
pub(super) fn of_causes(analysis: &Analysis) -> Vec<String> {
    let own = analysis.examination.iter().chain(analysis.aligned.iter().flat_map(|aligned| &aligned.examination));
    let mut out: Vec<String> = vec![];
    for cause in own.flat_map(|examination| &examination.causes).chain(searched(analysis)) {
        let sentence = of_cause(cause);
        if !out.contains(&sentence) {
            out.push(sentence);
        }
    }
    out
}

/// What the last round of the search has found.
pub(super) fn searched(analysis: &Analysis) -> &[Cause] {
    let last = analysis.search.last().and_then(|round| round.examination.as_ref());
    last.map(|examination| examination.causes.as_slice()).unwrap_or_default()
}

fn of_cause(cause: &Cause) -> String {
    let place = format!("`{}`{}", cause.point, layer_of(cause.point, cause.layer));
    let ways: Vec<String> = cause.candidates.iter().filter_map(|candidate| look_at(candidate, cause)).collect();
    if ways.is_empty() {
        // What every layer does alike may be the engine's arithmetic, wrongly declared.
        let or = if cause.layers.len() > 1 {
            " So do several layers: the contract may declare another arithmetic there than the engine has."
        } else {
            ""
        };
        return format!(
            "Look at {place} in {}: no bug of the catalogue explains it ({}).{or}",
            cause.phase,
            if cause.evidence.is_empty() { "nothing more is known of it" } else { &cause.evidence }
        );
    }
    format!("Look at {} ({place}).", ways.join("; or at "))
}

fn look_at(candidate: &Candidate, cause: &Cause) -> Option<String> {
    let bug = bug_of(candidate.id)?;
    let place = bug.place.replace("{phase}", &cause.phase.to_string());
    let mut wrong = bug.wrong.to_owned();
    for (name, value) in &candidate.parameters {
        let value = match (candidate.id, name.as_str()) {
            ("ROPE_POSITION_OFFSET", "offset") => offset(value),
            _ => value.clone(),
        };
        wrong = wrong.replace(&format!("{{{name}}}"), &value);
    }
    // A parameter that was not found leaves what was.
    if wrong.contains('{') {
        let known: Vec<String> = candidate.parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
        wrong = if known.is_empty() { candidate.id.to_owned() } else { known.join(", ") };
    }
    Some(format!("{place}: {wrong}"))
}

/// `+1`: 1 too large.
fn offset(value: &str) -> String {
    match (value.strip_prefix('+'), value.strip_prefix('-')) {
        (Some(by), _) => format!("{by} too large"),
        (_, Some(by)) => format!("{by} too small"),
        _ => format!("off by {value}"),
    }
}

/// Which layers, or points, to record where a stretch that was not recorded hides a fault, and no search has found it.
pub(super) fn of_gaps(analysis: &Analysis) -> Vec<String> {
    let own = analysis.examination.iter().chain(analysis.aligned.iter().flat_map(|aligned| &aligned.examination));
    let again: BTreeSet<i32> = analysis.search.iter().flat_map(|round| recorded_layers(round)).collect();
    let is_found = |gap: &&Gap| {
        !searched(analysis).is_empty() && (gap.from.layer + 1..gap.to.layer).any(|layer| again.contains(&layer))
    };
    let flagged = own.flat_map(|examination| &examination.study.gaps).filter(|gap| gap.flagged && !is_found(gap));
    let sentences: BTreeSet<String> = flagged.map(of_gap).collect();
    sentences.into_iter().collect()
}

fn of_gap(gap: &Gap) -> String {
    let place = |input: crate::oracle::Input| format!("`{}`{}", input.point, layer_of(input.point, input.layer));
    let layers: Vec<String> = (gap.from.layer + 1..gap.to.layer).map(|layer| layer.to_string()).collect();
    let what = match layers.len() {
        0 => "every point".to_owned(),
        1 => format!("layer {} (`--layers {}`)", layers.concat(), layers.concat()),
        _ => format!("layers {} (`--layers {}`)", layers.join(", "), layers.join(",")),
    };
    format!(
        "Record {what} in {}: between {} and {} it leaves what the model gives, by more than rounding can.",
        gap.phase,
        place(gap.from),
        place(gap.to)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::SlotName;
    use crate::cause::bugs::BUGS;
    use driftprobe_trace::{Phase, Point};

    fn cause(id: &'static str, parameters: &[(&str, &str)]) -> Cause {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let freedom = crate::cause::Freedom::Fixed;
        let candidate = Candidate::named(SlotName { id, parameters, freedom });
        Cause {
            phase: Phase::Decode,
            prompt_id: "p".into(),
            pos: 3,
            point: Point::QPostRope,
            layer: 2,
            layers: vec![2],
            systematic: false,
            candidates: vec![candidate],
            noise_rms_before: 9.0,
            tested: vec![],
            evidence: String::new(),
        }
    }

    #[test]
    fn every_bug_of_the_catalogue_has_a_sentence() {
        assert!(BUGS.len() > 40);
        for bug in BUGS {
            let sentence = of_cause(&cause(bug.id, &[]));
            assert!(
                sentence.starts_with("Look at ") && sentence.contains("decode") && !sentence.contains('{'),
                "{sentence}"
            );
        }
    }

    #[test]
    fn parameters_stand_in_the_sentence() {
        let offset = of_cause(&cause("ROPE_POSITION_OFFSET", &[("offset", "+1")]));
        assert_eq!(
            offset,
            "Look at where decode takes the rotary position: it is 1 too large (`q_post_rope` of layer 2)."
        );
        let still = of_cause(&cause("ROPE_POSITION_OFFSET", &[("position", "always 0")]));
        assert!(still.contains("rotary position: position always 0"), "{still}");
        let swapped = of_cause(&cause("KV_SWAPPED_SLOTS", &[("slot", "3"), ("other slot", "5")]));
        assert!(swapped.contains("slots 3 and 5 are exchanged"), "{swapped}");
        let unknown = Cause { candidates: vec![], evidence: "40 of 64 values off".into(), ..cause("NORM_EPS", &[]) };
        assert!(of_cause(&unknown).contains("no bug of the catalogue explains it (40 of 64 values off)"));
    }

    #[test]
    fn a_stretch_names_the_layers_to_record() {
        let input = |point, layer| crate::oracle::Input { point, layer };
        let gap = |from, to| Gap {
            prompt_id: "p".into(),
            phase: Phase::Decode,
            pos: 3,
            from: input(Point::ResidualPostMlp, from),
            to: input(Point::ResidualPreAttn, to),
            whole: true,
            ratio: 50.0,
            score: 20.0,
            inherited: false,
            flagged: true,
        };
        assert!(
            of_gap(&gap(2, 5))
                .starts_with("Record layers 3, 4 (`--layers 3,4`) in decode: between `residual_post_mlp`")
        );
        assert!(of_gap(&gap(2, 4)).starts_with("Record layer 3 (`--layers 3`)"));
        assert!(of_gap(&gap(2, 3)).starts_with("Record every point"));
    }
}
