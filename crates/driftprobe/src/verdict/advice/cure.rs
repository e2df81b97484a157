//! Where to look, by the id of the bug that explains what is off; and what to record where nothing was.

use crate::analysis::Analysis;
use crate::cause::{Candidate, Cause};
use crate::search::recorded_layers;
use crate::simulate::Gap;
use crate::verdict::layer_of;
use std::collections::BTreeSet;

/// Id, where to look, and what is wrong there; `{phase}` and `{parameter}` are filled in.
const CURES: &[(&str, &str, &str)] = &[
    ("ROPE_POSITION_OFFSET", "where {phase} takes the rotary position", "it is {offset}"),
    ("ROPE_THETA", "the base of the rotary frequencies in {phase}", "what was recorded fits {theta}"),
    (
        "ROPE_LAYOUT",
        "how {phase} pairs the columns for the rotary embedding",
        "it pairs them as in the {layout} layout",
    ),
    ("ROPE_SCALING", "the scaling of rotary positions in {phase}", "it scales by {factor} ({scaling})"),
    ("K_WITHOUT_ROPE", "where {phase} turns K before it is cached", "K was not turned"),
    ("ROPE_TABLE_PRECISION", "the table of cosines and sines in {phase}", "it is kept in {precision}"),
    ("MASK_SEES_FUTURE", "the causal mask of {phase}", "rows see keys after their own position"),
    ("MASK_MISSES_NEWEST", "the last key that {phase} attends over", "a row does not see its own key"),
    ("MASK_MISSES_FIRST", "the first key that {phase} attends over", "the key of position 0 is not seen"),
    ("MASK_WINDOW", "the sliding window of {phase}", "rows see {keys} keys"),
    (
        "KV_STALE_SLOT",
        "who clears or overwrites the cache that {phase} reads",
        "slot {slot} holds a row of an earlier sequence",
    ),
    ("KV_DUPLICATED_SLOT", "the slot that {phase} writes to", "slot {slot} holds the row of slot {holds slot}"),
    ("KV_SWAPPED_SLOTS", "the slot table of {phase}", "slots {slot} and {other slot} are exchanged"),
    ("KV_FOREIGN_ROW", "the block table of {phase}", "slot {slot} holds a row of another sequence"),
    ("KV_EXCHANGED", "the arguments of the cache write in {phase}", "K and V are exchanged"),
    ("KV_PRECISION", "the dtype of the cache in {phase}", "rows went through {precision}"),
    ("KV_NOT_WRITTEN", "the cache write in {phase}", "the row of slot {slot} was not written"),
    ("GQA_MAP", "which K and V head a query head of {phase} reads", "query heads are mapped to the wrong group"),
    ("HEAD_SWAP", "the order of heads in {phase}", "heads {heads} are exchanged"),
    (
        "HEAD_LAYOUT",
        "the transposition of heads and columns after attention in {phase}",
        "heads lie in the wrong layout",
    ),
    ("SCALE_MISSING", "the factor on Q·K in {phase}", "it is missing"),
    ("SCALE_WRONG", "the factor on Q·K in {phase}", "it is {factor} times what it should be"),
    ("SOFTCAP_MISSING", "the soft cap of {phase}", "the cap on {cap} is missing"),
    ("SOFTMAX_UNNORMALISED", "the division by the sum in the softmax of {phase}", "the weights do not add up to 1"),
    ("SOFTMAX_MERGE", "how {phase} merges parts of a split softmax", "a part is not rescaled to the common maximum"),
    ("NORM_EPS", "the epsilon of the norm in {phase}", "what was recorded fits {epsilon}"),
    ("NORM_WEIGHT_PLUS_ONE", "the norm's weight in {phase}", "1 is added to it, or is missing"),
    ("NORM_MEAN_SUBTRACTED", "the norm in {phase}", "it subtracts the mean, as a LayerNorm does"),
    ("NORM_SKIPPED", "whether {phase} runs the norm", "its weight alone was applied, or nothing"),
    ("WEIGHT_TRANSPOSED", "the layout of the weight matrix in {phase}", "it is read transposed"),
    ("BIAS_MISSING", "the bias in {phase}", "it is not added"),
    ("BIAS_REPEATED", "who adds the bias in {phase}", "it is added {times} times"),
    ("WEIGHT_OTHER_LAYER", "which layer's weights {phase} uses", "they are those of the layer {layer} from here"),
    ("TAIL_DROPPED", "the last block of the dot products in {phase}", "the last {columns} columns are left out"),
    (
        "QUANT_SCALE",
        "the scales of quantised blocks in {phase}",
        "the scale is that of the block {scale of block} from here",
    ),
    ("ACCUMULATOR_SATURATED", "the accumulator of the matrix product in {phase}", "it is only {accumulator}"),
    ("GATE_UP_SWAPPED", "the gate and up matrices in {phase}", "they are exchanged"),
    ("ACTIVATION_WRONG", "the activation in {phase}", "it is {activation}"),
    ("RESIDUAL_DROPPED", "the residual add in {phase}", "a summand is missing: {is}"),
    ("RESIDUAL_DOUBLED", "the residual add in {phase}", "a summand is added twice: {is}"),
    ("EMBED_SCALE", "the factor on embeddings in {phase}", "it is {factor}"),
    ("EMBED_ROW", "the token that {phase} looks up", "the row is {offset} from the token's"),
    (
        "LM_HEAD_ROW",
        "the vocabulary rows of the output matrix in {phase}",
        "the logit of token {token} is that of row {row of}",
    ),
    ("LM_HEAD_WEIGHT", "which matrix {phase} uses for logits", "it is {weight}"),
];

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
    let (_, place, wrong) = CURES.iter().find(|(id, ..)| *id == candidate.id)?;
    let place = place.replace("{phase}", &cause.phase.to_string());
    let mut wrong = (*wrong).to_owned();
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
    use driftprobe_trace::{Phase, Point};

    /// The ids of the catalogue, as docs/numerics.md lists them.
    fn catalogue() -> BTreeSet<&'static str> {
        let page = include_str!("../../../../../docs/numerics.md");
        let section = page.split("## Which bug").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| "));
        rows.skip(1).flat_map(|row| row.split('`').skip(1).step_by(2)).collect()
    }

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
    fn every_bug_of_the_catalogue_has_a_sentence_and_no_other_has() {
        let ids = catalogue();
        assert!(ids.len() > 40, "{ids:?}");
        assert_eq!(CURES.iter().map(|(id, ..)| *id).collect::<BTreeSet<_>>(), ids);
        for id in ids {
            let sentence = of_cause(&cause(id, &[]));
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
