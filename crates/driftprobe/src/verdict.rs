//! The verdict on a run, its codes and its exit status.

pub mod advice;
pub mod grounds;
pub mod hypotheses;
pub mod modes;
pub mod reason;

use crate::analysis::Unpaired;
use crate::judge::examine::Examination;
use crate::judge::{JudgedPair, PairVerdict, code_of};
use crate::pair::place::Part;
use driftprobe_trace::{Event, Phase, Point};
use reason::{Reason, Reasons};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
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

    /// The worst of several: FAIL, then INCONCLUSIVE, then PASS; of none, INCONCLUSIVE.
    pub fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
        verdicts.into_iter().max_by_key(|verdict| verdict.rank()).unwrap_or(Verdict::Inconclusive)
    }

    /// How bad it is.
    pub(crate) const fn rank(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::Inconclusive => 1,
            Verdict::Fail => 2,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SubVerdict {
    /// Every pair is bit-equal.
    BitIdentical,
    /// Rows differ as rounding makes them, each phase being clean at every stage.
    StructuralDrift,
}

impl SubVerdict {
    /// As reports spell it.
    pub const fn id(self) -> &'static str {
        match self {
            SubVerdict::BitIdentical => "BIT_IDENTICAL",
            SubVerdict::StructuralDrift => "STRUCTURAL_DRIFT",
        }
    }
}

/// Every failure code in the order of the search: `TRACE_OFFSET` (nothing pairs), then one for each point. Where the
/// point is spelled `x_in`, `X_IN_DRIFT` stands for `RESIDUAL_PRE_ATTN_DRIFT`.
pub fn codes() -> impl Iterator<Item = &'static str> {
    std::iter::once(TRACE_OFFSET).chain(Point::ALL.iter().map(|point| point.code()))
}

/// In which way the phases first part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parting {
    /// The rows differ.
    Differs,
    /// A stage is at fault.
    Fault,
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
    /// Layers and points between that row (or the layer's beginning) and this one that were not compared: the difference
    /// arises somewhere from there on.
    pub not_compared: Vec<(i32, Point)>,
    /// First and last of the layers between the two that were not recorded.
    pub skipped_layers: Option<(i32, i32)>,
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
    /// The first failure: the first stage at fault or not finite; where neither is known, where the phases first part.
    /// None for a PASS.
    pub first_failure: Option<FirstFailure>,
    /// Where the phases first part, whatever that means.
    pub first_difference: Option<FirstFailure>,
    /// Why it is no PASS.
    pub reasons: Vec<Reason>,
    /// What was noticed besides.
    pub notes: Vec<Reason>,
}

