//! The four usual suspects of attention: mask, rotary embedding, score normalisation, Q/K/V. Each tested, with its outcome.

use super::bugs::{Group, bug_of};
use super::{Candidate, Cause, PowerRow};
use driftprobe_trace::{Phase, Point};
use std::collections::BTreeSet;
use std::fmt;

/// What "attention mismatch, investigate …" lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspect {
    /// Which keys a row sees.
    Mask,
    /// The rotary embedding.
    Rope,
    /// Scale, soft cap and softmax.
    ScoreNormalisation,
    /// The projections of Q, K and V, and the places of heads.
    Qkv,
}

impl Suspect {
    /// All four.
    pub const ALL: [Suspect; 4] = [Suspect::Mask, Suspect::Rope, Suspect::ScoreNormalisation, Suspect::Qkv];

    /// Whether a fault with this id at this point is its.
    pub fn covers(self, id: &str, point: Point) -> bool {
        use Point::{KPreRope, KProjOut, QPreRope, QProjOut, VProj};
        let group = bug_of(id).map(|bug| bug.group);
        match self {
            Suspect::Mask => group == Some(Group::Mask),
            Suspect::Rope => group == Some(Group::Rope),
            // A cap on logits is none of attention's.
            Suspect::ScoreNormalisation => group == Some(Group::Scores) && point != Point::Logits,
            Suspect::Qkv => match group {
                Some(Group::Heads) => true,
                Some(Group::Rope) | None => false,
                _ => matches!(point, QProjOut | KProjOut | QPreRope | KPreRope | VProj),
            },
        }
    }
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Suspect::Mask => "mask",
            Suspect::Rope => "RoPE",
            Suspect::ScoreNormalisation => "score normalisation",
            Suspect::Qkv => "Q, K, V",
        })
    }
}

/// What the tests of one suspect in one phase came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Examined {
    /// The suspect.
    pub suspect: Suspect,
    /// The phase.
    pub phase: Phase,
    /// Hypotheses of its that explain the first fault.
    pub explains: Vec<Candidate>,
    /// Hypotheses of its that were replayed on the first fault and do not explain it.
    pub refuted: Vec<Candidate>,
    /// Faults of its that would have shown in every row they were tried on, with the least D.
    pub excluded: Vec<(&'static str, f64)>,
    /// Faults of its that would not have shown, or not in every row, and why.
    pub open: Vec<(&'static str, String)>,
}

/// Holds the causes and the power of a run against the four suspects, for each phase.
pub fn examine(causes: &[Cause], power: &[PowerRow]) -> Vec<Examined> {
    let phases = Phase::ALL;
    phases.into_iter().flat_map(|phase| Suspect::ALL.map(|suspect| one(suspect, phase, (causes, power)))).collect()
}

fn one(suspect: Suspect, phase: Phase, (causes, power): (&[Cause], &[PowerRow])) -> Examined {
    let cause = causes.iter().find(|c| c.phase == phase);
    let of = |all: fn(&Cause) -> &[Candidate]| -> Vec<Candidate> {
        let all = cause.into_iter().flat_map(move |c| all(c).iter().filter(move |t| suspect.covers(t.id, c.point)));
        all.cloned().collect()
    };
    let (explains, tested) = (of(|c| &c.candidates), of(|c| &c.tested));
    let refuted: Vec<Candidate> = tested.into_iter().filter(|t| !t.accepted).collect();
    let own = power.iter().filter(|row| row.phase == phase && suspect.covers(row.id, row.point));
    let mut excluded: Vec<(&'static str, f64)> = Vec::new();
    let mut open: Vec<(&'static str, String)> = Vec::new();
    for row in own {
        if row.rows > 0 && row.seen == row.rows {
            match excluded.iter_mut().find(|(id, _)| *id == row.id) {
                Some((_, least)) => *least = least.min(row.effect.unwrap_or(*least)),
                None => excluded.push((row.id, row.effect.unwrap_or(f64::INFINITY))),
            }
        } else if row.seen > 0 {
            open.push((row.id, format!("{} shows it in {} of {} rows", row.point, row.seen, row.rows)));
        } else {
            open.push((row.id, format!("{}: {}", row.point, row.unseen)));
        }
    }
    Examined { suspect, phase, explains, refuted, excluded, open }
}

impl fmt::Display for Examined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = |all: &[Candidate]| {
            let ids: BTreeSet<&str> = all.iter().map(|c| c.id).collect();
            ids.into_iter().collect::<Vec<_>>().join(", ")
        };
        let mut parts = Vec::new();
        if !self.explains.is_empty() {
            parts.push(format!("explains the first fault: {}", ids(&self.explains)));
        }
        if !self.refuted.is_empty() {
            parts.push(format!("does not explain it: {}", ids(&self.refuted)));
        }
        if !self.excluded.is_empty() {
            let all = self.excluded.iter().map(|(id, d)| format!("{id} (D ≥ {d:.0})"));
            parts.push(format!("would have shown: {}", all.collect::<Vec<_>>().join(", ")));
        }
        if !self.open.is_empty() {
            let all = self.open.iter().map(|(id, why)| format!("{id} ({why})"));
            parts.push(format!("could have gone unseen: {}", all.collect::<Vec<_>>().join(", ")));
        }
        if parts.is_empty() {
            parts.push("nothing recorded tests it".to_owned());
        }
        write!(f, "{} in {}: {}", self.suspect, self.phase, parts.join("; "))
    }
}
