//! What must never PASS, each shown beside the clean run that does.

use crate::support::{Memory, clean, event, shaped};
use crate::verdicts::{inconclusive, judge};
use driftprobe::judge::PairVerdict;
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::{EXIT_PASS, Options, Verdict, analyze};
use driftprobe_trace::{PayloadRef, Phase, Point, PointSet, Row};

#[track_caller]
fn fails(memory: &Memory, point: Point, phase: Option<Phase>) {
    let got = judge(memory);
    assert_eq!((got.verdict.verdict, got.exit_code()), (Verdict::Fail, 1));
    assert_eq!(got.verdict.root_cause, Some(point.code()));
    let pair = got.pairs.iter().find(|pair| pair.verdict == PairVerdict::NonFinite).unwrap();
    assert_eq!((pair.prefill.point, pair.phase), (point, phase));
}

/// Both events of one point, layer and position of `p1`.
pub fn both(memory: &Memory, point: Point, layer: i32) -> [usize; 2] {
    Phase::ALL.map(|phase| {
        let is = |event: &driftprobe_trace::Event| {
            (event.phase, event.point, event.layer, event.logical_tok_idx, &*event.prompt_id)
                == (phase, point, layer, Some(3), "p1")
        };
        memory.run.events.iter().position(is).unwrap()
    })
}

#[test]
fn a_complete_bit_identical_run_passes() {
    let got = judge(&clean());
    assert_eq!(got.verdict.reasons, []);
    assert_eq!(got.verdict.notes, []);
    assert_eq!((got.verdict.verdict, got.exit_code()), (Verdict::Pass, EXIT_PASS));
    assert_eq!(got.verdict.sub_verdict.map(|sub| sub.id()), Some("BIT_IDENTICAL"));
    // 2 prompts × 2 positions × (2 unlayered + 3 layered × 2 layers).
    assert_eq!((got.counts.total, got.counts.identical), (32, 32));
    assert_eq!((got.coverage.expected, got.coverage.found), (Some(64), [32, 32]));
    assert!(got.verdict.first_failure.is_none());
}

#[test]
fn a_bit_identical_run_without_payloads_passes_on_whole_row_hashes() {
    let mut memory = clean();
    for event in &mut memory.run.events {
        event.payload = None;
    }
    assert_eq!(judge(&memory).verdict.verdict, Verdict::Pass);
}

#[test]
fn nothing_and_half_of_it() {
    let mut memory = clean();
    memory.run.events.clear();
    inconclusive(&memory, ReasonCode::NothingCompared);
    inconclusive(&memory, ReasonCode::ExpectedMissing);
    inconclusive(&Memory::default(), ReasonCode::NothingCompared);
    for phase in Phase::ALL {
        let mut memory = clean();
        memory.run.events.retain(|event| event.phase == phase);
        let got = inconclusive(&memory, ReasonCode::NothingCompared);
        assert_eq!(got.unpaired.len(), 32);
        assert!(got.advice.recommendations[0].contains(&format!("All events are of the {phase} phase")));
    }
}

#[test]
fn one_event_dropped_anywhere() {
    for index in 0..clean().run.events.len() {
        let mut memory = clean();
        memory.run.events.remove(index);
        let got = inconclusive(&memory, ReasonCode::ExpectedMissing);
        assert_eq!((got.unpaired.len(), got.missing.len(), got.counts.total), (1, 1, 31));
    }
}

#[test]
fn shifted_positions() {
    let mut memory = clean();
    for event in memory.run.events.iter_mut().filter(|event| event.phase == Phase::Decode) {
        event.logical_tok_idx = event.logical_tok_idx.map(|at| at + 1);
        event.pos_id = event.pos_id.map(|at| at + 1);
    }
    let got = inconclusive(&memory, ReasonCode::Unexpected);
    assert_eq!(got.counts.total, 0);
    assert_eq!(got.verdict.root_cause, Some("TRACE_OFFSET"));
    // Shifted alike in both phases they pair, and are still not what was promised.
    for event in memory.run.events.iter_mut().filter(|event| event.phase == Phase::Prefill) {
        event.logical_tok_idx = event.logical_tok_idx.map(|at| at + 1);
        event.pos_id = event.pos_id.map(|at| at + 1);
    }
    let got = inconclusive(&memory, ReasonCode::Unexpected);
    assert_eq!(got.counts.total, 32);
}

