//! A recorded run is what its manifest says: the whole expected matrix, found both ways, with rows whose hashes hold.

use crate::support::recording::{files, found, plan, prompt, record_to};
use crate::support::{blocked, engine, everything, logits, plain, split_k, stored, tapped, tokens};
use driftprobe_engine::record::Plan;
use driftprobe_engine::{EmbeddedEngine, Engine, EngineError, Session, Settings, Storage, Tap};
use driftprobe_trace::{Dtype, ExpectedKey, HashCheck, Manifest, Mode, Phase, Point, Rows, Run};
use std::collections::BTreeSet;
use std::path::Path;

fn expected(manifest: &Manifest) -> BTreeSet<ExpectedKey> {
    manifest.expected().unwrap().into_iter().collect()
}

fn recorded(engine: &dyn Engine, plan: &Plan) -> Run {
    let dir = tempfile::tempdir().unwrap().keep();
    record_to(engine, plan, &dir).unwrap();
    let run = Run::open(&dir).unwrap();
    for event in run.events.iter().filter(|e| e.payload.is_some()) {
        assert_eq!(run.verify(event).unwrap(), HashCheck::Matches);
    }
    std::fs::remove_dir_all(&dir).unwrap();
    run
}

#[test]
fn a_run_holds_the_expected_matrix_in_both_phases_and_nothing_else() {
    for (path, steps) in [("hf/llama", 1), ("hf/qwen3", 4), ("hf/gemma2", 4), ("gguf/llama-q4_k.gguf", 2)] {
        let engine = engine(path, &plain());
        let run = recorded(&engine, &Plan { steps, repeats: 0, ..plan(&engine, &tokens(path)[..10]) });
        assert!(run.is_complete() && run.notes.is_empty() && run.unmapped.is_empty(), "{:?}", run.notes);
        let manifest = run.manifest.as_ref().unwrap();
        let expected = expected(manifest);
        let points = engine.points(Phase::Prefill);
        let layered = points.iter().filter(|p| p.layered()).count();
        assert_eq!(expected.len(), 2 * steps * (layered * engine.layers() + points.len() - layered), "{path}");
        for phase in Phase::ALL {
            assert!(found(&run.events, phase) == expected, "{path}, {phase}");
        }
        assert!(run.events.iter().all(|e| e.payload.is_some() && e.hash.is_some() && !e.is_weakly_keyed()));
    }
}

#[test]
fn points_of_one_phase_are_recorded_there_and_expected_of_neither() {
    let settings = Settings { decode_attention: split_k(2).decode_attention, ..plain() };
    for (settings, phase) in [(settings, Phase::Prefill), (blocked(4), Phase::Decode)] {
        let engine = engine("hf/mistral", &settings);
        let run = recorded(&engine, &plan(&engine, &tokens("hf/mistral")[..9]));
        let manifest = run.manifest.as_ref().unwrap();
        assert_eq!(manifest.one_sided_points(), [(Point::AttnProbs, phase)]);
        let expected = expected(manifest);
        assert!(expected.iter().all(|k| k.point != Point::AttnProbs));
        for side in Phase::ALL {
            let found = found(&run.events, side);
            assert!(found.is_superset(&expected), "{side}");
            let more: BTreeSet<Point> = found.difference(&expected).map(|k| k.point).collect();
            assert_eq!(more.contains(&Point::AttnProbs), side == phase, "{side}");
            assert!(more.iter().all(|p| *p == Point::AttnProbs), "{side}");
        }
    }
}

#[test]
fn further_steps_are_the_greedy_choice_and_both_phases_see_the_same_tokens() {
    const STEPS: usize = 4;
    for path in ["hf/llama", "hf/gemma2"] {
        let engine = engine(path, &plain());
        let given = &tokens(path)[..7];
        let mut plan = plan(&engine, given);
        (plan.prompts, plan.steps) = (vec![prompt("p", given)], STEPS);
        let run = recorded(&engine, &plan);
        // A loop as plain as can be: the whole sequence anew for every token.
        let mut sequence = given.to_vec();
        for _ in 1..STEPS {
            let logits = logits(&engine, Phase::Prefill, &sequence);
            let last = logits.chunks(engine.vocab()).last().unwrap();
            let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
            sequence.push(best as u32);
        }
        let manifest = run.manifest.as_ref().unwrap();
        assert_eq!(manifest.prompts.as_ref().unwrap()[0].tokens, sequence, "{path}");
        assert_eq!(manifest.steps, Some(STEPS as u32));
        for event in &run.events {
            let row = event.logical_tok_idx.unwrap();
            assert!((6..10).contains(&row));
            assert_eq!(event.token_id, Some(sequence[row as usize]), "{path}");
            assert_eq!((event.pos_id, event.kv_len), (Some(row), Some(row + 1)));
            let (step, seq_len) = if event.phase == Phase::Prefill { (0, 10) } else { (row - 5, 1) };
            assert_eq!((event.step, event.seq_len), (Some(step), Some(seq_len)), "{path}, {}", event.phase_spelling);
            let spelling = match (event.phase, row) {
                (Phase::Prefill, 9) => "prefill_last".to_owned(),
                (Phase::Prefill, _) => "prefill".to_owned(),
                (Phase::Decode, _) => format!("decode{}", row - 6),
            };
            assert_eq!(*event.phase_spelling, *spelling);
        }
    }
}

