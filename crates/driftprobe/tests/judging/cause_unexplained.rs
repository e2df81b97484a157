//! What no hypothesis explains is not given a name, and what is clean has no cause.

use crate::oracle_support::{Recording, contracts, fixture, recording};
use driftprobe::cause::{Cause, find};
use driftprobe::oracle::{Float, Replay};
use driftprobe_engine::{Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{Dtype, Event, Phase, Point, Row, Rows, Run, TraceError};

/// A run in which the rows of some events are altered.
struct Altered<'a> {
    run: &'a Run,
    is_altered: &'a (dyn Fn(&Event) -> bool + Sync),
    alter: &'a (dyn Fn(usize, f64) -> f64 + Sync),
}

impl Rows for Altered<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let row = self.run.row(event)?;
        if !(self.is_altered)(event) {
            return Ok(row);
        }
        Ok(row.map(|row| {
            let values = row.to_f64().into_iter().enumerate();
            let values = values.map(|(i, x)| Float::of(row.dtype).round((self.alter)(i, x)));
            let bytes = values.flat_map(|v| match row.dtype {
                Dtype::F32 => (v as f32).to_le_bytes().to_vec(),
                Dtype::Bf16 => half::bf16::from_f64(v).to_le_bytes().to_vec(),
                other => panic!("{other:?} is not used here"),
            });
            Row::new(row.dtype, row.shape.clone(), bytes.collect()).unwrap()
        }))
    }
}

/// A recorded run, for one storage format.
fn recorded(storage: Storage) -> (Model, Recording) {
    let model = fixture("hf/llama");
    let settings = Settings { storage, kv_cache: storage, ..Settings::default() };
    let recording = recording(&model, settings, &[20], 2);
    (model, recording)
}

/// The cause in decode when one point of layer 1 is altered.
fn cause((model, recorded): &(Model, Recording), point: Point, alter: &(dyn Fn(usize, f64) -> f64 + Sync)) -> Cause {
    let run = &recorded.run;
    let is_altered = |e: &Event| (e.phase, e.point) == (Phase::Decode, point) && (e.layer == 1 || !point.layered());
    let rows = Altered { run, is_altered: &is_altered, alter };
    let replay = Replay::new(model, run.manifest.as_ref());
    let judged = Phase::ALL.map(|p| replay.phase(&run.events, &rows, p).unwrap());
    let mut causes = find(&replay, &run.events, &rows, &judged).unwrap();
    assert_eq!(causes.len(), 1);
    let cause = causes.remove(0);
    assert_eq!((cause.phase, cause.point), (Phase::Decode, point));
    println!("{point}: {:?} {}", cause.candidates, cause.evidence);
    cause
}

#[test]
fn what_is_clean_has_no_cause() {
    let model = fixture("hf/qwen3");
    for (name, settings) in contracts() {
        let recorded = recording(&model, settings, &[9], 2);
        let run = &recorded.run;
        let replay = Replay::new(&model, run.manifest.as_ref());
        let judged = Phase::ALL.map(|p| replay.phase(&run.events, run, p).unwrap());
        assert_eq!(find(&replay, &run.events, run, &judged).unwrap(), [], "{name}");
    }
}

#[test]
fn a_pattern_that_is_no_bug_of_the_catalogue_stays_unexplained() {
    let points = [
        Point::EmbedOut,
        Point::AttnNormOut,
        Point::QPreRope,
        Point::QPostRope,
        Point::KPostRope,
        Point::AttnScores,
        Point::AttnProbs,
        Point::AttnOut,
        Point::AttnProjOut,
        Point::ResidualPostAttn,
        Point::MlpUp,
        Point::MlpAct,
        Point::MlpOut,
        Point::FinalNormOut,
        Point::Logits,
    ];
    for storage in [Storage::F32, Storage::Bf16] {
        let recorded = recorded(storage);
        for point in points {
            // Every element by another few per cent.
            let noise = |i: usize, x: f64| {
                if x.is_finite() { x * (1.0 + 0.1 * ((i * 37 % 17) as f64 / 17.0 - 0.4)) } else { x }
            };
            let found = cause(&recorded, point, &noise);
            assert!(found.candidates.is_empty(), "{point}: {:?}", found.candidates);
            assert!(found.evidence.contains("are off") && !found.tested.is_empty(), "{point}: {}", found.evidence);
            assert!(found.noise_rms_before > 2.0);
        }
    }
}

#[test]
fn the_evidence_says_what_kind_of_difference_it_is() {
    let (single, half) = (recorded(Storage::F32), recorded(Storage::Bf16));
    let gain = cause(&single, Point::MlpOut, &|_, x| x * 1.25);
    assert!(gain.candidates.is_empty() && gain.evidence.contains("a constant factor of 1.25"), "{}", gain.evidence);
    let one = cause(&single, Point::MlpUp, &|i, x| if i == 17 { x + 1.0 } else { x });
    assert!(one.candidates.is_empty() && one.evidence.starts_with("2 of "), "{}", one.evidence);
    let nan = cause(&single, Point::MlpAct, &|i, x| if i == 3 { f64::NAN } else { x });
    assert!(nan.candidates.is_empty() && nan.evidence.contains("2 are not finite"), "{}", nan.evidence);
    let zero = cause(&half, Point::AttnProjOut, &|_, _| 0.0);
    assert!(zero.candidates.is_empty() && zero.evidence.contains("2 rows are all zero"), "{}", zero.evidence);
}

/// A coarse accumulator allows more noise than a single wrong value leaves: it would explain anything that small.
#[test]
fn one_value_that_is_a_little_off_is_no_coarse_accumulator() {
    for (storage, size) in [(Storage::F32, 1e-4), (Storage::Bf16, 0.02)] {
        let recorded = recorded(storage);
        for point in [Point::AttnProjOut, Point::MlpOut, Point::MlpUp] {
            let one = cause(&recorded, point, &|i, x| if i == 5 { x * (1.0 + size) } else { x });
            let names: Vec<_> = one.candidates.iter().map(|candidate| candidate.id).collect();
            assert!(!names.contains(&"ACCUMULATOR_SATURATED"), "{point}: {names:?}");
        }
    }
}
