//! Verdicts with a model at hand: what passes, what fails and where, and what may not pass although nothing differs.

use crate::oracle_support::{Dice, fixture};
use driftprobe::judge::PairVerdict;
use driftprobe::judge::examine::Oracle;
use driftprobe::verdict::modes::{Says, combine};
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::verdict::{Parting, SubVerdict};
use driftprobe::{Analysis, Options, Verdict, analyze_against};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{
    Contract, Event, Manifest, Mode, ModelInfo, Phase, Point, PromptInfo, Row, Rows, Run, TraceError,
};
use std::collections::BTreeSet;

/// A recording of one prompt.
struct Setup {
    settings: Settings,
    layers: BTreeSet<usize>,
    payloads: bool,
    mode: Mode,
    steps: usize,
}

impl Setup {
    fn new() -> Setup {
        let layers = [0, 1, 2, 4, 8].into();
        Setup { settings: Settings::default(), layers, payloads: true, mode: Mode::AsDesigned, steps: 1 }
    }

    fn tokens() -> Vec<u32> {
        let mut dice = Dice(5);
        (0..24).map(|_| dice.below(512) as u32).collect()
    }

    /// Records the demo model, with a fault or without.
    fn run(&self, fault: Option<&str>) -> (tempfile::TempDir, Run) {
        let model = Model::demo().unwrap();
        let tokens = Setup::tokens();
        let subject = Subject { model: &model, settings: &self.settings, tokens: tokens.len() };
        let engine: Box<dyn Engine> = match fault {
            None => Box::new(EmbeddedEngine::new(&model, self.settings.clone()).unwrap()),
            Some(fault) => Box::new(FaultyEngine::new(&subject, fault.parse::<Fault>().unwrap()).unwrap()),
        };
        let prompts = vec![PromptInfo { id: "p0".into(), tokens, ..Default::default() }];
        let plan = Plan {
            steps: self.steps,
            layers: self.layers.clone(),
            payloads: self.payloads,
            mode: self.mode,
            ..Plan::everything(engine.as_ref(), prompts)
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        record(engine.as_ref(), &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
        (dir, Run::open(&path).unwrap())
    }
}

fn judge_with(run: &Run, rows: &dyn Rows, oracle: &Oracle<'_>) -> Analysis {
    analyze_against((run, rows), Some(oracle), Options::default(), &mut |_| {})
}

fn judge(run: &Run) -> Analysis {
    judge_with(run, run, &Oracle::new(&Model::demo().unwrap()))
}

fn has(analysis: &Analysis, code: ReasonCode) -> bool {
    analysis.verdict.reasons.iter().chain(&analysis.verdict.notes).any(|reason| reason.code == code)
}

/// The first fault: point, layer and phase.
fn first(analysis: &Analysis) -> Option<(Point, i32, Option<Phase>)> {
    let first = analysis.verdict.first_failure.as_ref().filter(|first| first.parting == Parting::Fault)?;
    Some((first.point, first.layer, first.phase))
}

fn names(analysis: &Analysis) -> Vec<&'static str> {
    let causes = analysis.examination.iter().flat_map(|examination| &examination.causes);
    causes.flat_map(|cause| &cause.candidates).map(|candidate| candidate.id).collect()
}

#[test]
fn a_sound_run_passes_although_almost_every_row_differs() {
    let (_dir, run) = Setup::new().run(None);
    let analysis = judge(&run);
    assert_eq!(analysis.verdict.verdict, Verdict::Pass, "{:?}", analysis.verdict.reasons);
    assert_eq!(analysis.verdict.sub_verdict, Some(SubVerdict::StructuralDrift));
    assert!(analysis.verdict.first_failure.is_none() && analysis.verdict.first_difference.is_some());
    let c = analysis.counts;
    assert!(c.differing > 90 && c.structural > 0 && c.inherited > c.structural && c.fault + c.undecided == 0, "{c:?}");
    // Without the model the same run is not decided.
    let compared = driftprobe::analyze(&run, &run, Options::default());
    assert_eq!(compared.verdict.verdict, Verdict::Inconclusive);
    assert!(compared.counts.undecided == c.differing);
    // What it could not have seen is said.
    assert!(!analysis.examination.unwrap().power.is_empty());
}

#[test]
fn a_fault_is_placed_in_its_phase_and_what_follows_it_is_inherited() {
    let (_dir, run) = Setup::new().run(Some("ROPE_POSITION_OFFSET:+1@decode:layer2"));
    let analysis = judge(&run);
    assert_eq!(analysis.verdict.verdict, Verdict::Fail);
    assert_eq!(analysis.verdict.root_cause, Some("ROPE_DRIFT"));
    assert_eq!(first(&analysis), Some((Point::QPostRope, 2, Some(Phase::Decode))));
    assert_eq!(names(&analysis), ["ROPE_POSITION_OFFSET"]);
    let faulty = analysis.pairs.iter().filter(|pair| pair.verdict == PairVerdict::Fault);
    let faulty: Vec<_> = faulty.map(|pair| (pair.prefill.point, pair.prefill.layer)).collect();
    assert_eq!(faulty, [(Point::QPostRope, 2), (Point::KPostRope, 2)]);
    let later = analysis.pairs.iter().find(|pair| (pair.prefill.point, pair.prefill.layer) == (Point::Logits, -1));
    assert_eq!(later.unwrap().verdict, PairVerdict::Inherited);
}

#[test]
fn a_fault_of_both_phases_alike_is_found_though_nothing_differs_at_it() {
    let settings = Settings { storage: Storage::Bf16, kv_cache: Storage::Bf16, ..Settings::default() };
    let (_dir, run) = Setup { settings, ..Setup::new() }.run(Some("NORM_EPS:attn:0.001@both"));
    let analysis = judge(&run);
    assert_eq!(first(&analysis), Some((Point::AttnNormOut, 0, None)));
    let pair = &analysis.pairs[analysis.verdict.first_failure.as_ref().unwrap().pair.unwrap()];
    assert!(pair.numbers.as_ref().unwrap().differing == 0 && pair.verdict == PairVerdict::Fault);
}

#[test]
fn a_cache_slot_of_an_earlier_position_is_judged_by_the_tokens() {
    for (fault, phase, id) in [
        ("KV_DUPLICATED_SLOT:7@decode", Some(Phase::Decode), "KV_DUPLICATED_SLOT"),
        ("KV_SWAPPED_SLOTS:k:3:9@prefill", Some(Phase::Prefill), "KV_SWAPPED_SLOTS"),
        ("KV_STALE_SLOT:5@both", None, "KV_STALE_SLOT"),
    ] {
        let (_dir, run) = Setup::new().run(Some(fault));
        let analysis = judge(&run);
        assert_eq!(first(&analysis), Some((Point::KCache, 0, phase)), "{fault}");
        assert!(names(&analysis).contains(&id), "{fault}: {:?}", names(&analysis));
        // Without simulation it is not known, and no PASS.
        let blind = judge_with(&run, &run, &Oracle { budget_flops: 0.0, ..Oracle::new(&Model::demo().unwrap()) });
        assert_ne!(blind.verdict.verdict, Verdict::Pass, "{fault}");
        assert!(has(&blind, ReasonCode::NotSimulated));
    }
}

#[test]
fn a_fault_between_recorded_layers_is_placed_between_them() {
    for (fault, phase) in
        [("GQA_MAP@prefill:layer3", Some(Phase::Prefill)), ("NORM_SKIPPED:ffn@decode:layer6", Some(Phase::Decode))]
    {
        let (_dir, run) = Setup::new().run(Some(fault));
        let analysis = judge(&run);
        let layer = if fault.ends_with('3') { 4 } else { 8 };
        assert_eq!(first(&analysis), Some((Point::ResidualPreAttn, layer, phase)), "{fault}");
        assert!(has(&analysis, ReasonCode::GapFault));
        let between = driftprobe::search::between(&analysis, 9).unwrap();
        assert!(between.layers().contains(&(layer as usize - 1)) && !between.layers().contains(&2), "{between:?}");
    }
}

#[test]
fn drift_that_was_in_the_cache_goes_away_with_prefills() {
    let fault = Some("KV_STALE_SLOT:5@decode");
    let (_a, designed) = Setup::new().run(fault);
    let (_b, aligned) = Setup { mode: Mode::KvAligned, ..Setup::new() }.run(None);
    let both = combine(judge(&designed), judge(&aligned));
    assert_eq!(both.verdict.verdict, Verdict::Fail);
    let row = |point, layer| both.modes.iter().find(|row| (row.point, row.layer) == (point, layer)).unwrap();
    assert_eq!(row(Point::AttnOut, 2).says, Says::MostlyCache);
    assert_eq!(row(Point::EmbedOut, -1).says, Says::None);
    // The worse verdict counts, whichever mode has it.
    let (_c, sound) = Setup::new().run(None);
    let (_d, wrong) = Setup { mode: Mode::KvAligned, ..Setup::new() }.run(Some("SCALE_MISSING@decode:layer1"));
    let both = combine(judge(&sound), judge(&wrong));
    assert_eq!((both.verdict.verdict, both.own_verdict), (Verdict::Fail, Some(Verdict::Pass)));
    assert!(both.verdict.root_cause_why.starts_with("with prefill's cache under decode"));
}

#[test]
fn another_model_judges_nothing() {
    let (_dir, mut run) = Setup::new().run(None);
    let fingerprint = Some(Model::demo().unwrap().weights.fingerprint());
    run.manifest.as_mut().unwrap().model = Some(ModelInfo { fingerprint, ..Default::default() });
    let other = fixture("hf/llama");
    let analysis = judge_with(&run, &run, &Oracle::new(&other));
    assert!(has(&analysis, ReasonCode::WrongModel) && analysis.examination.is_none());
    assert_eq!(analysis.verdict.verdict, Verdict::Inconclusive);
    // A manifest that does not know its weights: the evidence itself shows what is not this model's.
    run.manifest.as_mut().unwrap().model = None;
    let mut model = Model::demo().unwrap();
    model.config.embed_scale = Some(3.0);
    let analysis = judge_with(&run, &run, &Oracle::new(&model));
    // Only the embeddings are not this model's: that is a fault that can be placed.
    assert_eq!(first(&analysis), Some((Point::EmbedOut, -1, None)));
}

/// Rows as they were recorded, but for some.
struct Changed<'a, F> {
    run: &'a Run,
    change: F,
}