#[test]
fn the_recorded_rows_are_what_a_tap_sees() {
    let (path, dir) = ("hf/qwen3", tempfile::tempdir().unwrap());
    let settings = stored(Storage::F16, Storage::Bf16);
    let (engine, tokens) = (engine(path, &settings), &tokens(path)[..8]);
    let mut plan = plan(&engine, tokens);
    plan.prompts.truncate(1);
    record_to(&engine, &plan, dir.path()).unwrap();
    let run = Run::open(dir.path()).unwrap();
    for phase in Phase::ALL {
        // As_designed: decode's earlier positions come from a prefill of its own.
        let mut collected = crate::support::Collected::default();
        let selection = everything(&engine);
        let mut session = engine.session().unwrap();
        let mut tap = driftprobe_engine::Tap::open(&selection, 7..8, &mut collected);
        match phase {
            Phase::Prefill => drop(session.prefill(tokens, 7..8, &mut tap).unwrap()),
            Phase::Decode => {
                session.prefill(&tokens[..7], 0..0, &mut driftprobe_engine::Tap::closed()).unwrap();
                session.decode(tokens[7], &mut tap).unwrap();
            }
        }
        let events = run.events.iter().filter(|e| e.phase == phase);
        assert_eq!(events.clone().count(), collected.rows.len());
        for event in events {
            let row = collected.rows.iter().find(|r| (r.point, r.layer) == (event.point, event.layer)).unwrap();
            let payload = run.row(event).unwrap().unwrap();
            assert!(payload.bytes() == row.bytes, "{phase}: {} of layer {}", event.point, event.layer);
            assert_eq!((payload.dtype, event.dtype), (row.dtype, Some(row.dtype)));
            assert_eq!(event.shape.as_ref(), Some(&row.shape));
        }
    }
    let dtypes: BTreeSet<Dtype> = run.events.iter().filter_map(|e| e.dtype).collect();
    assert_eq!(dtypes, BTreeSet::from([Dtype::F32, Dtype::F16, Dtype::Bf16]));
}

#[test]
fn a_prompt_of_one_token_is_decoded_against_an_empty_cache() {
    let engine = engine("hf/llama", &plain());
    for steps in [1, 3] {
        let mut plan = plan(&engine, &tokens("hf/llama")[..1]);
        plan.prompts.truncate(1);
        let run = recorded(&engine, &Plan { steps, ..plan });
        let expected = expected(run.manifest.as_ref().unwrap());
        assert!(expected.iter().map(|k| k.logical_tok_idx).eq((0..steps as u64).flat_map(|r| {
            let places = expected.len() / steps;
            std::iter::repeat_n(r, places)
        })));
        for phase in Phase::ALL {
            assert!(found(&run.events, phase) == expected, "{phase}");
        }
        let first_cache = run.events.iter().find(|e| e.point == Point::KCache && e.logical_tok_idx == Some(0));
        assert_eq!(first_cache.unwrap().shape.as_deref(), Some(&[2, 1, 8][..]));
    }
}

#[test]
fn repeats_are_runs_of_their_own_with_equal_hashes_and_no_payloads() {
    let engine = engine("hf/gemma2", &plain());
    let dir = tempfile::tempdir().unwrap();
    record_to(&engine, &Plan { repeats: 2, ..plan(&engine, &tokens("hf/gemma2")[..8]) }, dir.path()).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(run.manifest.as_ref().unwrap().repeat, 0);
    assert_eq!(run.repeats.len(), 2);
    for (number, repeat) in (1..).zip(&run.repeats) {
        assert!(repeat.is_complete() && repeat.notes.is_empty());
        assert_eq!(repeat.manifest.as_ref().unwrap().repeat, number);
        let of = |run: &Run| run.events.iter().map(|e| (e.phase, e.point, e.layer, e.hash)).collect::<Vec<_>>();
        assert!(of(repeat) == of(&run));
        assert!(repeat.events.iter().all(|e| e.payload.is_none() && e.hash.is_some()));
    }
    let payloads = |prefix: &str| files(dir.path()).keys().filter(|k| k.starts_with(prefix)).count();
    assert_eq!((payloads("tensors/"), payloads("repeat-1/tensors/")), (4, 0));
}

