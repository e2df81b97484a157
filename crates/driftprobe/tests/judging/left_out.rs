//! Runs of which most rows were left out on purpose: what passes, what never does, and what is said of the rest.

use driftprobe::evidence::Bits;
use driftprobe::judge::PairVerdict;
use driftprobe::judge::examine::Oracle;
use driftprobe::search::{Between, around, between, with_search};
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::{Analysis, Options, Verdict, analyze_against};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Budget, Plan, RowPlan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings};
use driftprobe_model::Model;
use driftprobe_testkit::Dice;
use driftprobe_trace::{Event, HostInfo, LeftOutBy, Manifest, Phase, Point, PromptInfo, Run, SecondPass, ShardInfo};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Bytes that hold fingerprints, the ends and what lies between the layers, and no layer whole.
fn least(engine: &dyn Engine) -> u64 {
    let first = RowPlan::first_pass(engine, &whole(engine), &Manifest::default(), 1).unwrap();
    first.recording().planned_bytes
}

struct Recorded {
    _dir: tempfile::TempDir,
    run: Run,
    bytes: u64,
}

fn engine(model: &Model, fault: Option<&str>) -> Box<dyn Engine> {
    let settings = Settings::default();
    match fault {
        None => Box::new(EmbeddedEngine::new(model, settings).unwrap()),
        Some(fault) => {
            let subject = Subject { model, settings: &settings, tokens: 18 };
            Box::new(FaultyEngine::new(&subject, fault.parse::<Fault>().unwrap()).unwrap())
        }
    }
}

fn whole(engine: &dyn Engine) -> Plan {
    let mut dice = Dice(11);
    let tokens = (0..18).map(|_| dice.below(engine.vocab()) as u32).collect();
    Plan::everything(engine, vec![PromptInfo { id: "p0".into(), tokens, ..Default::default() }])
}

fn bytes_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let one = |entry: std::fs::DirEntry| match entry.path().is_dir() {
        true => bytes_of(&entry.path()),
        false => entry.metadata().unwrap().len(),
    };
    entries.map(one).sum()
}