#[test]
fn another_token_or_an_extra_row() {
    let mut memory = clean();
    for index in both(&memory, Point::AttnOut, 0) {
        memory.run.events[index].token_id = Some(77);
    }
    inconclusive(&memory, ReasonCode::Unexpected);
    let mut memory = clean();
    for phase in Phase::ALL {
        memory.record(event("p1", phase, Point::AttnOut, 7, 3, 2), Row::from_f32(&[1.0, 2.0]));
    }
    let got = inconclusive(&memory, ReasonCode::Unexpected);
    assert_eq!((got.coverage.unexpected, got.counts.identical), (2, 33));
}

#[test]
fn duplicates() {
    let mut memory = clean();
    let again = memory.run.events[5].clone();
    memory.run.events.push(again);
    let got = inconclusive(&memory, ReasonCode::DuplicateKeys);
    assert_eq!((got.counts.total, got.unpaired.len(), got.coverage.duplicates), (32, 1, 1));
    // A second, different event of the key: none of them is known to be the row.
    memory.run.events.last_mut().unwrap().stats.max = Some(9.0);
    let got = inconclusive(&memory, ReasonCode::DuplicateKeys);
    assert_eq!((got.counts.total, got.unpaired.len(), got.coverage.duplicates), (31, 3, 1));
}

#[test]
fn the_manifest_does_not_carry_it() {
    let mut memory = clean();
    memory.run.manifest.as_mut().unwrap().complete = false;
    inconclusive(&memory, ReasonCode::Incomplete);
    memory.run.manifest = None;
    inconclusive(&memory, ReasonCode::NoManifest);
    let mut memory = clean();
    memory.run.manifest.as_mut().unwrap().steps = None;
    inconclusive(&memory, ReasonCode::ExpectedUnknown);
    let mut memory = clean();
    memory.run.manifest.as_mut().unwrap().layers.as_mut().unwrap().push(2);
    inconclusive(&memory, ReasonCode::ExpectedMissing);
}

#[test]
fn a_point_of_one_phase_is_said_and_does_not_block() {
    let mut memory = clean();
    let mut prefill = crate::support::POINTS.to_vec();
    prefill.push(Point::AttnProjOut);
    let decode = crate::support::POINTS.to_vec();
    memory.run.manifest.as_mut().unwrap().points = Some(PointSet::PerPhase { prefill, decode });
    memory.record(event("p1", Phase::Prefill, Point::AttnProjOut, 0, 3, 2), Row::from_f32(&[1.0, 2.0]));
    let got = judge(&memory);
    assert_eq!(got.verdict.verdict, Verdict::Pass, "{:?}", got.verdict.reasons);
    assert_eq!((got.unpaired.len(), got.verdict.notes[0].code), (1, ReasonCode::OnePhasePoint));
    let terminal = driftprobe::report::to_terminal(&got).plain().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(terminal.contains(", 1 row of points that only one phase gives."), "{terminal}");
    assert!(!terminal.contains("unpaired"), "{terminal}");
}

#[test]
fn the_same_computation_twice() {
    let mut memory = clean();
    for event in memory.run.events.iter_mut().filter(|event| event.phase == Phase::Decode) {
        event.seq_len = Some(4);
    }
    let got = inconclusive(&memory, ReasonCode::NotIndependent);
    assert_eq!(got.counts.identical, 0);

    let mut memory = clean();
    let [prefill, decode] = both(&memory, Point::MlpOut, 1);
    memory.run.events[decode].payload = memory.run.events[prefill].payload.clone();
    inconclusive(&memory, ReasonCode::NotIndependent);

    let mut memory = clean();
    for event in &mut memory.run.events {
        event.seq_len = Some(1);
    }
    inconclusive(&memory, ReasonCode::PrefillOneToken);

    let mut memory = clean();
    memory.run.events[3].seq_len = None;
    inconclusive(&memory, ReasonCode::SeqLenUnknown);
}

#[test]
fn one_prefill_row_computed_alone_is_only_noted() {
    let mut memory = clean();
    let [prefill, _] = both(&memory, Point::MlpOut, 1);
    memory.run.events[prefill].seq_len = Some(1);
    let got = judge(&memory);
    assert_eq!(got.verdict.verdict, Verdict::Pass);
    assert_eq!(got.verdict.notes[0].code, ReasonCode::SomePrefillOneToken);
}

#[test]
fn weak_keys() {
    let mut memory = clean();
    let [_, decode] = both(&memory, Point::MlpOut, 1);
    memory.run.events[decode].token_id = None;
    let got = inconclusive(&memory, ReasonCode::WeaklyKeyed);
    assert_eq!((got.counts.identical, got.coverage.weakly_keyed), (32, 1));
}

