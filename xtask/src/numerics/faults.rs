//! The table of faults: the whole catalogue injected, each found, placed and named or not.

use super::case::{Recorded, Shape, judged, recorded};
use super::contracts::Contract;
use super::effect::{Place, effect};
use super::gates::{GATES, Gates, alarmed, pairs};
use super::{Bench, work};
use anyhow::Result;
use driftprobe::{Analysis, Verdict};
use driftprobe_engine::EmbeddedEngine;
use driftprobe_engine::faulty::{Fault, FaultKind, FaultyEngine, Scope, Subject};
use driftprobe_model::Model;
use driftprobe_trace::{Phase, Point, Run};

/// Below this many units of noise, all rows of the faulty stage together, a fault counts as below it.
pub const BELOW: f64 = 3.0;

/// Operations that a run's simulation may take, where the fault can need it.
const BUDGET_FLOPS: f64 = 1e10;

/// What became of one fault.
#[derive(Clone, Copy, PartialEq)]
pub enum Outcome {
    /// No recorded row differs from the clean run's.
    Invisible,
    /// Not detected, and smaller than what could be.
    Below(f64),
    /// Not detected.
    Missed(f64),
    Found {
        localised: bool,
        /// 1; ½ where the name is one of a tie; 0.
        named: f64,
    },
}

/// One fault in one run.
pub struct Case {
    pub group: &'static str,
    pub id: &'static str,
    pub storage: &'static str,
    pub phase: Option<Phase>,
    pub outcome: Outcome,
    /// Fault, model, contract, seed; and what was said instead.
    pub what: String,
    pub said: String,
    pub gates: Gates,
}

/// One contract, model and seed.
struct Cell {
    contract: Contract,
    model: &'static str,
    seed: u64,
}

/// Groups of the catalogue, in its order.
pub const CATALOGUE: [&str; 9] =
    ["rope", "mask", "cache", "heads", "scores", "norm", "linear", "mlp, residual", "ends"];

fn group(kind: &FaultKind) -> &'static str {
    let at = match kind {
        FaultKind::Rope(_) => 0,
        FaultKind::Mask(_) => 1,
        FaultKind::Cache(_) => 2,
        FaultKind::Heads(_) => 3,
        FaultKind::Scores(_) => 4,
        FaultKind::Norm(_) => 5,
        FaultKind::Linear(_) => 6,
        FaultKind::Mlp(_) => 7,
        FaultKind::Ends(_) => 8,
    };
    CATALOGUE[at]
}

/// Bugs that are a matter of precision: in all layers they are an arithmetic like any other, and a finding about it.
const OF_PRECISION: [&str; 3] = ["KV_PRECISION", "ROPE_TABLE_PRECISION", "ACCUMULATOR_SATURATED"];

/// Every contract with three seeds; each seed has its own model (by turns), prompts and layer.
fn cells(bench: &Bench) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (number, contract) in bench.contracts().into_iter().enumerate() {
        for seed in 0..bench.seeds() {
            let models = contract.models;
            let model = models[(number + number / models.len() + seed as usize * 2) % models.len()];
            cells.push(Cell { contract: contract.clone(), model, seed });
        }
    }
    cells
}

fn shape(seed: u64) -> Shape {
    let lengths = [vec![24], vec![60], vec![24, 41]];
    Shape { lengths: lengths[seed as usize % 3].clone(), steps: 2, seed: 100 + seed }
}

/// Of faults that only a simulation shows, which takes its time.
fn short(seed: u64) -> Shape {
    Shape { lengths: vec![20], steps: 2, seed: 200 + seed }
}

fn needs_simulation(fault: &Fault) -> bool {
    fault.kind.id().starts_with("KV_")
}

/// The layer that a seed's faults are in; the last seed's are in all of them.
fn layer(seed: u64, model: &Model) -> Option<usize> {
    match seed % 3 {
        0 => Some(1),
        1 => Some(model.config.num_hidden_layers - 1),
        _ => None,
    }
}

/// All faults in all cells, in a fixed order.
pub fn table(bench: &Bench) -> Result<Vec<Case>> {
    let cells = cells(bench);
    let of_cells = work::each("cells of faults", &cells, |cell| of_cell(bench, cell))?;
    Ok(of_cells.into_iter().flatten().collect())
}

