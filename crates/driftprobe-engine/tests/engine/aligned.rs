//! `kv_aligned`: decode reads the very rows that prefill read, and everything else is as it was.

use crate::support::recording::{files, plan, prompt};
use crate::support::{blocked, chunked, engine, plain, split_k, stored, tapped, tokens};
use driftprobe_engine::record::{Plan, Progress, Unwatched, Watcher, record, record_both};
use driftprobe_engine::{EmbeddedEngine, Engine, KvRows, Session, Settings, Storage, Tap};
use driftprobe_trace::{Dtype, Event, Manifest, Mode, Phase, Point, Row, Rows, Run};
use std::collections::BTreeMap;
use std::path::Path;

fn aligned(engine: &EmbeddedEngine, tokens: &[u32], steps: usize) -> Plan {
    Plan { mode: Mode::KvAligned, steps, repeats: 0, prompts: vec![prompt("p", tokens)], ..plan(engine, tokens) }
}

fn recorded(engine: &EmbeddedEngine, plan: &Plan, dir: &Path) -> Run {
    record(engine, plan, dir, Manifest::default(), &mut Unwatched).unwrap();
    Run::open(dir).unwrap()
}

fn event<'r>(run: &'r Run, phase: Phase, like: &Event) -> &'r Event {
    let key = |e: &Event| (e.prompt_id.clone(), e.point, e.layer, e.logical_tok_idx);
    run.events.iter().find(|e| e.phase == phase && key(e) == key(like)).unwrap()
}

fn payload(run: &Run, event: &Event) -> Row {
    run.row(event).unwrap().unwrap()
}

/// The rows of a `[kv_heads, rows, head_dim]` event without those from `first`, head after head.
fn earlier(run: &Run, event: &Event, first: usize) -> Vec<u8> {
    let row = payload(run, event);
    let [heads, rows, width] =
        event.shape.as_deref().unwrap().try_into().map(|s: [u64; 3]| s.map(|d| d as usize)).unwrap();
    let size = width * row.dtype.size_bytes();
    (0..heads).flat_map(|h| row.bytes()[h * rows * size..(h * rows + first) * size].to_vec()).collect()
}

/// Of all cache events: how many there are, and how many have earlier rows that differ between the phases.
fn compared(run: &Run) -> (usize, usize) {
    let cache = |e: &&Event| e.phase == Phase::Decode && e.point.is_cache();
    let decode: Vec<&Event> = run.events.iter().filter(cache).collect();
    let differs = |d: &&&Event| {
        let own = d.logical_tok_idx.unwrap() as usize;
        earlier(run, d, own) != earlier(run, event(run, Phase::Prefill, d), own)
    };
    (decode.len(), decode.iter().filter(differs).count())
}

/// Settings in which the two phases fill the cache with different bits.
fn settings() -> Vec<(&'static str, Settings)> {
    vec![
        ("naive", chunked(3)),
        ("blocked", Settings { decode_attention: split_k(3).decode_attention, ..blocked(4) }),
        ("bf16", stored(Storage::Bf16, Storage::Bf16)),
        ("f16", stored(Storage::F16, Storage::F16)),
        ("f32, cache f16", stored(Storage::F32, Storage::F16)),
        ("f32, cache bf16, chunked", Settings { prefill_chunk_tokens: Some(5), ..stored(Storage::F32, Storage::Bf16) }),
    ]
}

#[test]
fn decode_reads_prefills_rows_bit_for_bit_at_every_layer_and_step() {
    let (mut differ_as_designed, tokens) = (0, &tokens("hf/llama")[..20]);
    for (name, settings) in settings() {
        for steps in [1, 4] {
            let engine = engine("hf/llama", &settings);
            let dir = tempfile::tempdir().unwrap();
            let plan = aligned(&engine, tokens, steps);
            let run = recorded(&engine, &plan, &dir.path().join("aligned"));
            assert_eq!(run.manifest.as_ref().unwrap().mode, Some(Mode::KvAligned));
            assert_eq!(compared(&run), (2 * engine.layers() * steps, 0), "{name}, {steps} steps");
            let designed = Plan { mode: Mode::AsDesigned, ..plan };
            let run = recorded(&engine, &designed, &dir.path().join("designed"));
            assert_eq!(run.manifest.as_ref().unwrap().mode, Some(Mode::AsDesigned));
            differ_as_designed += compared(&run).1;
        }
    }
    assert!(differ_as_designed > 0, "aligning has nothing to do");
}

