//! Runs whose rows are equal and that still deserve no PASS: what the events say is wrong of their rows, of their keys or of
//! each other, or the rows compared test nothing. Each stands beside the clean run, which passes.

mod support;

use driftprobe::reason::ReasonCode;
use driftprobe::{Analysis, Options, Verdict, analyze};
use driftprobe_trace::{Event, LogitsTop, Phase, Point, PointSet, Row, Sample};
use support::{Memory, clean, event, shaped};

fn judge(memory: &Memory) -> Analysis {
    analyze(&memory.run, memory, Options::default())
}

#[track_caller]
fn inconclusive(memory: &Memory, code: ReasonCode) -> Analysis {
    let got = judge(memory);
    let codes: Vec<_> = got.verdict.reasons.iter().map(|reason| reason.code).collect();
    assert_eq!(got.verdict.verdict, Verdict::Inconclusive, "{codes:?}");
    assert!(codes.contains(&code), "{code:?} is not among {codes:?}");
    got
}

#[track_caller]
fn passes(memory: &Memory) -> Analysis {
    let got = judge(memory);
    assert_eq!(got.verdict.verdict, Verdict::Pass, "{:?}", got.verdict.reasons);
    got
}

/// The clean run, both events of one point of layer 0 (or none) at position 3 of `p1` changed alike.
fn with(point: Point, payloads: bool, change: impl Fn(&mut Event)) -> Memory {
    with_phases(point, payloads, |event| change(event))
}

fn with_phases(point: Point, payloads: bool, mut change: impl FnMut(&mut Event)) -> Memory {
    let mut memory = clean();
    for event in &mut memory.run.events {
        if !payloads {
            event.payload = None;
        }
        if (event.point, event.layer.max(0), event.logical_tok_idx, &*event.prompt_id) == (point, 0, Some(3), "p1") {
            change(event);
        }
    }
    memory
}

fn top(event: &mut Event) -> &mut LogitsTop {
    event.logits.as_mut().unwrap()
}

#[test]
fn logits_that_contradict_an_equal_hash() {
    passes(&with(Point::Logits, false, |_| {}));
    let in_decode = |change: fn(&mut LogitsTop)| {
        with_phases(Point::Logits, false, |event| {
            if event.phase == Phase::Decode {
                change(top(event));
            }
        })
    };
    inconclusive(&in_decode(|top| top.top1_id = Some(77)), ReasonCode::Contradiction);
    inconclusive(&in_decode(|top| top.top1_logit = Some(9.0)), ReasonCode::Contradiction);
    inconclusive(&in_decode(|top| top.gap = Some(9.0)), ReasonCode::Contradiction);
}

#[test]
fn not_a_number_beside_finite_statistics() {
    type Change = fn(&mut Event);
    let changes: [Change; 4] = [
        |event| top(event).top1_logit = Some(f64::NAN),
        |event| top(event).top2_logit = Some(f64::NAN),
        |event| top(event).gap = Some(f64::NAN),
        |event| event.stats.abs_sum = Some(f64::NAN),
    ];
    for change in changes {
        let got = judge(&with(Point::Logits, false, change));
        assert_eq!((got.verdict.verdict, got.verdict.root_cause), (Verdict::Fail, Some("LOGITS_DRIFT")));
    }
}

#[test]
fn two_infinite_logits_are_no_nan() {
    let mut memory = clean();
    for index in 0..memory.run.events.len() {
        if memory.run.events[index].point == Point::Logits {
            memory.change(index, Row::from_f32(&[f32::INFINITY, f32::INFINITY, 1.0]));
            memory.run.events[index].payload = None;
        }
    }
    let got = judge(&memory);
    assert_ne!(got.verdict.verdict, Verdict::Fail, "{:?}", got.verdict.reasons);
}

#[test]
fn an_event_that_contradicts_its_own_payload() {
    passes(&with(Point::MlpOut, true, |_| {}));
    type Change = fn(&mut Event);
    let changes: [Change; 8] = [
        |event| event.stats.inf = Some(3),
        |event| event.stats.nz_count = Some(7),
        |event| event.stats.min = Some(99.0),
        |event| event.stats.max = event.stats.max.map(|max| max * 1.001),
        |event| event.stats.mean = Some(1.0),
        |event| event.stats.abs_sum = event.stats.abs_sum.map(|sum| sum * 1.001),
        |event| event.sample = Some(Sample { values: vec![99.0], idx: None }),
        |event| event.sample = Some(Sample { values: vec![1.0], idx: Some(vec![8]) }),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let got = inconclusive(&with(Point::MlpOut, true, change), ReasonCode::PayloadDamaged);
        assert_eq!(got.counts.undecided, 1, "change {number}");
    }
    inconclusive(&with(Point::Logits, true, |event| top(event).top1_id = Some(77)), ReasonCode::PayloadDamaged);
    inconclusive(&with(Point::MlpOut, true, |event| event.shape = Some(vec![3])), ReasonCode::PayloadDamaged);
    let nan = judge(&with(Point::MlpOut, true, |event| event.stats.nan = Some(3)));
    assert_ne!(nan.verdict.verdict, Verdict::Pass);
}

#[test]
fn printed_decimals_contradict_nothing() {
    let printed = |value: f64| format!("{value:.5e}").parse::<f64>().unwrap();
    let memory = with(Point::MlpOut, true, |event| {
        for value in [&mut event.stats.min, &mut event.stats.max, &mut event.stats.mean, &mut event.stats.abs_sum] {
            *value = value.map(printed);
        }
    });
    passes(&memory);
}

#[test]
fn statistics_that_no_row_has() {
    let memory = with(Point::MlpOut, false, |event| (event.stats.min, event.stats.max) = (Some(5.0), Some(-5.0)));
    inconclusive(&memory, ReasonCode::Contradiction);
    inconclusive(&with(Point::MlpOut, false, |event| event.stats.nz_count = Some(9)), ReasonCode::Contradiction);
}

#[test]
fn infinities_among_probabilities() {
    let with_probs = |inf: [u64; 2]| {
        let mut memory = clean();
        memory.run.manifest.as_mut().unwrap().points =
            Some(PointSet::Both([support::POINTS.as_slice(), &[Point::AttnProbs]].concat()));
        for (prompt, tokens) in [("p0", vec![3, 1, 4]), ("p1", vec![1, 5, 9, 2])] {
            for position in tokens.len() - 2..tokens.len() {
                for layer in 0..2 {
                    for (phase, inf) in [Phase::Prefill, Phase::Decode].into_iter().zip(inf) {
                        let values: Vec<f32> = (0..=position).map(|i| 0.1 + (i + position) as f32 * 0.01).collect();
                        let row = shaped(&[1, values.len() as u64], &values);
                        let event = event(prompt, phase, Point::AttnProbs, layer, position as u64, tokens[position]);
                        memory.describe_only(event, &row);
                        memory.run.events.last_mut().unwrap().stats.inf = Some(inf);
                    }
                }
            }
        }
        judge(&memory)
    };
    assert_eq!(with_probs([0, 0]).verdict.reasons, []);
    let got = with_probs([0, 3]);
    assert_eq!((got.verdict.verdict, got.verdict.root_cause), (Verdict::Fail, Some("ATTN_PROBS_DRIFT")));
    assert!(with_probs([2, 2]).verdict.notes.iter().any(|note| note.code == ReasonCode::InfiniteBoth));
}