#[test]
fn without_payloads_there_are_hashes_and_samples_only() {
    let engine = engine("hf/llama", &plain());
    let dir = tempfile::tempdir().unwrap();
    record_to(&engine, &Plan { payloads: false, ..plan(&engine, &tokens("hf/llama")[..8]) }, dir.path()).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert!(run.events.iter().all(|e| e.payload.is_none() && e.hash.is_some() && e.sample.is_some()));
    assert!(files(dir.path()).keys().all(|k| !k.ends_with(".safetensors")));
}

#[test]
fn the_manifest_says_what_was_done() {
    let settings = Settings { prefill_chunk_tokens: Some(3), ..stored(Storage::Bf16, Storage::F16) };
    let engine = engine("hf/llama", &settings);
    let mut plan = plan(&engine, &tokens("hf/llama")[..8]);
    plan.layers = [1].into();
    let base = Manifest { seed: Some(7), git: Some("abc".to_owned()), ..Default::default() };
    let dir = tempfile::tempdir().unwrap();
    let mut watcher = driftprobe_engine::record::Unwatched;
    let manifest = driftprobe_engine::record::record(&engine, &plan, dir.path(), base, &mut watcher).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(run.manifest.as_ref(), Some(&manifest));
    assert_eq!((manifest.seed, manifest.git.as_deref()), (Some(7), Some("abc")));
    assert_eq!((manifest.mode, manifest.steps, manifest.layers), (Some(Mode::AsDesigned), Some(1), Some(vec![1])));
    let flat = manifest.contract.unwrap().flat;
    assert_eq!((flat.activations.as_deref(), flat.kv_cache.as_deref()), (Some("bf16"), Some("f16")));
    assert!(run.events.iter().all(|e| e.layer == 1 || (e.layer == -1 && !e.point.layered())));
    // Prefill's rows were computed in chunks, and say so.
    let prefill = || run.events.iter().filter(|e| e.phase == Phase::Prefill);
    let seq_len = |id: &str| prefill().find(|e| &*e.prompt_id == id).unwrap().seq_len;
    assert_eq!((seq_len("whole"), seq_len("half")), (Some(2), Some(1)));
}

#[test]
fn awkward_prompt_ids_stay_apart() {
    let engine = engine("hf/llama", &plain());
    let ids = ["a/b", "a_b", "A_B", "..", "", "a b\n|", "日本"];
    let mut plan = plan(&engine, &tokens("hf/llama")[..4]);
    plan.prompts = ids.iter().map(|id| prompt(id, &[1, 2, 3])).collect();
    let run = recorded(&engine, &Plan { repeats: 0, ..plan });
    let expected = expected(run.manifest.as_ref().unwrap());
    let prompts: BTreeSet<&str> = expected.iter().map(|k| &*k.prompt_id).collect();
    assert_eq!(prompts, BTreeSet::from(ids));
    assert!(found(&run.events, Phase::Decode) == expected);
}

#[test]
fn a_run_is_only_replaced_when_asked_to_and_then_wholly() {
    let engine = engine("hf/llama", &plain());
    let dir = tempfile::tempdir().unwrap();
    let at: &Path = dir.path();
    let long = Plan { repeats: 2, ..plan(&engine, &tokens("hf/llama")[..8]) };
    record_to(&engine, &long, at).unwrap();
    let before = files(at);
    let error = record_to(&engine, &long, at).unwrap_err();
    assert!(error.hint().is_some());
    assert!(files(at) == before, "a refused recording changes nothing");
    let mut short = Plan { repeats: 0, overwrite: true, ..long };
    short.prompts.truncate(1);
    record_to(&engine, &short, at).unwrap();
    let run = Run::open(at).unwrap();
    assert!(run.repeats.is_empty() && run.is_complete());
    assert!(found(&run.events, Phase::Prefill) == expected(run.manifest.as_ref().unwrap()));
}

#[test]
fn tapped_values_and_logits_of_a_run_agree_with_each_other() {
    let (engine, tokens) = (engine("hf/llama", &plain()), tokens("hf/llama"));
    let run = recorded(&engine, &Plan { repeats: 0, ..plan(&engine, &tokens) });
    let (whole, _) = tapped(&engine, Phase::Prefill, &tokens, (&everything(&engine), 0..tokens.len()));
    let row = whole.chunks(engine.vocab()).last().unwrap();
    let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let event = run.events.iter().find(|e| e.point == Point::Logits && &*e.prompt_id == "whole").unwrap();
    let top = event.logits.unwrap();
    assert_eq!((top.top1_id, top.vocab), (Some(best as u32), Some(engine.vocab() as u64)));
    assert_eq!(top.top1_logit, Some(f64::from(row[best])));
}

