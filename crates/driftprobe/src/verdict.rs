//! The verdict on a run, its codes and its exit status.

use crate::judge::{JudgedPair, PairVerdict, code_of};
use crate::place::Part;
use crate::reason::{Reason, Reasons};
use driftprobe_trace::{Event, Phase, Point};
use std::sync::Arc;

/// Exit status of PASS.
pub const EXIT_PASS: u8 = 0;
/// Exit status of FAIL.
pub const EXIT_FAIL: u8 = 1;
/// Exit status if no verdict could be reached: wrong usage, or input that was refused.
pub const EXIT_COULD_NOT_RUN: u8 = 2;
/// Exit status of INCONCLUSIVE.
pub const EXIT_INCONCLUSIVE: u8 = 3;

/// Nothing pairs: the two phases have no key in common.
pub const TRACE_OFFSET: &str = "TRACE_OFFSET";

/// What is said of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Everything promised was found, paired and judged, and nothing is wrong.
    Pass,
    /// Something is wrong, and the evidence carries the claim.
    Fail,
    /// The evidence carries neither.
    Inconclusive,
}

impl Verdict {
    /// As reports spell it.
    pub const fn id(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Inconclusive => "INCONCLUSIVE",
        }
    }

    /// Exit status of a program that reports this verdict.
    pub const fn exit_code(self) -> u8 {
        match self {
            Verdict::Pass => EXIT_PASS,
            Verdict::Fail => EXIT_FAIL,
            Verdict::Inconclusive => EXIT_INCONCLUSIVE,
        }
    }
}

/// What kind of PASS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubVerdict {
    /// Every pair is bit-equal.
    BitIdentical,
}

impl SubVerdict {
    /// As reports spell it.
    pub const fn id(self) -> &'static str {
        match self {
            SubVerdict::BitIdentical => "BIT_IDENTICAL",
        }
    }
}

/// Every failure code in the order of the search: `TRACE_OFFSET` (nothing pairs), then one for each point. Where the
/// point is spelled `x_in`, `X_IN_DRIFT` stands for `RESIDUAL_PRE_ATTN_DRIFT`.
pub fn codes() -> impl Iterator<Item = &'static str> {
    std::iter::once(TRACE_OFFSET).chain(Point::ALL.iter().map(|point| point.code()))
}

/// In which way the phases first part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The rows differ.
    Differs,
    /// A row is not finite.
    NonFinite,
    /// Nothing pairs.
    Unpaired,
}

/// Where the phases first part, by (prompt, position, layer, point).
#[derive(Clone, Debug, PartialEq)]
pub struct FirstFailure {
    /// In which way.
    pub parting: Parting,
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The position, if recorded.
    pub pos_id: Option<u64>,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// The point.
    pub point: Point,
    /// The point as it was spelled.
    pub point_spelling: Arc<str>,
    /// The phase at fault, where the evidence says which.
    pub phase: Option<Phase>,
    /// The code.
    pub code: &'static str,
    /// Index of the pair; `None` if nothing pairs.
    pub pair: Option<usize>,
    /// The last row before it in the same forward pass that is equal as far as it was compared: index of the pair.
    pub last_equal: Option<usize>,
    /// Points between that row (or the pass's beginning) and this one that were not compared: the difference arises
    /// somewhere from there on.
    pub not_compared: Vec<Point>,
}

/// The verdict on a run and what it rests on.
#[derive(Clone, Debug)]
pub struct RunVerdict {
    /// The verdict.
    pub verdict: Verdict,
    /// What kind of PASS.
    pub sub_verdict: Option<SubVerdict>,
    /// The code of the cause, where the evidence carries one.
    pub root_cause: Option<&'static str>,
    /// Why the root cause is that, or why none is given.
    pub root_cause_why: String,
    /// Where the phases first part.
    pub first_failure: Option<FirstFailure>,
    /// Why it is no PASS.
    pub reasons: Vec<Reason>,
    /// What was noticed besides.
    pub notes: Vec<Reason>,
}

