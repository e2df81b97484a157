//! A recording that is stopped leaves a run that can be read and says that it is incomplete; its progress adds up.

use crate::support::recording::{StopsAfter, found, plan};
use crate::support::{chunked, engine, plain, tokens};
use driftprobe_engine::record::{Plan, Progress, Watcher, record};
use driftprobe_engine::{EmbeddedEngine, Engine, EngineError, Settings};
use driftprobe_trace::{HashCheck, Manifest, Phase, Rows, Run};
use std::path::Path;

const STEPS: usize = 3;

fn small(engine: &EmbeddedEngine) -> Plan {
    Plan { steps: STEPS, repeats: 1, ..plan(engine, &tokens("hf/llama")[..5]) }
}

fn stopped_after(layers: usize, engine: &EmbeddedEngine, dir: &Path) -> Result<Manifest, EngineError> {
    record(engine, &small(engine), dir, Manifest::default(), &mut StopsAfter(layers))
}

/// Layers that begin in a whole recording.
fn all_layers(engine: &EmbeddedEngine) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let mut count = Count::default();
    record(engine, &small(engine), dir.path(), Manifest::default(), &mut count).unwrap();
    count.0
}

#[derive(Default)]
struct Count(usize);

impl Watcher for Count {
    fn go_on(&mut self, _: &Progress<'_>) -> bool {
        self.0 += 1;
        true
    }
}

#[test]
fn a_recording_stopped_at_any_moment_is_readable_and_incomplete() {
    let engine = engine("hf/llama", &plain());
    let all = all_layers(&engine);
    // Two prompts: choose (prefill, three tokens), which is the untraced decode too; untraced prefill; twice prefill +
    // (prefill, three tokens): the run and its repeat; two layers each.
    assert_eq!(all, 2 * 2 * ((1 + STEPS) + 1 + 2 * (1 + 1 + STEPS)));
    let (mut with_events, mut with_repeat) = (0, 0);
    for layers in 0..all {
        let dir = tempfile::tempdir().unwrap();
        let outcome = stopped_after(layers, &engine, dir.path());
        assert!(matches!(outcome, Err(EngineError::Interrupted)), "after {layers}: {outcome:?}");
        let run = Run::open(dir.path()).unwrap_or_else(|e| panic!("after {layers}: {e}"));
        assert!(!run.is_complete(), "after {layers}");
        let manifest = run.manifest.as_ref().unwrap();
        assert!(manifest.engine.is_some() && manifest.contract.is_some() && manifest.points.is_some());
        for event in &run.events {
            assert_eq!(run.verify(event).unwrap(), HashCheck::Matches, "after {layers}");
        }
        let expected = manifest.expected();
        for phase in Phase::ALL {
            let found = found(&run.events, phase);
            let known = |key| expected.as_ref().is_some_and(|e| e.contains(key));
            assert!(found.iter().all(known), "after {layers}, {phase}");
        }
        assert!(run.repeats.iter().all(|r| !r.is_complete()), "after {layers}");
        with_events += usize::from(!run.events.is_empty());
        with_repeat += usize::from(!run.repeats.is_empty());
    }
    assert!(with_events > all / 2 && with_repeat > all / 4, "{with_events}, {with_repeat} of {all}");
}

#[test]
fn a_recording_that_goes_on_to_the_end_is_complete() {
    let engine = engine("hf/llama", &plain());
    let dir = tempfile::tempdir().unwrap();
    stopped_after(all_layers(&engine), &engine, dir.path()).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert!(run.is_complete() && run.repeats.iter().all(Run::is_complete));
}

#[test]
fn an_interrupted_run_can_be_recorded_again() {
    let engine = engine("hf/llama", &plain());
    let dir = tempfile::tempdir().unwrap();
    assert!(stopped_after(30, &engine, dir.path()).is_err());
    let again = Plan { overwrite: true, ..small(&engine) };
    record(&engine, &again, dir.path(), Manifest::default(), &mut StopsAfter(usize::MAX)).unwrap();
    let run = Run::open(dir.path()).unwrap();
    let expected = run.manifest.as_ref().unwrap().expected().unwrap();
    assert!(
        run.is_complete()
            && found(&run.events, Phase::Decode).into_iter().eq({
                let mut keys = expected;
                keys.sort();
                keys
            })
    );
}

/// Keeps what it is told.
#[derive(Default)]
struct Log(Vec<(String, Phase, u32, usize, u64, u64)>);

impl Watcher for Log {
    fn go_on(&mut self, p: &Progress<'_>) -> bool {
        self.0.push((p.prompt_id.to_owned(), p.phase, p.repeat, p.layer, p.done, p.total));
        true
    }
}

#[test]
fn progress_counts_every_token_of_every_layer_once_to_the_announced_total() {
    for settings in [plain(), chunked(2), Settings { prefill_chunk_tokens: Some(100), ..plain() }] {
        let engine = engine("hf/llama", &settings);
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::default();
        record(&engine, &small(&engine), dir.path(), Manifest::default(), &mut log).unwrap();
        let total = log.0[0].5;
        assert!(log.0.iter().all(|l| l.5 == total) && log.0[0].4 == 0);
        assert!(log.0.windows(2).all(|w| w[0].4 < w[1].4), "progress stands still");
        // The last layer of the last decode step is still to be done when it begins.
        assert_eq!(log.0.last().unwrap().4 + 1, total, "{:?}", settings.prefill_chunk_tokens);
        // By hand, for prompts of 5 and 3 tokens and 2 layers: a run feeds n + 2 in prefill, and n − 1 and 3 in decode; there
        // are two of them, and one that is not traced, whose decode chooses the tokens.
        let by_hand: usize = [5, 3].iter().map(|n| 2 * 3 * ((n + 2) + (n - 1) + STEPS)).sum();
        assert_eq!(total, by_hand as u64);
        let last = log.0.last().unwrap();
        assert_eq!((last.0.as_str(), last.1, last.2, last.3), ("half", Phase::Decode, 1, engine.layers() - 1));
    }
}
