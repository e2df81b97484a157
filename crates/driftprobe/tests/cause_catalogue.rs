//! The catalogue of faults, injected into a real engine: each is found where it acts and named as what it is.

mod oracle_support;

use driftprobe::cause::{Cause, find};
use driftprobe::oracle::{PhaseJudgement, Replay};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Scope, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Phase, Point, PromptInfo, Run};
use oracle_support::{Dice, contracts, fixture};
use std::collections::{BTreeMap, BTreeSet};

const PHASES: [Phase; 2] = [Phase::Prefill, Phase::Decode];

fn plan(engine: &dyn Engine, model: &Model, (tokens, steps): (usize, usize)) -> Plan {
    let mut dice = Dice(tokens as u64);
    let prompt = |i: usize| PromptInfo {
        id: format!("p{i}"),
        tokens: (0..tokens).map(|_| dice.below(model.config.vocab_size) as u32).collect(),
        ..Default::default()
    };
    let points = PHASES.into_iter().flat_map(|p| engine.points(p)).collect::<BTreeSet<Point>>();
    Plan {
        prompts: (0..1).map(prompt).collect(),
        steps,
        layers: (0..engine.layers()).collect(),
        points,
        repeats: 0,
        payloads: true,
        overwrite: true,
        mode: driftprobe_trace::Mode::AsDesigned,
    }
}

fn run_of(engine: &dyn Engine, model: &Model, shape: (usize, usize)) -> (tempfile::TempDir, Run) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(engine, &plan(engine, model, shape), &path, Manifest::default(), &mut Unwatched).unwrap();
    let mut run = Run::open(&path).unwrap();
    run.events.retain(|e| !hidden().contains(&e.point));
    (dir, run)
}

/// Points that are taken out of a run, as of an engine that does not show them.
fn hidden() -> Vec<Point> {
    std::env::var("HIDE").unwrap_or_default().split(',').filter_map(Point::parse).collect()
}

/// The first point behind those taken out that shows the fault.
fn shown(point: Point) -> Point {
    let later = [Point::AttnScores, Point::AttnProbs, Point::AttnOut];
    match later.iter().position(|p| *p == point) {
        Some(at) => later.iter().skip(at).copied().find(|p| !hidden().contains(p)).unwrap_or(point),
        None => point,
    }
}

fn causes(model: &Model, run: &Run) -> Vec<Cause> {
    let replay = Replay::new(model, run.manifest.as_ref());
    let judged: Vec<PhaseJudgement> = PHASES.into_iter().map(|p| replay.phase(&run.events, run, p).unwrap()).collect();
    find(&replay, &run.events, run, &judged).unwrap()
}

/// Whether both runs have the same rows in this phase.
fn is_equal(a: &Run, b: &Run, phase: Phase) -> bool {
    let hashes = |run: &Run| -> Vec<_> { run.events.iter().filter(|e| e.phase == phase).map(|e| e.hash).collect() };
    hashes(a) == hashes(b)
}

#[derive(Default)]
struct Score {
    faults: usize,
    detected: usize,
    localised: usize,
    named: f64,
    missed: BTreeMap<String, Vec<String>>,
}

impl Score {
    fn add(&mut self, what: &str, truth: (&Fault, Point, Option<i32>), cause: Option<&Cause>) {
        let (fault, point, layer) = truth;
        self.faults += 1;
        let id = fault.kind.id().to_owned();
        let Some(cause) = cause else {
            self.missed.entry(format!("not detected {id}")).or_default().push(format!("{what}: {fault}"));
            return;
        };
        self.detected += 1;
        // A fault of many places is found in the first where it shows.
        let is_place = cause.point == point || (point == Point::QPostRope && cause.point == Point::KPostRope);
        if !is_place || layer.is_some_and(|l| l != cause.layer) {
            let at = format!("{what}: {fault}: {} of layer {}, not {point} of {layer:?}", cause.point, cause.layer);
            self.missed.entry(format!("not localised {id}")).or_default().push(at);
            return;
        }
        self.localised += 1;
        let names: Vec<String> = cause.candidates.iter().map(|c| format!("{} {:?}", c.id, c.parameters)).collect();
        let is_there = cause.candidates.iter().any(|c| c.id == fault.kind.id());
        self.named += match (is_there, cause.candidates.len()) {
            (true, 1) => 1.0,
            (true, _) => 0.5,
            (false, _) => 0.0,
        };
        if !is_there || cause.candidates.len() > 1 {
            let own =
                cause.tested.iter().filter(|c| c.id == fault.kind.id()).map(|c| (c.noise_rms_after, &c.parameters));
            let own: Vec<_> = own.collect();
            let text = format!(
                "{what}: {fault}: {names:?}; own {own:?}; before {} {}",
                cause.noise_rms_before, cause.evidence
            );
            let kind = if is_there { "tie" } else { "not named" };
            self.missed.entry(format!("{kind} {id}")).or_default().push(text);
        }
    }

