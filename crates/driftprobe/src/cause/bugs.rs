//! The catalogue of bugs, a row each: what advice, suspects, power and the table of docs/numerics.md are taken from. The
//! formulas are those of the stages' own files.

use Group::{Cache, Ends, Heads, Linear, Mask, Mlp, Norm, Rope, Scores};
use Point::*;
use driftprobe_model::Config;
use driftprobe_trace::Point;

/// The part of a model that a bug is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// The rotary embedding.
    Rope,
    /// Which keys a row sees.
    Mask,
    /// Scale, soft caps and softmax.
    Scores,
    /// The heads' places.
    Heads,
    /// The KV cache.
    Cache,
    /// A norm.
    Norm,
    /// A matrix.
    Linear,
    /// The MLP's wiring, and the residual adds.
    Mlp,
    /// Embedding and output matrix.
    Ends,
}

/// Which rows it takes to say of a run without a fault that it would have shown a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Whichever stages can have it: where none of them is recorded, nothing is said.
    Anywhere,
    /// One row of any of these points, with what it is computed from; a run without such says so.
    At(&'static [Point]),
    /// A slot of an earlier position, whose source no row is.
    BySlots,
}

/// A bug of the catalogue.
pub(crate) struct Bug {
    /// The id that reports use.
    pub id: &'static str,
    /// Where it stands in the documentation, and which suspect it counts for.
    pub group: Group,
    /// Where to look; `{phase}` is filled in.
    pub place: &'static str,
    /// What is wrong there; `{parameter}` is filled in, by the names that the hypothesis gives.
    pub wrong: &'static str,
    /// What shows it.
    pub shown: Shown,
    /// Whether a model can have it, as far as a run without a row of [`Shown::At`] says that it lacks one.
    pub applies: fn(&Config) -> bool,
    /// Whether it is a matter of precision: an arithmetic may explain the rows as well as it does.
    pub of_precision: bool,
}

const fn bug(group: Group, id: &'static str) -> Bug {
    Bug { id, group, place: "", wrong: "", shown: Shown::Anywhere, applies: |_| true, of_precision: false }
}

impl Bug {
    const fn look_at(self, place: &'static str) -> Bug {
        Bug { place, ..self }
    }

    const fn wrong(self, wrong: &'static str) -> Bug {
        Bug { wrong, ..self }
    }

    const fn shown_at(self, points: &'static [Point]) -> Bug {
        Bug { shown: Shown::At(points), ..self }
    }

    const fn shown_by_slots(self) -> Bug {
        Bug { shown: Shown::BySlots, ..self }
    }

    const fn in_models(self, applies: fn(&Config) -> bool) -> Bug {
        Bug { applies, ..self }
    }

    const fn of_precision(self) -> Bug {
        Bug { of_precision: true, ..self }
    }
}

const TURNED: &[Point] = &[QPostRope, KPostRope];
const ATTENTION: &[Point] = &[AttnScores, AttnProbs, AttnOut];
const NORMS: &[Point] = &[AttnNormOut, FfnNormOut, FinalNormOut];
const MATRICES: &[Point] = &[QPreRope, VProj, AttnProjOut, MlpGate, MlpOut];

