//! One phase of two runs: settings that only round otherwise pass, a fault is that of the run that has it, and nothing
//! passes by what it leaves out.

use driftprobe::compare::{Comparison, Side, compare};
use driftprobe::judge::PairVerdict;
use driftprobe::judge::examine::Oracle;
use driftprobe::report::compare::{to_json, to_markdown, to_terminal, to_tsv, verdict};
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::verdict::{SubVerdict, Verdict};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{DecodeAttention, EmbeddedEngine, Engine, PrefillAttention, Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Phase, Point, PointSet, PromptInfo, Run};
use std::collections::BTreeSet;

const TOKENS: [u32; 9] = [11, 42, 7, 99, 5, 3, 8, 120, 77];

struct Recorded {
    run: Run,
    _dir: tempfile::TempDir,
}

fn recorded(engine: &dyn Engine) -> Recorded {
    let prompts = vec![PromptInfo { id: "p".into(), tokens: TOKENS.to_vec(), ..Default::default() }];
    let layers = BTreeSet::from([0, 1, 2]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let plan = Plan { layers, ..Plan::everything(engine, prompts) };
    record(engine, &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    Recorded { run: Run::open(&path).unwrap(), _dir: dir }
}

fn plain(model: &Model, settings: Settings) -> Recorded {
    recorded(&EmbeddedEngine::new(model, settings).unwrap())
}

fn blocked() -> Settings {
    Settings {
        prefill_attention: PrefillAttention::Blocked { keys: 4 },
        decode_attention: DecodeAttention::SplitK { parts: 2 },
        ..Settings::default()
    }
}

fn faulty(model: &Model, fault: &str) -> Recorded {
    let settings = Settings::default();
    let subject = Subject { model, settings: &settings, tokens: TOKENS.len() };
    recorded(&FaultyEngine::new(&subject, fault.parse::<Fault>().unwrap()).unwrap())
}

fn compared(first: &Run, second: &Run, model: Option<&Model>) -> Vec<Comparison> {
    let oracle = model.map(|model| Oracle { power: false, ..Oracle::new(model) });
    let side = |name, run| Side { name, run, rows: run, oracle };
    compare([side("one", first), side("two", second)], &mut |_| {})
}

fn has(one: &Comparison, code: ReasonCode) -> bool {
    one.reasons.iter().chain(&one.notes).any(|reason| reason.code == code)
}

#[test]
fn settings_that_round_otherwise_pass_as_structural() {
    let model = Model::demo().unwrap();
    let (a, b) = (plain(&model, Settings::default()), plain(&model, blocked()));
    let both = compared(&a.run, &b.run, Some(&model));
    assert_eq!(both.iter().map(|one| one.phase).collect::<Vec<_>>(), Phase::ALL);
    for one in &both {
        assert_eq!(
            (one.verdict, one.sub_verdict),
            (Verdict::Pass, Some(SubVerdict::StructuralDrift)),
            "{:?}",
            one.reasons
        );
        assert!(one.counts.differing > 0 && one.counts.fault == 0);
        // Blocks give no probabilities: told, and no hindrance.
        assert!(has(one, ReasonCode::OneRunPoint));
    }
    assert_eq!(verdict(&both), Verdict::Pass);
}

#[test]
fn another_storage_type_passes_by_its_own_contract() {
    let model = Model::demo().unwrap();
    let bf16 = Settings { storage: Storage::Bf16, kv_cache: Storage::Bf16, ..Settings::default() };
    let (a, b) = (plain(&model, Settings::default()), plain(&model, bf16));
    for one in compared(&a.run, &b.run, Some(&model)) {
        assert_eq!(one.verdict, Verdict::Pass, "{:?}", one.reasons);
        assert!(one.counts.differing > one.counts.identical);
    }
}

#[test]
fn a_fault_is_that_of_the_run_that_has_it() {
    let model = Model::demo().unwrap();
    let sound = plain(&model, blocked());
    let wrong = faulty(&model, "ROPE_POSITION_OFFSET:+1@prefill:layer1");
    for (runs, name) in [([&sound.run, &wrong.run], "two"), ([&wrong.run, &sound.run], "one")] {
        let both = compared(runs[0], runs[1], Some(&model));
        let [prefill, decode] = &both[..] else { panic!() };
        assert_eq!(prefill.verdict, Verdict::Fail);
        let first = &prefill.pairs[prefill.first.unwrap()];
        assert_eq!((first.prefill.point, first.prefill.layer), (Point::QPostRope, 1));
        assert_eq!(first.verdict, PairVerdict::Fault);
        assert!(prefill.why.contains(&format!("in {name} is not what its own inputs")), "{}", prefill.why);
        let (side, cause) = &prefill.causes[0];
        assert_eq!((prefill.names[*side].as_str(), cause.candidates[0].id), (name, "ROPE_POSITION_OFFSET"));
        // What follows is inherited; decode is sound in both.
        assert!(prefill.pairs.iter().filter(|pair| pair.verdict == PairVerdict::Fault).count() <= 2);
        assert_eq!(decode.verdict, Verdict::Pass, "{:?}", decode.reasons);
        assert_eq!(verdict(&both), Verdict::Fail);
        let json: serde_json::Value = serde_json::from_str(&to_json(&both)).unwrap();
        assert_eq!(json["phases"][0]["causes"][0]["run"], name);
        assert_eq!(json["phases"][0]["rows"][prefill.first.unwrap()]["at_fault"], name);
        let text = to_terminal(&both).plain();
        assert!(text.contains("prefill: FAIL") && text.contains("decode: PASS"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}

/// The row at fault need not be one that the other run has; what follows from it is inherited in every row that both have.
#[test]
fn a_fault_in_a_row_that_only_one_run_has_is_no_pass() {
    let model = Model::demo().unwrap();
    let sound = plain(&model, Settings::default());
    let wrong = faulty(&model, "ROPE_THETA@decode:layer1");
    let mut few = sound.run.clone();
    few.events.retain(|event| !event.point.layered() || event.layer == 0);
    few.manifest.as_mut().unwrap().layers = Some(vec![0]);
    let both = compared(&few, &wrong.run, Some(&model));
    assert_eq!(both[0].verdict, Verdict::Pass, "{:?}", both[0].reasons);
    assert_eq!(both[1].verdict, Verdict::Fail);
    assert!(both[1].why.contains("two is at fault by itself: p, position 8, layer 1, q_post_rope"), "{}", both[1].why);
}

/// Of two runs with different settings, only these points.
fn of_points_alone(model: &Model, points: &[Point]) -> [Comparison; 2] {
    let (a, b) = (plain(model, Settings::default()), plain(model, blocked()));
    let [first, second] = [&a, &b].map(|recorded| {
        let mut run = recorded.run.clone();
        run.events.retain(|event| points.contains(&event.point));
        run.manifest.as_mut().unwrap().points = Some(PointSet::Both(points.to_vec()));
        run
    });
    compared(&first, &second, Some(model)).try_into().unwrap()
}

#[test]
fn embeddings_alone_compare_nothing() {
    for one in of_points_alone(&Model::demo().unwrap(), &[Point::EmbedOut]) {
        assert_eq!(one.verdict, Verdict::Inconclusive);
        assert!(has(&one, ReasonCode::OnlyCopies));
    }
}

#[test]
fn logits_alone_would_have_shown_no_bug() {
    let model = Model::demo().unwrap();
    for one in of_points_alone(&model, &[Point::Logits]) {
        assert_eq!(one.verdict, Verdict::Inconclusive, "{:?}", one.reasons);
        assert!(has(&one, ReasonCode::NoPower), "{:?}", one.reasons);
    }
    // With the head's input beside them a wrong head would have been seen.
    for one in of_points_alone(&model, &[Point::FinalNormOut, Point::Logits]) {
        assert!(!has(&one, ReasonCode::NoPower), "{:?}", one.reasons);
    }
}

#[test]
fn nothing_passes_by_what_it_leaves_out() {
    let model = Model::demo().unwrap();
    let (a, b) = (plain(&model, Settings::default()), plain(&model, blocked()));
    let inconclusive = |first: &Run, second: &Run, model: Option<&Model>, code: ReasonCode| {
        for one in compared(first, second, model) {
            assert_eq!(one.verdict, Verdict::Inconclusive, "{code:?}");
            assert!(has(&one, code), "{code:?} is not among {:?}", one.reasons);
        }
    };
    // The run itself; without a model; half of it; another prompt; a run that did not end.
    inconclusive(&a.run, &a.run, Some(&model), ReasonCode::NotIndependent);
    inconclusive(&a.run, &b.run, None, ReasonCode::Differs);
    let mut less = b.run.clone();
    less.events.retain(|event| event.point != Point::MlpOut);
    inconclusive(&a.run, &less, Some(&model), ReasonCode::ExpectedMissing);
    let mut other = b.run.clone();
    other.events.iter_mut().for_each(|event| event.token_id = event.token_id.map(|token| token + 1));
    // Its embeddings are not those of the tokens that it names, which is a fault of its own.
    for one in compared(&a.run, &other, Some(&model)) {
        assert!(one.verdict != Verdict::Pass && has(&one, ReasonCode::NothingCompared));
    }
    let mut unfinished = b.run.clone();
    unfinished.manifest.as_mut().unwrap().complete = false;
    inconclusive(&a.run, &unfinished, Some(&model), ReasonCode::Incomplete);
    let mut empty = b.run.clone();
    empty.events.clear();
    inconclusive(&a.run, &empty, Some(&model), ReasonCode::NothingCompared);
    assert_eq!(verdict(&[]), Verdict::Inconclusive);
}

#[test]
fn one_setting_twice_says_that_only_repeatability_was_compared() {
    let model = Model::demo().unwrap();
    let (a, b) = (plain(&model, Settings::default()), plain(&model, Settings::default()));
    for one in compared(&a.run, &b.run, Some(&model)) {
        assert_eq!(one.sub_verdict, Some(SubVerdict::BitIdentical));
        assert!(has(&one, ReasonCode::SameSettings));
    }
    let c = plain(&model, blocked());
    assert!(compared(&a.run, &c.run, Some(&model)).iter().all(|one| !has(one, ReasonCode::SameSettings)));
}

#[test]
fn hostile_names_stay_text() {
    let hostile = "=cmd|'/c x'!A0<script>`x`\u{1b}]0;x\u{7}\t\n\u{202e}[a](http://b)";
    let model = Model::demo().unwrap();
    let (mut a, mut b) = (plain(&model, Settings::default()), plain(&model, blocked()));
    for recorded in [&mut a, &mut b] {
        for event in &mut recorded.run.events {
            event.prompt_id = hostile.into();
            event.point_spelling = hostile.into();
        }
        recorded.run.manifest.as_mut().unwrap().prompts.as_mut().unwrap()[0].id = hostile.to_owned();
    }
    let side = |name, run| Side { name, run, rows: run, oracle: None };
    let both = compare([side(hostile, &a.run), side("two", &b.run)], &mut |_| {});
    let (terminal, markdown, tsv) = (to_terminal(&both).plain(), to_markdown(&both), to_tsv(&both));
    for (format, text) in [("terminal", &terminal), ("md", &markdown), ("tsv", &tsv)] {
        assert!(text.contains("cmd"), "{format} does not name it: {text}");
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{format}: {text}");
    }
    assert!(!markdown.contains("<script>") && !markdown.contains("[a](http"), "{markdown}");
    assert!(tsv.lines().all(|line| line.split('\t').count() == 9), "{tsv}");
    assert!(!tsv.split(['\t', '\n']).any(|cell| cell.starts_with('=')), "{tsv}");
    let bars = |line: &str| line.replace("\\|", "").matches('|').count();
    let rows: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10 && rows.iter().all(|row| bars(row) == bars(rows[0])), "{markdown}");
    let parsed: serde_json::Value = serde_json::from_str(&to_json(&both)).unwrap();
    assert_eq!(parsed["runs"][0], hostile);
}