fn make(engine: &dyn Engine, plan: &Plan) -> Recorded {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(engine, plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    Recorded { run: Run::open(&path).unwrap(), bytes: bytes_of(&path), _dir: dir }
}

/// Within so many bytes.
fn small(engine: &dyn Engine, bytes: u64) -> Plan {
    let plan = whole(engine);
    let rows = RowPlan::within(engine, &plan, &Manifest::default(), Budget { bytes, modes: 1 }).unwrap();
    Plan { rows: Some(rows), ..plan }
}

fn judge(model: &Model, run: &Run) -> Analysis {
    let oracle = Oracle { power: false, ..Oracle::new(model) };
    analyze_against((run, run), Some(&oracle), Options::default(), &mut |_| {})
}

fn has(analysis: &Analysis, code: ReasonCode) -> bool {
    analysis.verdict.reasons.iter().chain(&analysis.verdict.notes).any(|reason| reason.code == code)
}

#[test]
fn a_clean_run_passes_by_what_was_kept_whole_and_says_what_was_not() {
    let model = Model::demo().unwrap();
    let engine = engine(&model, None);
    let recorded = make(engine.as_ref(), &small(engine.as_ref(), least(engine.as_ref())));
    assert!(recorded.bytes <= least(engine.as_ref()), "{} bytes", recorded.bytes);
    let analysis = judge(&model, &recorded.run);
    assert_eq!(analysis.verdict.verdict, Verdict::Pass, "{:?}", analysis.verdict.reasons);
    let left_out = analysis.left_out.as_ref().unwrap();
    assert_eq!((left_out.by, left_out.layers.len(), left_out.of_layers), (LeftOutBy::Budget, 9, 9));
    assert_eq!(left_out.rows, recorded.run.events.iter().filter(|event| event.payload.is_none()).count() as u64);
    assert!(has(&analysis, ReasonCode::LeftOut));
    // No sample is taken for its row: what is not kept and differs stays undecided, and is called neither rounding nor equal.
    let sampled = analysis.pairs.iter().filter(|pair| pair.prefill.payload.is_none());
    for pair in sampled {
        match pair.bits {
            Bits::Equal { .. } => assert_eq!(pair.verdict, PairVerdict::Identical),
            Bits::Differ { .. } if pair.stages.iter().flatten().all(|stage| stage.outcome.is_clean()) => {}
            _ => assert!(pair.is_left_out(), "{:?} {:?}", pair.prefill.point, pair.findings),
        }
    }
    assert!(analysis.pairs.iter().filter(|pair| pair.is_left_out()).count() > 100);
}

#[test]
fn without_a_simulation_what_was_left_out_is_no_pass() {
    let model = Model::demo().unwrap();
    let engine = engine(&model, None);
    let recorded = make(engine.as_ref(), &small(engine.as_ref(), least(engine.as_ref())));
    let oracle = Oracle { power: false, budget_flops: 0.0, ..Oracle::new(&model) };
    let run = &recorded.run;
    let analysis = analyze_against((run, run), Some(&oracle), Options::default(), &mut |_| {});
    assert_eq!(analysis.verdict.verdict, Verdict::Inconclusive);
    assert!(has(&analysis, ReasonCode::NotJudged));
    // Nor are rows that are equal: whole ones would have been judged.
    let equal = |pair: &&driftprobe::judge::JudgedPair| {
        pair.prefill.payload.is_none()
            && matches!(pair.bits, Bits::Equal { .. })
            && pair.verdict != PairVerdict::Identical
    };
    assert!(analysis.pairs.iter().any(|pair| equal(&pair)));
}

/// Rows of other values may have the same statistics.
#[test]
fn a_row_that_was_left_out_and_shows_no_value_is_no_pass() {
    let model = Model::demo().unwrap();
    let engine = engine(&model, None);
    let Recorded { mut run, _dir, .. } = make(engine.as_ref(), &small(engine.as_ref(), least(engine.as_ref())));
    let stripped = |event: &&mut Event| event.point == Point::MlpOut && event.layer == 4;
    // One value is enough to be held against the tokens.
    for event in run.events.iter_mut().filter(stripped) {
        let sample = event.sample.as_mut().unwrap();
        sample.values.truncate(1);
        sample.idx.as_mut().unwrap().truncate(1);
    }
    assert_eq!(judge(&model, &run).verdict.verdict, Verdict::Pass);
    for event in run.events.iter_mut().filter(stripped) {
        event.sample = None;
    }
    let analysis = judge(&model, &run);
    assert_eq!(analysis.verdict.verdict, Verdict::Inconclusive);
    let open: Vec<_> = analysis.pairs.iter().filter(|pair| pair.verdict == PairVerdict::Undecided).collect();
    let open: Vec<_> = open.into_iter().filter(|pair| !pair.is_left_out()).collect();
    assert!(open.len() == 1 && open[0].prefill.point == Point::MlpOut, "{open:?}");
    assert!(open[0].findings.iter().any(|finding| finding.detail.contains("no value of it")), "{:?}", open[0].findings);
    assert!(analysis.verdict.reasons.iter().any(|reason| reason.code == ReasonCode::NotJudged));
}

#[test]
fn only_what_the_plan_leaves_out_is_excused() {
    let model = Model::demo().unwrap();
    let engine = engine(&model, None);
    let Recorded { mut run, _dir, .. } = make(engine.as_ref(), &small(engine.as_ref(), least(engine.as_ref())));
    // The plan as another would have it: the layer 3 was to be kept whole.
    let recording = run.manifest.as_mut().unwrap().recording.as_mut().unwrap();
    for group in &mut recording.sampled {
        group.layers.retain(|layer| *layer != 3);
    }
    let analysis = judge(&model, &run);
    assert_eq!(analysis.verdict.verdict, Verdict::Inconclusive);
    let why: Vec<_> = analysis.verdict.reasons.iter().map(|reason| reason.code).collect();
    assert_eq!(why, [ReasonCode::Differs, ReasonCode::NotJudged]);
    let open = analysis.pairs.iter().filter(|pair| pair.verdict == PairVerdict::Undecided && !pair.is_left_out());
    assert!(open.clone().count() > 10 && open.clone().all(|pair| pair.prefill.layer == 3));
    run.manifest.as_mut().unwrap().recording = None;
    assert_eq!(judge(&model, &run).verdict.verdict, Verdict::Inconclusive);
}

#[test]
fn a_fault_in_a_layer_that_was_left_out_never_passes_and_is_placed() {
    let model = Model::demo().unwrap();
    let faults = ["SCALE_WRONG", "KV_STALE_SLOT", "NORM_SKIPPED", "RESIDUAL_DROPPED", "GATE_UP_SWAPPED", "HEAD_SWAP"];
    for layer in 0..9 {
        let phase = if layer % 2 == 0 { "decode" } else { "prefill" };
        let fault = format!("{}@{phase}:layer{layer}", faults[layer % faults.len()]);
        let engine = engine(&model, Some(&fault));
        let recorded = make(engine.as_ref(), &small(engine.as_ref(), least(engine.as_ref())));
        let analysis = judge(&model, &recorded.run);
        assert_eq!(analysis.verdict.verdict, Verdict::Fail, "{fault}: {:?}", analysis.verdict.reasons);
        let first = analysis.verdict.first_failure.as_ref().unwrap();
        assert_eq!(first.layer, layer as i32, "{fault}: {}", first.point);
        let next = between(&analysis, 9).unwrap();
        assert!(next.layers().contains(&layer), "{fault}: {next:?}");
    }
}

#[test]
fn every_budget_is_kept_and_both_phases_keep_the_same_rows() {
    let model = Model::demo().unwrap();
    let engine = engine(&model, None);
    let engine = engine.as_ref();
    let mut kept = 0;
    let least = least(engine);
    for bytes in [least - 20_000, least, least + 50_000, least + 100_000, least + 200_000] {
        let recorded = make(engine, &small(engine, bytes));
        assert!(recorded.bytes <= bytes, "{} of {bytes}", recorded.bytes);
        let of = |phase: Phase| -> BTreeSet<(i32, Point)> {
            let here = recorded.run.events.iter().filter(|event| event.phase == phase && event.payload.is_some());
            here.map(|event| (event.layer, event.point)).collect()
        };
        assert_eq!(of(Phase::Prefill), of(Phase::Decode));
        let recording = recorded.run.manifest.as_ref().unwrap().recording.clone().unwrap();
        assert!(recorded.bytes <= recording.planned_bytes && recording.planned_bytes <= bytes);
        let planned =
            recorded.run.events.iter().all(|e| e.payload.is_none() == recording.is_left_out(e.point, e.layer));
        assert!(planned);
        // Where samples do not fit, whole layers may.
        assert!(bytes <= least || of(Phase::Prefill).len() >= kept, "{bytes}");
        kept = of(Phase::Prefill).len();
    }
    assert!(kept > 150);
    let plan = whole(engine);
    let refused = RowPlan::within(engine, &plan, &Manifest::default(), Budget { bytes: 10_000, modes: 1 });
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("368 rows") && error.hint().unwrap().contains("kB"), "{error}");
}

