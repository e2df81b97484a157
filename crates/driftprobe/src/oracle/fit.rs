//! Contract fitting: where a phase's stages are not what the declared arithmetic gives, is there a legitimate one that
//! explains all of them?
//!
//! The declared contract comes first. Where rows of a point are at fault under it, the catalogue of [`super::variants`] is
//! tried for that point and phase. A variant is taken only if it leaves no row of any layer at fault; what is at fault in
//! one layer or some rows only is a fault and no contract.

mod by_pass;
mod finer;

use super::judgement::{Outcome, PhaseJudgement, StageJudgement};
use super::replay::Replay;
use super::variants::{Variant, variants};
use driftprobe_trace::{Dtype, Event, Phase, Point, Rows, TraceError};
use std::collections::BTreeSet;

/// Least share of a widening variant's noise that the residuals must fill (RMS): one that they do not fill would explain
/// anything smaller as well.
const FILLED_MIN: f64 = 0.3;

/// An arithmetic that the contract does not declare and the record shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// In which phase.
    pub phase: Phase,
    /// At which point.
    pub point: Point,
    /// In which layers it was seen: all that were recorded.
    pub layers: Vec<i32>,
    /// Rows that it explains.
    pub rows: usize,
    /// What it is.
    pub variant: Variant,
    /// RMS of the residuals in units of noise, under the declared contract.
    pub rms_declared: f64,
    /// And under this one.
    pub rms: f64,
}

impl Finding {
    /// What `variant` makes of the stages that `declared` judged: `better`.
    fn of(
        variant: Variant,
        (phase, point): (Phase, Point),
        declared: &[&StageJudgement],
        better: &PhaseJudgement,
    ) -> Finding {
        let layers: BTreeSet<i32> = declared.iter().map(|stage| stage.layer).collect();
        Finding {
            phase,
            point,
            layers: layers.into_iter().collect(),
            rows: declared.len(),
            rms_declared: rms(declared.iter().copied()),
            rms: rms(better.stages.iter()),
            variant,
        }
    }
}

