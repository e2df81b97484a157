//! The root cause: which known bug explains the first fault of a phase.
//!
//! By replay of hypotheses: for each bug of the catalogue that the faulty stage can have, the stage is computed as that bug
//! would have computed it, from the recorded inputs, its parameters fitted (Gauss–Newton) or looked for; a bug is accepted
//! if what is recorded then is within rounding noise. Among those that explain it equally well the one with the least
//! freedom counts; ties are reported as a set. None: `UNEXPLAINED`, with the evidence.
//!
//! Hypotheses know nothing of how faults are injected for tests: they are formulas of their own.

mod attention;
pub(crate) mod bugs;
mod cache;
mod evidence;
mod exact;
mod fit;
mod gate;
mod linear;
mod norm;
mod power;
mod rope;
mod scope;
mod slot;
mod suspect;
mod trial;

pub use power::{PowerRow, Smallest, power};
pub use slot::{CacheRows, Foreign, Part, SlotName, WrongSlot, name_slot};
pub use suspect::{Examined, Suspect, examine};
pub use trial::Freedom;

use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use crate::oracle::{PhaseJudgement, Replay};
use driftprobe_model::Model;
use driftprobe_trace::{Event, Phase, Point, Rows, TraceError};
use scope::Scope;
use std::sync::Arc;
use trial::{Expect, Held, Trial, hold, hold_grossly};

/// Id of a fault that no hypothesis explains.
pub const UNEXPLAINED: &str = "UNEXPLAINED";

/// The first local fault of a phase, and what explains it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// The phase.
    pub phase: Phase,
    /// The prompt of the first faulty row.
    pub prompt_id: Arc<str>,
    /// Its position.
    pub pos: u64,
    /// The point.
    pub point: Point,
    /// Its layer; −1 for unlayered points.
    pub layer: i32,
    /// All layers in which this point is at fault in this phase.
    pub layers: Vec<i32>,
    /// Whether no row by itself is at fault, only all of them together.
    pub systematic: bool,
    /// What explains it, as a set of ties; empty: [`UNEXPLAINED`].
    pub candidates: Vec<Candidate>,
    /// RMS z of the rows looked at, before any hypothesis; infinite for stages without freedom.
    pub noise_rms_before: f64,
    /// Everything that was tried, the best first.
    pub tested: Vec<Candidate>,
    /// What is known of a fault that nothing explains.
    pub evidence: String,
}

/// A hypothesis that was tested.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Id in the catalogue of faults.
    pub id: &'static str,
    /// Parameters by name: given, looked for or fitted.
    pub parameters: Vec<(String, String)>,
    /// RMS z that it leaves; 0 or infinite for stages without freedom.
    pub noise_rms_after: f64,
    /// Whether what it leaves is rounding noise in every row.
    pub accepted: bool,
    /// Its freedom.
    pub freedom: Freedom,
    surprise: f64,
}

impl Candidate {
    /// A name that is certain, or one of a tie: the row is exactly, or as far as can be known, what the name says.
    pub(crate) fn named(name: SlotName) -> Candidate {
        Candidate {
            id: name.id,
            parameters: name.parameters,
            // A row that is merely nobody's explains nothing to the digit.
            noise_rms_after: if name.freedom == Freedom::Loose { f64::NAN } else { 0.0 },
            accepted: true,
            freedom: name.freedom,
            surprise: 0.0,
        }
    }
}

/// Hypotheses whose mean of z² + ln σ² is this close to the best explain the rows equally well: 1.3² − 1.
const TIE: f64 = 0.69;

/// The first local fault of each phase and its cause; at most one a phase. `judgement` is what [`Replay::phase`] gave for
/// the same events.
///
/// # Errors
/// If a payload is damaged or missing.
pub fn find(
    replay: &Replay<'_>,
    events: &[Event],
    rows: &dyn Rows,
    judgement: &[PhaseJudgement],
) -> Result<Vec<Cause>, TraceError> {
    let mut causes = Vec::new();
    for phase in Phase::ALL {
        if let Some(scope) = Scope::first(replay, judgement, phase) {
            causes.push(cause(replay, (events, rows), scope)?);
        }
    }
    Ok(causes)
}

fn cause(replay: &Replay<'_>, (events, rows): (&[Event], &dyn Rows), scope: Scope) -> Result<Cause, TraceError> {
    let cases = replay.cases(events, rows, scope.phase, &|prompt, place, pos| scope.has(prompt, place, pos))?;
    let is_kv = cases.first().is_some_and(|c| c.op == Op::KvWrite);
    let findings = if is_kv {
        let both = replay.cases(events, rows, scope.phase, &|_, place, _| {
            place.point.is_cache() && scope.layers_looked_at.contains(&place.layer)
        })?;
        of_cache(replay.model(), &cases, &both)
    } else {
        of_stage(replay.model(), cases, &scope)
    };
    let Findings { tested, candidates, before, evidence } = findings;
    Ok(Cause {
        phase: scope.phase,
        prompt_id: scope.prompt_id,
        pos: scope.pos,
        point: scope.point,
        layer: scope.layer,
        layers: scope.layers,
        systematic: scope.systematic,
        evidence: if candidates.is_empty() { evidence } else { String::new() },
        candidates,
        noise_rms_before: before,
        tested,
    })
}

struct Findings {
    tested: Vec<Candidate>,
    candidates: Vec<Candidate>,
    before: f64,
    evidence: String,
}

