//! Sound runs of llama.cpp are no faults, and what its kernels do beside what is declared is found, and nothing else.

mod support;

use candle_core::quantized::GgmlDType;
use driftprobe::{Analysis, Verdict};
use driftprobe_engine::record::Plan;
use driftprobe_llama_cpp::{CacheType, LlamaCppEngine, Options};
use driftprobe_model::Model;
use driftprobe_testkit::{Dice, LlamaShape};
use driftprobe_trace::{Mode, PromptInfo};
use support::judged::{findings, judge, plan, reasons};
use support::{Fixture, folder, random_model};

/// What one-row kernels of flash attention do, by the type of the cache.
fn of_one_row(kv_cache: CacheType) -> &'static str {
    match kv_cache {
        CacheType::F16 => "inputs=f16,value_sums=f16",
        CacheType::F32 => "inputs=f16,kv_read=f16,value_sums=f16",
        CacheType::Q8_0 => "inputs=q8_0",
    }
}

fn naive(kv_cache: CacheType) -> Options {
    Options { kv_cache, ..Options::default() }
}

fn flash(kv_cache: CacheType) -> Options {
    Options { kv_cache, flash_attention: true, ..Options::default() }
}

fn engine(model: &Model, options: &Options, tokens: usize) -> LlamaCppEngine {
    let options = Options { context_tokens: Some(tokens + 8), threads: Some(2), ..options.clone() };
    LlamaCppEngine::new(model, options).unwrap()
}

fn look(model: &Model, options: &Options, tokens: &[u32], change: impl Fn(Plan) -> Plan) -> Analysis {
    let engine = engine(model, options, tokens.len());
    let dir = tempfile::tempdir().unwrap();
    judge(&engine, &change(plan(&engine, tokens, 3)), model, &dir.path().join("run"))
}

/// PASS, all of it compared and judged, and the tracing without effect.
fn expect_sound(analysis: &Analysis, what: &str) {
    assert_eq!(analysis.verdict.verdict, Verdict::Pass, "{what}: {:?}", reasons(analysis));
    let observer = analysis.manifest.as_ref().and_then(|m| m.observer.as_ref()).unwrap();
    for logits in [&observer.prefill, &observer.decode] {
        assert_eq!((logits.rows, logits.equal), (3, 3), "{what}");
    }
    assert!(analysis.repeats.iter().all(|r| r.paired > 0 && r.equal == r.paired), "{what}: {:?}", analysis.repeats);
    let judged = analysis.examination.as_ref().unwrap().phases.iter().flat_map(|p| &p.stages);
    let unjudged: Vec<_> = judged.filter(|s| !s.outcome.is_clean()).map(|s| (s.point, &s.outcome)).collect();
    assert!(unjudged.is_empty(), "{what}: {unjudged:?}");
}

#[test]
fn without_flash_attention_nothing_is_undeclared_whatever_the_weights_are() {
    let names = [
        "llama-f32",
        "llama-f16",
        "llama-bf16",
        "llama-q8_0",
        "llama-q4_0",
        "llama-q4_1",
        "llama-q5_0",
        "llama-q5_1",
        "llama-q2_k",
        "llama-q3_k",
        "llama-q4_k",
        "llama-q5_k",
        "llama-q6_k",
        "qwen2-f32",
        "qwen3-bf16",
        "gemma2-f32",
    ];
    for name in names {
        let fixture = Fixture::open(name);
        for kv_cache in [CacheType::F32, CacheType::F16] {
            let what = format!("{name}, {kv_cache} cache");
            let analysis = look(&fixture.model, &naive(kv_cache), &fixture.tokens[..12], |plan| plan);
            expect_sound(&analysis, &what);
            assert_eq!(findings(&analysis), [""; 0], "{what}");
        }
    }
}