/// Reaches the verdict. `pairs` and `unpaired` are in search order; `non_finite_unpaired` says whether an event without a
/// partner is not finite.
pub fn reach(
    pairs: &[JudgedPair],
    unpaired: &[&Event],
    non_finite_unpaired: Option<&Event>,
    reasons: Reasons,
) -> RunVerdict {
    let first_failure = first_failure(pairs, unpaired);
    let (reasons, notes) = reasons.into_parts();
    let non_finite_pair = pairs.iter().find(|pair| pair.verdict == PairVerdict::NonFinite);
    let non_finite = non_finite_pair.map(|pair| &pair.prefill).or(non_finite_unpaired);
    let all_identical = pairs.iter().all(|pair| pair.verdict == PairVerdict::Identical);
    let (verdict, root_cause, why) = if let Some(event) = non_finite {
        let why =
            format!("the first row that is not finite is `{}`{}", event.point, layer_of(event.point, event.layer));
        (Verdict::Fail, Some(code_of(event)), why)
    } else if !pairs.is_empty() && all_identical && reasons.is_empty() {
        (Verdict::Pass, None, "there is nothing to explain".to_owned())
    } else if pairs.is_empty() && !unpaired.is_empty() {
        (Verdict::Inconclusive, Some(TRACE_OFFSET), "no event of one phase has a partner in the other".to_owned())
    } else {
        let why = match &first_failure {
            Some(_) => "comparing shows where the phases part, not whether rounding or a fault parts them",
            None => "nothing differs as far as it was compared; the reasons say what is not known",
        };
        (Verdict::Inconclusive, None, why.to_owned())
    };
    RunVerdict {
        verdict,
        sub_verdict: (verdict == Verdict::Pass).then_some(SubVerdict::BitIdentical),
        root_cause,
        root_cause_why: why,
        first_failure,
        reasons,
        notes,
    }
}

/// ` of layer 3`, or nothing for a point that has no layer.
pub(crate) fn layer_of(point: Point, layer: i32) -> String {
    if point.layered() { format!(" of layer {layer}") } else { String::new() }
}

fn first_failure(pairs: &[JudgedPair], unpaired: &[&Event]) -> Option<FirstFailure> {
    if pairs.is_empty() {
        let event = unpaired.first()?;
        return Some(FirstFailure {
            parting: Parting::Unpaired,
            prompt_id: event.prompt_id.clone(),
            pos_id: crate::place::position_of(event),
            layer: event.layer,
            point: event.point,
            point_spelling: event.point_spelling.clone(),
            phase: None,
            code: TRACE_OFFSET,
            pair: None,
            last_equal: None,
            not_compared: vec![],
        });
    }
    let index = pairs.iter().position(JudgedPair::parts)?;
    let pair = pairs.get(index)?;
    let same_pass =
        |other: &JudgedPair| (other.place.prompt, other.place.position) == (pair.place.prompt, pair.place.position);
    let before = pairs.get(..index).unwrap_or_default();
    let last_equal = before.iter().rposition(|other| same_pass(other) && other.equal_as_compared());
    let from = last_equal.and_then(|at| pairs.get(at));
    let not_compared = between(from, pair);
    Some(FirstFailure {
        parting: if pair.verdict == PairVerdict::NonFinite { Parting::NonFinite } else { Parting::Differs },
        prompt_id: pair.prefill.prompt_id.clone(),
        pos_id: pair.position(),
        layer: pair.prefill.layer,
        point: pair.prefill.point,
        point_spelling: pair.prefill.point_spelling.clone(),
        phase: pair.phase,
        code: pair.code(),
        pair: Some(index),
        last_equal,
        not_compared,
    })
}

/// Points between two rows of one forward pass, within the layer of the later one.
fn between(from: Option<&JudgedPair>, to: &JudgedPair) -> Vec<Point> {
    let start = match from {
        Some(from) if (from.place.part, from.place.layer) == (to.place.part, to.place.layer) => Some(from.place.point),
        _ => None,
    };
    let same_part = Point::ALL.iter().copied().filter(|point| Part::of(*point) == to.place.part);
    same_part.filter(|point| *point < to.place.point && start.is_none_or(|start| *point > start)).collect()
}
