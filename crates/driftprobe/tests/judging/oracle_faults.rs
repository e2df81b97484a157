//! The oracle on faulty runs: the fault's own stage is flagged, and what is computed from it is not.

use crate::oracle_support::{Dice, judge, recording};
use driftprobe::oracle::{Float, Outcome, Replay, StageJudgement};
use driftprobe_engine::{DecodeAttention, PrefillAttention, Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{Contract, Dtype, Event, Phase, Point, Row, Rows, Run, TraceError};
use std::collections::{BTreeMap, BTreeSet};

/// A run of which one row is other than it was computed.
struct Corrupted<'a> {
    run: &'a Run,
    event: &'a Event,
    values: Vec<f64>,
}

impl Rows for Corrupted<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let row = self.run.row(event)?;
        if event.source != self.event.source {
            return Ok(row);
        }
        Ok(row.map(|row| encode(row.dtype, &row.shape, &self.values)))
    }
}

fn encode(dtype: Dtype, shape: &[u64], values: &[f64]) -> Row {
    let bytes = values.iter().flat_map(|v| match dtype {
        Dtype::F64 => v.to_le_bytes().to_vec(),
        Dtype::F32 => (*v as f32).to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f64(*v).to_le_bytes().to_vec(),
        Dtype::Bf16 => half::bf16::from_f64(*v).to_le_bytes().to_vec(),
    });
    Row::new(dtype, shape.to_vec(), bytes.collect()).unwrap()
}

fn settings(storage: Storage) -> Settings {
    Settings { storage, kv_cache: storage, ..Settings::default() }
}

/// Multiplies a whole recorded row.
fn with_gain(row: &Row, gain: f64) -> Vec<f64> {
    row.to_f64().into_iter().map(|v| if v.is_finite() { Float::of(row.dtype).round(v * gain) } else { v }).collect()
}

/// What reads a point, besides what is left of it.
fn readers(point: Point) -> Vec<Point> {
    use Point::*;
    match point {
        EmbedOut | ResidualPreAttn => vec![ResidualPreAttn, AttnNormOut, ResidualPostAttn],
        AttnNormOut => vec![QPreRope, KPreRope, VProj],
        QPreRope => vec![QPostRope],
        KPreRope => vec![KPostRope],
        VProj => vec![VCache],
        KPostRope => vec![KCache],
        QPostRope | KCache => vec![AttnScores],
        AttnScores => vec![AttnProbs],
        AttnProbs | VCache => vec![AttnOut],
        AttnOut => vec![AttnProjOut],
        AttnProjOut => vec![ResidualPostAttn],
        ResidualPostAttn => vec![FfnNormOut, ResidualPostMlp],
        FfnNormOut => vec![MlpGate, MlpUp],
        MlpGate | MlpUp => vec![MlpAct],
        MlpAct => vec![MlpOut],
        MlpOut => vec![ResidualPostMlp],
        ResidualPostMlp => vec![ResidualPreAttn, FinalNormIn],
        FinalNormIn => vec![FinalNormOut],
        FinalNormOut => vec![Logits],
        _ => vec![],
    }
}

/// Moves one element: in f32 by `relative` of the row's RMS, in 16 bits by an ulp.
fn moved(row: &Row, at: usize, relative: f64) -> Vec<f64> {
    let mut values = row.to_f64();
    let finite = values.iter().filter(|v| v.is_finite());
    let rms = (finite.clone().map(|v| v * v).sum::<f64>() / finite.count().max(1) as f64).sqrt();
    let format = Float::of(row.dtype);
    let step =
        if format == Float::F32 { (relative * rms).max(2.0 * format.ulp(values[at])) } else { format.ulp(values[at]) };
    // Away from zero, where the grid is no finer than here.
    values[at] += step.copysign(values[at]);
    values
}

