//! Runs of the embedded engine with known kernels, and searches of their orders.

use driftprobe::judge::examine::Oracle;
use driftprobe::reach::order::Order;
use driftprobe::reach::parts::Parts;
use driftprobe::reach::{Finding, Reach, Scope, reach};
use driftprobe::{Options, analyze_against};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{DecodeAttention, EmbeddedEngine, Engine, PrefillAttention, Settings};
use driftprobe_model::Model;
use driftprobe_testkit::Dice;
use driftprobe_trace::{Manifest, Phase, Point, PromptInfo, RowStats, Rows, Run};
use std::collections::BTreeSet;

/// Decode steps of every run.
pub const STEPS: usize = 3;

/// Prompts of these lengths, some points of all layers.
pub fn recorded(engine: &dyn Engine, lengths: &[usize], points: &[Point]) -> (tempfile::TempDir, Run) {
    let mut dice = Dice(lengths.iter().sum::<usize>() as u64);
    let mut prompt = |(i, n): (usize, &usize)| PromptInfo {
        id: format!("p{i}"),
        tokens: dice.tokens(*n, engine.vocab()),
        ..Default::default()
    };
    let prompts = lengths.iter().enumerate().map(&mut prompt).collect();
    let plan = Plan::everything(engine, prompts);
    let points = plan.points.iter().copied().filter(|point| points.is_empty() || points.contains(point)).collect();
    let plan = Plan { steps: STEPS, points, ..plan };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(engine, &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(&path).unwrap();
    (dir, run)
}

/// Searches some points, all if there are none.
pub fn search(model: &Model, run: &Run, rows: &dyn Rows, points: &[Point]) -> Reach {
    search_while(model, run, rows, points, &mut || true)
}

/// As [`search`], as long as it may.
pub fn search_while(
    model: &Model,
    run: &Run,
    rows: &dyn Rows,
    points: &[Point],
    go_on: &mut dyn FnMut() -> bool,
) -> Reach {
    let run = &retold(run, rows);
    let oracle = Oracle { budget_flops: 0.0, power: false, ..Oracle::new(model) };
    let analysis = analyze_against((run, rows), Some(&oracle), Options::default(), &mut |_| {});
    let points = (!points.is_empty()).then(|| points.iter().copied().collect::<BTreeSet<Point>>());
    reach((run, rows), &oracle, &analysis, &Scope { layers: None, points }, &mut |_| go_on()).unwrap()
}

/// The run without what its events say of rows that are others now: it would call them damaged.
fn retold(run: &Run, rows: &dyn Rows) -> Run {
    let mut run = run.clone();
    for event in &mut run.events {
        let row = rows.row(event).unwrap();
        if row.zip(event.hash).is_some_and(|(row, hash)| row.hash(hash.algo) != hash) {
            (event.hash, event.sample, event.stats) = (None, None, RowStats::default());
        }
    }
    run
}

pub fn of(found: &Reach, phase: Phase, point: Point) -> &Finding {
    found.findings.iter().find(|finding| (finding.phase, finding.point) == (phase, point)).unwrap()
}

pub fn kernels(prefill: PrefillAttention, decode: DecodeAttention) -> Settings {
    Settings { prefill_attention: prefill, decode_attention: decode, ..Settings::default() }
}

/// What the engine does, as ranges of keys.
pub fn truths(settings: &Settings) -> [(Phase, Parts); 2] {
    let prefill = match settings.prefill_attention {
        PrefillAttention::Naive => Parts::Whole,
        PrefillAttention::Blocked { keys } => Parts::Blocks(keys),
    };
    let decode = match settings.decode_attention {
        DecodeAttention::Naive => Parts::Whole,
        DecodeAttention::SplitK { parts } => Parts::Split(parts),
    };
    [(Phase::Prefill, prefill), (Phase::Decode, decode)]
}

/// Whether a claim holds what the engine does: by its name, or by one that is the same in contexts of up to `longest` keys.
pub fn holds(finding: &Finding, truth: Parts, longest: usize) -> bool {
    let claim = finding.outcome.claim().unwrap();
    let same = |parts: Parts| (1..=longest).all(|keys| parts.size(keys) == truth.size(keys));
    let named = claim.orders.iter().filter_map(Order::parts).any(same);
    named || (claim.whole && same(Parts::Whole))
}

/// Searches of attention, and what came of them.
#[derive(Default)]
pub struct Tally {
    pub searched: usize,
    pub claimed: usize,
    /// Claims of one name alone.
    pub sharp: usize,
    pub wrong: Vec<String>,
    /// What is not claimed, by outcome.
    pub open: Vec<String>,
}

impl Tally {
    /// Adds a run of the engine with these settings.
    pub fn add(&mut self, model: &Model, settings: &Settings, lengths: &[usize], points: &[Point]) {
        let engine = EmbeddedEngine::new(model, settings.clone()).unwrap();
        let (_dir, run) = recorded(&engine, lengths, points);
        let found = search(model, &run, &run, &[Point::AttnOut]);
        let longest = lengths.iter().max().unwrap() + STEPS;
        for (phase, truth) in truths(settings) {
            for finding in found.findings.iter().filter(|finding| finding.phase == phase) {
                self.searched += 1;
                let what = format!("{phase} {truth}, {lengths:?}");
                let Some(claim) = finding.outcome.claim() else {
                    self.open.push(format!("{what}: {}", finding.outcome.id()));
                    continue;
                };
                self.claimed += 1;
                let names: BTreeSet<Parts> = claim.orders.iter().filter_map(Order::parts).collect();
                self.sharp += usize::from(names.len() <= 1);
                if !holds(finding, truth, longest) {
                    self.wrong.push(format!("{what}: {}", claim.says));
                }
            }
        }
    }
}