#[test]
fn every_shard_has_the_plan_of_all_and_its_part_of_the_budget() {
    let model = Model::demo().unwrap();
    let engine = engine(&model, None);
    let engine = engine.as_ref();
    let prompt = |(id, tokens): (&str, usize)| PromptInfo {
        id: id.into(),
        tokens: (0..tokens as u32).map(|n| n * 7 % 256).collect(),
        ..Default::default()
    };
    let all = [("p0", 5), ("a longer one", 18), ("p2", 9)].map(prompt);
    let base = |index: u32, host: &str| Manifest {
        host: Some(HostInfo { cpu: Some(host.into()), ..Default::default() }),
        shard: Some(ShardInfo { index, of: 2, prompts: all.iter().map(|p| p.id.clone()).collect(), tokens: None }),
        ..Default::default()
    };
    let planned = |own: &[PromptInfo], base: &Manifest, bytes: u64| {
        let plan = Plan { prompts: own.to_vec(), ..whole(engine) };
        let rows = RowPlan::share_within(engine, (&plan, &all), base, Budget { bytes, modes: 1 });
        rows.map(|rows| Plan { rows: Some(rows), ..plan })
    };
    let shards =
        [(vec![all[0].clone(), all[2].clone()], base(1, "a")), (vec![all[1].clone()], base(2, "another machine"))];
    for bytes in [900_000, 1_200_000, 2_000_000] {
        let plans = shards.each_ref().map(|(own, base)| planned(own, base, bytes).unwrap());
        let rows = plans.each_ref().map(|plan| plan.rows.as_ref().unwrap());
        assert_eq!(rows[0].recording(), rows[1].recording());
        assert_eq!(rows[0].recording().bytes, Some(bytes));
        let parts = rows.map(|rows| rows.bytes().unwrap());
        assert!(parts.iter().sum::<u64>() <= bytes && parts.iter().all(|part| part * 4 > bytes), "{parts:?}");
        for (plan, part) in plans.iter().zip(parts) {
            let took = make(engine, plan).bytes;
            assert!(took <= part, "{took} of {part}");
        }
    }
    // What one shard alone would fit into does not hold all of them.
    let alone = Plan { prompts: shards[0].0.clone(), ..whole(engine) };
    let fits = 600_000;
    assert!(RowPlan::within(engine, &alone, &Manifest::default(), Budget { bytes: fits, modes: 1 }).is_ok());
    assert!(planned(&shards[0].0, &shards[0].1, fits).unwrap_err().to_string().contains("1104 rows"));
}