impl<F: Fn(&Event, Row) -> Row + Sync> Rows for Changed<'_, F> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        Ok(self.run.row(event)?.map(|row| (self.change)(event, row)))
    }
}

fn without_hashes(run: &Run) -> Run {
    let mut run = run.clone();
    for event in &mut run.events {
        event.hash = None;
        event.stats = Default::default();
        event.sample = None;
        event.logits = None;
    }
    run
}

#[test]
fn zeros_constants_and_nan_in_both_phases_never_pass() {
    let (_dir, run) = Setup { layers: (0..9).collect(), ..Setup::new() }.run(None);
    let run = without_hashes(&run);
    let model = Model::demo().unwrap();
    let oracle = Oracle { budget_flops: 0.0, ..Oracle::new(&model) };
    let sound = judge_with(&run, &run, &oracle);
    assert_eq!(sound.verdict.verdict, Verdict::Pass, "{:?}", sound.verdict.reasons);
    for value in [0.0f32, 1.0, f32::NAN] {
        for point in [Point::AttnOut, Point::Logits, Point::KCache] {
            let change = |event: &Event, row: Row| match event.point == point {
                true => Row::from_f32(&vec![value; row.len()]),
                false => row,
            };
            let analysis = judge_with(&run, &Changed { run: &run, change }, &oracle);
            assert_ne!(analysis.verdict.verdict, Verdict::Pass, "{point} all {value}");
            if value != 1.0 || point != Point::KCache {
                assert_eq!(analysis.verdict.verdict, Verdict::Fail, "{point} all {value}");
            }
        }
    }
}