/// Reaches the verdict. `pairs` and `unpaired` are in search order.
pub fn reach(
    pairs: &[JudgedPair],
    unpaired: &[Unpaired],
    examination: Option<&Examination>,
    reasons: Reasons,
) -> RunVerdict {
    let loose: Vec<&Event> = unpaired.iter().map(|one| &one.event).collect();
    let first_difference = first_difference(pairs, &loose);
    let first_fault = examination.and_then(|examination| first_fault(pairs, unpaired, examination));
    let (reasons, notes) = reasons.into_parts();
    let non_finite_pair = pairs.iter().find(|pair| pair.verdict == PairVerdict::NonFinite);
    let non_finite_loose = unpaired.iter().find(|one| one.nan > 0);
    let non_finite = non_finite_pair.map(|pair| &pair.prefill).or(non_finite_loose.map(|one| &one.event));
    let all_good = pairs.iter().all(|pair| pair.verdict.is_good() || pair.is_left_out());
    let all_identical = pairs.iter().all(|pair| pair.verdict == PairVerdict::Identical);
    let mut first_failure = first_difference.clone();
    let (verdict, root_cause, why) = if let Some(first) = first_fault {
        let of = first.phase.map_or("both phases".to_owned(), |phase| phase.to_string());
        let place = format!("`{}`{}", first.point, layer_of(first.point, first.layer));
        let why = format!("{place} of {of} is not what its own inputs and the model give, by more than rounding can");
        let code = first.code;
        first_failure = Some(first);
        (Verdict::Fail, Some(code), why)
    } else if let Some(event) = non_finite {
        let why =
            format!("the first row that is not finite is `{}`{}", event.point, layer_of(event.point, event.layer));
        first_failure = first_non_finite(pairs, &loose).or(first_failure);
        (Verdict::Fail, Some(code_of(event)), why)
    } else if !pairs.is_empty() && all_good && reasons.is_empty() {
        first_failure = None;
        let why = match all_identical {
            true => "there is nothing to explain",
            false if examination.is_none_or(Examination::judges_no_stage) => {
                "every row is as near to what the tokens give as rounding makes it; no stage was judged by itself"
            }
            false => "every row that differs is within the rounding that its arithmetic must have",
        };
        (Verdict::Pass, None, why.to_owned())
    } else if pairs.is_empty() && !unpaired.is_empty() {
        (Verdict::Inconclusive, Some(TRACE_OFFSET), "no event of one phase has a partner in the other".to_owned())
    } else {
        let why = match &first_failure {
            Some(_) if examination.is_some() => {
                "no stage that could be judged is at fault; the reasons say what is open"
            }
            Some(_) => "comparing shows where the phases part, not whether rounding or a fault parts them",
            None => "nothing differs as far as it was compared; the reasons say what is not known",
        };
        (Verdict::Inconclusive, None, why.to_owned())
    };
    let sub_verdict = if all_identical { SubVerdict::BitIdentical } else { SubVerdict::StructuralDrift };
    RunVerdict {
        verdict,
        sub_verdict: (verdict == Verdict::Pass).then_some(sub_verdict),
        root_cause,
        root_cause_why: why,
        first_failure,
        first_difference,
        reasons,
        notes,
    }
}

/// The first stage at fault, paired or of a point that only one phase gives.
fn first_fault(pairs: &[JudgedPair], unpaired: &[Unpaired], examination: &Examination) -> Option<FirstFailure> {
    let paired = pairs.iter().position(|pair| pair.verdict == PairVerdict::Fault);
    let loose = unpaired.iter().find(|one| {
        examination.of(&one.event).is_some_and(|stage| stage.outcome.is_fault())
            || examination.is_systematic(&one.event)
    });
    let pair = paired.and_then(|at| pairs.get(at).map(|pair| (at, pair)));
    match (pair, loose) {
        (Some((at, pair)), loose) if loose.is_none_or(|loose| pair.place <= loose.place) => {
            // What lies between it and the last equal row is judged, or left open by its own reason.
            Some(FirstFailure { parting: Parting::Fault, ..of_pair(pairs, at, pair, None) })
        }
        (_, Some(loose)) => Some(FirstFailure {
            parting: Parting::Fault,
            phase: Some(loose.event.phase),
            code: code_of(&loose.event),
            ..of_loose(&loose.event)
        }),
        _ => None,
    }
}

fn first_non_finite(pairs: &[JudgedPair], unpaired: &[&Event]) -> Option<FirstFailure> {
    let at = pairs.iter().position(|pair| pair.verdict == PairVerdict::NonFinite)?;
    let pair = pairs.get(at)?;
    let (_, from) = last_equal_before(pairs, at);
    Some(complete(of_pair(pairs, at, pair, from), pairs, unpaired, at))
}

/// ` of layer 3`, or nothing for a point that has no layer.
pub(crate) fn layer_of(point: Point, layer: i32) -> String {
    if point.layered() { format!(" of layer {layer}") } else { String::new() }
}

fn first_difference(pairs: &[JudgedPair], unpaired: &[&Event]) -> Option<FirstFailure> {
    if pairs.is_empty() {
        return unpaired.first().map(|event| of_loose(event));
    }
    let at = pairs.iter().position(JudgedPair::parts)?;
    let pair = pairs.get(at)?;
    let (_, from) = last_equal_before(pairs, at);
    Some(complete(of_pair(pairs, at, pair, from), pairs, unpaired, at))
}