#[test]
fn every_step_as_designed_reads_rows_that_differ_from_prefills() {
    let (engine, tokens) = (engine("hf/llama", &plain()), tokens("hf/llama"));
    let dir = tempfile::tempdir().unwrap();
    let designed = Plan { mode: Mode::AsDesigned, ..aligned(&engine, &tokens, 4) };
    assert!(compared(&recorded(&engine, &designed, dir.path())).1 > 0);
}

#[test]
fn aligning_changes_only_what_decode_reads_and_what_follows_from_it() {
    let engine = engine("hf/llama", &chunked(3));
    let dir = tempfile::tempdir().unwrap();
    let plan = aligned(&engine, &tokens("hf/llama")[..20], 1);
    let a = recorded(&engine, &plan, &dir.path().join("aligned"));
    let d = recorded(&engine, &Plan { mode: Mode::AsDesigned, ..plan }, &dir.path().join("designed"));
    assert_eq!(a.events.len(), d.events.len());
    for event_a in &a.events {
        let same = payload(&a, event_a).bytes() == payload(&d, event(&d, event_a.phase, event_a)).bytes();
        let before = event_a.layer <= 0 && event_a.point < Point::KCache;
        if event_a.phase == Phase::Prefill || before {
            assert!(same, "{}: {} of layer {}", event_a.phase, event_a.point, event_a.layer);
        }
    }
}

#[test]
fn repeats_of_an_aligned_run_repeat_it() {
    let engine = engine("hf/qwen3", &blocked(3));
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { repeats: 2, ..aligned(&engine, &tokens("hf/qwen3")[..9], 3) };
    let run = recorded(&engine, &plan, dir.path());
    assert_eq!(run.repeats.len(), 2);
    for repeat in &run.repeats {
        assert_eq!(repeat.manifest.as_ref().unwrap().mode, Some(Mode::KvAligned));
        assert_eq!(repeat.events.len(), run.events.len());
        assert!(run.events.iter().all(|e| event(repeat, e.phase, e).hash == e.hash && e.hash.is_some()));
    }
}

/// Where the last layer to begin stood, and the whole.
#[derive(Default)]
struct Last(u64, u64);

impl Watcher for Last {
    fn go_on(&mut self, progress: &Progress<'_>) -> bool {
        assert!(progress.done >= self.0 && progress.done < progress.total);
        (self.0, self.1) = (progress.done, progress.total);
        true
    }
}

#[test]
fn the_progress_of_an_aligned_run_adds_up() {
    for mode in [Mode::AsDesigned, Mode::KvAligned] {
        for steps in [1, 4] {
            let engine = engine("hf/llama", &plain());
            let dir = tempfile::tempdir().unwrap();
            let plan = Plan { mode, repeats: 1, ..aligned(&engine, &tokens("hf/llama")[..7], steps) };
            let mut watcher = Last::default();
            record(&engine, &plan, dir.path(), Manifest::default(), &mut watcher).unwrap();
            // The last layer to begin is decode's, of one token.
            assert_eq!(watcher.0 + 1, watcher.1, "{mode:?}, {steps} steps");
        }
    }
}