fn of_cell(bench: &Bench, cell: &Cell) -> Result<Vec<Case>> {
    let model = bench.model(cell.model);
    let settings = &cell.contract.settings;
    let phases = [Some(Phase::Decode), Some(Phase::Prefill), None];
    let scopes = phases.map(|phase| Scope { phase, layer: layer(cell.seed, model) });
    let mut cases = Vec::new();
    for (shape, simulated) in [(shape(cell.seed), false), (short(cell.seed), true)] {
        let clean = recorded(&EmbeddedEngine::new(model, settings.clone())?, &shape, bench.scratch())?;
        let alarms = alarmed(&pairs(&judged(model, &clean.run, &clean.run, 0.0), &clean.run));
        let subject = Subject { model, settings, tokens: shape.lengths[0] };
        let faults = scopes.into_iter().flat_map(|scope| Fault::catalogue(&subject, scope));
        let faults: Vec<Fault> =
            faults.filter(|f| needs_simulation(f) == simulated).step_by(bench.fault_step()).collect();
        let scene = Scene { bench, cell, model, shape: &shape, clean: &clean, alarms: &alarms };
        let found: Vec<Case> = faults.iter().map(|fault| scene.case(&subject, fault)).collect::<Result<_>>()?;
        cases.extend(found);
    }
    Ok(cases)
}

struct Scene<'a> {
    bench: &'a Bench,
    cell: &'a Cell,
    model: &'a Model,
    shape: &'a Shape,
    clean: &'a Recorded,
    alarms: &'a [bool; GATES.len()],
}

/// What a fault really changes.
struct Truth {
    /// Phases in which a row differs.
    phases: Vec<Phase>,
    /// Where it acts first, by phase.
    places: Vec<Place>,
}

impl Scene<'_> {
    fn case(&self, subject: &Subject<'_>, fault: &Fault) -> Result<Case> {
        let engine = FaultyEngine::new(subject, fault.clone())?;
        let faulty = recorded(&engine, self.shape, self.bench.scratch())?;
        let id = fault.kind.id();
        let truth = truth(subject, fault, (&self.clean.run, &faulty.run));
        let Cell { contract, model, seed } = self.cell;
        let mut case = Case {
            group: group(&fault.kind),
            id,
            storage: contract.storage,
            phase: fault.scope.phase,
            outcome: Outcome::Invisible,
            what: format!("{fault}, {model}, {}, seed {seed}", contract.name()),
            said: String::new(),
            gates: Gates::default(),
        };
        if truth.phases.is_empty() {
            return Ok(case);
        }
        let budget = if needs_simulation(fault) { BUDGET_FLOPS } else { 0.0 };
        let mut analysis = judged(self.model, &faulty.run, &faulty.run, budget);
        (case.outcome, case.said) = self.outcome(&analysis, &faulty.run, (fault, &truth));
        if matches!(case.outcome, Outcome::Missed(_)) && budget == 0.0 {
            // Whatever else a user's run would try.
            analysis = judged(self.model, &faulty.run, &faulty.run, BUDGET_FLOPS);
            (case.outcome, case.said) = self.outcome(&analysis, &faulty.run, (fault, &truth));
        }
        if !matches!(case.outcome, Outcome::Below(_)) {
            let is_place =
                |point: Point, layer: i32| truth.places.iter().any(|p| p.layer == layer && is_shown(p.point, point));
            case.gates.faulty(&pairs(&analysis, &faulty.run), self.alarms, is_place);
        }
        Ok(case)
    }

    fn outcome(&self, analysis: &Analysis, faulty: &Run, (fault, truth): (&Fault, &Truth)) -> (Outcome, String) {
        let id = fault.kind.id();
        if analysis.verdict.verdict != Verdict::Fail {
            let findings = analysis.examination.iter().flat_map(|e| &e.contract_findings);
            let of_precision = OF_PRECISION.contains(&id) && fault.scope.layer.is_none();
            let finding = findings.clone().find(|f| {
                of_precision && truth.places.iter().any(|p| p.phase == f.phase && is_shown(p.point, f.point))
            });
            if finding.is_some() {
                return (Outcome::Found { localised: true, named: 1.0 }, String::new());
            }
            let largest = truth.places.iter().map(|p| effect(self.model, (&self.clean.run, faulty), *p));
            let largest = largest.fold(0.0, f64::max);
            let findings: Vec<String> =
                findings.map(|f| format!("{} of {}: {}", f.point, f.phase, f.variant.says)).collect();
            let said = format!("{}, D {largest:.1}, {}", analysis.verdict.verdict.id(), findings.join("; "));
            let outcome = if largest < BELOW { Outcome::Below(largest) } else { Outcome::Missed(largest) };
            return (outcome, said);
        }
        let first = analysis.verdict.first_failure.as_ref();
        let is_there = |p: &Place| {
            first.is_some_and(|f| {
                p.layer == f.layer && is_shown(p.point, f.point) && f.phase.is_none_or(|phase| phase == p.phase)
            })
        };
        // One phase alone is at fault if one phase alone differs.
        let is_phase = first.is_some_and(|f| truth.phases.len() == 2 || f.phase == truth.phases.first().copied());
        let localised = is_phase && truth.places.iter().any(is_there);
        let named = named(analysis, id, &truth.phases);
        let said = match first {
            Some(f) if !localised => format!("{} of layer {} in {:?}", f.point, f.layer, f.phase),
            _ if named < 1.0 => names(analysis),
            _ => String::new(),
        };
        (Outcome::Found { localised, named }, said)
    }
}