/// Decode that has generated has a cache of its own making; recorded behind a prefill it would be another one.
#[test]
fn tokens_that_decode_is_to_feed_itself_are_in_its_cache_as_decode_writes_them() {
    let engine = engine("hf/llama", &plain());
    let tokens = &tokens("hf/llama")[..9];
    let logits_of = |decoded: usize, phase: Phase| {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan { decoded, ..Plan::everything(&engine, vec![prompt("p", tokens)]) };
        record_to(&engine, &plan, dir.path()).unwrap();
        let run = Run::open(dir.path()).unwrap();
        let event = run.events.iter().find(|e| e.phase == phase && e.point == Point::Logits).unwrap();
        run.row(event).unwrap().unwrap().values().map(|value| value as f32).collect::<Vec<f32>>()
    };
    for decoded in [0, 3, 8, 20] {
        let mut session = engine.session().unwrap();
        let whole = 8 - decoded.min(8);
        if whole > 0 {
            session.prefill(&tokens[..whole], 0..0, &mut Tap::closed()).unwrap();
        }
        let fed = tokens[whole..].iter().map(|token| session.decode(*token, &mut Tap::closed()).unwrap());
        assert_eq!(logits_of(decoded, Phase::Decode), fed.last().unwrap(), "{decoded}");
    }
    assert_ne!(logits_of(0, Phase::Decode), logits_of(8, Phase::Decode));
    assert_eq!(logits_of(0, Phase::Prefill), logits_of(8, Phase::Prefill), "prefill takes all at once");
}

#[test]
fn steps_whose_tokens_are_given_are_those_that_the_engine_would_choose_itself() {
    let engine = engine("hf/qwen3", &plain());
    let chosen = recorded(&engine, &Plan { steps: 4, repeats: 0, ..plan(&engine, &tokens("hf/qwen3")[..8]) });
    let prompts = chosen.manifest.as_ref().unwrap().prompts.clone().unwrap();
    assert_eq!(prompts[0].tokens.len(), 11);
    let forced = Plan { steps: 4, forced: true, repeats: 0, prompts, ..plan(&engine, &[1]) };
    let given = recorded(&engine, &forced);
    let hashes =
        |run: &Run| run.events.iter().map(|e| (e.phase, e.point, e.layer, e.pos_id, e.hash)).collect::<Vec<_>>();
    assert!(hashes(&chosen) == hashes(&given) && !given.events.is_empty());
    assert_eq!(chosen.manifest.unwrap().prompts, given.manifest.unwrap().prompts);
}

/// Another engine where nobody looks.
struct Shy(EmbeddedEngine, EmbeddedEngine);

impl Engine for Shy {
    fn info(&self) -> driftprobe_trace::EngineInfo {
        self.0.info()
    }
    fn contract(&self) -> driftprobe_trace::Contract {
        self.0.contract()
    }
    fn layers(&self) -> usize {
        self.0.layers()
    }
    fn vocab(&self) -> usize {
        self.0.vocab()
    }
    fn points(&self, phase: Phase) -> Vec<Point> {
        self.0.points(phase)
    }
    fn session(&self) -> Result<Box<dyn Session + '_>, EngineError> {
        self.0.session()
    }
    fn unwatched_session(&self) -> Result<Box<dyn Session + '_>, EngineError> {
        self.1.session()
    }
}

#[test]
fn an_engine_that_computes_otherwise_unwatched_is_seen_also_where_its_own_choice_of_tokens_is_the_untraced_decode() {
    let tokens = &tokens("hf/llama")[..8];
    for steps in [1, 3] {
        let other = engine("hf/llama", &stored(Storage::Bf16, Storage::Bf16));
        let shy = Shy(engine("hf/llama", &plain()), other);
        let plan = Plan { steps, repeats: 0, ..plan(&shy, tokens) };
        let observer = |engine: &dyn Engine| {
            let dir = tempfile::tempdir().unwrap();
            record_to(engine, &plan, dir.path()).unwrap().observer.unwrap()
        };
        for phase in [observer(&shy).prefill, observer(&shy).decode] {
            assert_eq!((phase.rows, phase.equal), (2 * steps as u64, 0), "{steps} steps");
            assert!(phase.max_abs.is_some_and(|distance| distance > 0.0), "{steps} steps");
        }
        for phase in [observer(&shy.0).prefill, observer(&shy.0).decode] {
            assert_eq!((phase.rows, phase.equal, phase.max_abs), (2 * steps as u64, 2 * steps as u64, Some(0.0)));
        }
    }
}