    fn print(&self) {
        for (what, all) in &self.missed {
            println!("{what}: {}", all.len());
            all.iter().take(3).for_each(|one| println!("    {one}"));
        }
        println!(
            "{} faults: {} detected, {} localised, {} named",
            self.faults, self.detected, self.localised, self.named
        );
    }
}

/// Runs the catalogue on a model in one arithmetic.
fn catalogue(
    score: &mut Score,
    (name, model): (&str, &Model),
    (contract, settings): (&str, &Settings),
    scopes: &[Scope],
) {
    let shape = (24, 3);
    let clean = EmbeddedEngine::new(model, settings.clone()).unwrap();
    let (_dir, clean) = run_of(&clean, model, shape);
    assert_eq!(causes(model, &clean), [], "{name} {contract}: the clean run");
    let subject = Subject { model, settings, tokens: shape.0 };
    for scope in scopes {
        // Slots of the cache in the middle of that subject are those whose sources are recorded in this run.
        let longer = Subject { tokens: 2 * shape.0, ..subject };
        let is_of_slots = |f: &Fault| f.kind.id().starts_with("KV_");
        let faults = Fault::catalogue(&subject, *scope).into_iter().filter(|f| !is_of_slots(f));
        let slots = Fault::catalogue(&longer, *scope).into_iter().filter(is_of_slots);
        for (subject, fault) in faults.map(|f| (&subject, f)).chain(slots.map(|f| (&longer, f))) {
            let engine = FaultyEngine::new(subject, fault.clone()).unwrap();
            let (_dir, run) = run_of(&engine, model, shape);
            let causes = causes(model, &run);
            let what = format!("{name} {contract}");
            for phase in PHASES {
                let found = causes.iter().find(|c| c.phase == phase);
                // A decoded row has no future.
                let never = phase == Phase::Decode && fault.kind.id() == "MASK_SEES_FUTURE";
                let acts = scope.phase.is_none_or(|p| p == phase) && !never;
                if !acts || is_equal(&clean, &run, phase) {
                    assert!(found.is_none(), "{what}: {fault}: {phase} is clean: {found:?}");
                    continue;
                }
                let point = shown(fault.point(subject, phase));
                let layer = fault.scope.layer.map(|l| l as i32);
                score.add(&what, (&fault, point, layer), found);
            }
        }
    }
}

#[test]
fn the_whole_catalogue() {
    let mut score = Score::default();
    let wanted = std::env::var("MODELS").unwrap_or_else(|_| "DEMO,hf/gemma2".to_owned());
    let arithmetics = std::env::var("CONTRACTS").unwrap_or_else(|_| "f32,bf16 blocked".to_owned());
    let wanted_scopes = std::env::var("SCOPES").unwrap_or_else(|_| "decode:1,both".to_owned());
    let scopes: Vec<Scope> = wanted_scopes
        .split(',')
        .map(|s| {
            let (phase, layer) = s.split_once(':').unwrap_or((s, ""));
            let phase = match phase {
                "decode" => Some(Phase::Decode),
                "prefill" => Some(Phase::Prefill),
                _ => None,
            };
            Scope { phase, layer: layer.parse().ok() }
        })
        .collect();
    for name in wanted.split(',') {
        let model = if name == "DEMO" { Model::demo().unwrap() } else { fixture(name) };
        for (contract, settings) in contracts().iter().filter(|(c, _)| arithmetics.split(',').any(|a| a == *c)) {
            catalogue(&mut score, (name, &model), (contract, settings), &scopes);
        }
    }
    score.print();
}
