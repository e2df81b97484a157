//! Faults that would change nothing are refused, with the reason.

use super::{IDS, catalogue, open, subject};
use crate::support::{blocked, plain, split_k, stored};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Scope, Subject};
use driftprobe_engine::{Settings, Storage};

fn refused(path: &str, settings: &Settings, cases: &[(&str, &str)]) {
    let model = open(path);
    let subject = subject(&model, settings);
    for (text, piece) in cases {
        let fault: Fault = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        let Err(why) = fault.applies(&subject) else { panic!("{path}: {text} is not refused") };
        assert!(why.contains(piece), "{path}, {text}: expected {piece:?} in {why:?}");
        let Err(error) = FaultyEngine::new(&subject, fault.clone()) else { panic!("{path}: {text} is made") };
        assert!(error.to_string().contains(&why) && error.hint().is_some(), "{error}");
        assert!(!catalogue(&subject, fault.scope).contains(&fault), "{path}: {text} is in the catalogue");
    }
}

#[test]
fn a_model_without_the_stage_cannot_have_its_fault() {
    let cases = [
        ("BIAS_MISSING:q", "no bias"),
        ("BIAS_REPEATED:q", "no bias"),
        ("SOFTCAP_MISSING:attn", "caps no scores"),
        ("SOFTCAP_MISSING:logits", "caps no logits"),
        ("WEIGHT_TRANSPOSED:gate", "not square"),
        ("QUANT_SCALE:q", "no scales"),
        ("NORM_SKIPPED:q", "no norm on Q and K"),
        ("NORM_SKIPPED:attn_post", "no norm after"),
        ("SOFTMAX_MERGE", "merges nothing"),
        ("ACTIVATION_WRONG:silu", "own activation"),
        ("NORM_EPS:attn:0.00001", "epsilon is 0.00001"),
    ];
    refused("DEMO", &plain(), &cases);
    refused(
        "hf/llama-tied",
        &plain(),
        &[("LM_HEAD_WEIGHT", "no output matrix"), ("WEIGHT_OTHER_LAYER:q", "no other layer")],
    );
    refused("hf/mistral", &plain(), &[("GQA_MAP", "one key head"), ("MASK_WINDOW:8", "no more than 8")]);
    refused(
        "hf/mistral",
        &plain(),
        &[("MASK_MISSES_FIRST@decode", "window already"), ("MASK_MISSES_FIRST@prefill", "window already")],
    );
    refused("hf/qwen2", &plain(), &[("BIAS_REPEATED:o:2", "no bias"), ("BIAS_REPEATED:lm_head:2", "no bias")]);
    refused("hf/gemma2", &plain(), &[("ACTIVATION_WRONG:gelu_tanh", "own activation")]);
    let quantised = [
        ("WEIGHT_TRANSPOSED:q", "quantised"),
        ("TAIL_DROPPED:q:1", "whole blocks"),
        ("ACCUMULATOR_SATURATED:q", "integers"),
    ];
    refused("gguf/llama-q8_0.gguf", &plain(), &quantised);
}

