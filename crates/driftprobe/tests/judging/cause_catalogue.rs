//! The catalogue of faults, injected into a real engine: each is found where it acts and named as what it is.

use crate::oracle_support::{Dice, contracts, fixture};
use driftprobe::cause::{Cause, PowerRow, find, power};
use driftprobe::oracle::{PhaseJudgement, Replay};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Scope, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Phase, Point, PromptInfo, Run};
use std::collections::BTreeMap;

fn plan(engine: &dyn Engine, model: &Model, (tokens, steps): (usize, usize)) -> Plan {
    let mut dice = Dice(tokens as u64);
    let prompt = |i: usize| PromptInfo {
        id: format!("p{i}"),
        tokens: (0..tokens).map(|_| dice.below(model.config.vocab_size) as u32).collect(),
        ..Default::default()
    };
    Plan { steps, ..Plan::everything(engine, (0..1).map(prompt).collect()) }
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
    let judged: Vec<PhaseJudgement> =
        Phase::ALL.into_iter().map(|p| replay.phase(&run.events, run, p).unwrap()).collect();
    find(&replay, &run.events, run, &judged).unwrap()
}

/// Whether both runs have the same rows in this phase.
fn is_equal(a: &Run, b: &Run, phase: Phase) -> bool {
    let hashes = |run: &Run| -> Vec<_> { run.events.iter().filter(|e| e.phase == phase).map(|e| e.hash).collect() };
    hashes(a) == hashes(b)
}

/// Whether the clean run itself says that it would not show this fault in every layer.
fn is_below_noise(powers: &[PowerRow], (fault, point, phase): (&Fault, Point, Phase)) -> bool {
    let text = fault.kind.to_string();
    let is_it = |row: &&PowerRow| {
        let value = row.parameters.iter().all(|(_, value)| text.contains(value.as_str()));
        (row.id, row.point, row.phase) == (fault.kind.id(), point, phase) && value
    };
    powers.iter().find(is_it).is_some_and(|row| row.seen < row.rows)
}

#[derive(Default)]
struct Score {
    /// Faults that a clean run says it cannot show everywhere, and that were not found.
    invisible: BTreeMap<String, usize>,
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
        println!("not found, as the clean run had said: {:?}", self.invisible);
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
    (scopes, step): (&[Scope], usize),
) {
    let shape = (24, 3);
    let clean = EmbeddedEngine::new(model, settings.clone()).unwrap();
    let (_dir, clean) = run_of(&clean, model, shape);
    assert_eq!(causes(model, &clean), [], "{name} {contract}: the clean run");
    let replay = Replay::new(model, clean.manifest.as_ref());
    let powers = power(&replay, &clean.events, &clean).unwrap();
    let subject = Subject { model, settings, tokens: shape.0 };
    for scope in scopes {
        // Slots of the cache in the middle of that subject are those whose sources are recorded in this run.
        let longer = Subject { tokens: 2 * shape.0, ..subject };
        let is_of_slots = |f: &Fault| f.kind.id().starts_with("KV_");
        let faults = Fault::catalogue(&subject, *scope).into_iter().filter(|f| !is_of_slots(f));
        let slots = Fault::catalogue(&longer, *scope).into_iter().filter(is_of_slots);
        let all = faults.map(|f| (&subject, f)).chain(slots.map(|f| (&longer, f)));
        for (subject, fault) in all.step_by(step) {
            let engine = FaultyEngine::new(subject, fault.clone()).unwrap();
            let (_dir, run) = run_of(&engine, model, shape);
            let causes = causes(model, &run);
            let what = format!("{name} {contract}");
            for phase in Phase::ALL {
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
                if found.is_none() && is_below_noise(&powers, (&fault, point, phase)) {
                    *score.invisible.entry(format!("{what}: {}", fault.kind)).or_default() += 1;
                    continue;
                }
                score.add(&what, (&fault, point, layer), found);
            }
        }
    }
}

/// A list from the environment, or this.
fn chosen(variable: &str, otherwise: &str) -> Vec<String> {
    std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned()).split(';').map(str::to_owned).collect()
}

fn scope(text: &str) -> Scope {
    let (phase, layer) = text.split_once(':').unwrap_or((text, ""));
    let phase = match phase {
        "decode" => Some(Phase::Decode),
        "prefill" => Some(Phase::Prefill),
        _ => None,
    };
    Scope { phase, layer: layer.parse().ok() }
}

/// The catalogue on these models, in these arithmetics, acting there; one fault of every `step`.
fn table((models, arithmetics, scopes): (&[String], &[String], &[String]), step: usize) -> Score {
    let mut score = Score::default();
    let scopes: Vec<Scope> = scopes.iter().map(|s| scope(s)).collect();
    for name in models {
        let model = if name == "DEMO" { Model::demo().unwrap() } else { fixture(name) };
        for (contract, settings) in contracts().iter().filter(|(c, _)| arithmetics.iter().any(|a| a == c)) {
            catalogue(&mut score, (name, &model), (contract, settings), (&scopes, step));
        }
    }
    score.print();
    score
}

fn expect(score: &Score) {
    let of = |part: f64, all: usize| part / all.max(1) as f64;
    assert!(score.faults > 0);
    assert!(of(score.detected as f64, score.faults) >= 0.99, "detected");
    assert!(of(score.localised as f64, score.detected) >= 0.99, "localised");
    assert!(of(score.named, score.detected) >= 0.95, "named");
}

#[test]
fn a_part_of_the_catalogue() {
    let list = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
    let (models, arithmetics) = (list(&["hf/gemma2"]), list(&["f32", "bf16 blocked"]));
    expect(&table((&models, &arithmetics, &list(&["decode:1"])), 5));
}

/// `MODELS="DEMO;hf/qwen3" CONTRACTS="f32;f32, f16 cache" SCOPES="decode:1;prefill:0;both" HIDE=attn_scores,attn_probs`
#[test]
#[ignore = "takes minutes: the whole table"]
fn the_whole_catalogue() {
    let models = chosen("MODELS", "DEMO;hf/gemma2;hf/qwen3;hf/qwen2;gguf/llama-q8_0.gguf");
    let arithmetics = chosen("CONTRACTS", "f32;f32 blocked;f32, f16 cache;f16;bf16;bf16 blocked");
    let scopes = chosen("SCOPES", "decode:1;prefill:0;both");
    expect(&table((&models, &arithmetics, &scopes), 1));
}
