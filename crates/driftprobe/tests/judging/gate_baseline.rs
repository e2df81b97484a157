//! A run against a baseline, and FlashAttention's gate, on runs of the embedded engine.

use crate::oracle_support::{Dice, fixture};
use driftprobe::gate::apply::{Gated, apply};
use driftprobe::gate::baseline::{Outcome, compare};
use driftprobe::gate::{Preset, PresetResult};
use driftprobe::judge::examine::Oracle;
use driftprobe::{Analysis, Options, Verdict, analyze_against};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{DecodeAttention, EmbeddedEngine, Engine, PrefillAttention, Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, ModelInfo, PromptInfo, Run};

/// A run of three prompts and two steps, and what is said of it.
struct Judged {
    _dir: tempfile::TempDir,
    run: Run,
    model: Model,
    analysis: Analysis,
}

struct Setup {
    model: &'static str,
    settings: Settings,
    fault: Option<&'static str>,
    seed: u64,
    layers: usize,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { model: "hf/llama", settings: Settings::default(), fault: None, seed: 1, layers: usize::MAX }
    }
}

impl Setup {
    fn judged(&self) -> Judged {
        let model = fixture(self.model);
        let mut dice = Dice(self.seed);
        let prompt = |at: usize| PromptInfo {
            id: format!("p{at}"),
            tokens: (0..12 + 5 * at).map(|_| dice.below(model.config.vocab_size) as u32).collect(),
            ..Default::default()
        };
        let prompts: Vec<PromptInfo> = (0..3).map(prompt).collect();
        let subject = Subject { model: &model, settings: &self.settings, tokens: 12 };
        let engine: Box<dyn Engine> = match self.fault {
            None => Box::new(EmbeddedEngine::new(&model, self.settings.clone()).unwrap()),
            Some(fault) => Box::new(FaultyEngine::new(&subject, fault.parse::<Fault>().unwrap()).unwrap()),
        };
        let mut plan = Plan { steps: 2, ..Plan::everything(engine.as_ref(), prompts) };
        plan.layers.retain(|layer| *layer < self.layers);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let fingerprint = Some(model.weights.fingerprint());
        let manifest = Manifest { model: Some(ModelInfo { fingerprint, ..Default::default() }), ..Manifest::default() };
        record(engine.as_ref(), &plan, &path, manifest, &mut Unwatched).unwrap();
        let run = Run::open(&path).unwrap();
        let analysis = {
            let oracle = Oracle { power: false, ..Oracle::new(&model) };
            analyze_against((&run, &run), Some(&oracle), Options::default(), &mut |_| {})
        };
        Judged { _dir: dir, run, model, analysis }
    }

    fn faulty(fault: &'static str) -> Judged {
        Setup { fault: Some(fault), ..Setup::default() }.judged()
    }
}

fn against(run: &Judged, baseline: &Judged) -> Outcome {
    compare(&[(&run.analysis, &baseline.analysis)], vec![])
}

fn flash_attention(run: &Judged) -> PresetResult {
    let gated = Gated { analysis: &run.analysis, rows: &run.run, model: Some(&run.model), prompt: None };
    apply(&[Preset::by_id("flash-attn").unwrap()], gated).remove(0)
}

#[test]
fn a_run_is_no_worse_than_itself_and_a_fault_is_worse_where_it_is() {
    let clean = Setup::default().judged();
    assert_eq!(clean.analysis.verdict.verdict, Verdict::Pass);
    let same = against(&clean, &Setup::default().judged());
    assert_eq!((same.verdict, same.worse.len()), (Verdict::Pass, 0), "{same:?}");
    assert!(same.stages > 20 && same.tests > 40);

    let faulty = Setup::faulty("NORM_EPS:attn:0.1@decode:layer1");
    let worse = against(&faulty, &clean);
    assert_eq!(worse.verdict, Verdict::Fail);
    let found = worse
        .worse
        .iter()
        .any(|one| one.place.starts_with("attn_norm_out of layer 1, decode") && one.what.starts_with("at fault"));
    assert!(found, "{:?}", worse.worse);
    assert!(!worse.worse.iter().any(|one| one.place.starts_with("attn_norm_out of layer 0")), "{:?}", worse.worse);

    // The other way about it is better; a fault that both have is no worse.
    assert_eq!(against(&clean, &faulty).verdict, Verdict::Pass);
    assert_eq!(against(&faulty, &Setup::faulty("NORM_EPS:attn:0.1@decode:layer1")).verdict, Verdict::Pass);
}

