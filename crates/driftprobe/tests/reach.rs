//! Reachability: the embedded engine's kernels are named, and nothing that is not so.

mod oracle_support;

use driftprobe::examine::Oracle;
use driftprobe::reach::order::Order;
use driftprobe::reach::parts::Parts;
use driftprobe::reach::{Finding, Outcome, Reach, Scope, reach};
use driftprobe::{Options, analyze_against};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Scope as FaultScope, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{DecodeAttention, EmbeddedEngine, Engine, PrefillAttention, Settings, Storage};
use driftprobe_model::reference::linear;
use driftprobe_model::{Model, WeightId};
use driftprobe_trace::{Event, Manifest, Phase, Point, PromptInfo, Row, Rows, Run, TraceError};
use oracle_support::{Dice, fixture};
use std::collections::{BTreeMap, BTreeSet};

const ATTENTION: [Point; 3] = [Point::QPostRope, Point::KCache, Point::VCache];

/// Prompts of these lengths, some points of all layers, three steps.
fn recorded(engine: &dyn Engine, lengths: &[usize], points: &[Point]) -> (tempfile::TempDir, Run) {
    let mut dice = Dice(lengths.iter().sum::<usize>() as u64);
    let prompt = |(i, n): (usize, &usize)| PromptInfo {
        id: format!("p{i}"),
        tokens: (0..*n).map(|_| dice.below(engine.vocab()) as u32).collect(),
        ..Default::default()
    };
    let plan = Plan::everything(engine, lengths.iter().enumerate().map(prompt).collect());
    let points = plan.points.iter().copied().filter(|point| points.is_empty() || points.contains(point)).collect();
    let plan = Plan { steps: 3, points, ..plan };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(engine, &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(&path).unwrap();
    (dir, run)
}

fn search(model: &Model, run: &Run, rows: &dyn Rows, points: &[Point]) -> Reach {
    let oracle = Oracle { budget_flops: 0.0, power: false, ..Oracle::new(model) };
    let analysis = analyze_against((run, rows), Some(&oracle), Options::default(), &mut |_| {});
    let points = (!points.is_empty()).then(|| points.iter().copied().collect::<BTreeSet<Point>>());
    reach((run, rows), &oracle, &analysis, &Scope { layers: None, points }, &mut |_| true).unwrap()
}

fn settings(prefill: PrefillAttention, decode: DecodeAttention) -> Settings {
    Settings { prefill_attention: prefill, decode_attention: decode, ..Settings::default() }
}

fn of(found: &Reach, phase: Phase, point: Point) -> &Finding {
    found.findings.iter().find(|finding| (finding.phase, finding.point) == (phase, point)).unwrap()
}

/// What the engine does, as ranges of keys.
fn truths(settings: &Settings) -> [(Phase, Parts); 2] {
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
fn holds(finding: &Finding, truth: Parts, longest: usize) -> bool {
    let claim = finding.outcome.claim().unwrap();
    let same = |parts: Parts| (1..=longest).all(|keys| parts.size(keys) == truth.size(keys));
    let named = claim.orders.iter().filter_map(Order::parts).any(same);
    named || (claim.whole && same(Parts::Whole))
}

/// Runs the engine with these settings; (searches of attention, claims, claims that are wrong).
fn tally(model: &Model, settings: Settings, lengths: &[usize], points: &[Point]) -> (usize, usize, Vec<String>) {
    let engine = EmbeddedEngine::new(model, settings.clone()).unwrap();
    let (_dir, run) = recorded(&engine, lengths, points);
    let found = search(model, &run, &run, &[Point::AttnOut]);
    let longest = lengths.iter().max().unwrap() + 3;
    let (mut all, mut claimed, mut wrong) = (0, 0, vec![]);
    for (phase, truth) in truths(&settings) {
        for finding in found.findings.iter().filter(|finding| finding.phase == phase) {
            all += 1;
            if let Some(claim) = finding.outcome.claim() {
                claimed += 1;
                if !holds(finding, truth, longest) {
                    wrong.push(format!("{phase} {truth}, {lengths:?}: {}", claim.says));
                }
            } else {
                println!("{phase} {truth}, {lengths:?}: {:.200}", format!("{:?}", finding.outcome));
            }
        }
    }
    (all, claimed, wrong)
}

#[test]
fn blocks_and_splits_are_named_and_no_wrong_ones() {
    let model = fixture("hf/llama");
    let kinds = [
        (PrefillAttention::Naive, DecodeAttention::SplitK { parts: 2 }),
        (PrefillAttention::Blocked { keys: 1 }, DecodeAttention::SplitK { parts: 7 }),
        (PrefillAttention::Blocked { keys: 4 }, DecodeAttention::Naive),
        (PrefillAttention::Blocked { keys: 7 }, DecodeAttention::SplitK { parts: 3 }),
        (PrefillAttention::Blocked { keys: 16 }, DecodeAttention::SplitK { parts: 1 }),
        (PrefillAttention::Blocked { keys: 64 }, DecodeAttention::SplitK { parts: 4 }),
    ];
    let (mut all, mut claimed, mut wrong) = (0, 0, vec![]);
    for (prefill, decode) in kinds {
        for lengths in [&[37, 22][..], &[9, 6]] {
            let (a, c, w) = tally(&model, settings(prefill, decode), lengths, &[]);
            (all, claimed) = (all + a, claimed + c);
            wrong.extend(w);
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(all >= 24 && claimed * 10 >= all * 9, "{claimed} of {all} named");
}

#[test]
fn without_recorded_scores_the_ranges_are_named_too() {
    let model = fixture("hf/llama");
    let points = [&ATTENTION[..], &[Point::AttnOut]].concat();
    let settings = settings(PrefillAttention::Blocked { keys: 8 }, DecodeAttention::SplitK { parts: 3 });
    let (all, claimed, wrong) = tally(&model, settings, &[29, 22], &points);
    assert_eq!((all, claimed, wrong), (2, 2, vec![]));
}
