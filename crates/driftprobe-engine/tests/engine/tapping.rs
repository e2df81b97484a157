//! A tap shows everything it is asked for, once, and nothing else; and it changes no bit of the result.

use crate::support::{
    Collected, FAMILIES, bits, blocked, chunked, engine, everything, feed, logits, plain, split_k, stored, tapped,
    tokens,
};
use driftprobe_engine::{Engine, Selection, Settings, Storage, Tap, TappedRow};
use driftprobe_model::Config;
use driftprobe_trace::{Dtype, Phase, Point};
use std::collections::BTreeMap;
use std::ops::Range;

/// Settings that compute in different ways.
fn settings() -> Vec<(&'static str, Settings)> {
    let both = Settings { decode_attention: split_k(3).decode_attention, ..blocked(4) };
    let mixed = Settings { prefill_chunk_tokens: Some(5), ..stored(Storage::F16, Storage::Bf16) };
    vec![
        ("plain", plain()),
        ("chunked", chunked(5)),
        ("blocked and split-k", both.clone()),
        ("blocked in chunks", Settings { prefill_chunk_tokens: Some(7), ..both }),
        ("f16", stored(Storage::F16, Storage::F16)),
        ("bf16", stored(Storage::Bf16, Storage::Bf16)),
        ("f16, cache bf16, chunked", mixed),
    ]
}

#[test]
fn a_tap_changes_no_bit_of_the_logits() {
    for path in FAMILIES.into_iter().chain(["gguf/llama-q8_0.gguf"]) {
        for (name, settings) in settings() {
            let (engine, tokens) = (engine(path, &settings), tokens(path));
            for phase in Phase::ALL {
                let untapped = logits(&engine, phase, &tokens);
                assert!(untapped.iter().all(|l| l.is_finite()), "{path}, {name}, {phase}");
                let (whole, rows) = tapped(&engine, phase, &tokens, (&everything(&engine), 0..tokens.len()));
                assert!(!rows.is_empty());
                assert!(bits(&whole) == bits(&untapped), "{path}, {name}, {phase}: everything tapped");
                let last = tokens.len() - 1..tokens.len();
                let (some, _) = tapped(&engine, phase, &tokens, (&everything(&engine), last));
                assert!(bits(&some) == bits(&untapped), "{path}, {name}, {phase}: the last row tapped");
                let mut collected = Collected::default();
                let watched = feed(&engine, phase, &tokens, &mut Tap::watched(&mut collected));
                assert!(bits(&watched) == bits(&untapped) && collected.rows.is_empty(), "{path}, {name}, {phase}");
            }
        }
    }
}

#[test]
fn the_tapped_logits_are_the_returned_ones() {
    let (engine, tokens) = (engine("hf/gemma2", &plain()), tokens("hf/gemma2"));
    for phase in Phase::ALL {
        let (logits, rows) = tapped(&engine, phase, &tokens, (&everything(&engine), 0..tokens.len()));
        let shown: Vec<u8> = rows.into_iter().filter(|r| r.point == Point::Logits).flat_map(|r| r.bytes).collect();
        assert_eq!(shown, logits.iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<u8>>());
    }
}

/// A row's shape by the trace format's table of points.
fn shape(point: Point, pos: usize, c: &Config) -> Vec<u64> {
    use Point::*;
    let shape = match point {
        EmbedOut | ResidualPreAttn | AttnNormOut | AttnProjOut | AttnPostNormOut | ResidualPostAttn | FfnNormOut
        | MlpOut | MlpPostNormOut | ResidualPostMlp | FinalNormIn | FinalNormOut => vec![c.hidden_size],
        QProjOut | QPreRope | QPostRope => vec![c.num_attention_heads, c.head_dim],
        KProjOut | KPreRope | KPostRope | VProj => vec![c.num_key_value_heads, c.head_dim],
        KCache | VCache => vec![c.num_key_value_heads, pos + 1, c.head_dim],
        AttnScores | AttnProbs => vec![c.num_attention_heads, pos + 1],
        AttnOut => vec![c.num_attention_heads * c.head_dim],
        MlpGate | MlpUp | MlpAct => vec![c.intermediate_size],
        Logits => vec![c.vocab_size],
    };
    shape.into_iter().map(|d| d as u64).collect()
}

fn dtype(point: Point, settings: &Settings) -> Dtype {
    match point {
        Point::Logits | Point::AttnScores | Point::AttnProbs => Dtype::F32,
        Point::KCache | Point::VCache => settings.kv_cache.dtype(),
        _ => settings.storage.dtype(),
    }
}

type Place = (Point, i32, usize);

fn places(engine: &dyn Engine, phase: Phase, selection: &Selection, positions: &Range<usize>) -> Vec<Place> {
    let mut all = Vec::new();
    for point in engine.points(phase).into_iter().filter(|p| selection.points.contains(p)) {
        let layers: Vec<i32> =
            if point.layered() { selection.layers.iter().map(|l| *l as i32).collect() } else { vec![-1] };
        all.extend(layers.into_iter().flat_map(|l| positions.clone().map(move |pos| (point, l, pos))));
    }
    all.sort();
    all
}

