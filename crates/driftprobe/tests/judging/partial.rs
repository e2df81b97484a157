//! Traces without payloads: what eight values and a hash of each row can show of a stage, and what they cannot.

use crate::oracle_support::Dice;
use driftprobe::judge::examine::Oracle;
use driftprobe::oracle::{Outcome, PhaseJudgement, Replay, Unjudged};
use driftprobe::{Options, Verdict, analyze_against};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Phase, Point, PromptInfo, Run};

const TOKENS: usize = 9;

fn recorded(model: &Model, settings: &Settings, fault: Option<&str>) -> (tempfile::TempDir, Run) {
    let subject = Subject { model, settings, tokens: TOKENS };
    let engine: Box<dyn Engine> = match fault {
        None => Box::new(EmbeddedEngine::new(model, settings.clone()).unwrap()),
        Some(fault) => Box::new(FaultyEngine::new(&subject, fault.parse::<Fault>().unwrap()).unwrap()),
    };
    let mut dice = Dice(5);
    let tokens = (0..TOKENS).map(|_| dice.below(model.config.vocab_size) as u32).collect();
    let prompts = vec![PromptInfo { id: "p".to_owned(), tokens, ..Default::default() }];
    let plan = Plan { payloads: false, ..Plan::everything(engine.as_ref(), prompts) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(engine.as_ref(), &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    (dir, Run::open(&path).unwrap())
}

fn judged(model: &Model, run: &Run, phase: Phase) -> PhaseJudgement {
    Replay::new(model, run.manifest.as_ref()).phase(&run.events, run, phase).unwrap()
}

fn faults(model: &Model, run: &Run, phase: Phase) -> Vec<(Point, i32)> {
    let stages = judged(model, run, phase).stages;
    stages.into_iter().filter(|stage| stage.outcome.is_fault()).map(|stage| (stage.point, stage.layer)).collect()
}

fn settings(storage: Storage) -> Settings {
    Settings { storage, kv_cache: storage, ..Settings::default() }
}

#[test]
fn samples_of_sums_and_activations_show_that_they_are_wrong() {
    let model = Model::demo().unwrap();
    for storage in [Storage::F32, Storage::Bf16] {
        for (fault, at) in [
            ("RESIDUAL_DROPPED:attn@decode:layer3", (Point::ResidualPostAttn, 3)),
            ("RESIDUAL_DOUBLED:mlp@prefill:layer2", (Point::ResidualPostMlp, 2)),
            ("ACTIVATION_WRONG@prefill:layer1", (Point::MlpAct, 1)),
            ("EMBED_ROW@decode", (Point::EmbedOut, -1)),
        ] {
            let (_dir, run) = recorded(&model, &settings(storage), Some(fault));
            let (own, other) = if fault.contains("decode") {
                (Phase::Decode, Phase::Prefill)
            } else {
                (Phase::Prefill, Phase::Decode)
            };
            assert_eq!(faults(&model, &run, own), [at], "{fault} {storage:?}");
            assert_eq!(faults(&model, &run, other), [], "{fault} {storage:?}");
        }
    }
}

#[test]
fn samples_of_a_sound_run_show_nothing_wrong_and_are_not_taken_for_the_whole() {
    let model = Model::demo().unwrap();
    for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
        let (_dir, run) = recorded(&model, &settings(storage), None);
        for phase in Phase::ALL {
            let stages = judged(&model, &run, phase).stages;
            for stage in &stages {
                let (point, outcome) = (stage.point, &stage.outcome);
                assert!(!outcome.is_fault(), "{point} {outcome:?}");
                match point {
                    // The token's row is known exactly, so that the hash shows all of it.
                    Point::EmbedOut => assert!(matches!(outcome, Outcome::Exact { compared: 64 }), "{outcome:?}"),
                    _ => assert!(!outcome.is_clean(), "{point} {outcome:?}"),
                }
                if matches!(point, Point::ResidualPostAttn | Point::ResidualPostMlp | Point::MlpAct) {
                    let Outcome::Unjudged(Unjudged::OnlyPart { compared: 8, values, .. }) = outcome else {
                        panic!("{point} {outcome:?}");
                    };
                    assert!(*values > 8);
                }
            }
        }
        let oracle = Oracle { budget_flops: 0.0, ..Oracle::new(&model) };
        let analysis = analyze_against((&run, &run), Some(&oracle), Options::default(), &mut |_| {});
        assert_eq!(analysis.verdict.verdict, Verdict::Inconclusive);
    }
}

/// Six digits of a number do not tell which f32 it was.
#[test]
fn samples_printed_with_few_digits_claim_nothing() {
    let model = Model::demo().unwrap();
    let (_dir, mut run) = recorded(&model, &settings(Storage::F32), None);
    let mut changed = 0;
    for sample in run.events.iter_mut().filter_map(|event| event.sample.as_mut()) {
        for value in &mut sample.values {
            let printed: f64 = format!("{value:.5e}").parse().unwrap();
            changed += usize::from(printed != *value);
            *value = printed;
        }
    }
    assert!(changed > 1000);
    for phase in Phase::ALL {
        let stages = judged(&model, &run, phase).stages;
        assert!(stages.iter().all(|stage| !stage.outcome.is_fault()));
        let partly = |outcome: &Outcome| matches!(outcome, Outcome::Unjudged(Unjudged::OnlyPart { .. }));
        assert_eq!(stages.iter().filter(|stage| partly(&stage.outcome)).count(), 0);
    }
}

/// Nine digits do, also where the text is not the stored value to the last bit.
#[test]
fn samples_printed_with_nine_digits_are_the_stored_values() {
    let model = Model::demo().unwrap();
    let (_dir, mut run) = recorded(&model, &settings(Storage::F32), None);
    for sample in run.events.iter_mut().filter_map(|event| event.sample.as_mut()) {
        sample.values.iter_mut().for_each(|value| *value = format!("{value:.8e}").parse().unwrap());
    }
    let stages = judged(&model, &run, Phase::Decode).stages;
    assert!(stages.iter().all(|stage| !stage.outcome.is_fault()));
    let sums = stages.iter().filter(|stage| stage.point == Point::ResidualPostMlp);
    let compared = sums.map(|stage| match &stage.outcome {
        Outcome::Unjudged(Unjudged::OnlyPart { compared, .. }) => *compared,
        other => panic!("{other:?}"),
    });
    // A value whose ninth digit is 0 looks like one of eight digits, and a sum takes three values.
    let known = (9.0 * 8.0 * 0.9f64.powi(3)) as usize;
    let compared: usize = compared.sum();
    assert!(compared.abs_diff(known) < 12, "{compared}, expected about {known}");
}
