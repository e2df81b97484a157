//! The two paths, and every variant of each: really different arithmetic, and each within 2e-6 of what transformers
//! computes, at every position.

use crate::support::{
    FAMILIES, bits, blocked, chunked, engine, expected, logits, model, plain, split_k, tapped, values, worst_row,
};
use driftprobe_engine::{Selection, Settings};
use driftprobe_trace::{Phase, Point};

/// Largest relative error of a row of logits, as the cross-check has it.
const REL_ERROR_MAX: f64 = 2e-6;

/// Asserts the bound for every family, and gives in how many families some bit differs from the plain path.
fn families_that_differ(name: &str, phase: Phase, settings: &Settings) -> usize {
    let mut differ = 0;
    for path in FAMILIES.into_iter().chain(["hf/llama-gqa-sharded", "gguf/mistral-f16.gguf", "gguf/gemma2-f32.gguf"]) {
        let (tokens, expected) = expected(path);
        let found = logits(&engine(path, settings), phase, &tokens);
        let error = worst_row(&found, &expected, tokens.len());
        assert!(error <= REL_ERROR_MAX, "{path}, {name}: {error:e}");
        let naive = logits(&engine(path, &plain()), phase, &tokens);
        differ += usize::from(bits(&found) != bits(&naive));
    }
    differ
}

#[test]
fn blocked_prefill_is_right_at_every_block_size_and_another_sum() {
    for keys in [1, 3, 8, 23, 1000] {
        let differ = families_that_differ(&format!("blocked:{keys}"), Phase::Prefill, &blocked(keys));
        assert!(differ > 0, "blocked:{keys} gives naive's bits everywhere");
    }
}

#[test]
fn split_k_decode_is_right_at_every_number_of_parts_and_another_sum() {
    for parts in [1, 3, 7, 1000] {
        let differ = families_that_differ(&format!("split-k:{parts}"), Phase::Decode, &split_k(parts));
        assert!(differ > 0, "split-k:{parts} gives naive's bits everywhere");
    }
}

#[test]
fn chunked_prefill_is_right_at_every_chunk() {
    for tokens in [1, 5, 7, 23] {
        families_that_differ(&format!("chunk {tokens}"), Phase::Prefill, &chunked(tokens));
        let both = Settings { prefill_chunk_tokens: Some(tokens), ..blocked(3) };
        families_that_differ(&format!("chunk {tokens}, blocked:3"), Phase::Prefill, &both);
    }
    assert!(families_that_differ("chunk 5", Phase::Prefill, &chunked(5)) > 0, "chunks change the sums' order");
    for tokens in [24, 1000] {
        let differ = families_that_differ(&format!("chunk {tokens}"), Phase::Prefill, &chunked(tokens));
        assert_eq!(differ, 0, "a chunk of {tokens} is the whole prompt");
    }
}

#[test]
fn prefill_and_decode_are_two_paths() {
    for path in FAMILIES {
        let (tokens, _) = expected(path);
        let engine = engine(path, &plain());
        let (p, d) = (logits(&engine, Phase::Prefill, &tokens), logits(&engine, Phase::Decode, &tokens));
        assert!(bits(&p) != bits(&d), "{path}");
    }
}

#[test]
fn keys_outside_the_window_get_nothing_even_where_whole_blocks_are() {
    let (tokens, _) = expected("hf/mistral");
    let window = model("hf/mistral").config.sliding_windows[0].unwrap();
    assert!(window == 8 && tokens.len() > 2 * window, "rows far enough along see no key of the first blocks");
    let selection = Selection { points: [Point::AttnScores, Point::AttnProbs].into(), layers: [0, 1].into() };
    for (settings, phase) in [
        (plain(), Phase::Prefill),
        (plain(), Phase::Decode),
        (blocked(2), Phase::Prefill),
        (split_k(7), Phase::Decode),
        (chunked(3), Phase::Prefill),
    ] {
        let (_, rows) = tapped(&engine("hf/mistral", &settings), phase, &tokens, (&selection, 0..tokens.len()));
        assert!(rows.iter().any(|r| r.point == Point::AttnScores));
        for row in rows {
            for (i, value) in values(&row).into_iter().enumerate() {
                let seen = i % (row.pos + 1) + window > row.pos;
                let hidden = if row.point == Point::AttnScores { f64::NEG_INFINITY } else { 0.0 };
                assert_eq!(value == hidden, !seen, "{} at {}: column {}", row.point, row.pos, i % (row.pos + 1));
            }
        }
    }
}

#[test]
fn only_every_other_layer_of_gemma_has_a_window_and_scores_stay_under_the_cap() {
    let config = model("hf/gemma2").config;
    assert_eq!(config.sliding_windows, [Some(8), None]);
    let cap = config.attn_softcap.unwrap();
    let (tokens, _) = expected("hf/gemma2");
    let selection = Selection { points: [Point::AttnScores].into(), layers: [0, 1].into() };
    for settings in [plain(), blocked(3)] {
        let (_, rows) = tapped(&engine("hf/gemma2", &settings), Phase::Prefill, &tokens, (&selection, 0..tokens.len()));
        for row in rows {
            let hidden = values(&row).iter().filter(|v| **v == f64::NEG_INFINITY).count();
            let beyond = if row.layer == 0 { (row.pos + 1).saturating_sub(8) } else { 0 };
            assert_eq!(hidden, beyond * config.num_attention_heads, "layer {} at {}", row.layer, row.pos);
            assert!(values(&row).iter().all(|v| v.abs() <= cap || *v == f64::NEG_INFINITY));
        }
    }
}
