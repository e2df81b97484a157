//! H₀ "the drift is structural" against H₁ "a real mismatch": every piece of evidence that was measured, what it supports
//! and why, and what follows.
//!
//! Hashes alone carry neither: two healthy phases differ in most bits. What decides is whether each stage is within the
//! rounding that its arithmetic must have, and whether the whole is within draws of it.

mod measured;
mod simulated;

use crate::analysis::Analysis;
use crate::report::suspects::cause_in_words;
use crate::verdict::reason::ReasonCode;
use crate::verdict::{FirstFailure, Parting, SubVerdict, Verdict, layer_of};
use driftprobe_trace::{Mode, Point};

/// What a piece of evidence speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supports {
    /// The drift is structural.
    Structural,
    /// It is a real mismatch.
    Mismatch,
    /// Neither: it would be the same under both.
    Neither,
    /// It was not measured.
    NotMeasured,
}

impl Supports {
    /// As reports spell it.
    pub const fn id(self) -> &'static str {
        match self {
            Supports::Structural => "H0",
            Supports::Mismatch => "H1",
            Supports::Neither => "neither",
            Supports::NotMeasured => "not_measured",
        }
    }
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What was looked at.
    pub what: &'static str,
    /// What was found, or what is missing.
    pub measured: String,
    /// What it supports.
    pub supports: Supports,
    /// Why.
    pub why: String,
}

/// H₀ and H₁, the evidence, and the conclusion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hypotheses {
    /// The evidence.
    pub evidence: Vec<Evidence>,
    /// Whether H₀ is rejected; `None`: the evidence carries neither.
    pub rejected: Option<bool>,
    /// What follows, in a sentence.
    pub conclusion: String,
}

/// H₀.
pub const H0: &str = "the drift is structural: rounding alone parts the phases, there is no bug in KV attention";
/// H₁.
pub const H1: &str = "the drift is real: there is a bug in KV attention, or elsewhere in a phase";

/// Weighs a run.
pub fn weigh(analysis: &Analysis) -> Hypotheses {
    let (rejected, conclusion) = conclude(analysis);
    Hypotheses { evidence: measured::evidence(analysis), rejected, conclusion }
}

/// The modes of a run, by name.
pub fn modes(analysis: &Analysis) -> Vec<(&'static str, &Analysis)> {
    let of = |one: &Analysis| one.manifest.as_ref().and_then(|manifest| manifest.mode).map_or("not_recorded", Mode::id);
    let all = std::iter::once(analysis).chain(analysis.aligned.as_deref());
    all.map(|one| (of(one), one)).collect()
}

fn conclude(analysis: &Analysis) -> (Option<bool>, String) {
    let run = &analysis.verdict;
    let p = analysis.examination.as_ref().and_then(|e| e.study.end_to_end.as_ref());
    let p = p.map_or_else(String::new, |drift| format!(", p = {}", crate::report::format::p_value(drift.p_value)));
    match (run.verdict, run.sub_verdict) {
        (Verdict::Pass, Some(SubVerdict::BitIdentical)) => {
            (Some(false), "H₀ stands: there is no drift at all, every pair is bit-equal".to_owned())
        }
        (Verdict::Pass, _) => {
            let text = "H₀ stands: every stage that was judged is within the rounding that its arithmetic must have";
            let power = "What a bug would have had to be to stay unseen is in the power table";
            (Some(false), format!("{text}{p}. {power}"))
        }
        (Verdict::Fail, _) => (Some(true), rejected(analysis)),
        (Verdict::Inconclusive, _) if run.reasons.iter().any(|r| r.code == ReasonCode::TooMuchDrift) => {
            let text = "H₀ is rejected for the whole and for no stage: every judged stage is clean, and the phases are";
            (None, format!("{text} further apart than rounding makes them{p}. What was not recorded holds the reason"))
        }
        (Verdict::Inconclusive, _) => {
            let reasons: Vec<&str> = run.reasons.iter().map(|reason| reason.code.id()).collect();
            let why = match reasons.is_empty() {
                true => String::new(),
                false => format!(" ({})", reasons.join(", ")),
            };
            let judged = match analysis.examination.is_some() {
                true => "what was judged is within rounding, and more is open",
                false => "without a model, rounding cannot be told from a bug",
            };
            (None, format!("Neither is shown: {judged}{why}"))
        }
    }
}

fn rejected(analysis: &Analysis) -> String {
    let Some(first) = &analysis.verdict.first_failure else { return "H₀ is rejected".to_owned() };
    let place = format!("`{}`{}", first.point, layer_of(first.point, first.layer));
    let phase = first.phase.map_or("both phases".to_owned(), |phase| phase.to_string());
    let what = match first.parting {
        Parting::NonFinite => format!("a row that is not finite is no rounding, and {place} of {phase} is none"),
        _ => format!("{place} of {phase} is off by more than rounding can be"),
    };
    let cause = match analysis.cause() {
        Some(cause) if !cause.candidates.is_empty() => format!(". Cause: {}", cause_in_words(cause)),
        Some(_) => ". No bug of the catalogue explains it".to_owned(),
        None => String::new(),
    };
    format!("H₀ is rejected: {what}{cause}. {}", whereabouts(first))
}

/// Whether the first failure is one of KV attention.
fn whereabouts(first: &FirstFailure) -> &'static str {
    match first.point {
        Point::KCache | Point::VCache => "It is in what the KV cache holds",
        point if is_attention(point) => "It is in attention",
        _ => "It is not in KV attention",
    }
}

/// From the projections of Q, K and V to what attention gives.
fn is_attention(point: Point) -> bool {
    (Point::QProjOut..=Point::AttnOut).contains(&point)
}
