//! Prefill beside decode: what parts the two phases at a point, and from which context on.

use super::finding::{Claim, Finding};
use super::order::Order;
use super::parts::{Parts, onset};
use driftprobe_trace::{Phase, Point};
use std::collections::BTreeSet;

/// What both phases do at a point.
#[derive(Clone, Debug, PartialEq)]
pub struct Mechanism {
    /// The point.
    pub point: Point,
    /// What prefill does.
    pub prefill: String,
    /// What decode does.
    pub decode: String,
    /// Whether an order gives the rows of both phases, so that only their inputs part them.
    pub same: bool,
    /// The shortest context at which the two cut the keys differently.
    pub onset: Option<usize>,
}

/// Of each point that is claimed in both phases.
pub fn of(findings: &[Finding]) -> Vec<Mechanism> {
    let points: BTreeSet<Point> = findings.iter().map(|finding| finding.point).collect();
    let claim = |phase, point| {
        let own = findings.iter().filter(move |finding| (finding.phase, finding.point) == (phase, point));
        own.filter_map(|finding| finding.outcome.claim().map(|claim| (finding, claim))).next()
    };
    let one = |point| {
        let ((first, prefill), (second, decode)) = (claim(Phase::Prefill, point)?, claim(Phase::Decode, point)?);
        let orders: BTreeSet<&Order> = prefill.orders.iter().collect();
        let most = [first.longest, second.longest].into_iter().flatten().max().unwrap_or(0);
        let cut = ranges(prefill).zip(ranges(decode));
        Some(Mechanism {
            point,
            prefill: said(first, prefill),
            decode: said(second, decode),
            same: decode.orders.iter().any(|order| orders.contains(order)),
            onset: cut.and_then(|(a, b)| onset(a, b, usize::try_from(most).unwrap_or(0))),
        })
    };
    points.into_iter().filter_map(one).collect()
}

/// What is claimed, and of which passes, where it is not of all.
fn said(finding: &Finding, claim: &Claim) -> String {
    match finding.pass {
        None => claim.says.clone(),
        Some(tokens) => format!("{} (in passes of {tokens} tokens)", claim.says),
    }
}

/// The ranges that a claim names; none where they have several names that part in longer contexts.
fn ranges(claim: &Claim) -> Option<Parts> {
    let all: BTreeSet<Parts> = claim.orders.iter().filter_map(Order::parts).collect();
    match all.first() {
        None => claim.whole.then_some(Parts::Whole),
        // Blocks that are the whole of each row are one pass as far as these go.
        Some(first) => (all.len() == 1 || *first == Parts::Whole).then_some(*first),
    }
}

impl std::fmt::Display for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.same {
            return write!(f, "both phases: {}; the inputs part them", self.prefill);
        }
        write!(f, "prefill: {}; decode: {}", self.prefill, self.decode)?;
        match self.onset {
            Some(keys) => write!(f, "; onset at kv_len {keys}"),
            None => Ok(()),
        }
    }
}