fn of_cache(model: &Model, cases: &[Case], both: &[Case]) -> Findings {
    let names = cache::names(model, cases, both);
    let candidates: Vec<Candidate> = names.into_iter().map(Candidate::named).collect();
    let others = slot::IDS.iter().filter(|id| candidates.iter().all(|c| c.id != **id));
    let refused = others.map(|id| Candidate {
        id,
        parameters: Vec::new(),
        noise_rms_after: f64::INFINITY,
        accepted: false,
        freedom: Freedom::Fixed,
        surprise: f64::INFINITY,
    });
    let tested = candidates.iter().cloned().chain(refused).collect();
    let evidence = evidence::evidence(cases, &trial::clean(model));
    Findings { tested, candidates, before: f64::INFINITY, evidence }
}

fn of_stage(model: &Model, cases: Vec<Case>, scope: &Scope) -> Findings {
    let Some(op) = cases.first().map(|c| c.op) else {
        return Findings { tested: vec![], candidates: vec![], before: f64::NAN, evidence: String::new() };
    };
    // Rows that are computed in another way are another stage.
    let mut cases: Vec<Case> = cases.into_iter().filter(|c| kind(c.op) == kind(op)).collect();
    let (clean, trials): (Expect<'_>, Vec<Trial<'_>>) = match op {
        Op::Linear { .. } => {
            let narrowed = linear::narrow(model, cases);
            let trials = linear::trials(model, &narrowed);
            let clean = linear::clean(model, &narrowed.outputs);
            cases = narrowed.cases;
            (clean, trials)
        }
        _ => (trial::clean(model), trials(model, op, (&cases, scope.phase))),
    };
    let before = hold(&cases, &clean);
    let mut tested = test(&cases, &trials, scope, &before);
    let mut candidates = choose(&tested);
    if candidates.is_empty() && !scope.systematic && before.holds.iter().any(|h| *h) {
        // A fault of some rows only.
        let faulty = cases.iter().zip(&before.holds).filter(|(_, holds)| !**holds).map(|(case, _)| case.clone());
        let faulty: Vec<Case> = faulty.collect();
        let again = match op {
            Op::Linear { .. } => trials,
            _ => self::trials(model, op, (&faulty, scope.phase)),
        };
        let of_some = test(&faulty, &again, scope, &hold(&faulty, &clean));
        candidates = choose(&of_some);
        if !candidates.is_empty() {
            tested = of_some;
        }
    }
    tested.sort_by(|a, b| a.surprise.total_cmp(&b.surprise));
    Findings { tested, candidates, before: before.rms, evidence: evidence::evidence(&cases, &clean) }
}

/// Rows of the same kind are computed alike, with weights of their own.
fn kind(op: Op) -> std::mem::Discriminant<Op> {
    std::mem::discriminant(&op)
}

/// The hypotheses of a stage, fitted to its rows.
fn trials<'a>(model: &'a Model, op: Op, (cases, phase): (&[Case], Phase)) -> Vec<Trial<'a>> {
    match op {
        Op::Embed => exact::embeddings(model, cases),
        Op::Add => exact::sums(),
        Op::Norm { .. } => norm::trials(model, cases),
        Op::Rope => rope::trials(model, cases),
        Op::Gated => gate::trials(model),
        Op::Scores | Op::Softmax | Op::ScoresSoftmax | Op::Weigh | Op::Attention => {
            attention::trials(model, cases, phase)
        }
        Op::Copy | Op::KvWrite | Op::Linear { .. } => Vec::new(),
    }
}

/// `clean`: how the rows hold without any bug.
fn test(cases: &[Case], trials: &[Trial<'_>], scope: &Scope, clean: &Held) -> Vec<Candidate> {
    let gross = clean.rms > GROSS_RMS;
    let one = |trial: &Trial<'_>| {
        let held = if gross { hold_grossly(cases, &trial.expect) } else { hold(cases, &trial.expect) };
        Candidate {
            id: trial.id,
            parameters: trial.parameters.clone(),
            noise_rms_after: held.rms,
            accepted: is_accepted(&held, trial, scope, clean),
            freedom: trial.freedom,
            surprise: held.surprise,
        }
    };
    trials.iter().map(one).collect()
}

/// A hypothesis that only allows more noise must leave as much of it as it allows.
const LOOSE_RMS: std::ops::Range<f64> = 0.25..1.5;

/// RMS z from which a fault is far beyond what any rounding in between could do.
const GROSS_RMS: f64 = 30.0;

fn is_accepted(held: &Held, trial: &Trial<'_>, scope: &Scope, clean: &Held) -> bool {
    // Of more noise in a row not one value tells, but all of them.
    let is_spread = held.surprise_of_rest < clean.surprise_of_rest;
    let is_idle = trial.freedom == Freedom::Loose && !(LOOSE_RMS.contains(&held.rms) && is_spread);
    let systematic = scope.systematic && held.tests.values().any(|t| t.is_flagged());
    held.all() && !is_idle && !systematic
}

/// The accepted ones that explain as well as the best, with no more freedom than needed.
fn choose(tested: &[Candidate]) -> Vec<Candidate> {
    let accepted = || tested.iter().filter(|c| c.accepted);
    let best = accepted().map(|c| c.surprise).fold(f64::INFINITY, f64::min);
    let ties = || accepted().filter(|c| c.surprise <= best + TIE);
    let Some(least) = ties().map(|c| c.freedom).min() else { return Vec::new() };
    let mut chosen: Vec<Candidate> = ties().filter(|c| c.freedom == least).cloned().collect();
    chosen.sort_by(|a, b| a.surprise.total_cmp(&b.surprise).then(a.id.cmp(b.id)));
    // One candidate an id: its best parameters.
    let mut seen: Vec<&'static str> = Vec::new();
    chosen.retain(|c| {
        !seen.contains(&c.id) && {
            seen.push(c.id);
            true
        }
    });
    chosen
}

#[cfg(test)]
mod tests;