#[test]
fn nan_on_both_sides_and_on_one() {
    let mut memory = clean();
    let nan = Row::from_f32(&[1.0, f32::NAN, 2.0]);
    for index in both(&memory, Point::AttnOut, 1) {
        memory.change(index, nan.clone());
    }
    fails(&memory, Point::AttnOut, None);
    let mut memory = clean();
    let [prefill, decode] = both(&memory, Point::MlpOut, 0);
    memory.change(prefill, Row::from_f32(&[1.0, 3.0, 2.0]));
    memory.change(decode, nan);
    fails(&memory, Point::MlpOut, Some(Phase::Decode));
    // Known only from the counts.
    for event in &mut memory.run.events {
        event.payload = None;
    }
    fails(&memory, Point::MlpOut, Some(Phase::Decode));
}

#[test]
fn infinity_on_one_side() {
    let mut memory = clean();
    let [prefill, decode] = both(&memory, Point::Logits, -1);
    memory.change(prefill, Row::from_f32(&[1.0, f32::INFINITY]));
    memory.change(decode, Row::from_f32(&[1.0, 2.0]));
    fails(&memory, Point::Logits, Some(Phase::Prefill));
    // The same infinity on both sides is only noted; another one is a finding.
    memory.change(decode, Row::from_f32(&[1.0, f32::INFINITY]));
    let got = judge(&memory);
    assert_eq!((got.verdict.verdict, got.verdict.notes[0].code), (Verdict::Pass, ReasonCode::InfiniteBoth));
    memory.change(decode, Row::from_f32(&[f32::INFINITY, 1.0]));
    fails(&memory, Point::Logits, None);
}

#[test]
fn nan_in_an_event_without_partner() {
    let mut memory = clean();
    let [prefill, decode] = both(&memory, Point::AttnOut, 1);
    memory.change(prefill, Row::from_f32(&[f32::NAN]));
    memory.run.events.remove(decode);
    let got = judge(&memory);
    assert_eq!((got.verdict.verdict, got.verdict.root_cause), (Verdict::Fail, Some("ATTN_OUT_DRIFT")));
}

#[test]
fn finiteness_that_was_not_recorded() {
    let mut memory = clean();
    for event in &mut memory.run.events {
        event.payload = None;
        event.stats = Default::default();
    }
    inconclusive(&memory, ReasonCode::FinitenessUnknown);
}

#[test]
fn all_zero_and_constant() {
    for value in [0.0, 0.25] {
        let mut memory = clean();
        for index in 0..memory.run.events.len() {
            memory.change(index, Row::from_f32(&[value; 8]));
        }
        inconclusive(&memory, ReasonCode::Vacuous);
        // One point is enough; one row of it is only noted.
        let mut memory = clean();
        for index in 0..memory.run.events.len() {
            if memory.run.events[index].point == Point::AttnOut {
                memory.change(index, Row::from_f32(&[value; 8]));
            }
        }
        inconclusive(&memory, ReasonCode::Vacuous);
        let mut memory = clean();
        for index in both(&memory, Point::AttnOut, 0) {
            memory.change(index, Row::from_f32(&[value; 8]));
        }
        let got = judge(&memory);
        assert_eq!((got.verdict.verdict, got.verdict.notes[0].code), (Verdict::Pass, ReasonCode::SomeVacuous));
    }
}

#[test]
fn damaged_payload_and_contradicting_event() {
    let mut memory = clean();
    let [prefill, _] = both(&memory, Point::MlpOut, 1);
    memory.run.events[prefill].hash.as_mut().unwrap().value ^= 1;
    let got = inconclusive(&memory, ReasonCode::PayloadDamaged);
    assert_eq!(got.counts.undecided, 1);

    let mut memory = clean();
    let [prefill, decode] = both(&memory, Point::MlpOut, 1);
    memory.run.events[prefill].payload = None;
    memory.run.events[decode].payload = None;
    memory.run.events[decode].stats.max = Some(123.0);
    inconclusive(&memory, ReasonCode::Contradiction);
}

#[test]
fn a_payload_that_cannot_be_read() {
    let mut memory = clean();
    let [prefill, _] = both(&memory, Point::MlpOut, 1);
    memory.run.events[prefill].payload = Some(PayloadRef { file: "tensors/none.safetensors".into(), key: "k".into() });
    // `Run` itself as source of rows: no file is there.
    let got = analyze(&memory.run, &memory.run, Options::default());
    assert!(got.verdict.reasons.iter().any(|reason| reason.code == ReasonCode::PayloadDamaged));
    assert_eq!(got.verdict.verdict, Verdict::Inconclusive);
}