#[test]
fn a_fault_that_moves_to_the_other_phase_is_worse() {
    let ours = Setup::faulty("NORM_EPS:attn:0.1@prefill:layer1");
    let worse = against(&ours, &Setup::faulty("NORM_EPS:attn:0.1@decode:layer1"));
    assert_eq!(worse.verdict, Verdict::Fail);
    assert!(worse.worse.iter().any(|one| one.place.contains("prefill")), "{:?}", worse.worse);
}

#[test]
fn another_order_of_summation_is_no_worse_but_no_longer_bit_equal_is() {
    // Blocked sums have less noise than the sequential ones that are counted with, in either direction.
    let naive = Setup::default().judged();
    let settings = Settings {
        prefill_attention: PrefillAttention::Blocked { keys: 8 },
        decode_attention: DecodeAttention::SplitK { parts: 3 },
        ..Settings::default()
    };
    let split = Setup { settings, ..Setup::default() }.judged();
    for (run, baseline) in [(&naive, &split), (&split, &naive)] {
        let outcome = against(run, baseline);
        let told = outcome.worse.iter().all(|one| one.what.contains("in the baseline bit-equal"));
        assert!(told, "{:?}", outcome.worse);
    }
}

#[test]
fn runs_of_other_things_cannot_be_compared() {
    let clean = Setup::default().judged();
    let bf16 = Settings { storage: Storage::Bf16, kv_cache: Storage::Bf16, ..Settings::default() };
    let others = [
        ("model", Setup { model: "hf/llama-bf16", ..Setup::default() }),
        ("prompts", Setup { seed: 2, ..Setup::default() }),
        ("layers", Setup { layers: 1, ..Setup::default() }),
        ("contract", Setup { settings: bf16, ..Setup::default() }),
    ];
    for (what, setup) in others {
        if what == "model"
            && !std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(setup.model).is_dir()
        {
            continue;
        }
        let other = setup.judged();
        for (run, baseline) in [(&clean, &other), (&other, &clean)] {
            let outcome = against(run, baseline);
            assert_eq!(outcome.verdict, Verdict::Inconclusive, "{what}: {outcome:?}");
            assert!(outcome.reasons.iter().any(|reason| reason.contains(what)), "{what}: {:?}", outcome.reasons);
        }
    }
    assert_eq!(compare(&[], vec![]).verdict, Verdict::Inconclusive);
}

#[test]
fn a_run_or_a_baseline_that_is_not_whole_cannot_be_compared() {
    let clean = Setup::default().judged();
    let mut cut = Setup::default().judged();
    cut.analysis.manifest.as_mut().unwrap().complete = false;
    assert_eq!(against(&clean, &cut).verdict, Verdict::Inconclusive);
    assert_eq!(against(&cut, &clean).verdict, Verdict::Inconclusive);
    let mut unjudged = Setup::default().judged();
    unjudged.analysis.examination = None;
    assert_eq!(against(&clean, &unjudged).verdict, Verdict::Inconclusive);
}

#[test]
fn attention_passes_flash_attentions_gate_and_a_wrong_scale_does_not() {
    for settings in
        [Settings::default(), Settings { storage: Storage::Bf16, kv_cache: Storage::Bf16, ..Settings::default() }]
    {
        let clean = flash_attention(&Setup { settings: settings.clone(), ..Setup::default() }.judged());
        assert_eq!(clean.verdict, Verdict::Pass, "{clean:?}");
        // Both phases of every layer.
        assert_eq!(clean.checks[0].compared, 2 * fixture("hf/llama").config.num_hidden_layers as u64);
        let fault = Some("SCALE_MISSING@decode:layer1");
        let faulty = flash_attention(&Setup { settings, fault, ..Setup::default() }.judged());
        assert_eq!((faulty.verdict, faulty.checks[0].failed), (Verdict::Fail, 1), "{faulty:?}");
        assert!(faulty.checks[0].at.as_ref().unwrap().starts_with("decode, layer 1"), "{faulty:?}");
    }
}
