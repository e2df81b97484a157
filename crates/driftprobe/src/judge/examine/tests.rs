//! Whether a run is of the model that it is held against, and what counts as explained by a bug.

use super::*;
use crate::oracle::Outcome;

fn stage(phase: Phase, point: Point, outcome: Outcome) -> StageJudgement {
    let (assumed, inputs) = (vec![], vec![]);
    StageJudgement {
        prompt_id: "p".into(),
        phase,
        point,
        layer: 0,
        pos: 0,
        outcome,
        assumed,
        values: 4,
        inputs,
        fitted: false,
    }
}

fn judged(phase: Phase, wrong: &[Point], right: &[Point]) -> PhaseJudgement {
    let mismatch = Outcome::Mismatch { compared: 4, differing: 4, first: 0, largest: 1.0 };
    let wrong = wrong.iter().map(|point| stage(phase, *point, mismatch.clone()));
    let right = right.iter().map(|point| stage(phase, *point, Outcome::Exact { compared: 4 }));
    PhaseJudgement { stages: wrong.chain(right).collect(), systematic: vec![] }
}

#[test]
fn weights_are_in_doubt_only_if_every_matrix_of_both_phases_is_wrong() {
    use Point::{AttnProjOut, EmbedOut, Logits, MlpOut, ResidualPostMlp, VProj};
    let all = [EmbedOut, VProj, AttnProjOut, MlpOut, Logits];
    let of = |wrong: &[Point], right: &[Point]| judged(Phase::Prefill, wrong, right);
    let doubt = weights_in_doubt(&[of(&all, &[ResidualPostMlp]), of(&all, &[ResidualPostMlp])]);
    assert_eq!(doubt, Some(Doubt::Weights { faulty: 10 }));
    assert_eq!(weights_in_doubt(&[of(&all, &[]), of(&all[1..], &[EmbedOut])]), None);
    assert_eq!(weights_in_doubt(&[of(&all, &[]), of(&[], &all)]), None);
    assert_eq!(weights_in_doubt(&[of(&all, &[]), of(&[], &[])]), None);
    assert_eq!(weights_in_doubt(&[of(&all[..2], &[]), of(&all[..2], &[])]), None, "of two points no more");
}

type Change<'a> = &'a dyn Fn(&mut serde_json::Map<String, serde_json::Value>);

/// A run whose manifest has the model's config, but for what was changed.
fn with_config(model: &Model, change: Change<'_>) -> Run {
    let mut config = model.config.to_hugging_face();
    change(&mut config);
    let mut run = Run::default();
    run.manifest = Some(driftprobe_trace::Manifest { config: Some(config), ..Default::default() });
    run
}

#[test]
fn numbers_of_a_config_are_the_models_to_a_millionth() {
    let model = Model::demo().unwrap();
    let differing = |change: Change<'_>| config_differs(&with_config(&model, change), &model);
    let by = |name: &'static str, factor: f64| {
        differing(&|config| config[name] = (config[name].as_f64().unwrap() * factor).into()).len()
    };
    for name in ["rms_norm_eps", "rope_theta", "head_dim"] {
        assert_eq!([1.0, 1.0 + 5e-7, 1.0 - 5e-7].map(|factor| by(name, factor)), [0; 3], "{name}");
        assert_eq!([1.0 + 5e-6, 1.0 - 5e-6, 2.0, -1.0].map(|factor| by(name, factor)), [1; 4], "{name}");
    }
    assert_eq!(differing(&|config| drop(config.remove("rope_theta"))), [""; 0], "of what is not given nothing is said");
    let capped = differing(&|config| drop(config.insert("final_logit_softcapping".into(), 30.0.into())));
    assert_eq!(capped, ["final_logit_softcapping is 30 in the manifest, none in the model"]);
    assert_eq!(config_differs(&Run::default(), &model), [""; 0]);
}

#[test]
fn a_run_without_a_fingerprint_is_of_another_model_if_its_sizes_are() {
    let model = Model::demo().unwrap();
    let with = |change: Change<'_>| same_model(&with_config(&model, change), &model);
    assert_eq!((with(&|_| {}), with(&|config| drop(config.remove("vocab_size")))), (Ok(()), Ok(())));
    for name in ["hidden_size", "vocab_size"] {
        assert!(matches!(with(&|config| config[name] = 7.into()), Err(Doubt::Shape(why)) if why.contains(name)));
    }
}

#[test]
fn rows_are_explained_by_a_bug_that_gives_them_and_by_none_else() {
    let model = Model::demo().unwrap();
    let explained_sum = |sum: f32| {
        let mut memory = crate::testing::Memory::default();
        for (point, value) in [(Point::ResidualPreAttn, 1.0), (Point::AttnProjOut, 0.5), (Point::ResidualPostAttn, sum)]
        {
            let event = crate::testing::event("p", Phase::Decode, point, 1, 5, 7);
            memory.record(event, driftprobe_trace::Row::from_f32(&vec![value; model.config.hidden_size]));
        }
        let replay = Replay::new(&model, None);
        let judged = replay.phase(&memory.run.events, &memory, Phase::Decode).unwrap();
        explained(&replay, &memory.run.events, &memory, &judged)
    };
    // The sum, one of its terms alone, and what no mistake with them gives.
    assert_eq!([1.5, 1.0, 5.0].map(explained_sum), [false, true, false]);
}