#[test]
fn one_element_off_flags_its_stage_and_at_most_what_reads_it() {
    let model = Model::demo().unwrap();
    let mut dice = Dice(11);
    for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
        let recording = recording(&model, settings(storage), &[40], 1);
        let run = &recording.run;
        let replay = Replay::new(&model, run.manifest.as_ref());
        let mut missed: BTreeMap<Point, usize> = BTreeMap::new();
        let (mut tried, mut found) = (0, 0);
        for event in run.events.iter().filter(|e| e.phase == Phase::Decode && [-1, 0, 4, 8].contains(&e.layer)) {
            let row = run.row(event).unwrap().unwrap();
            let median = {
                let mut all: Vec<f64> = row.values().map(f64::abs).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            // A large element: of a small one an ulp is not the row's noise. Cache rows count only where their source is recorded.
            let own = |i: usize| !event.point.is_cache() || i / 16 % 40 == 39;
            let candidates: Vec<usize> = (0..row.len()).filter(|i| own(*i) && row.value(*i).abs() >= median).collect();
            let at = candidates[dice.below(candidates.len())];
            let corrupted = Corrupted { run, event, values: moved(&row, at, 1e-5) };
            let judged = replay.phase(&run.events, &corrupted, Phase::Decode).unwrap().stages;
            let flagged: BTreeSet<(Point, i32)> =
                judged.iter().filter(|j| j.outcome.is_fault()).map(|j| (j.point, j.layer)).collect();
            tried += 1;
            if flagged.contains(&(event.point, event.layer)) {
                found += 1;
            } else {
                *missed.entry(event.point).or_default() += 1;
            }
            let allowed = readers(event.point);
            let other = flagged.iter().find(|(point, _)| *point != event.point && !allowed.contains(point));
            assert!(other.is_none(), "{} of layer {}: {other:?} flagged", event.point, event.layer);
        }
        println!("{storage}: {found} of {tried} found; missed: {missed:?}");
        assert!(found * 100 >= tried * 90, "{storage}: {found} of {tried}");
    }
}

/// The points flagged in a run, with how often and how often judged.
fn flagged_points(judged: &[StageJudgement]) -> BTreeMap<Point, (usize, usize)> {
    let mut points: BTreeMap<Point, (usize, usize)> = BTreeMap::new();
    for j in judged {
        let entry = points.entry(j.point).or_default();
        *entry = (entry.0 + usize::from(j.outcome.is_fault()), entry.1 + 1);
    }
    points.retain(|_, (flagged, _)| *flagged > 0);
    points
}

/// An engine with another config than the oracle's: a real fault, that propagates through all layers.
fn expect_only(what: &str, change: impl Fn(&mut Model), settings: Settings, expected: &[Point]) {
    let mut faulty = Model::demo().unwrap();
    change(&mut faulty);
    let recording = recording(&faulty, settings, &[200], 2);
    let judged = judge(&Model::demo().unwrap(), &recording.run).stages;
    assert!(judged.iter().all(|j| !matches!(j.outcome, Outcome::Unjudged(_))));
    let flagged = flagged_points(&judged);
    println!("{what}: {flagged:?}");
    let points: Vec<Point> = flagged.keys().copied().collect();
    assert_eq!(points, expected, "{what}");
}

#[test]
fn a_wrong_frequency_base_is_found_in_the_rotation_alone() {
    let ropes = [Point::QPostRope, Point::KPostRope];
    for (storage, size) in [(Storage::F32, 1e-5), (Storage::F16, 1e-5), (Storage::Bf16, 3e-5)] {
        let change = |m: &mut Model| m.config.rope.theta *= 1.0 + size;
        expect_only(&format!("theta {storage} {size:e}"), change, settings(storage), &ropes);
    }
}

