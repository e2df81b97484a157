//! Rows of which only a part is known, each beside what proves them equal.

use crate::support::clean;
use crate::vacuity::both;
use crate::verdicts::{inconclusive, judge};
use driftprobe::verdict::Verdict;
use driftprobe::verdict::reason::ReasonCode;
use driftprobe_trace::{HashAlgo, Point, Row, RowHash, Sample};

#[test]
fn equal_samples_with_differing_tails() {
    let row = |last: f32| {
        let mut values: Vec<f32> = (0..300).map(|i| (i as f32).sin()).collect();
        values[299] = last;
        Row::from_f32(&values)
    };
    let mut memory = clean();
    let [prefill, decode] = both(&memory, Point::MlpOut, 1);
    for (index, row) in [(prefill, row(0.5)), (decode, row(0.25))] {
        memory.change(index, row.clone());
        let event = &mut memory.run.events[index];
        event.payload = None;
        event.hash = Some(row.hash(HashAlgo::GretaFnv1a256));
    }
    assert_eq!(memory.run.events[prefill].hash, memory.run.events[decode].hash);
    let got = inconclusive(&memory, ReasonCode::SampleOnly);
    assert_eq!(got.counts.undecided, 1);
    // The same hash proves a row that is known to be no longer than what it covers.
    for index in [prefill, decode] {
        let row = Row::from_f32(&[1.0, 2.0, 3.0]);
        memory.describe_only(memory.run.events[index].clone(), &row);
        let mut event = memory.run.events.pop().unwrap();
        event.hash = Some(row.hash(HashAlgo::GretaFnv1a256));
        memory.run.events[index] = event;
    }
    assert_eq!(judge(&memory).verdict.verdict, Verdict::Pass);
}

#[test]
fn a_tail_that_statistics_show_to_differ() {
    let mut memory = clean();
    let [prefill, decode] = both(&memory, Point::MlpOut, 1);
    for index in [prefill, decode] {
        let event = &mut memory.run.events[index];
        (event.payload, event.sample, event.shape) = (None, None, Some(vec![4096]));
        event.hash = Some(RowHash { algo: HashAlgo::GretaFnv1a256, value: 7 });
    }
    memory.run.events[decode].stats.max = Some(99.0);
    let got = inconclusive(&memory, ReasonCode::Differs);
    assert_eq!(got.verdict.first_failure.unwrap().point, Point::MlpOut);
}

#[test]
fn samples_alone_and_nothing_at_all() {
    let mut memory = clean();
    let indices = both(&memory, Point::MlpOut, 1);
    for index in indices {
        let event = &mut memory.run.events[index];
        (event.payload, event.hash) = (None, None);
        event.sample = Some(Sample { values: vec![1.0, 2.0], idx: None });
    }
    inconclusive(&memory, ReasonCode::SampleOnly);
    for index in indices {
        memory.run.events[index].sample = None;
    }
    let got = inconclusive(&memory, ReasonCode::NotComparable);
    assert_eq!(got.counts.missing, 1);
}

#[test]
fn hashes_that_cannot_be_compared_are_no_mismatch() {
    type Change = fn(&mut driftprobe_trace::Event);
    let changes: [Change; 3] = [
        |event| event.hash = Some(RowHash { algo: HashAlgo::GretaFnv1a256, value: 1 }),
        |event| event.shape = Some(vec![9]),
        |event| event.dtype = Some(driftprobe_trace::Dtype::Bf16),
    ];
    for change in changes {
        let mut memory = clean();
        let [prefill, decode] = both(&memory, Point::MlpOut, 1);
        memory.run.events[prefill].payload = None;
        memory.run.events[decode].payload = None;
        change(&mut memory.run.events[decode]);
        let got = inconclusive(&memory, ReasonCode::NotComparable);
        assert_eq!((got.counts.missing, got.counts.differing, got.counts.hash_differ), (1, 0, 0));
        assert!(got.verdict.first_failure.is_none());
    }
}
