//! Simulations against runs of the faulty engine: what rounding does not explain is flagged, in its phase.

use crate::oracle_support::{Dice, fixture};
use driftprobe::simulate::{Shown, Simulation, Study, TokenJudgement};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{Event, Manifest, Mode, Phase, Point, PromptInfo, Row, RowStats, Rows, Run, Sample, TraceError};
use std::collections::BTreeSet;

const TOKENS: usize = 16;

fn settings(storage: Storage) -> Settings {
    Settings { storage, kv_cache: storage, ..Settings::default() }
}

/// A run of a prompt by an engine with a fault.
fn faulty_run(
    model: &Model,
    (settings, mode): (Settings, Mode),
    fault: &str,
    layers: &[usize],
) -> (tempfile::TempDir, Run) {
    let subject = Subject { model, settings: &settings, tokens: TOKENS };
    let engine = FaultyEngine::new(&subject, fault.parse::<Fault>().unwrap()).unwrap();
    recorded(&engine, model, mode, layers)
}

/// A run of a prompt.
fn recorded(engine: &dyn Engine, model: &Model, mode: Mode, layers: &[usize]) -> (tempfile::TempDir, Run) {
    let mut dice = Dice(3);
    let tokens = (0..TOKENS).map(|_| dice.below(model.config.vocab_size) as u32).collect();
    let prompts = vec![PromptInfo { id: "p".to_owned(), tokens, ..Default::default() }];
    let plan = Plan { layers: layers.iter().copied().collect(), mode, ..Plan::everything(engine, prompts) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(engine, &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(&path).unwrap();
    (dir, run)
}

fn study(model: &Model, run: &Run) -> Study {
    Simulation::new(model, run.manifest.as_ref()).with_draws(5).study(&run.events, run).unwrap()
}

fn flagged(study: &Study) -> Vec<&TokenJudgement> {
    study.tokens.iter().filter(|t| t.flagged).collect()
}

/// The cached rows of a layer that are flagged in a phase.
fn slots(study: &Study, phase: Phase, (point, layer): (Point, i32)) -> BTreeSet<usize> {
    let of = |t: &&TokenJudgement| (t.phase, t.point, t.layer) == (phase, point, layer);
    flagged(study).into_iter().filter(of).filter_map(|t| t.slot).collect()
}

#[test]
fn wrong_slots_of_earlier_positions_are_flagged_one_by_one_in_their_phase_alone() {
    let model = fixture("hf/llama-gqa-sharded");
    let cases: [(&str, &[usize], &[usize]); 4] = [
        ("KV_STALE_SLOT:5", &[5], &[5]),
        ("KV_FOREIGN_ROW:7", &[7], &[7]),
        ("KV_SWAPPED_SLOTS:k:3:8", &[3, 8], &[]),
        ("KV_DUPLICATED_SLOT:9", &[10], &[10]),
    ];
    for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
        for (fault, k, v) in cases {
            for (phase, other) in [(Phase::Prefill, Phase::Decode), (Phase::Decode, Phase::Prefill)] {
                let name = format!("{fault}@{phase}:layer1");
                let (_dir, run) = faulty_run(&model, (settings(storage), Mode::AsDesigned), &name, &[0, 1]);
                let study = study(&model, &run);
                let found = [Point::KCache, Point::VCache].map(|point| slots(&study, phase, (point, 1)));
                assert_eq!(found, [k, v].map(|s| s.iter().copied().collect()), "{name} in {storage}");
                let first = flagged(&study)[0];
                assert_eq!((first.phase, first.point, first.layer), (phase, Point::KCache, 1), "{name} in {storage}");
                assert!(flagged(&study).iter().all(|t| t.phase != other), "{name} in {storage}");
            }
        }
    }
}

#[test]
fn a_fault_that_both_phases_share_is_flagged_in_both_though_they_agree() {
    let model = Model::demo().unwrap();
    let (_dir, run) = faulty_run(&model, (settings(Storage::Bf16), Mode::AsDesigned), "ROPE_THETA@both:layer2", &[2]);
    let study = study(&model, &run);
    for phase in Phase::ALL {
        let first = flagged(&study).into_iter().find(|t| t.phase == phase).unwrap();
        assert_eq!((first.point, first.layer), (Point::QPostRope, 2));
    }
    assert!(study.end_to_end.unwrap().p_value > 0.01);
}

#[test]
fn a_fault_of_one_phase_makes_more_drift_than_rounding_and_alignment_shows_whether_the_cache_has_it() {
    let model = Model::demo().unwrap();
    for mode in [Mode::AsDesigned, Mode::KvAligned] {
        let settings = settings(Storage::F16);
        let (_dir, run) = faulty_run(&model, (settings, mode), "SCALE_WRONG:1.3@decode:layer1", &[0, 1, 2]);
        let drift = study(&model, &run).end_to_end.unwrap();
        assert!(drift.p_value < 1e-3, "{mode:?}: {}", drift.p_value);
        let place = |point, layer| drift.places.iter().find(|p| (p.point, p.layer) == (point, layer)).unwrap().ratio();
        assert!(place(Point::AttnScores, 1) > 5.0 && place(Point::MlpOut, 0) < 3.0, "{:?}", drift.places);
    }
}

#[test]
fn a_fault_between_traced_layers_is_a_gap_there_in_its_phase_alone() {
    let model = Model::demo().unwrap();
    for (storage, fault) in [
        (Storage::F32, "NORM_SKIPPED:ffn"),
        (Storage::F16, "HEAD_SWAP:0:1"),
        (Storage::Bf16, "RESIDUAL_DROPPED:mlp"),
        (Storage::Bf16, "KV_STALE_SLOT:15"),
    ] {
        for phase in Phase::ALL {
            let name = format!("{fault}@{phase}:layer3");
            let (_dir, run) = faulty_run(&model, (settings(storage), Mode::AsDesigned), &name, &[0, 2, 4]);
            let gaps = study(&model, &run).gaps;
            // 0 to 2, 2 to 4, 4 to the end: in both phases.
            assert!(gaps.len() >= 6, "{gaps:?}");
            let found: Vec<_> =
                gaps.iter().filter(|g| g.flagged).map(|g| (g.phase, g.from.layer, g.to.layer)).collect();
            assert_eq!(found, [(phase, 2, 4)], "{name} in {storage}: {gaps:?}");
        }
    }
}

type Place = (Point, i32);

#[test]
fn a_stretch_lies_where_something_is_not_recorded_that_is_no_copy() {
    use Point::{
        AttnProbs, AttnScores, FinalNormIn, MlpOut, ResidualPostAttn, ResidualPostMlp, ResidualPreAttn, VProj,
    };
    let model = fixture("hf/llama-gqa-sharded");
    let engine = EmbeddedEngine::new(&model, settings(Storage::F32)).unwrap();
    let (_dir, run) = recorded(&engine, &model, Mode::AsDesigned, &[0, 1]);
    // The ends of the stretches of each phase, where these points are not recorded in layer 1.
    let stretches = |hidden: &[Point]| {
        let is_hidden = |e: &&Event| hidden.contains(&e.point) && (e.layer == 1 || !e.point.layered());
        let events: Vec<Event> = run.events.iter().filter(|e| !is_hidden(e)).cloned().collect();
        let simulation = Simulation::new(&model, run.manifest.as_ref()).with_draws(3);
        let gaps = simulation.study(&events, &run).unwrap().gaps;
        assert!(gaps.iter().all(|gap| gap.whole && !gap.flagged), "{gaps:?}");
        Phase::ALL.map(|phase| {
            let ends = gaps.iter().filter(|gap| gap.phase == phase);
            ends.map(|gap| ((gap.from.point, gap.from.layer), (gap.to.point, gap.to.layer))).collect::<BTreeSet<_>>()
        })
    };
    let both = |ends: &[(Place, Place)]| [(); 2].map(|()| ends.iter().copied().collect::<BTreeSet<_>>());
    assert_eq!(stretches(&[]), both(&[]));
    assert_eq!(stretches(&[ResidualPreAttn, AttnScores, AttnProbs, FinalNormIn]), both(&[]));
    assert_eq!(stretches(&[MlpOut]), both(&[((ResidualPostAttn, 1), (ResidualPostMlp, 1))]));
    assert_eq!(stretches(&[VProj]), both(&[((ResidualPreAttn, 1), (ResidualPostAttn, 1))]));
    assert_eq!(
        stretches(&[VProj, MlpOut]),
        both(&[((ResidualPostAttn, 1), (ResidualPostMlp, 1)), ((ResidualPreAttn, 1), (ResidualPostAttn, 1))])
    );
}

/// A run without payloads: samples and statistics alone, in as many digits as some engines print.
struct Bare;

impl Rows for Bare {
    fn row(&self, _: &Event) -> Result<Option<Row>, TraceError> {
        Ok(None)
    }
}

fn bare(run: &Run, digits: usize) -> Vec<Event> {
    let text = |x: f64| format!("{x:.*e}", digits - 1).parse().unwrap();
    let strip = |event: &Event| {
        let row = run.row(event).unwrap().unwrap();
        let at: Vec<u64> = (0..8).map(|i| (i * 7) % row.len() as u64).collect();
        let values = at.iter().map(|i| text(row.value(*i as usize))).collect();
        let stats = row.stats();
        let stats =
            RowStats { min: stats.min.map(text), max: stats.max.map(text), mean: stats.mean.map(text), ..stats };
        Event { payload: None, sample: Some(Sample { values, idx: Some(at) }), stats, ..event.clone() }
    };
    run.events.iter().filter(|e| e.point != Point::AttnScores).map(strip).collect()
}

#[test]
fn samples_and_statistics_of_few_digits_carry_the_claim_that_they_can() {
    let model = Model::demo().unwrap();
    for (fault, is_clean) in [("ROPE_THETA:100000@decode:layer3", false), ("NORM_EPS:attn:0@decode:layer3", true)] {
        let (_dir, run) = faulty_run(&model, (settings(Storage::F16), Mode::AsDesigned), fault, &[0, 2, 3, 4]);
        let events = bare(&run, 6);
        let simulation = Simulation::new(&model, run.manifest.as_ref()).with_draws(5);
        let study = simulation.study(&events, &Bare).unwrap();
        assert!(study.tokens.iter().all(|t| t.shown != Shown::Row) && study.tokens.len() > 100);
        let flagged = flagged(&study);
        if is_clean {
            assert!(flagged.is_empty(), "{fault}: {flagged:?}");
        } else {
            let first = flagged[0];
            assert_eq!((first.phase, first.point, first.layer), (Phase::Decode, Point::QPostRope, 3), "{fault}");
            assert!(
                flagged.iter().all(|t| t.phase == Phase::Decode),
                "{:?}",
                flagged.iter().filter(|t| t.phase == Phase::Prefill).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn a_prompt_over_the_budget_is_left_out_and_named() {
    let model = fixture("hf/llama-gqa-sharded");
    let (_dir, run) =
        faulty_run(&model, (settings(Storage::F32), Mode::AsDesigned), "NORM_EPS:attn:0.1@decode:layer0", &[0]);
    let study = Simulation::new(&model, run.manifest.as_ref()).with_budget(1e3).study(&run.events, &run).unwrap();
    assert!(study.tokens.is_empty() && study.end_to_end.is_none());
    assert_eq!(study.skipped.len(), 1);
    assert!(study.skipped[0].1.to_string().contains("more than is left"), "{}", study.skipped[0].1);
}

#[test]
fn the_same_seed_gives_the_same_study_and_another_one_other_draws() {
    let model = fixture("hf/llama-gqa-sharded");
    let (_dir, run) =
        faulty_run(&model, (settings(Storage::F32), Mode::AsDesigned), "KV_STALE_SLOT:5@decode:layer1", &[0, 1]);
    let with_seed = |seed| {
        let study = Simulation::new(&model, run.manifest.as_ref()).with_seed(seed).study(&run.events, &run).unwrap();
        study.tokens
    };
    assert_eq!(with_seed(1), with_seed(1));
    assert_ne!(with_seed(1), with_seed(2));
}
