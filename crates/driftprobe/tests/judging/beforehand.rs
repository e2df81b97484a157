//! Stages judged by layers, on several machines: whoever judges the prompt says the same to the byte, and takes up only what is
//! of exactly his rows.

use crate::oracle_support::{Dice, contracts};
use driftprobe::digest::{Digest, LayersDigest, Shard};
use driftprobe::judge::examine::{Oracle, beforehand};
use driftprobe::oracle::replay::{Beforehand, JudgedStage};
use driftprobe::oracle::stage::graph;
use driftprobe::oracle::{Input, Outcome};
use driftprobe::report::{json, markdown};
use driftprobe::{Analysis, Options, Verdict, analyze_against};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings};
use driftprobe_model::Model;
use driftprobe_trace::{Event, Manifest, ModelInfo, Phase, Point, PromptInfo, Run};
use std::collections::BTreeSet;

struct Recorded {
    run: Run,
    _dir: tempfile::TempDir,
}

/// One prompt, every point of two layers and those around them.
fn recorded(model: &Model, settings: &Settings, fault: Option<&str>, sampled: bool) -> Recorded {
    let mut dice = Dice(5);
    let tokens: Vec<u32> = (0..20).map(|_| dice.below(512) as u32).collect();
    let subject = Subject { model, settings, tokens: tokens.len() };
    let engine: Box<dyn Engine> = match fault {
        None => Box::new(EmbeddedEngine::new(model, settings.clone()).unwrap()),
        Some(fault) => Box::new(FaultyEngine::new(&subject, fault.parse::<Fault>().unwrap()).unwrap()),
    };
    let prompts = vec![PromptInfo { id: "p0".into(), tokens, ..Default::default() }];
    let layers = if sampled { BTreeSet::from([1, 5]) } else { BTreeSet::from([0, 1, 4, 8]) };
    let plan = Plan { steps: 2, layers, payloads: !sampled, ..Plan::everything(engine.as_ref(), prompts) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(engine.as_ref(), &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    Recorded { run: Run::open(&path).unwrap(), _dir: dir }
}

fn judged(run: &Run, oracle: &Oracle<'_>) -> Analysis {
    analyze_against((run, run), Some(oracle), Options::default(), &mut |_| {})
}

/// All that is said of an analysis.
fn said(analysis: &Analysis) -> [String; 3] {
    let digest = serde_json::to_string(&Digest::of("run", "p0", analysis)).unwrap();
    [json::to_json(analysis), markdown::to_markdown(analysis), digest]
}

/// The stages of one part of the layers, through the text that machines exchange.
fn part(run: &Run, oracle: &Oracle<'_>, shard: Shard) -> Beforehand {
    let layers = oracle.model.config.num_hidden_layers;
    let found = beforehand((run, run), oracle, &|place| shard.holds_layer(place, layers)).unwrap();
    let text = serde_json::to_string(&LayersDigest::of([&found])).unwrap();
    let mut modes = [Beforehand::default()];
    serde_json::from_str::<LayersDigest>(&text).unwrap().add_to("p0", &mut modes);
    let [back] = modes;
    assert_eq!(format!("{back:?}"), format!("{found:?}"), "the text holds every bit");
    assert!(!back.is_empty());
    back
}

#[test]
fn every_stage_is_in_one_part_and_layers_lie_side_by_side() {
    let model = Model::demo().unwrap();
    let stages: Vec<Input> =
        graph(&model.config).iter().map(|stage| Input { point: stage.point, layer: stage.layer }).collect();
    for of in 1..=20 {
        let shards = (1..=of).map(|index| Shard { index, of });
        let holders = |place: &Input| {
            let layers = model.config.num_hidden_layers;
            let all: Vec<u32> =
                shards.clone().filter(|shard| shard.holds_layer(*place, layers)).map(|s| s.index).collect();
            assert_eq!(all.len(), 1, "{place:?} of {of}");
            all[0]
        };
        let parts: Vec<u32> = stages.iter().map(holders).collect();
        // In the order of the computation, so that nothing lies in two stretches; and every part has something if it can.
        assert!(parts.is_sorted(), "{parts:?}");
        let distinct: BTreeSet<u32> = parts.iter().copied().collect();
        // Of more parts than layers, the end has one of its own.
        let layers = model.config.num_hidden_layers;
        assert_eq!(distinct.len(), if of as usize <= layers { of as usize } else { layers + 1 });
        assert_eq!((parts.first(), parts.last()), (Some(&1), Some(&of)));
    }
}

#[test]
fn what_several_machines_judged_by_layers_is_what_one_says() {
    let model = Model::demo().unwrap();
    let oracle = Oracle { power: false, ..Oracle::new(&model) };
    let settings: Vec<(&str, Settings)> =
        contracts().into_iter().filter(|(name, _)| ["f32 blocked", "bf16"].contains(name)).collect();
    let faults = [None, Some("ROPE_THETA:10100"), Some("KV_STALE_SLOT:3")];
    for ((name, settings), fault) in settings.iter().flat_map(|one| faults.map(|fault| (one, fault))) {
        let recorded = recorded(&model, settings, fault, false);
        let whole = judged(&recorded.run, &oracle);
        assert_eq!(whole.verdict.verdict == Verdict::Fail, fault.is_some(), "{name} {fault:?}");
        let mut known = Beforehand::default();
        known.extend(part(&recorded.run, &oracle, Shard { index: 3, of: 3 }));
        let some = judged(&recorded.run, &Oracle { beforehand: Some(&known), ..oracle });
        assert_eq!(said(&some), said(&whole), "{name} {fault:?}");
        for index in [1, 2] {
            known.extend(part(&recorded.run, &oracle, Shard { index, of: 3 }));
        }
        let all = judged(&recorded.run, &Oracle { beforehand: Some(&known), ..oracle });
        assert_eq!(said(&all), said(&whole), "{name} {fault:?}");
    }
}

#[test]
fn a_row_that_an_event_of_another_layer_shows_to_be_damaged_is_no_input_by_layers_either() {
    let model = Model::demo().unwrap();
    let oracle = Oracle { power: false, budget_flops: 0.0, ..Oracle::new(&model) };
    let mut recorded = recorded(&model, &Settings::default(), None, false);
    let at = |layer: i32| {
        move |event: &Event| (event.point, event.layer, event.phase) == (Point::MlpGate, layer, Phase::Decode)
    };
    let payload = recorded.run.events.iter().find(|event| at(1)(event)).unwrap().payload.clone();
    recorded.run.events.iter_mut().find(|event| at(8)(event)).unwrap().payload = payload;
    let whole = judged(&recorded.run, &oracle);
    let mut known = Beforehand::default();
    for index in 1..=3 {
        known.extend(part(&recorded.run, &oracle, Shard { index, of: 3 }));
    }
    let judgement = |analysis: &Analysis| format!("{:?}", analysis.examination.as_ref().unwrap().phases);
    let all = judged(&recorded.run, &Oracle { beforehand: Some(&known), ..oracle });
    assert_eq!((judgement(&all), said(&all)), (judgement(&whole), said(&whole)));
}

#[test]
fn another_model_judges_no_stage() {
    let model = Model::demo().unwrap();
    let mut recorded = recorded(&model, &Settings::default(), None, false);
    recorded.run.manifest.as_mut().unwrap().model =
        Some(ModelInfo { fingerprint: Some("xxh3-128:00".to_owned()), ..ModelInfo::default() });
    assert_eq!(beforehand((&recorded.run, &recorded.run), &Oracle::new(&model), &|_| true), None);
}

#[test]
fn rows_that_are_known_by_samples_and_a_contract_that_cannot_be_computed_are_the_same_by_layers() {
    let model = Model::demo().unwrap();
    let sampled = recorded(&model, &Settings::default(), None, true);
    let contract = serde_json::from_str(r#"{"activations": "e9m9"}"#).unwrap();
    let plain = Oracle { power: false, budget_flops: 0.0, ..Oracle::new(&model) };
    for oracle in [plain, Oracle { contract: Some(&contract), ..plain }] {
        let whole = judged(&sampled.run, &oracle);
        let found = beforehand((&sampled.run, &sampled.run), &oracle, &|_| true).unwrap();
        let mut modes = [Beforehand::default()];
        LayersDigest::of([&found]).add_to("p0", &mut modes);
        let again = judged(&sampled.run, &Oracle { beforehand: Some(&modes[0]), ..oracle });
        assert_eq!(said(&again), said(&whole));
    }
}

#[test]
fn stages_of_other_rows_or_of_another_prompt_are_not_taken_up_and_those_of_this_one_are() {
    let model = Model::demo().unwrap();
    let oracle = Oracle { power: false, ..Oracle::new(&model) };
    let recorded = recorded(&model, &Settings::default(), None, false);
    let whole = judged(&recorded.run, &oracle);
    let found =
        beforehand((&recorded.run, &recorded.run), &oracle, &|place| place.point == Point::ResidualPostMlp).unwrap();
    let changed = |change: &dyn Fn(&mut JudgedStage)| {
        let stages = found.stages().cloned().map(|mut stage| {
            assert!(!stage.rows.is_empty());
            stage.rows[0].outcome = Outcome::Mismatch { compared: 4, differing: 4, first: 0, largest: 1.0 };
            change(&mut stage);
            stage
        });
        let known = Beforehand::new(stages);
        judged(&recorded.run, &Oracle { beforehand: Some(&known), ..oracle })
    };
    // Were they not taken up, nothing would be found.
    assert_eq!((whole.verdict.verdict, changed(&|_| {}).verdict.verdict), (Verdict::Pass, Verdict::Fail));
    let others: [&dyn Fn(&mut JudgedStage); 4] = [
        &|stage| drop(stage.rows.pop()),
        &|stage| stage.rows[0].pos += 100,
        &|stage| stage.rows[0].prompt_id = "p1".into(),
        &|stage| stage.place.layer += 1000,
    ];
    for other in others {
        assert_eq!(said(&changed(other)), said(&whole));
    }
    // Of another version of the program nothing is taken.
    let text = serde_json::to_string(&LayersDigest::of([&found])).unwrap();
    for (now, other) in
        [("\"schema\":1", "\"schema\":2"), ("\"generator\":\"driftprobe ", "\"generator\":\"driftprobe 9")]
    {
        assert!(text.contains(now));
        let mut modes = [Beforehand::default()];
        serde_json::from_str::<LayersDigest>(&text.replace(now, other)).unwrap().add_to("p0", &mut modes);
        assert!(modes[0].is_empty(), "{other}");
    }
}