/// All bugs, by group, in the order of reports.
pub(crate) const BUGS: &[Bug] = &[
    bug(Rope, "ROPE_POSITION_OFFSET")
        .look_at("where {phase} takes the rotary position")
        .wrong("it is {offset}")
        .shown_at(TURNED),
    bug(Rope, "ROPE_THETA")
        .look_at("the base of the rotary frequencies in {phase}")
        .wrong("what was recorded fits {theta}")
        .shown_at(TURNED),
    bug(Rope, "ROPE_LAYOUT")
        .look_at("how {phase} pairs the columns for the rotary embedding")
        .wrong("it pairs them as in the {layout} layout")
        .shown_at(TURNED),
    bug(Rope, "ROPE_SCALING")
        .look_at("the scaling of rotary positions in {phase}")
        .wrong("it scales by {factor} ({scaling})")
        .shown_at(TURNED),
    bug(Rope, "ROPE_TABLE_PRECISION")
        .look_at("the table of cosines and sines in {phase}")
        .wrong("it is kept in {precision}")
        .shown_at(TURNED)
        .of_precision(),
    bug(Rope, "K_WITHOUT_ROPE")
        .look_at("where {phase} turns K before it is cached")
        .wrong("K was not turned")
        .shown_at(&[KPostRope]),
    bug(Mask, "MASK_SEES_FUTURE").look_at("the causal mask of {phase}").wrong("rows see keys after their own position"),
    bug(Mask, "MASK_MISSES_NEWEST")
        .look_at("the last key that {phase} attends over")
        .wrong("a row does not see its own key")
        .shown_at(ATTENTION),
    bug(Mask, "MASK_MISSES_FIRST")
        .look_at("the first key that {phase} attends over")
        .wrong("the key of position 0 is not seen")
        .shown_at(ATTENTION),
    bug(Mask, "MASK_WINDOW").look_at("the sliding window of {phase}").wrong("rows see {keys} keys").shown_at(ATTENTION),
    bug(Scores, "SCALE_MISSING")
        .look_at("the factor on Q·K in {phase}")
        .wrong("it is missing")
        .shown_at(ATTENTION)
        .in_models(|c| c.attention_scale != 1.0),
    bug(Scores, "SCALE_WRONG")
        .look_at("the factor on Q·K in {phase}")
        .wrong("it is {factor} times what it should be")
        .shown_at(ATTENTION),
    bug(Scores, "SOFTCAP_MISSING").look_at("the soft cap of {phase}").wrong("the cap on {cap} is missing"),
    bug(Scores, "SOFTMAX_UNNORMALISED")
        .look_at("the division by the sum in the softmax of {phase}")
        .wrong("the weights do not add up to 1")
        .shown_at(&[AttnProbs, AttnOut]),
    bug(Scores, "SOFTMAX_MERGE")
        .look_at("how {phase} merges parts of a split softmax")
        .wrong("a part is not rescaled to the common maximum"),
    bug(Heads, "GQA_MAP")
        .look_at("which K and V head a query head of {phase} reads")
        .wrong("query heads are mapped to the wrong group")
        .shown_at(ATTENTION)
        .in_models(|c| c.group() > 1 && c.num_key_value_heads > 1),
    bug(Heads, "HEAD_SWAP")
        .look_at("the order of heads in {phase}")
        .wrong("heads {heads} are exchanged")
        .shown_at(&[AttnOut])
        .in_models(|c| c.num_attention_heads > 1),
    bug(Heads, "HEAD_LAYOUT")
        .look_at("the transposition of heads and columns after attention in {phase}")
        .wrong("heads lie in the wrong layout")
        .shown_at(&[AttnOut])
        .in_models(|c| c.num_attention_heads > 1),
    bug(Cache, "KV_STALE_SLOT")
        .look_at("who clears or overwrites the cache that {phase} reads")
        .wrong("slot {slot} holds a row of an earlier sequence")
        .shown_by_slots(),
    bug(Cache, "KV_DUPLICATED_SLOT")
        .look_at("the slot that {phase} writes to")
        .wrong("slot {slot} holds the row of slot {holds slot}")
        .shown_by_slots(),
    bug(Cache, "KV_SWAPPED_SLOTS")
        .look_at("the slot table of {phase}")
        .wrong("slots {slot} and {other slot} are exchanged")
        .shown_by_slots(),
    bug(Cache, "KV_FOREIGN_ROW")
        .look_at("the block table of {phase}")
        .wrong("slot {slot} holds a row of another sequence")
        .shown_by_slots(),
    bug(Cache, "KV_EXCHANGED").look_at("the arguments of the cache write in {phase}").wrong("K and V are exchanged"),
    bug(Cache, "KV_NOT_WRITTEN")
        .look_at("the cache write in {phase}")
        .wrong("the row of slot {slot} was not written")
        .shown_at(&[KCache, VCache]),
    bug(Cache, "KV_PRECISION")
        .look_at("the dtype of the cache in {phase}")
        .wrong("rows went through {precision}")
        .shown_at(&[KCache, VCache])
        .of_precision(),
    bug(Norm, "NORM_EPS")
        .look_at("the epsilon of the norm in {phase}")
        .wrong("what was recorded fits {epsilon}")
        .shown_at(NORMS),
    bug(Norm, "NORM_WEIGHT_PLUS_ONE")
        .look_at("the norm's weight in {phase}")
        .wrong("1 is added to it, or is missing")
        .shown_at(NORMS),
    bug(Norm, "NORM_MEAN_SUBTRACTED")
        .look_at("the norm in {phase}")
        .wrong("it subtracts the mean, as a LayerNorm does")
        .shown_at(NORMS),
    bug(Norm, "NORM_SKIPPED")
        .look_at("whether {phase} runs the norm")
        .wrong("its weight alone was applied, or nothing")
        .shown_at(NORMS),
    bug(Linear, "WEIGHT_TRANSPOSED")
        .look_at("the layout of the weight matrix in {phase}")
        .wrong("it is read transposed"),
    bug(Linear, "BIAS_MISSING").look_at("the bias in {phase}").wrong("it is not added"),
    bug(Linear, "BIAS_REPEATED").look_at("who adds the bias in {phase}").wrong("it is added {times} times"),
    bug(Linear, "WEIGHT_OTHER_LAYER")
        .look_at("which layer's weights {phase} uses")
        .wrong("they are those of the layer {layer} from here")
        .shown_at(MATRICES)
        .in_models(|c| c.num_hidden_layers > 1),
    bug(Linear, "TAIL_DROPPED")
        .look_at("the last block of the dot products in {phase}")
        .wrong("the last {columns} columns are left out")
        .shown_at(MATRICES),
    bug(Linear, "QUANT_SCALE")
        .look_at("the scales of quantised blocks in {phase}")
        .wrong("the scale is that of the block {scale of block} from here"),
    bug(Linear, "ACCUMULATOR_SATURATED")
        .look_at("the accumulator of the matrix product in {phase}")
        .wrong("it is only {accumulator}")
        .shown_at(MATRICES)
        .of_precision(),
    bug(Mlp, "GATE_UP_SWAPPED")
        .look_at("the gate and up matrices in {phase}")
        .wrong("they are exchanged")
        .shown_at(&[MlpGate, MlpAct]),
    bug(Mlp, "ACTIVATION_WRONG").look_at("the activation in {phase}").wrong("it is {activation}").shown_at(&[MlpAct]),
    bug(Mlp, "ACTIVATION_OF_PRODUCT")
        .look_at("what the activation of {phase} is applied to")
        .wrong("it is the product of gate and up, and not gate alone")
        .shown_at(&[MlpAct]),
    bug(Mlp, "RESIDUAL_DROPPED")
        .look_at("the residual add in {phase}")
        .wrong("a summand is missing: {is}")
        .shown_at(&[ResidualPostAttn, ResidualPostMlp]),
    bug(Mlp, "RESIDUAL_DOUBLED")
        .look_at("the residual add in {phase}")
        .wrong("a summand is added twice: {is}")
        .shown_at(&[ResidualPostAttn, ResidualPostMlp]),
    bug(Ends, "EMBED_SCALE")
        .look_at("the factor on embeddings in {phase}")
        .wrong("it is {factor}")
        .shown_at(&[EmbedOut]),
    bug(Ends, "EMBED_ROW")
        .look_at("the token that {phase} looks up")
        .wrong("the row is {offset} from the token's")
        .shown_at(&[EmbedOut]),
    bug(Ends, "LM_HEAD_ROW")
        .look_at("the vocabulary rows of the output matrix in {phase}")
        .wrong("the logit of token {token} is that of row {row of}")
        .shown_at(&[Logits]),
    bug(Ends, "LM_HEAD_WEIGHT").look_at("which matrix {phase} uses for logits").wrong("it is {weight}"),
];