/// Fits both phases: `judged` is what the declared contract gives, and is mended in place. `refuse` says whether a widening
/// variant must not be taken for what is at fault there, since a bug explains it more sharply.
///
/// # Errors
/// If a payload is damaged or missing.
pub fn fit(
    replay: &mut Replay<'_>,
    (events, rows): (&[Event], &dyn Rows),
    judged: &mut [PhaseJudgement; 2],
    refuse: &dyn Fn(&Replay<'_>, &PhaseJudgement) -> bool,
) -> Result<Vec<Finding>, TraceError> {
    let mut findings = Vec::new();
    for (phase, judged) in Phase::ALL.into_iter().zip(judged) {
        findings.extend(finer::fit(replay, (events, rows), phase, judged)?);
        for point in flagged_points(judged) {
            let Some((finding, better)) = fit_point(replay, (events, rows), (phase, point), judged, refuse)? else {
                continue;
            };
            replay.declare(phase, point, finding.variant.fields.clone());
            replace(judged, point, better);
            findings.push(finding);
        }
    }
    Ok(findings)
}

fn flagged_points(judged: &PhaseJudgement) -> BTreeSet<Point> {
    let rows = judged.stages.iter().filter(|stage| stage.outcome.is_fault()).map(|stage| stage.point);
    rows.chain(judged.systematic.iter().filter(|s| s.test.is_flagged()).map(|s| s.point)).collect()
}

fn fit_point(
    replay: &Replay<'_>,
    (events, rows): (&[Event], &dyn Rows),
    (phase, point): (Phase, Point),
    judged: &PhaseJudgement,
    refuse: &dyn Fn(&Replay<'_>, &PhaseJudgement) -> bool,
) -> Result<Option<(Finding, PhaseJudgement)>, TraceError> {
    let of_point: Vec<&StageJudgement> = judged.stages.iter().filter(|stage| stage.point == point).collect();
    let told: Vec<&StageJudgement> = of_point.iter().copied().filter(|stage| known(stage)).collect();
    let layers: BTreeSet<i32> = told.iter().map(|stage| stage.layer).collect();
    let faulty: BTreeSet<i32> = told.iter().filter(|s| s.outcome.is_fault()).map(|s| s.layer).collect();
    let systematic = judged.systematic.iter().any(|s| s.point == point && s.layer.is_none() && s.test.is_flagged());
    // One layer of several is no contract.
    if layers.len() > 1 && faulty.len() < 2 && !systematic {
        return Ok(None);
    }
    let dtype = events.iter().find(|e| e.phase == phase && e.point == point).and_then(|e| e.dtype);
    let dtype = dtype.unwrap_or(Dtype::F32);
    let declared = replay.declared(phase, point);
    let ops = replay.ops(point, &of_point);
    let mut tried: Vec<Variant> = Vec::new();
    for variant in ops.into_iter().flat_map(|op| variants(op, point, dtype)) {
        if !tried.contains(&variant) && !variant.loses(&declared, dtype) {
            tried.push(variant);
        }
    }
    // Those that emulate a rounding come before those that add noise, whichever way of computing the point has them.
    let finding =
        |variant: Variant, better: PhaseJudgement| (Finding::of(variant, (phase, point), &told, &better), better);
    let (sharp, wide): (Vec<Variant>, Vec<Variant>) = tried.into_iter().partition(|variant| !variant.widens);
    let mut outcomes = Vec::new();
    for variant in sharp {
        let better = replay.only(point, phase, &variant.fields).phase(events, rows, phase)?;
        if explains(&better, &variant, told.len()) {
            return Ok(Some(finding(variant, better)));
        }
        outcomes.push(Tried { variant, stages: better.stages });
    }
    if let Some((variant, better)) = by_pass::fit(replay, (events, rows), (phase, point), (&told, &outcomes))? {
        return Ok(Some(finding(variant, better)));
    }
    if !wide.is_empty() && refuse(replay, &of_one_point(judged, point)) {
        return Ok(None);
    }
    for variant in wide {
        let better = replay.only(point, phase, &variant.fields).phase(events, rows, phase)?;
        if explains(&better, &variant, told.len()) {
            return Ok(Some(finding(variant, better)));
        }
    }
    Ok(None)
}

/// What a variant makes of a point's rows, where it does not explain all of them.
struct Tried {
    variant: Variant,
    stages: Vec<StageJudgement>,
}

/// The judgements of one point.
fn of_one_point(judged: &PhaseJudgement, point: Point) -> PhaseJudgement {
    PhaseJudgement {
        stages: judged.stages.iter().filter(|stage| stage.point == point).cloned().collect(),
        systematic: judged.systematic.iter().filter(|s| s.point == point).cloned().collect(),
    }
}

fn known(stage: &StageJudgement) -> bool {
    !matches!(stage.outcome, Outcome::Unjudged(_))
}

/// Whether a variant leaves nothing at fault, and fills the noise that it adds.
fn explains(judged: &PhaseJudgement, variant: &Variant, rows: usize) -> bool {
    let clean = judged.stages.iter().filter(|stage| stage.outcome.is_clean()).count();
    clean == rows
        && rows > 0
        && flagged_points(judged).is_empty()
        && (!variant.widens || rms(judged.stages.iter()) >= FILLED_MIN)
}

/// RMS z over all rows; 0 for exact ones.
pub(crate) fn rms<'a>(stages: impl Iterator<Item = &'a StageJudgement>) -> f64 {
    let (mut squares, mut count) = (0.0, 0.0);
    for stage in stages {
        if let Outcome::Clean(s) | Outcome::Flagged { statistics: s, .. } = &stage.outcome {
            squares += s.rms * s.rms * s.compared as f64;
            count += s.compared as f64;
        }
    }
    if count > 0.0 { f64::sqrt(squares / count) } else { 0.0 }
}

/// Puts a point's new judgements in the place of the old ones.
fn replace(judged: &mut PhaseJudgement, point: Point, better: PhaseJudgement) {
    let mut better_stages = better.stages.into_iter();
    for stage in judged.stages.iter_mut().filter(|stage| stage.point == point) {
        // Both lists are in the order of prompts, stages and positions.
        if let Some(new) = better_stages.next() {
            *stage = StageJudgement { fitted: true, ..new };
        }
    }
    judged.systematic.retain(|s| s.point != point);
    judged.systematic.extend(better.systematic);
}

#[cfg(test)]
mod tests;