#[test]
fn a_contract_that_would_hide_gross_faults_is_said_so_and_blocks() {
    let (_dir, run) = Setup::new().run(Some("SCALE_WRONG:1.05@decode"));
    let model = Model::demo().unwrap();
    let loose: Contract =
        serde_json::from_str(r#"{"accumulate": "fp8_e4m3", "scores": "fp8_e4m3", "activations": "f32"}"#).unwrap();
    let analysis = judge_with(&run, &run, &Oracle { contract: Some(&loose), ..Oracle::new(&model) });
    assert!(has(&analysis, ReasonCode::LooseContract));
    assert_ne!(analysis.verdict.verdict, Verdict::Pass);
    assert!(!has(&judge(&run), ReasonCode::LooseContract));
}

#[test]
fn without_payloads_what_samples_show_is_said_and_nothing_passes() {
    let bare = Setup { payloads: false, ..Setup::new() };
    let (_dir, sound) = bare.run(None);
    let analysis = judge(&sound);
    assert_eq!(analysis.verdict.verdict, Verdict::Inconclusive);
    let reason = analysis.verdict.reasons.iter().find(|reason| reason.code == ReasonCode::NotJudged).unwrap();
    assert!(reason.examples[0].contains("record its payload at position 23"), "{:?}", reason.examples);
    let (_dir, wrong) = bare.run(Some("WEIGHT_OTHER_LAYER:o@decode:layer1"));
    let analysis = judge(&wrong);
    assert_eq!(first(&analysis), Some((Point::AttnProjOut, 1, Some(Phase::Decode))));
}

#[test]
fn what_was_not_recorded_is_named_with_its_place() {
    let (_dir, run) = Setup::new().run(None);
    let mut run = run;
    run.events.retain(|event| !matches!(event.point, Point::KCache | Point::AttnScores | Point::AttnProbs));
    run.manifest.as_mut().unwrap().points = None;
    let model = Model::demo().unwrap();
    let analysis = judge_with(&run, &run, &Oracle { budget_flops: 0.0, ..Oracle::new(&model) });
    let reason = analysis.verdict.reasons.iter().find(|reason| reason.code == ReasonCode::NotJudged).unwrap();
    let told = reason.examples.join("; ");
    assert!(told.contains("of layer 0") && told.contains("at position 23"), "{told}");
}

#[test]
fn slots_that_two_positions_share_block() {
    let (_dir, mut run) = Setup::new().run(None);
    let slots: Vec<u64> = (0..24).collect();
    let mut table = |decode: Vec<u64>| {
        run.manifest.as_mut().unwrap().slots = Some(serde_json::json!({"p0": {"prefill": slots, "decode": decode}}));
        judge(&run)
    };
    assert!(!has(&table((100..124).collect()), ReasonCode::SlotTable));
    let mut shared: Vec<u64> = (100..124).collect();
    shared[7] = 103;
    let analysis = table(shared);
    assert!(has(&analysis, ReasonCode::SlotTable) && analysis.verdict.verdict == Verdict::Inconclusive);
}
