//! Payloads that are damaged on disk, with a model at hand.

use crate::oracle_support::{fixture, recording};
use driftprobe::judge::examine::Oracle;
use driftprobe::progress::Work;
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::{Options, Verdict, analyze_against};
use driftprobe_engine::Settings;
use driftprobe_trace::{Event, Phase, Point, Row, Rows, Run, TraceError};
use std::sync::atomic::{AtomicBool, Ordering};

/// A run of whose rows some are no longer what was recorded.
struct Bent<'a>(&'a Run, Point);

impl Rows for Bent<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let row = self.0.row(event)?;
        if (event.phase, event.point, event.layer) != (Phase::Decode, self.1, 0) {
            return Ok(row);
        }
        Ok(row.map(|row| Row::from_f32(&row.values().map(|x| -2.0 * x as f32).collect::<Vec<_>>())))
    }
}

/// A row that is not what was recorded says nothing of the engine: neither by itself nor as the input of what follows it.
#[test]
fn a_damaged_row_is_no_fault_of_the_engine() {
    let model = fixture("hf/llama");
    let recording = recording(&model, Settings::default(), &[12], 1);
    let oracle = Oracle { budget_flops: 0.0, ..Oracle::new(&model) };
    for point in [Point::QPostRope, Point::MlpAct, Point::ResidualPostMlp] {
        let bent = Bent(&recording.run, point);
        let analysis = analyze_against((&recording.run, &bent), Some(&oracle), Options::default(), &mut |_| {});
        assert_eq!(analysis.verdict.verdict, Verdict::Inconclusive, "{point}: {:?}", analysis.verdict.first_failure);
        let codes: Vec<ReasonCode> = analysis.verdict.reasons.iter().map(|reason| reason.code).collect();
        assert!(codes.contains(&ReasonCode::PayloadDamaged), "{point}: {codes:?}");
        assert_eq!(analysis.counts.fault, 0, "{point}");
        // What is sound is judged, also beside what is not.
        let pair = analysis.pairs.iter().find(|pair| (pair.prefill.point, pair.prefill.layer) == (point, 0)).unwrap();
        let sound = pair.stages[0].as_ref().unwrap();
        assert!(sound.outcome.is_clean(), "{point}: {sound:?}");
    }
}

/// A run of which one row is gone from some time on.
struct Vanishing<'a>(&'a Run, AtomicBool);

impl Rows for Vanishing<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let gone = self.1.load(Ordering::Relaxed);
        if gone && (event.phase, event.point, event.layer) == (Phase::Decode, Point::MlpAct, 0) {
            return Err(TraceError::NotARun { path: self.0.dir.clone() });
        }
        self.0.row(event)
    }
}

#[test]
fn a_row_that_is_gone_when_the_model_judges_it_is_told_and_no_pass() {
    let model = fixture("hf/llama");
    let recording = recording(&model, Settings::default(), &[12], 1);
    let oracle = Oracle::new(&model);
    let judged = |goes: bool| {
        let rows = Vanishing(&recording.run, AtomicBool::new(false));
        let watch = &mut |step: driftprobe::progress::Progress| {
            if goes && step.work == Work::Stages {
                rows.1.store(true, Ordering::Relaxed);
            }
        };
        analyze_against((&recording.run, &rows), Some(&oracle), Options::default(), watch)
    };
    assert_eq!(judged(false).verdict.verdict, Verdict::Pass);
    let analysis = judged(true);
    assert_eq!(analysis.verdict.verdict, Verdict::Inconclusive);
    let told = analysis.verdict.reasons.iter().find(|reason| reason.code == ReasonCode::ReadingFindings).unwrap();
    assert!(told.examples[0].contains("mlp_act") && told.examples[0].contains("could not be read"), "{told:?}");
}
