//! Runs of the embedded engine, and tables of what the oracle says of them.

pub mod replaced;

use driftprobe::oracle::{Outcome, PhaseJudgement, Replay};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{DecodeAttention, EmbeddedEngine, PrefillAttention, QuantisedMatmul, Settings, Storage};
use driftprobe_model::Model;
pub use driftprobe_testkit::Dice;
use driftprobe_trace::{Manifest, Phase, Point, PromptInfo, Run};
use std::collections::BTreeMap;
use std::path::Path;

pub fn fixture(name: &str) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    Model::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The arithmetics that the embedded engine can have, by name.
pub fn contracts() -> Vec<(&'static str, Settings)> {
    let plain = Settings::default();
    let with = |storage, kv_cache| Settings { storage, kv_cache, ..plain.clone() };
    let blocked = |settings: Settings| Settings {
        prefill_attention: PrefillAttention::Blocked { keys: 8 },
        decode_attention: DecodeAttention::SplitK { parts: 3 },
        ..settings
    };
    vec![
        ("f32", plain.clone()),
        ("f32 blocked", blocked(plain.clone())),
        ("f32, f16 cache", with(Storage::F32, Storage::F16)),
        ("f16", with(Storage::F16, Storage::F16)),
        ("f16 blocked", blocked(with(Storage::F16, Storage::F16))),
        ("bf16", with(Storage::Bf16, Storage::Bf16)),
        ("bf16 blocked", blocked(with(Storage::Bf16, Storage::Bf16))),
        ("f32 dequantise", Settings { quantised_matmul: QuantisedMatmul::Dequantise, ..plain }),
    ]
}

pub struct Recording {
    pub run: Run,
    /// Kept as long as the run is read.
    _dir: tempfile::TempDir,
}

/// Records prompts of these lengths, all points of all layers, three steps.
pub fn recording(model: &Model, settings: Settings, lengths: &[usize], steps: usize) -> Recording {
    let engine = EmbeddedEngine::new(model, settings).unwrap();
    let mut dice = Dice(lengths.iter().sum::<usize>() as u64);
    let prompt = |(i, n): (usize, &usize)| PromptInfo {
        id: format!("p{i}"),
        tokens: (0..*n).map(|_| dice.below(model.config.vocab_size) as u32).collect(),
        ..Default::default()
    };
    let plan = Plan { steps, ..Plan::everything(&engine, lengths.iter().enumerate().map(prompt).collect()) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&engine, &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(&path).unwrap();
    Recording { run, _dir: dir }
}

/// Both phases.
pub fn judge(model: &Model, run: &Run) -> PhaseJudgement {
    let replay = Replay::new(model, run.manifest.as_ref());
    let mut all = PhaseJudgement::default();
    for phase in Phase::ALL {
        let judged = replay.phase(&run.events, run, phase).unwrap();
        all.stages.extend(judged.stages);
        all.systematic.extend(judged.systematic);
    }
    all
}

/// Counts and z of many judgements, by point.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<(Point, String), Cell>,
    scores: BTreeMap<(Point, String), f64>,
    pub judged: usize,
    pub unjudged: usize,
    pub faults: Vec<String>,
}

#[derive(Default)]
struct Cell {
    rows: usize,
    values: usize,
    squares: f64,
    cell: f64,
    element: f64,
    unrounded: f64,
}

impl Table {
    pub fn add(&mut self, name: &str, what: &str, judged: &PhaseJudgement) {
        for s in &judged.systematic {
            let key = (s.point, format!("{:?}", s.direction));
            let largest = self.scores.entry(key).or_default();
            *largest = largest.max(s.test.score());
            if s.test.is_flagged() {
                self.faults.push(format!("{what}: {s:?}"));
            }
        }
        for j in &judged.stages {
            let place = format!("{what}: {} {:?} {} layer {} pos {}", j.prompt_id, j.phase, j.point, j.layer, j.pos);
            self.judged += 1;
            let cell = self.rows.entry((j.point, name.to_owned())).or_default();
            match &j.outcome {
                Outcome::Unjudged(why) => {
                    (self.judged, self.unjudged) = (self.judged - 1, self.unjudged + 1);
                    self.faults.push(format!("{place}: {why}"));
                }
                Outcome::Exact { compared } => (cell.rows, cell.values) = (cell.rows + 1, cell.values + compared),
                Outcome::Mismatch { .. } => self.faults.push(format!("{place}: {:?}", j.outcome)),
                Outcome::Clean(s) | Outcome::Flagged { statistics: s, .. } => {
                    cell.rows += 1;
                    cell.values += s.compared;
                    cell.squares += s.rms * s.rms * s.compared as f64;
                    cell.cell = cell.cell.max(s.cell.1);
                    cell.element = cell.element.max(s.element.1);
                    cell.unrounded = cell.unrounded.max(s.unrounded.1);
                    if j.outcome.is_fault() {
                        self.faults.push(format!("{place}: {:?}", j.outcome));
                    }
                }
            }
        }
    }

    pub fn print(&self) {
        println!("| point | contract | rows | values | RMS z | largest cell | largest z | largest E3 |");
        println!("|---|---|---|---|---|---|---|---|");
        for ((point, name), c) in &self.rows {
            let rms = (c.squares / c.values.max(1) as f64).sqrt();
            println!(
                "| {point} | {name} | {} | {} | {rms:.2} | {:.2} | {:.2} | {:.2} |",
                c.rows, c.values, c.cell, c.element, c.unrounded
            );
        }
        for ((point, direction), score) in &self.scores {
            println!("largest score of {point} along {direction}: {score:.2}");
        }
        println!("{} judged, {} not, {} faults", self.judged, self.unjudged, self.faults.len());
    }
}