/// Where a fault acts, from what it is and from the first row that differs.
fn truth(subject: &Subject<'_>, fault: &Fault, (clean, faulty): (&Run, &Run)) -> Truth {
    let mut truth = Truth { phases: vec![], places: vec![] };
    for phase in Phase::ALL {
        let hashes = |run: &Run| -> Vec<_> {
            run.events.iter().filter(|e| e.phase == phase).map(|e| (Place::of(e), e.hash)).collect()
        };
        let differing: Vec<Place> =
            hashes(clean).into_iter().zip(hashes(faulty)).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
        if differing.is_empty() {
            continue;
        }
        truth.phases.push(phase);
        let point = fault.point(subject, phase);
        let at_point = differing.iter().filter(|p| is_shown(point, p.point)).map(|p| p.layer).min();
        let layer = fault.scope.layer.and_then(|l| i32::try_from(l).ok()).or(at_point);
        truth.places.push(Place { phase, point, layer: layer.unwrap_or(-1) });
    }
    truth
}

/// Whether a fault of this point may be seen first at that one: one of Q and K is one of K alone at the first position.
fn is_shown(point: Point, found: Point) -> bool {
    point == found || (point == Point::QPostRope && found == Point::KPostRope)
}

/// 1, ½ in a tie, 0; the mean over the phases in which a cause was looked for.
fn named(analysis: &Analysis, id: &str, phases: &[Phase]) -> f64 {
    let causes = analysis.examination.iter().flat_map(|e| &e.causes).filter(|c| phases.contains(&c.phase));
    let one = |cause: &driftprobe::cause::Cause| match cause.candidates.iter().any(|c| c.id == id) {
        false => 0.0,
        true if cause.candidates.len() == 1 => 1.0,
        true => 0.5,
    };
    let all: Vec<f64> = causes.map(one).collect();
    if all.is_empty() { 0.0 } else { all.iter().sum::<f64>() / all.len() as f64 }
}

fn names(analysis: &Analysis) -> String {
    let mut said = Vec::new();
    for cause in analysis.examination.iter().flat_map(|e| &e.causes) {
        let names: Vec<String> = cause
            .candidates
            .iter()
            .map(|c| {
                let parameters: Vec<String> = c.parameters.iter().map(|(k, v)| format!("{k} {v}")).collect();
                format!("{} {}", c.id, parameters.join(" ")).trim().to_owned()
            })
            .collect();
        let names = if names.is_empty() { format!("UNEXPLAINED: {}", cause.evidence) } else { names.join(" or ") };
        said.push(format!("{} {} {}: {names}", cause.phase, cause.point, cause.layer));
    }
    said.join("; ")
}
