//! What a contract or a manifest claims, held against what was recorded.

use crate::oracle_support::{Dice, fixture, recording};
use driftprobe::judge::examine::Oracle;
use driftprobe::verdict::reason::{Reason, ReasonCode};
use driftprobe::{Analysis, Options, Verdict, analyze_against, presets};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{Contract, Manifest, Phase, Point, PromptInfo, Run};
use serde_json::json;

fn judge(model: &Model, run: &Run, contract: Option<&Contract>) -> Analysis {
    let oracle = Oracle { contract, ..Oracle::new(model) };
    analyze_against((run, run), Some(&oracle), Options::default(), &mut |_| {})
}

fn note(analysis: &Analysis, code: ReasonCode) -> Option<&Reason> {
    analysis.verdict.notes.iter().find(|reason| reason.code == code)
}

/// Points of the phase whose rows are finer than the contract says.
fn finer(analysis: &Analysis, phase: Phase) -> Vec<Point> {
    let findings = &analysis.examination.as_ref().unwrap().contract_findings;
    let finer = findings.iter().filter(|f| f.phase == phase && f.variant.says.contains("more finely than declared"));
    finer.map(|finding| finding.point).collect()
}

/// Every value in f32, and a contract of coarser storage: a finding at every point, no fault.
#[test]
fn a_contract_that_is_coarser_than_the_record_is_found_and_no_fault() {
    let model = fixture("hf/llama");
    let recorded = recording(&model, Settings::default(), &[9], 2);
    for name in ["f16", "bf16"] {
        let analysis = judge(&model, &recorded.run, presets::contract(name).as_ref());
        assert_eq!(analysis.verdict.verdict, Verdict::Pass, "{name}: {:?}", analysis.verdict.reasons);
        for phase in Phase::ALL {
            let found = finer(&analysis, phase);
            for point in [Point::EmbedOut, Point::KCache, Point::AttnOut, Point::ResidualPostMlp, Point::Logits] {
                assert!(found.contains(&point), "{name}, {phase}: {found:?}");
            }
        }
    }
    let declared = judge(&model, &recorded.run, presets::contract("f32").as_ref());
    assert_eq!(
        (declared.verdict.verdict, finer(&declared, Phase::Decode)),
        (Verdict::Pass, vec![]),
        "{:?}",
        declared.verdict.reasons
    );
    // Rows that are stored as the contract says are not called finer, whatever they are recorded in.
    let settings = Settings { storage: Storage::Bf16, kv_cache: Storage::Bf16, ..Settings::default() };
    let coarse = recording(&model, settings, &[9], 2);
    let own = judge(&model, &coarse.run, None);
    assert_eq!((own.verdict.verdict, finer(&own, Phase::Decode)), (Verdict::Pass, vec![]));
    // This engine's logits are f32, which its own contract says, and the preset does not.
    let preset = judge(&model, &coarse.run, presets::contract("bf16").as_ref());
    assert_eq!((preset.verdict.verdict, finer(&preset, Phase::Decode)), (Verdict::Pass, vec![Point::Logits]));
}

/// Sums that are declared to be as coarse as no sum of the record is.
#[test]
fn a_contract_that_is_looser_than_the_record_is_said() {
    let model = fixture("hf/llama");
    let recorded = recording(&model, Settings::default(), &[24], 2);
    let mut contract = presets::contract("f32").unwrap();
    let looser = |contract: &Contract| {
        let analysis = judge(&model, &recorded.run, Some(contract));
        note(&analysis, ReasonCode::LooserThanSeen).map_or(0, |reason| reason.count)
    };
    assert_eq!(looser(&contract), 0);
    for accumulate in ["bf16", "f16", "tf32"] {
        contract.flat.accumulate = Some(accumulate.to_owned());
        assert!(looser(&contract) > 4, "{accumulate}");
    }
}

/// In bf16 a change of ε by a thousandth of its size would be far below an ulp; the record is f32, and that is what counts.
#[test]
fn a_fault_does_not_hide_behind_a_contract_that_is_coarser_than_the_record() {
    let model = Model::demo().unwrap();
    let settings = Settings::default();
    let tokens = Dice(5).tokens(24, 512);
    let subject = Subject { model: &model, settings: &settings, tokens: tokens.len() };
    let fault: Fault = "ROPE_THETA:1.00003@both".parse().unwrap();
    let engine = FaultyEngine::new(&subject, fault).unwrap();
    let prompts = vec![PromptInfo { id: "p0".into(), tokens, ..Default::default() }];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&engine, &Plan::everything(&engine, prompts), &path, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(&path).unwrap();
    for contract in [None, presets::contract("bf16")] {
        let analysis = judge(&model, &run, contract.as_ref());
        assert_eq!(analysis.verdict.root_cause, Some("ROPE_DRIFT"), "{:?}", analysis.verdict.reasons);
    }
}

#[test]
fn a_manifest_whose_config_is_not_the_models_is_noted() {
    let model = fixture("hf/llama");
    let mut recorded = recording(&model, Settings::default(), &[9], 1);
    let run = &mut recorded.run;
    let with = |run: &mut Run, change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut config = model.config.to_hugging_face();
        change(&mut config);
        run.manifest.as_mut().unwrap().config = Some(config);
        judge(&model, run, None)
    };
    let same = with(run, &|_| ());
    assert!(note(&same, ReasonCode::ConfigDiffers).is_none());
    // As a GGUF file has it.
    let rounded = with(run, &|config| {
        let eps = config["rms_norm_eps"].as_f64().unwrap();
        config.insert("rms_norm_eps".into(), json!(f64::from(eps as f32)));
    });
    assert!(note(&rounded, ReasonCode::ConfigDiffers).is_none());
    let other = with(run, &|config| {
        config.insert("rope_theta".into(), json!(500_000.0));
    });
    let told = note(&other, ReasonCode::ConfigDiffers).unwrap();
    assert!(told.examples[0].contains("rope_theta is 500000"), "{:?}", told.examples);
    // The rows are the model's all the same.
    assert_eq!(other.verdict.verdict, Verdict::Pass, "{:?}", other.verdict.reasons);
}