/// Of an event without a partner.
fn of_loose(event: &Event) -> FirstFailure {
    FirstFailure {
        parting: Parting::Unpaired,
        prompt_id: event.prompt_id.clone(),
        pos_id: event.position(),
        layer: event.layer,
        point: event.point,
        point_spelling: event.point_spelling.clone(),
        phase: None,
        code: TRACE_OFFSET,
        pair: None,
        last_equal: None,
        not_compared: vec![],
        skipped_layers: None,
    }
}

/// The last row of the same forward pass before a pair that is equal as far as it was compared.
fn last_equal_before(pairs: &[JudgedPair], at: usize) -> (Option<usize>, Option<&JudgedPair>) {
    let place = pairs.get(at).map(|pair| (pair.place.prompt, pair.place.position));
    let same_pass = |other: &JudgedPair| Some((other.place.prompt, other.place.position)) == place;
    let before = pairs.get(..at).unwrap_or_default();
    let last_equal = before.iter().rposition(|other| same_pass(other) && other.equal_as_compared());
    (last_equal, last_equal.and_then(|at| pairs.get(at)))
}

/// Of a pair, without what lies between it and the last equal row before it.
fn of_pair(pairs: &[JudgedPair], at: usize, pair: &JudgedPair, from: Option<&JudgedPair>) -> FirstFailure {
    FirstFailure {
        parting: if pair.verdict == PairVerdict::NonFinite { Parting::NonFinite } else { Parting::Differs },
        prompt_id: pair.prefill.prompt_id.clone(),
        pos_id: pair.position(),
        layer: pair.prefill.layer,
        point: pair.prefill.point,
        point_spelling: pair.prefill.point_spelling.clone(),
        phase: pair.phase,
        code: pair.code(),
        pair: Some(at),
        last_equal: last_equal_before(pairs, at).0,
        not_compared: vec![],
        skipped_layers: skipped(from, pair),
    }
}

/// Adds what lies between the failure and the last equal row before it.
fn complete(failure: FirstFailure, pairs: &[JudgedPair], unpaired: &[&Event], at: usize) -> FirstFailure {
    let Some(pair) = pairs.get(at) else { return failure };
    let recorded: BTreeSet<Point> =
        pairs.iter().map(|pair| &pair.prefill).chain(unpaired.iter().copied()).map(|event| event.point).collect();
    let mut not_compared = between(last_equal_before(pairs, at).1, pair);
    // Of a point that only some models have, nothing says that it was left out where no event names it.
    not_compared.retain(|(_, point)| point.only().is_none() || recorded.contains(point));
    FirstFailure { not_compared, ..failure }
}

/// Layers (−1: none) and points between two rows of one forward pass that were not compared, where they are known: within
/// the layers of both rows and after the last layer.
fn between(from: Option<&JudgedPair>, to: &JudgedPair) -> Vec<(i32, Point)> {
    let from = from.map(|from| from.place);
    let to = to.place;
    let same = from.is_some_and(|from| (from.part, from.layer) == (to.part, to.layer));
    let of_part = |part: Part| Point::ALL.iter().copied().filter(move |point| Part::of(*point) == part);
    let mut out = vec![];
    if let Some(from) = from.filter(|from| !same && from.part == Part::Layer) {
        out.extend(of_part(Part::Layer).filter(|point| *point > from.point).map(|point| (from.layer, point)));
    }
    let after = |point: &Point| !same || from.is_some_and(|from| *point > from.point);
    out.extend(of_part(to.part).filter(|point| *point < to.point).filter(after).map(|point| (to.layer, point)));
    out
}

/// First and last layer between two rows that were not recorded, if they are known to lie there.
fn skipped(from: Option<&JudgedPair>, to: &JudgedPair) -> Option<(i32, i32)> {
    let from = from?.place;
    let next = from.layer.checked_add(1)?;
    let last = to.place.layer.checked_sub(1)?;
    (to.place.part == Part::Layer && from.part != Part::Head && next <= last).then_some((next, last))
}