#[test]
fn a_wrong_temperature_is_found_in_attention_alone() {
    for (storage, size) in [(Storage::F32, 3e-6), (Storage::F16, 6e-6), (Storage::Bf16, 1e-5)] {
        let change = |m: &mut Model| m.config.attention_scale *= 1.0 + size;
        expect_only(&format!("scale {storage} {size:e}"), change, settings(storage), &[Point::AttnScores]);
    }
    let fused = |storage| Settings {
        prefill_attention: PrefillAttention::Blocked { keys: 16 },
        decode_attention: DecodeAttention::SplitK { parts: 4 },
        ..settings(storage)
    };
    for (storage, size) in [(Storage::F32, 3e-5), (Storage::F16, 3e-4), (Storage::Bf16, 3e-3)] {
        let change = |m: &mut Model| m.config.attention_scale *= 1.0 + size;
        let both = [Point::AttnScores, Point::AttnOut];
        expect_only(&format!("scale, fused {storage} {size:e}"), change, fused(storage), &both);
    }
}

#[test]
fn a_wrong_epsilon_is_found_in_the_norms_alone() {
    let norms = [Point::AttnNormOut, Point::FfnNormOut, Point::FinalNormOut];
    for (storage, size) in [(Storage::F32, 1.5), (Storage::F16, 3.0), (Storage::Bf16, 10.0)] {
        let change = |m: &mut Model| m.config.rms_norm_eps *= size;
        let mut faulty = Model::demo().unwrap();
        change(&mut faulty);
        let recording = recording(&faulty, settings(storage), &[200], 2);
        let flagged = flagged_points(&judge(&Model::demo().unwrap(), &recording.run).stages);
        println!("eps ×{size} {storage}: {flagged:?}");
        assert!(!flagged.is_empty() && flagged.keys().all(|p| norms.contains(p)), "{flagged:?}");
    }
}

#[test]
fn a_window_that_hides_a_key_is_found_in_the_scores_alone() {
    let change = |m: &mut Model| m.config.sliding_windows.iter_mut().for_each(|w| *w = Some(100));
    expect_only("window", change, settings(Storage::Bf16), &[Point::AttnScores]);
}

#[test]
fn a_gain_of_one_row_of_twice_the_rounding_noise_is_found() {
    // 1.5e-6 is 25 u, and about five times the noise of a sum of 64 products in f32.
    let model = Model::demo().unwrap();
    let recording = recording(&model, settings(Storage::F32), &[60], 1);
    let run = &recording.run;
    let replay = Replay::new(&model, run.manifest.as_ref());
    for point in [Point::QPreRope, Point::AttnScores, Point::AttnProjOut, Point::MlpAct, Point::MlpOut] {
        let mut missed = 0;
        for event in run.events.iter().filter(|e| e.phase == Phase::Decode && e.point == point) {
            let values = with_gain(&run.row(event).unwrap().unwrap(), 1.0 + 1.5e-6);
            let judged = replay.phase(&run.events, &Corrupted { run, event, values }, Phase::Decode).unwrap();
            let own = judged.stages.iter().find(|j| (j.point, j.layer) == (point, event.layer)).unwrap();
            missed += usize::from(!own.outcome.is_fault());
        }
        assert_eq!(missed, 0, "{point}");
    }
}

#[test]
fn a_row_of_nan_is_a_fault_and_what_reads_it_is_not_judged() {
    let model = Model::demo().unwrap();
    let recording = recording(&model, settings(Storage::Bf16), &[9], 1);
    let run = &recording.run;
    let wanted = |e: &&Event| e.phase == Phase::Prefill && e.point == Point::MlpUp && e.layer == 3;
    let event = run.events.iter().find(wanted).unwrap();
    let mut values = run.row(event).unwrap().unwrap().to_f64();
    values[17] = f64::NAN;
    let replay = Replay::new(&model, run.manifest.as_ref());
    let judged = replay.phase(&run.events, &Corrupted { run, event, values }, Phase::Prefill).unwrap().stages;
    for j in judged {
        let outcome = format!("{:?}", j.outcome);
        match (j.point, j.layer) {
            (Point::MlpUp, 3) => assert!(outcome.contains("NonFinite { at: 17 }"), "{outcome}"),
            (Point::MlpAct, 3) => assert!(outcome.contains("InputNotFinite"), "{outcome}"),
            _ => assert!(j.outcome.is_clean(), "{} of layer {}: {outcome}", j.point, j.layer),
        }
    }
}

