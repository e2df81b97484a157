//! Reachability: which legal evaluation orders give the recorded bits of clean stages whose rows differ.
//!
//! A stage that the oracle finds clean may still give other bits in prefill than in decode, since it sums in another order.
//! [`reach`] computes such rows again from their own recorded inputs, in f32, by every order of a catalogue (running sums,
//! vector lanes, blocks of keys, split keys, fused or separate roundings) and keeps the orders that give **all** recorded
//! values of **all** rows looked at. What is left is the mechanism of the phase; see [`finding`] for when it is claimed.
//!
//! The search is bounded by the caller, who is asked after each step whether to go on.

mod attend;
mod catalogue;
mod elementwise;
pub mod finding;
mod mechanism;
pub mod order;
pub mod parts;
mod prepare;
mod row;
mod settle;
pub mod sum;
pub mod targets;
mod terms;
#[cfg(test)]
mod tests;
mod tried;
mod words;

pub use finding::{Claim, Finding, Outcome, Reach, Skipped};
pub use mechanism::Mechanism;
pub use row::RowName;
pub use targets::Scope;

use crate::Analysis;
use crate::judge::examine::Oracle;
use crate::oracle::Replay;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::{Input, Op};
use crate::pair::spelling;
use crate::progress::{Progress, Work};
use driftprobe_trace::{Event, Point, Rows, Run, TraceError};
use row::Row;
use std::collections::BTreeMap;
use targets::Target;

/// Is told how far the search has got, and says whether it may go on.
pub type GoOn<'a> = dyn FnMut(Progress) -> bool + 'a;

/// Searches the orders of the clean stages of a run whose rows differ. `analysis` is the run's, made with the same model and
/// contract.
///
/// # Errors
/// If a payload is damaged or missing.
pub fn reach(
    (run, rows): (&Run, &dyn Rows),
    oracle: &Oracle<'_>,
    analysis: &Analysis,
    scope: &Scope,
    go_on: &mut GoOn<'_>,
) -> Result<Reach, TraceError> {
    let merged = spelling::merge(run);
    let run = merged.as_ref().map_or(run, |merged| &merged.run);
    let mut replay = Replay::new(oracle.model, run.manifest.as_ref());
    if let Some(contract) = oracle.contract {
        replay = replay.with_contract(contract);
    }
    let (targets, mut skipped) = targets::targets(analysis, scope);
    let mut all = Reach { pairs: targets::pairs(analysis), ..Reach::default() };
    let total = targets.len() as u64;
    for (done, target) in (0u64..).zip(&targets) {
        let mut asked = || go_on(Progress { work: Work::Orders, done, total });
        if all.ended_early || !asked() {
            all.ended_early = true;
            skipped.push(Skipped::of(target, "the time was up before it"));
            continue;
        }
        let (ready, refused) = ready(&replay, &run.events, rows, target)?;
        skipped.extend(refused.into_iter().map(|(why, rows)| Skipped { rows, ..Skipped::of(target, &why) }));
        if ready.is_empty() {
            continue;
        }
        let (findings, ended) = settle::settle(target, &ready, &mut asked);
        all.findings.extend(findings);
        all.ended_early |= ended;
    }
    all.skipped = skipped;
    all.mechanisms = mechanism::of(&all.findings);
    Ok(all)
}

/// The rows of a target that can be searched, and why others cannot, with how many.
type Ready = (Vec<(Row, Op)>, BTreeMap<String, u64>);

fn ready(replay: &Replay<'_>, events: &[Event], rows: &dyn Rows, target: &Target) -> Result<Ready, TraceError> {
    let wanted = |prompt: &str, place: Input, pos: u64| {
        let point = place.point == target.point || (target.point == Point::AttnOut && place.point == Point::AttnScores);
        point
            && target
                .rows
                .iter()
                .any(|row| &*row.name.prompt_id == prompt && row.name.layer == place.layer && row.name.pos == pos)
    };
    let cases = replay.cases(events, rows, target.phase, &wanted)?;
    let find = |point: Point, name: &RowName| {
        let is = |case: &&Case| {
            case.point == point && case.prompt_id == name.prompt_id && case.layer == name.layer && case.pos == name.pos
        };
        cases.iter().find(is)
    };
    let (mut ready, mut refused): Ready = Default::default();
    for one in &target.rows {
        let Some(case) = find(target.point, &one.name) else {
            *refused.entry("the row or its inputs are not recorded as payload".to_owned()).or_default() += 1;
            continue;
        };
        let scores = find(Point::AttnScores, &one.name).filter(|_| case.op == Op::Attention);
        match prepare::prepare(replay.model(), case, one.pass, scores) {
            // The same values again are no other witness.
            Ok(row) if ready.iter().any(|(known, _): &(Row, Op)| known.recorded == row.recorded) => {}
            Ok(row) => ready.push((row, case.op)),
            Err(why) => *refused.entry(why).or_default() += 1,
        }
    }
    Ok((ready, refused))
}