/// The row of an id; none of [`UNEXPLAINED`](super::UNEXPLAINED).
pub(crate) fn bug_of(id: &str) -> Option<&'static Bug> {
    BUGS.iter().find(|bug| bug.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn heading(group: Group) -> &'static str {
        match group {
            Rope => "rope",
            Mask => "mask",
            Scores => "scores",
            Heads => "heads",
            Cache => "cache",
            Norm => "norm",
            Linear => "linear",
            Mlp => "mlp, residual",
            Ends => "ends",
        }
    }

    /// The table of the documentation, as it should be.
    fn table() -> Vec<String> {
        let groups = BUGS.chunk_by(|one, next| one.group == next.group);
        let line = |bugs: &[Bug]| {
            let ids: Vec<String> = bugs.iter().map(|bug| format!("`{}`", bug.id)).collect();
            bugs.first().map(|bug| format!("| {} | {} |", heading(bug.group), ids.join(" ")))
        };
        groups.filter_map(line).collect()
    }

    #[test]
    fn the_documentation_has_the_table() {
        let page = include_str!("../../../../docs/numerics.md");
        let section = page.split("## Which bug").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let there: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        for line in table() {
            assert!(there.contains(&line.as_str()), "docs/numerics.md, \"Which bug\": put in this line:\n{line}");
        }
        assert_eq!(there, table(), "docs/numerics.md, \"Which bug\": other lines, or in another order");
    }

    #[test]
    fn ids_are_there_once_and_groups_together() {
        let ids: BTreeSet<&str> = BUGS.iter().map(|bug| bug.id).collect();
        assert_eq!(ids.len(), BUGS.len());
        assert_eq!(table().len(), 9, "{:#?}", table());
        for bug in BUGS {
            assert!(bug.place.contains("{phase}"), "{}: where to look", bug.id);
            assert!(!bug.wrong.is_empty() && bug.shown != Shown::At(&[]), "{}", bug.id);
        }
    }
}