#[test]
fn parameters_that_change_nothing_or_are_not_there_are_refused() {
    let cases = [
        ("ROPE_POSITION_OFFSET:0", "changes nothing"),
        ("ROPE_THETA:1", "what they are"),
        ("ROPE_THETA:-1", "positive"),
        ("ROPE_THETA:NaN", "positive"),
        ("ROPE_SCALING:1", "what they are"),
        ("ROPE_TABLE_PRECISION:fp8", "fp8"),
        ("MASK_SEES_FUTURE:0", "none"),
        ("MASK_SEES_FUTURE@decode", "no later keys"),
        ("MASK_WINDOW:0", "no attention"),
        ("MASK_WINDOW:12", "anyway"),
        ("KV_STALE_SLOT:12", "no slot 12"),
        ("KV_DUPLICATED_SLOT:11", "no slot 12"),
        ("KV_SWAPPED_SLOTS:k:3:3", "itself"),
        ("KV_SWAPPED_SLOTS:k:3:99", "no slot 99"),
        ("HEAD_SWAP:1:1", "itself"),
        ("HEAD_SWAP:0:4", "no head 4"),
        ("SCALE_WRONG:1", "changes nothing"),
        ("SCALE_WRONG:NaN", "changes nothing"),
        ("NORM_EPS:attn:-1", "no epsilon"),
        ("TAIL_DROPPED:o:0", "none"),
        ("TAIL_DROPPED:o:64", "64 columns"),
        ("ACCUMULATOR_SATURATED:o:0", "limit"),
        ("ACCUMULATOR_SATURATED:o:NaN", "limit"),
        ("EMBED_ROW:512", "token itself"),
        ("LM_HEAD_ROW:512", "no token 512"),
        ("ROPE_LAYOUT@both:layer9", "no layer 9"),
        ("EMBED_ROW@both:layer1", "not in a layer"),
        ("NORM_SKIPPED:final@both:layer1", "not in a layer"),
        ("TAIL_DROPPED:lm_head@both:layer1", "not in a layer"),
    ];
    refused("DEMO", &plain(), &cases);
    let times = [("BIAS_REPEATED:q:0", "more than once"), ("BIAS_REPEATED:q:1", "more than once")];
    refused("hf/qwen2", &plain(), &times);
    refused("DEMO", &stored(Storage::F32, Storage::F16), &[("KV_PRECISION:f16", "already")]);
    refused(
        "DEMO",
        &stored(Storage::Bf16, Storage::Bf16),
        &[("KV_PRECISION:bf16", "already"), ("KV_PRECISION:f16", "holds")],
    );
}

#[test]
fn a_merge_is_needed_in_the_phase_that_the_fault_is_in() {
    let merge = |settings: &Settings, text: &str| {
        let model = open("DEMO");
        text.parse::<Fault>().unwrap().applies(&subject(&model, settings)).is_ok()
    };
    assert!(merge(&blocked(4), "SOFTMAX_MERGE@prefill") && !merge(&blocked(4), "SOFTMAX_MERGE@decode"));
    assert!(merge(&split_k(3), "SOFTMAX_MERGE@decode") && !merge(&split_k(3), "SOFTMAX_MERGE@prefill"));
    assert!(!merge(&blocked(64), "SOFTMAX_MERGE@prefill") && !merge(&split_k(1), "SOFTMAX_MERGE@decode"));
}

#[test]
fn one_token_has_few_faults_and_a_short_donor_is_refused() {
    let (model, settings) = (open("DEMO"), plain());
    let one = Subject { tokens: 1, ..subject(&model, &settings) };
    let ids: Vec<&str> = catalogue(&one, Scope::default()).iter().map(|f| f.kind.id()).collect();
    assert!(!ids.is_empty());
    for void in ["ROPE_THETA", "MASK_MISSES_FIRST", "SCALE_MISSING", "KV_SWAPPED_SLOTS", "SOFTMAX_UNNORMALISED"] {
        assert!(IDS.contains(&void) && !ids.contains(&void), "{void}");
    }
    let fault: Fault = "KV_STALE_SLOT:5@decode".parse().unwrap();
    let subject = subject(&model, &settings);
    assert!(FaultyEngine::with_donor(&subject, fault.clone(), &[7; 6]).is_ok());
    let Err(error) = FaultyEngine::with_donor(&subject, fault, &[7; 5]) else { panic!("five tokens have no slot 5") };
    assert!(error.to_string().contains("6 are needed"), "{error}");
}

#[test]
fn every_other_layer_of_a_windowed_model_may_still_have_the_fault() {
    // Gemma 2's layer 0 has a window of 8, its layer 1 none.
    let (model, settings) = (open("hf/gemma2"), plain());
    let applies = |text: &str| text.parse::<Fault>().unwrap().applies(&subject(&model, &settings)).is_ok();
    assert!(!applies("MASK_WINDOW:8@both:layer0") && applies("MASK_WINDOW:8@both:layer1"));
    assert!(applies("MASK_WINDOW:8") && !applies("MASK_MISSES_FIRST@decode:layer0"));
    assert!(applies("MASK_MISSES_FIRST@decode:layer1"));
}