#[test]
fn with_flash_attention_the_one_row_kernel_is_found_in_both_phases_of_a_short_prompt() {
    for (name, caches) in [
        ("llama-f32", &[CacheType::F32, CacheType::F16][..]),
        ("llama-f16", &[CacheType::F16]),
        ("llama-q8_0", &[CacheType::F16]),
        ("llama-q4_k", &[CacheType::F16]),
        ("qwen2-f32", &[CacheType::F16]),
        ("qwen3-bf16", &[CacheType::F16, CacheType::Q8_0]),
        ("qwen3-q8_0", &[CacheType::Q8_0]),
        ("gemma2-f32", &[CacheType::F16]),
    ] {
        let fixture = Fixture::open(name);
        for kv_cache in caches {
            let what = format!("{name}, {kv_cache} cache");
            let analysis = look(&fixture.model, &flash(*kv_cache), &fixture.tokens[..12], |plan| plan);
            expect_sound(&analysis, &what);
            let kernel = of_one_row(*kv_cache);
            let expected = [format!("prefill attn_out: {kernel}"), format!("decode attn_out: {kernel}")];
            assert_eq!(findings(&analysis), expected, "{what}");
        }
    }
}

#[test]
fn from_64_tokens_on_prefill_has_another_kernel_than_decode_and_from_512_keys_on_decode_splits_them() {
    let dir = tempfile::tempdir().unwrap();
    let model = random_model(&dir, GgmlDType::F32);
    let tokens = |count| Dice(5).tokens(count, LlamaShape::TINY.vocab);
    let decode = |kernel: &str| format!("decode attn_out: {kernel}");
    let analysis = look(&model, &flash(CacheType::F16), &tokens(80), |plan| plan);
    expect_sound(&analysis, "80 tokens");
    assert_eq!(findings(&analysis), [decode(of_one_row(CacheType::F16))]);
    let analysis = look(&model, &flash(CacheType::F32), &tokens(80), |plan| plan);
    expect_sound(&analysis, "80 tokens, f32 cache");
    let cast = "prefill attn_out: kv_read=f16".to_owned();
    assert_eq!(findings(&analysis), [cast, decode(of_one_row(CacheType::F32))]);
    // Both in one run: prompts of both kinds.
    for (kv_cache, id) in [
        (CacheType::F16, "declared;below 80 tokens:inputs=f16,value_sums=f16"),
        (CacheType::F32, "kv_read=f16;below 80 tokens:inputs=f16,kv_read=f16,value_sums=f16"),
    ] {
        let short = PromptInfo { id: "q".into(), tokens: tokens(20), ..Default::default() };
        let both = |mut plan: Plan| {
            plan.prompts.push(short.clone());
            Plan { steps: 1, ..plan }
        };
        let analysis = look(&model, &flash(kv_cache), &tokens(80), both);
        assert_eq!(analysis.verdict.verdict, Verdict::Pass, "{:?}", reasons(&analysis));
        assert_eq!(findings(&analysis), [format!("prefill attn_out: {id}"), decode(of_one_row(kv_cache))]);
    }
    // n_kv is counted up to a multiple of 256, so 258 keys are 512.
    let analysis = look(&model, &flash(CacheType::F16), &tokens(258), |plan| Plan { layers: [0, 1].into(), ..plan });
    assert_eq!(
        findings(&analysis),
        [decode("inputs=f16,value_sums=f16,key_parts=2@512/256")],
        "{:?}",
        reasons(&analysis)
    );
}

#[test]
fn micro_batches_pruned_rows_and_an_aligned_cache_change_nothing_of_that() {
    let dir = tempfile::tempdir().unwrap();
    let model = random_model(&dir, GgmlDType::F32);
    let tokens = Dice(6).tokens(40, LlamaShape::TINY.vocab);
    let options = Options { ubatch_tokens: 16, ..naive(CacheType::F16) };
    expect_sound(&look(&model, &options, &tokens, |plan| plan), "micro-batches of 16");
    let options = Options { prune: true, ..options };
    expect_sound(&look(&model, &options, &tokens, |plan| plan), "pruned");
    for options in [naive(CacheType::F16), naive(CacheType::F32), flash(CacheType::F16)] {
        let analysis = look(&model, &options, &tokens, |plan| Plan { mode: Mode::KvAligned, ..plan });
        expect_sound(&analysis, "aligned");
        let caches = || analysis.pairs.iter().filter_map(|pair| pair.cache);
        assert!(caches().count() > 0 && caches().all(|c| c.first_differing.is_none_or(|at| at + 1 == c.positions)));
    }
    let model = Model::open(&folder().join("qwen3-q8_0.gguf")).unwrap();
    let analysis = look(&model, &flash(CacheType::Q8_0), &tokens[..14], |plan| Plan { mode: Mode::KvAligned, ..plan });
    expect_sound(&analysis, "aligned, q8_0 cache");
}