#[test]
fn a_second_recording_that_differs_is_noticed() {
    let model = Model::demo().unwrap();
    let engine = engine(&model, None);
    let plan = whole(engine.as_ref());
    let rows = RowPlan::first_pass(engine.as_ref(), &plan, &Manifest::default(), 1).unwrap();
    let mut first = make(engine.as_ref(), &Plan { rows: Some(rows), ..plan.clone() });
    let found = around(&judge(&model, &first.run), 9).unwrap();
    first.run.manifest.as_mut().unwrap().second_pass = Some(promise(&found));
    let first = &first.run;
    let second = make(engine.as_ref(), &Plan { layers: found.layers(), ..plan });
    let second = &second.run;
    let again = with_search(judge(&model, first), vec![Arc::new(judge(&model, second))]);
    assert_eq!(again.verdict.verdict, Verdict::Pass, "{:?}", again.verdict.reasons);
    assert!(!has(&again, ReasonCode::NotRepeatable));
    // One bit in one hash of the second pass, both sides else as they were.
    let mut other = second.clone();
    let event = other.events.iter_mut().find(|event| event.point == Point::VProj && event.payload.is_some()).unwrap();
    event.payload = None;
    event.hash.as_mut().unwrap().value ^= 1;
    let again = with_search(judge(&model, first), vec![Arc::new(judge(&model, &other))]);
    assert_eq!(again.verdict.verdict, Verdict::Inconclusive);
    assert!(has(&again, ReasonCode::NotRepeatable));
}

/// What the manifest says of the second pass.
fn promise(found: &Between) -> SecondPass {
    let layers = found.layers().into_iter().map(|layer| layer as i32).collect();
    SecondPass { prompt_id: Some(found.prompt_id.to_string()), layers, ..SecondPass::default() }
}

#[test]
fn a_first_pass_alone_does_not_pass() {
    let model = Model::demo().unwrap();
    let engine = engine(&model, None);
    let plan = whole(engine.as_ref());
    let rows = RowPlan::first_pass(engine.as_ref(), &plan, &Manifest::default(), 1).unwrap();
    let recorded = make(engine.as_ref(), &Plan { rows: Some(rows), ..plan.clone() });
    let first = judge(&model, &recorded.run);
    let found = around(&first, 9).unwrap();
    let again = make(engine.as_ref(), &Plan { layers: found.layers(), ..plan });
    let second = judge(&model, &again.run);
    // What their manifests say otherwise, and whether the second pass is there.
    let verdict = |change: &dyn Fn(&mut Manifest, &mut Manifest), rounds: usize| {
        let (mut first, mut second) = (first.clone(), second.clone());
        let [one, other] = [&mut first, &mut second].map(|analysis| analysis.manifest.as_mut().unwrap());
        one.second_pass = Some(promise(&found));
        change(one, other);
        let analysis = with_search(first, (0..rounds).map(|_| Arc::new(second.clone())).collect());
        assert_eq!(has(&analysis, ReasonCode::NoSecondPass), analysis.verdict.verdict != Verdict::Pass);
        analysis.verdict.verdict
    };
    assert_eq!(verdict(&|_, _| {}, 1), Verdict::Pass);
    assert_eq!(verdict(&|_, _| {}, 0), Verdict::Inconclusive, "it was promised");
    assert_eq!(verdict(&|first, _| first.second_pass = None, 0), Verdict::Inconclusive, "it was not begun");
    assert_eq!(verdict(&|first, _| first.second_pass = None, 1), Verdict::Inconclusive, "of what, is not known");
    let nothing_parts = |first: &mut Manifest| first.second_pass = Some(SecondPass::default());
    assert_eq!(verdict(&|first, _| nothing_parts(first), 0), Verdict::Pass, "nothing was to be recorded again");
    let more_layers = |first: &mut Manifest| {
        let layers = &mut first.second_pass.as_mut().unwrap().layers;
        layers.push(layers.iter().max().unwrap() + 1);
    };
    assert_eq!(verdict(&|first, _| more_layers(first), 1), Verdict::Inconclusive, "a layer of it lacks");
    let other_tokens = |second: &mut Manifest| second.prompts.as_mut().unwrap()[0].tokens[0] ^= 1;
    assert_eq!(verdict(&|_, second| other_tokens(second), 1), Verdict::Inconclusive, "of another prompt");
}