fn check_rows(rows: &[TappedRow], config: &Config, settings: &Settings, seq_len: impl Fn(usize) -> usize) {
    for row in rows {
        let what = format!("{} of layer {} at {}", row.point, row.layer, row.pos);
        assert_eq!(row.shape, shape(row.point, row.pos, config), "{what}");
        assert_eq!(row.dtype, dtype(row.point, settings), "{what}");
        let size = row.shape.iter().product::<u64>() as usize * row.dtype.size_bytes();
        assert_eq!(row.bytes.len(), size, "{what}");
        assert_eq!(row.seq_len, seq_len(row.pos), "{what}");
    }
}

#[test]
fn every_listed_point_is_shown_once_a_wanted_row_and_layer_and_no_other_is() {
    for path in FAMILIES {
        let config = crate::support::model(path).config;
        for (name, settings) in settings() {
            let (engine, tokens) = (engine(path, &settings), tokens(path));
            let all = everything(&engine);
            let last_layer = Selection { layers: [engine.layers() - 1].into(), ..all.clone() };
            let few = Selection { points: [Point::KCache, Point::AttnOut, Point::Logits].into(), ..all.clone() };
            let n = tokens.len();
            for (selection, positions) in [(&all, 0..n), (&last_layer, 3..9), (&few, n - 1..n), (&all, 4..4)] {
                for phase in Phase::ALL {
                    let (_, rows) = tapped(&engine, phase, &tokens, (selection, positions.clone()));
                    let mut found: Vec<Place> = rows.iter().map(|r| (r.point, r.layer, r.pos)).collect();
                    found.sort();
                    let expected = places(&engine, phase, selection, &positions);
                    assert!(found == expected, "{path}, {name}, {phase}, {positions:?}: {}", differ(&found, &expected));
                    let chunk = settings.prefill_chunk_tokens.unwrap_or(n);
                    let seq_len = |pos: usize| match phase {
                        Phase::Prefill => chunk.min(n - pos / chunk * chunk),
                        Phase::Decode => 1,
                    };
                    check_rows(&rows, &config, &settings, seq_len);
                }
            }
        }
    }
}

fn differ(found: &[Place], expected: &[Place]) -> String {
    let mut counts: BTreeMap<Place, i32> = BTreeMap::new();
    expected.iter().for_each(|p| *counts.entry(*p).or_default() += 1);
    found.iter().for_each(|p| *counts.entry(*p).or_default() -= 1);
    counts.into_iter().filter(|(_, n)| *n != 0).map(|(p, n)| format!("{p:?} missing {n}; ")).take(9).collect()
}

#[test]
fn points_are_listed_where_the_model_and_the_kernels_have_them() {
    let points = |path: &str, settings: &Settings, phase| engine(path, settings).points(phase);
    let has = |path: &str, point| Phase::ALL.map(|phase| points(path, &plain(), phase).contains(&point)) == [true; 2];
    for path in FAMILIES {
        assert_eq!(has(path, Point::QProjOut) && has(path, Point::KProjOut), path == "hf/qwen3", "{path}");
        assert_eq!(has(path, Point::AttnPostNormOut), path == "hf/gemma2", "{path}");
        assert_eq!(has(path, Point::MlpPostNormOut), path == "hf/gemma2", "{path}");
        assert!(has(path, Point::AttnProbs) && has(path, Point::AttnScores), "{path}");
    }
    let both = Settings { decode_attention: split_k(3).decode_attention, ..plain() };
    assert!(points("hf/llama", &both, Phase::Prefill).contains(&Point::AttnProbs));
    assert!(!points("hf/llama", &both, Phase::Decode).contains(&Point::AttnProbs));
    assert!(!points("hf/llama", &blocked(4), Phase::Prefill).contains(&Point::AttnProbs));
    assert!(points("hf/llama", &blocked(4), Phase::Decode).contains(&Point::AttnProbs));
}

#[test]
fn rows_before_the_last_norm_do_not_hang_on_the_logits_that_are_asked_for() {
    let (engine, tokens) = (engine("hf/llama", &chunked(5)), tokens("hf/llama"));
    let n = tokens.len();
    let of = |logits: Range<usize>| {
        let mut collected = Collected::default();
        let selection = Selection { points: [Point::FinalNormIn, Point::FinalNormOut].into(), layers: [0].into() };
        let mut session = engine.session().unwrap();
        session.prefill(&tokens, logits, &mut Tap::open(&selection, 0..n, &mut collected)).unwrap();
        collected.rows.into_iter().map(|r| (r.point, r.pos, r.bytes)).collect::<Vec<_>>()
    };
    let whole = of(0..n);
    assert_eq!(whole.len(), 2 * n);
    assert!(of(n - 1..n) == whole, "the last position's logits");
    assert!(of(7..9) == whole, "logits of some positions");
    assert!(of(0..0) == whole, "no logits at all");
}

#[test]
fn a_watcher_hears_of_every_layer_with_the_tokens_that_pass_it() {
    let tokens = tokens("hf/llama");
    let entered = |settings: &Settings, phase| {
        let mut collected = Collected::default();
        feed(&engine("hf/llama", settings), phase, &tokens, &mut Tap::watched(&mut collected));
        collected.entered
    };
    let pass = |tokens: usize| [(0, tokens), (1, tokens)];
    assert_eq!(tokens.len(), 24);
    assert_eq!(entered(&plain(), Phase::Prefill), pass(24));
    assert_eq!(entered(&chunked(10), Phase::Prefill), [pass(10), pass(10), pass(4)].concat());
    assert_eq!(entered(&plain(), Phase::Decode), vec![pass(1); 24].concat());
}
