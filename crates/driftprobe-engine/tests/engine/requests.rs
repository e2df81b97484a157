//! What makes no sense is refused with a hint, and leaves the session as it was.

use crate::support::{bits, blocked, engine, logits, model, plain, split_k, tokens};
use driftprobe_engine::{DecodeAttention, EmbeddedEngine, Engine, EngineError, PrefillAttention, Settings, Tap};
use driftprobe_trace::Phase;

fn refused<T>(case: &str, result: Result<T, EngineError>, pieces: &[&str]) {
    let Err(error) = result else { panic!("{case}: not refused") };
    let message = error.to_string();
    for piece in pieces {
        assert!(message.contains(piece), "{case}: expected {piece:?} in {message:?}");
    }
    assert!(error.hint().is_some_and(|h| !h.is_empty()), "{case}: no hint with {message:?}");
}

#[test]
fn tokens_that_are_not_in_the_vocabulary_are_refused_and_leave_no_trace() {
    let (engine, tokens) = (engine("hf/llama", &plain()), tokens("hf/llama"));
    let vocab = engine.vocab() as u32;
    let expected = logits(&engine, Phase::Decode, &tokens);
    let mut session = engine.session().unwrap();
    refused("decode", session.decode(vocab, &mut Tap::closed()), &[&vocab.to_string(), "vocabulary"]);
    refused("prefill", session.prefill(&[0, u32::MAX], 0..1, &mut Tap::closed()), &["4294967295"]);
    assert!(session.is_empty());
    let found: Vec<f32> = tokens.iter().flat_map(|t| session.decode(*t, &mut Tap::closed()).unwrap()).collect();
    assert!(bits(&found) == bits(&expected));
}

#[test]
fn logits_of_positions_that_are_not_fed_are_refused() {
    let engine = engine("hf/llama", &plain());
    let mut session = engine.session().unwrap();
    refused("past the end", session.prefill(&[1, 2, 3], 2..4, &mut Tap::closed()), &["2..4", "0..3"]);
    assert!(session.is_empty());
    assert_eq!(session.prefill(&[1, 2, 3], 1..3, &mut Tap::closed()).unwrap().len(), 2 * engine.vocab());
    refused("before the start", session.prefill(&[4], 2..4, &mut Tap::closed()), &["2..4", "3..4"]);
    assert_eq!(session.prefill(&[4], 3..4, &mut Tap::closed()).unwrap().len(), engine.vocab());
    assert_eq!(session.prefill(&[5], 0..0, &mut Tap::closed()).unwrap().len(), 0);
    assert_eq!(session.len(), 5);
}

#[test]
fn prefill_behind_decode_continues_the_sequence() {
    let (engine, tokens) = (engine("hf/gemma2", &plain()), tokens("hf/gemma2"));
    let n = tokens.len();
    let mut session = engine.session().unwrap();
    tokens[..10].iter().for_each(|t| drop(session.decode(*t, &mut Tap::closed()).unwrap()));
    let rest = session.prefill(&tokens[10..], 10..n, &mut Tap::closed()).unwrap();
    let whole = logits(&engine, Phase::Prefill, &tokens);
    let error = crate::support::worst_row(&rest, &whole[10 * engine.vocab()..], n - 10);
    assert!(error <= 2e-6, "{error:e}");
}

#[test]
fn a_cache_that_must_grow_keeps_what_it_holds() {
    let engine = engine("hf/qwen3", &plain());
    let tokens: Vec<u32> = (0..150).map(|i| (i * 7 + 3) % engine.vocab() as u32).collect();
    let (p, d) = (logits(&engine, Phase::Prefill, &tokens), logits(&engine, Phase::Decode, &tokens));
    let error = crate::support::worst_row(&d, &p, tokens.len());
    assert!(error <= 2e-6, "{error:e}");
}

#[test]
fn settings_that_count_to_nothing_are_refused() {
    let new = |settings: Settings| EmbeddedEngine::new(&model("hf/llama"), settings).map(drop);
    refused("blocks", new(blocked(0)), &["blocked:0"]);
    refused("parts", new(split_k(0)), &["split-k:0"]);
    refused("chunks", new(Settings { prefill_chunk_tokens: Some(0), ..plain() }), &["chunk"]);
}

#[test]
fn settings_are_read_as_they_are_written() {
    for text in ["naive", "blocked:1", "blocked:64"] {
        assert_eq!(text.parse::<PrefillAttention>().unwrap().to_string(), text);
    }
    for text in ["naive", "split-k:1", "split-k:4"] {
        assert_eq!(text.parse::<DecodeAttention>().unwrap().to_string(), text);
    }
    assert_eq!("blocked".parse(), Ok(PrefillAttention::Blocked { keys: 64 }));
    for text in ["", "Naive", "blocked:", "blocked:0", "blocked:-1", "blocked:x", "naive:3", "split-k:2"] {
        assert!(text.parse::<PrefillAttention>().is_err(), "{text}");
    }
    for text in ["", "split-k:0", "split-k:", "blocked:2", "naive:1"] {
        assert!(text.parse::<DecodeAttention>().is_err(), "{text}");
    }
}
