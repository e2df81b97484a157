//! Runs that are recorded with a faulty engine: one phase is the clean engine's, the other is not, and the manifest says so.

use super::{faulty, open, sequence, subject};
use crate::support::plain;
use crate::support::recording::{plan, record_to};
use driftprobe_engine::faulty::Fault;
use driftprobe_engine::record::Plan;
use driftprobe_engine::{EmbeddedEngine, Engine};
use driftprobe_trace::{Event, Mode, Phase, Point, Run};

fn recorded(engine: &dyn Engine, mode: Mode) -> Run {
    let (dir, tokens) = (tempfile::tempdir().unwrap(), sequence(engine.vocab()));
    record_to(engine, &Plan { mode, repeats: 1, ..plan(engine, &tokens) }, dir.path()).unwrap();
    Run::open(dir.path()).unwrap()
}

/// Layer and point of the events of the longer prompt that differ between two runs, in the order of the computation.
fn differing(one: &Run, other: &Run, phase: Phase) -> Vec<(i32, Point)> {
    let events = |run: &Run| -> Vec<Event> {
        run.events.iter().filter(|e| e.phase == phase && &*e.prompt_id == "whole").cloned().collect()
    };
    let (one, other) = (events(one), events(other));
    assert_eq!(one.len(), other.len());
    let pairs = one.iter().zip(&other).inspect(|(a, b)| assert_eq!((a.layer, a.point), (b.layer, b.point)));
    let mut places: Vec<_> = pairs.filter(|(a, b)| a.hash != b.hash).map(|(a, _)| (a.layer, a.point)).collect();
    places.sort_by_key(|(layer, point)| (!point.layered() && *point != Point::EmbedOut, *layer, *point));
    places
}

#[test]
fn a_recorded_fault_is_in_its_own_phase_only_and_repeats_itself() {
    let (model, settings) = (open("hf/llama"), plain());
    let clean = recorded(&EmbeddedEngine::new(&model, settings.clone()).unwrap(), Mode::AsDesigned);
    for (text, first) in [
        ("ROPE_POSITION_OFFSET:+1@decode:layer1", Point::QPostRope),
        ("KV_STALE_SLOT:3@decode:layer1", Point::KCache),
        ("HEAD_SWAP@prefill:layer1", Point::AttnOut),
        ("KV_STALE_SLOT:3@prefill:layer1", Point::KCache),
    ] {
        let fault: Fault = text.parse().unwrap();
        let engine = faulty(&subject(&model, &settings), &fault);
        let run = recorded(&engine, Mode::AsDesigned);
        for phase in Phase::ALL {
            let expected = (fault.scope.phase == Some(phase)).then_some((1, first));
            assert_eq!(differing(&run, &clean, phase).first().copied(), expected, "{text}: {phase}");
        }
        let info = run.manifest.as_ref().unwrap().engine.as_ref().unwrap();
        assert_eq!(info.extra["fault"], *text.replace("HEAD_SWAP@", "HEAD_SWAP:0:1@"));
        let again = &run.repeats[0];
        assert!(Phase::ALL.iter().all(|p| differing(again, &run, *p).is_empty()), "{text}");
    }
}

#[test]
fn aligned_decode_inherits_what_a_prefill_with_a_fault_has_cached() {
    let (model, settings) = (open("hf/llama"), plain());
    let clean = recorded(&EmbeddedEngine::new(&model, settings.clone()).unwrap(), Mode::KvAligned);
    let fault: Fault = "NORM_SKIPPED:ffn@prefill:layer0".parse().unwrap();
    let run = recorded(&faulty(&subject(&model, &settings), &fault), Mode::KvAligned);
    let places = differing(&run, &clean, Phase::Decode);
    assert_eq!(places.first(), Some(&(1, Point::KCache)), "the first thing wrong is what was read");
}
