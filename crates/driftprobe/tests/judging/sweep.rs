//! A setting over its values: where blocks of keys begin to tell is found to the key, what changes nothing parts nowhere, and
//! the worst run's verdict is the sweep's.

use driftprobe::report::plot::sweep_picture;
use driftprobe::report::sweep::{COLUMNS, to_json, to_markdown, to_terminal, to_tsv};
use driftprobe::sweep::{Onset, Step, Sweep};
use driftprobe::{Analysis, Options, Verdict, analyze_against, judge::examine::Oracle};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, PrefillAttention, Settings};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Point, PromptInfo, Run};
use std::collections::BTreeSet;
use std::path::Path;

const TOKENS: [u32; 9] = [11, 42, 7, 99, 5, 3, 8, 120, 77];

fn demo() -> Model {
    Model::open(Path::new("DEMO")).unwrap()
}

struct Recorded {
    run: Run,
    analysis: Analysis,
    _dir: tempfile::TempDir,
}

/// A run, judged by the model if there is one.
fn recorded(model: Option<&Model>, engine: &dyn Engine, steps: usize) -> Recorded {
    let prompts = vec![PromptInfo { id: "p".into(), tokens: TOKENS.to_vec(), ..Default::default() }];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let plan = Plan { layers: BTreeSet::from([0, 1]), steps, ..Plan::everything(engine, prompts) };
    record(engine, &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(&path).unwrap();
    let oracle = model.map(|model| Oracle { power: false, ..Oracle::new(model) });
    let analysis = analyze_against((&run, &run), oracle.as_ref(), Options::default(), &mut |_| {});
    Recorded { run, analysis, _dir: dir }
}

fn blocked(model: &Model, keys: usize) -> Recorded {
    let prefill_attention = PrefillAttention::Blocked { keys };
    let settings = Settings { prefill_attention, ..Settings::default() };
    recorded(None, &EmbeddedEngine::new(model, settings).unwrap(), 40)
}

fn sweep(all: &[(&str, &Recorded)]) -> Sweep {
    let mut sweep = Sweep { axis: "prefill-attention".to_owned(), unit: None, steps: vec![] };
    let (first, rest) = all.split_first().unwrap();
    sweep.steps.push(Step::of(first.0, &first.1.analysis));
    for (value, made) in rest {
        let mut step = Step::of(value, &made.analysis);
        step.hold_against((&first.1.run, first.0), &made.run, &mut |_| {});
        sweep.steps.push(step);
    }
    sweep
}

#[test]
fn the_first_row_beyond_a_block_is_where_drift_sets_in() {
    let model = demo();
    let (one, two, again) = (blocked(&model, 1000), blocked(&model, 32), blocked(&model, 1000));
    let sweep = sweep(&[("blocked:1000", &one), ("blocked:32", &two), ("again", &again)]);
    let [prefill, decode] = sweep.steps[1].against_first.as_ref().unwrap();
    // A block of 32 keys: a row of 33 is the first that has two. Rows of 9 to 48 keys were recorded.
    let onset = Onset { point: Point::AttnOut, layer: 0, kv_len: 33, equal_to: Some(32), equal_beyond: 0 };
    assert_eq!(prefill.onset, Some(onset));
    assert_eq!(prefill.along.len(), 40);
    let sets_in = |&(keys, distance): &(u64, f64)| (distance > 0.0) == (keys >= 33);
    assert!(prefill.along.iter().all(sets_in), "{:?}", prefill.along);
    // Decode's kernel is the same, and so are its bits but for what it reads of prefill's cache: here, nothing.
    assert!(decode.compared > 0 && decode.equal == decode.compared && decode.onset.is_none());
    let [prefill, decode] = sweep.steps[2].against_first.as_ref().unwrap();
    assert!(prefill.compared > 0 && prefill.equal == prefill.compared && prefill.along.is_empty());
    assert_eq!((decode.onset, decode.not_compared), (None, 0));
    // No model judged these runs.
    assert_eq!(sweep.verdict(), Verdict::Inconclusive);

    let text = to_terminal(&sweep).plain();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("from 33         nowhere") && text.contains("nowhere         nowhere"), "{text}");
    let said = "bit-equal to blocked:1000 up to kv_len 32, parts from kv_len 33 on (layer 0, attn_out; ";
    let markdown = to_markdown(&sweep);
    assert_eq!(markdown.lines().filter(|line| line.starts_with("- blocked:32, prefill: bit-equal")).count(), 1);
    assert_eq!(markdown.lines().filter(|line| line.starts_with("| ")).count(), 1 + sweep.steps.len());
    let tsv = to_tsv(&sweep);
    assert!(tsv.contains(said) && tsv.lines().all(|line| line.split('\t').count() == COLUMNS.len()), "{tsv}");
    let json: serde_json::Value = serde_json::from_str(&to_json(&sweep)).unwrap();
    assert_eq!(json["values"][1]["prefill_against_first"]["onset"]["kv_len"], 33);
    assert_eq!(json["values"][0]["prefill_against_first"], serde_json::Value::Null);
    let drawn = sweep_picture(&sweep).unwrap();
    assert!(drawn.says.contains(said) && drawn.to_svg("t").contains("keys that a row of prefill sees"));
}

#[test]
fn a_fault_under_one_value_is_the_sweeps_verdict_and_nothing_compared_is_not_equality() {
    let model = demo();
    let settings = Settings::default();
    let plain = recorded(Some(&model), &EmbeddedEngine::new(&model, settings.clone()).unwrap(), 1);
    let fault: Fault = "NORM_EPS:attn:0.01@decode:layer1".parse().unwrap();
    let subject = Subject { model: &model, settings: &settings, tokens: TOKENS.len() };
    let wrong = recorded(Some(&model), &FaultyEngine::new(&subject, fault).unwrap(), 1);
    let sweep = sweep(&[("plain", &plain), ("wrong", &wrong)]);
    assert_eq!(sweep.verdict(), Verdict::Fail);
    let text = to_terminal(&sweep).plain();
    assert!(text.starts_with("FAIL over 2 values") && text.contains("layer 1, attn_norm_out"), "{text}");
    let [prefill, decode] = sweep.steps[1].against_first.as_ref().unwrap();
    assert_eq!(prefill.onset, None);
    // One row a stage was recorded: no shorter one stands for where it sets in.
    let onset = decode.onset.unwrap();
    assert_eq!((onset.point, onset.layer, onset.equal_to), (Point::AttnNormOut, 1, None));

    let mut empty = Step::of("empty", &plain.analysis);
    empty.phases = driftprobe::sweep::Parting::of(&[]);
    empty.against_first = Some([empty.phases.clone(), empty.phases.clone()]);
    let sweep = Sweep { steps: vec![Step::of("first", &plain.analysis), empty], ..sweep };
    let text = to_terminal(&sweep).plain();
    assert!(text.contains("not compared") && text.contains("no row was compared with first's"), "{text}");
    assert!(!text.contains("nowhere"), "{text}");
    assert_eq!(Sweep { steps: vec![], ..sweep }.verdict(), Verdict::Inconclusive);
}