#[test]
fn what_is_not_recorded_is_said_and_not_guessed() {
    let model = Model::demo().unwrap();
    let recording = recording(&model, settings(Storage::F32), &[9], 1);
    let mut run = recording.run.clone();
    run.events.retain(|e| !matches!(e.point, Point::KCache | Point::AttnProbs | Point::AttnScores));
    let judged = Replay::new(&model, run.manifest.as_ref()).phase(&run.events, &run, Phase::Decode).unwrap().stages;
    let out = judged.iter().filter(|j| j.point == Point::AttnOut).map(|j| &j.outcome);
    for outcome in out {
        let Outcome::Unjudged(why) = outcome else { panic!("{outcome:?}") };
        // The sharpest way is the one to record for.
        assert!(why.to_string().starts_with("attn_probs of layer"), "{why}");
    }
    assert!(judged.iter().filter(|j| j.point != Point::AttnOut).all(|j| j.outcome.is_clean()));
}

/// Cached rows of earlier positions are held against the rows that the same phase wrote there.
#[test]
fn a_stale_slot_is_found_where_its_source_was_recorded() {
    let model = Model::demo().unwrap();
    let recording = recording(&model, settings(Storage::F16), &[20], 4);
    let run = &recording.run;
    // Positions 19 to 22 are recorded; the last row's cache has them as its rows 19 to 22 of 23.
    let wanted =
        |e: &&Event| (e.phase, e.point, e.layer, e.logical_tok_idx) == (Phase::Decode, Point::VCache, 2, Some(22));
    let event = run.events.iter().find(wanted).unwrap();
    let mut values = run.row(event).unwrap().unwrap().to_f64();
    let width = model.config.head_dim;
    values.copy_within(20 * width..21 * width, 21 * width);
    let replay = Replay::new(&model, run.manifest.as_ref());
    let judged = replay.phase(&run.events, &Corrupted { run, event, values }, Phase::Decode).unwrap().stages;
    let flagged: Vec<_> = judged.iter().filter(|j| j.outcome.is_fault()).map(|j| (j.point, j.layer, j.pos)).collect();
    assert_eq!(flagged[0], (Point::VCache, 2, 22));
    // The recorded attention did not read what the record now shows.
    assert!(flagged[1..].iter().all(|f| *f == (Point::AttnOut, 2, 22)), "{flagged:?}");
    let Outcome::Mismatch { first, differing, .. } = &judged.iter().find(|j| j.outcome.is_fault()).unwrap().outcome
    else {
        panic!("no mismatch");
    };
    assert!(*first >= 21 * width && *first < 22 * width && *differing <= width);
}

/// A contract is a claim that the record can refute.
#[test]
fn a_contract_that_claims_too_much_is_found_out() {
    let model = Model::demo().unwrap();
    let recording = recording(&model, settings(Storage::F32), &[20], 1);
    let run = &recording.run;
    let mut contract = run.manifest.as_ref().unwrap().contract.clone().unwrap();
    contract.flat.activations = Some("bf16".to_owned());
    let judge = |contract: Contract| {
        let replay = Replay::new(&model, run.manifest.as_ref()).with_contract(&contract);
        flagged_points(&replay.phase(&run.events, run, Phase::Prefill).unwrap().stages)
    };
    // Claimed coarser than it is: nothing to flag, and little that could be.
    assert!(judge(contract.clone()).is_empty());
    contract.flat.accumulate = Some("f64".to_owned());
    contract.flat.activations = Some("f32".to_owned());
    // Claimed finer: a rounding of f32 is no fault in f32 storage, but sums of n of them are.
    let flagged = judge(contract);
    assert!(flagged.contains_key(&Point::MlpOut) && flagged.contains_key(&Point::AttnScores), "{flagged:?}");
}