#[test]
fn embeddings_of_one_token_cannot_differ() {
    let mut memory = clean();
    let [_, decode] = both(&memory, Point::EmbedOut, -1);
    memory.change(decode, Row::from_f32(&[0.5; 8]));
    let got = inconclusive(&memory, ReasonCode::PairingInDoubt);
    assert_eq!(got.verdict.root_cause, None);
}

#[test]
fn a_difference_is_undecided_with_its_size() {
    let mut memory = clean();
    let [prefill, decode] = both(&memory, Point::AttnOut, 1);
    memory.change(prefill, Row::from_f32(&[3.0, 4.0]));
    memory.change(decode, Row::from_f32(&[3.0, 4.5]));
    let got = inconclusive(&memory, ReasonCode::Differs);
    let first = got.verdict.first_failure.unwrap();
    let pair = &got.pairs[first.pair.unwrap()];
    assert_eq!((pair.verdict, pair.code()), (PairVerdict::Undecided, "ATTN_OUT_DRIFT"));
    let numbers = pair.numbers.as_ref().unwrap();
    assert_eq!((numbers.max_abs, numbers.rel_l2, numbers.max_ulp), (0.5, Some(0.1), Some(1 << 20)));
}

#[test]
fn masked_columns_are_exempt_and_open_ones_are_not() {
    let scores = |tail: f32, seq: u64| {
        let columns = |head: f32| {
            let own = (0..4).map(move |column| head + column as f32);
            own.chain(std::iter::repeat_n(tail, seq as usize - 4)).collect::<Vec<_>>()
        };
        shaped(&[2, seq], &[columns(0.5), columns(-3.0)].concat())
    };
    let with = |prefill: Row, decode: Row| {
        let mut memory = clean();
        let manifest = memory.run.manifest.as_mut().unwrap();
        manifest.points = Some(PointSet::Both([crate::support::POINTS.as_slice(), &[Point::AttnScores]].concat()));
        manifest.prompts.as_mut().unwrap().remove(0);
        (manifest.layers, manifest.steps) = (Some(vec![0]), Some(1));
        memory
            .run
            .events
            .retain(|event| &*event.prompt_id == "p1" && event.logical_tok_idx == Some(3) && event.layer < 1);
        memory.record(event("p1", Phase::Prefill, Point::AttnScores, 0, 3, 2), prefill);
        memory.record(event("p1", Phase::Decode, Point::AttnScores, 0, 3, 2), decode);
        memory
    };
    let masked = with(scores(f32::NEG_INFINITY, 6), scores(0.0, 4));
    assert_eq!(judge(&masked).verdict.verdict, Verdict::Pass, "{:?}", judge(&masked).verdict.reasons);
    let lowest = with(scores(f32::MIN, 6), scores(f32::NEG_INFINITY, 5));
    assert_eq!(judge(&lowest).verdict.verdict, Verdict::Pass, "{:?}", judge(&lowest).verdict.reasons);
    inconclusive(&with(scores(0.25, 6), scores(0.0, 4)), ReasonCode::OpenColumns);
    let mut other = with(scores(f32::NEG_INFINITY, 6), scores(0.0, 4));
    other.change(other.run.events.len() - 1, scores(0.0, 4).clone());
    let mut values = scores(0.0, 4).to_f64().iter().map(|value| *value as f32).collect::<Vec<_>>();
    values[7] += 1.0;
    other.change(other.run.events.len() - 1, shaped(&[2, 4], &values));
    let got = inconclusive(&other, ReasonCode::Differs);
    assert_eq!(got.verdict.first_failure.unwrap().point, Point::AttnScores);
}

#[test]
fn an_engine_that_does_not_repeat_itself() {
    let mut memory = clean();
    let mut repeat = memory.run.clone();
    for event in &mut repeat.events {
        event.payload = None;
    }
    repeat.manifest.as_mut().unwrap().repeat = 1;
    memory.run.repeats = vec![repeat];
    let got = judge(&memory);
    assert_eq!(got.verdict.verdict, Verdict::Pass, "{:?}", got.verdict.reasons);
    assert_eq!((got.repeats.len(), got.repeats[1].equal, got.repeats[1].differing), (2, 32, 0));

    let [prefill, decode] = both(&memory, Point::MlpOut, 1);
    memory.run.repeats[0].events[decode].hash.as_mut().unwrap().value ^= 1;
    let got = inconclusive(&memory, ReasonCode::NotRepeatable);
    assert_eq!((got.repeats[0].differing, got.repeats[1].differing), (0, 1));
    memory.run.repeats[0].events.remove(prefill);
    let got = judge(&memory);
    assert_eq!(got.repeats[0].without_partner, [1, 0]);
    assert!(got.verdict.notes.iter().any(|note| note.code == ReasonCode::RepeatIncomplete));
}