#[test]
fn both_modes_at_once_are_the_bytes_of_one_after_the_other() {
    for settings in [plain(), blocked(4), stored(Storage::Bf16, Storage::F16)] {
        for steps in [1, 4] {
            let engine = engine("hf/llama", &settings);
            let (one, two, at_once) =
                (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let plan = Plan { repeats: 1, unwatched: true, ..aligned(&engine, &tokens("hf/llama")[..7], steps) };
            let designed = Plan { mode: Mode::AsDesigned, ..plan.clone() };
            record(&engine, &designed, one.path(), Manifest::default(), &mut Unwatched).unwrap();
            record(&engine, &plan, two.path(), Manifest::default(), &mut Unwatched).unwrap();
            let mut watcher = Last::default();
            record_both(&engine, &designed, at_once.path(), Manifest::default(), &mut watcher).unwrap();
            assert_eq!(watcher.0 + 1, watcher.1, "{steps} steps");
            let mut apart = files(one.path());
            apart.extend(files(two.path()).into_iter().map(|(name, bytes)| (format!("kv_aligned/{name}"), bytes)));
            let mut together = files(at_once.path());
            // What the tap does is looked at in one of the modes.
            let read = |all: &mut BTreeMap<String, Vec<u8>>, name: &str| {
                let text = String::from_utf8(all.remove(name).unwrap()).unwrap();
                Manifest::parse(&text, Path::new(name)).unwrap()
            };
            let inner = "kv_aligned/manifest.json";
            let (apart_manifest, manifest) = (read(&mut apart, inner), read(&mut together, inner));
            assert_eq!(manifest, Manifest { observer: None, ..apart_manifest });
            // And the outer one says that the other lies inside.
            let (apart_manifest, manifest) = (read(&mut apart, "manifest.json"), read(&mut together, "manifest.json"));
            let modes = Some(vec![Mode::AsDesigned, Mode::KvAligned]);
            assert_eq!(manifest, Manifest { modes, ..apart_manifest });
            assert!(apart == together, "{steps} steps");
        }
    }
}

fn fed<'e>(engine: &'e EmbeddedEngine, tokens: &[u32]) -> Box<dyn Session + 'e> {
    let mut session = engine.session().unwrap();
    session.prefill(tokens, 0..0, &mut Tap::closed()).unwrap();
    session
}

#[test]
fn rows_come_back_as_they_were_set_and_nothing_else_moves() {
    for (_, settings) in settings() {
        let engine = engine("hf/llama", &settings);
        let (one, mut two) = (fed(&engine, &[1, 2, 3, 4, 5]), fed(&engine, &[9, 8, 7, 6, 5]));
        let (mine, before) = (one.kv(1, 1..3).unwrap(), two.kv(1, 0..5).unwrap());
        assert_eq!((mine.dtype, mine.shape), (settings.kv_cache.dtype(), (2, 2, 8)));
        two.set_kv(1, 2, &mine).unwrap();
        assert_eq!(two.kv(1, 2..4).unwrap(), mine);
        for rows in [0..2, 4..5] {
            assert_eq!(two.kv(1, rows.clone()).unwrap(), fed(&engine, &[9, 8, 7, 6, 5]).kv(1, rows).unwrap());
        }
        assert_ne!(two.kv(1, 0..5).unwrap(), before);
        assert_eq!(two.kv(0, 0..5).unwrap(), fed(&engine, &[9, 8, 7, 6, 5]).kv(0, 0..5).unwrap());
    }
}

#[test]
fn the_cache_that_a_session_gives_is_the_one_that_a_tap_shows() {
    let engine = engine("hf/llama", &stored(Storage::Bf16, Storage::F16));
    let tokens = &tokens("hf/llama")[..6];
    let selection = crate::support::everything(&engine);
    let (_, rows) = tapped(&engine, Phase::Prefill, tokens, (&selection, 5..6));
    let held = fed(&engine, tokens).kv(1, 0..6).unwrap();
    let shown = |point| rows.iter().find(|r| r.point == point && r.layer == 1).unwrap().bytes.clone();
    assert!(held.k == shown(Point::KCache) && held.v == shown(Point::VCache));
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let engine = engine("hf/llama", &plain());
    let mut session = fed(&engine, &[1, 2, 3]);
    let good = session.kv(0, 0..2).unwrap();
    session.set_kv(0, 1, &good).unwrap();
    let mut refused = |case: &str, layer: usize, first: usize, rows: KvRows| {
        let error = session.set_kv(layer, first, &rows).expect_err(case);
        assert!(error.hint().is_some_and(|h| !h.is_empty()), "{case}: {error}");
    };
    refused("behind the end", 0, 2, good.clone());
    refused("no such layer", 2, 0, good.clone());
    refused("another width", 0, 0, KvRows { shape: (2, 4, 4), ..good.clone() });
    refused("other heads", 0, 0, KvRows { shape: (4, 2, 4), ..good.clone() });
    refused("bytes missing", 0, 0, KvRows { k: good.k[4..].to_vec(), ..good.clone() });
    refused("V is short", 0, 0, KvRows { v: good.v[..4].to_vec(), ..good.clone() });
    refused("another type", 0, 0, KvRows { dtype: Dtype::F16, ..good.clone() });
    assert!(session.kv(0, 2..4).is_err() && session.kv(2, 0..1).is_err());
    assert_eq!(session.kv(0, 1..3).unwrap(), good, "a refusal changes nothing");
}
