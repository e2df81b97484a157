//! What tracing costs llama.cpp: the same passes untraced, traced at sampled layers, traced whole, and with the eval callback
//! that copies every tensor, which is llama.cpp's own way of looking into a graph.
//!
//!     cargo run --release -p driftprobe-llama-cpp --example tracing_cost

use candle_core::quantized::GgmlDType;
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{Engine, Session, Tap};
use driftprobe_llama_cpp::{LlamaCppEngine, Options};
use driftprobe_model::Model;
use driftprobe_testkit::{Dice, LlamaShape, random_llama};
use driftprobe_trace::{Manifest, Mode, Phase, Point, PromptInfo};
use llama_cpp_sys_2 as sys;
use std::collections::BTreeSet;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::time::Instant;

/// As Qwen2.5-0.5B, but for its vocabulary.
const SHAPE: LlamaShape =
    LlamaShape { hidden: 896, inner: 4864, layers: 24, heads: 14, kv_heads: 2, head_dim: 64, vocab: 32_000 };
const PROMPT_TOKENS: usize = 512;
const STEPS: usize = 32;
const ROUNDS: usize = 3;
const SAMPLED: [usize; 5] = [0, 1, 2, 4, 8];
const THREADS: usize = 2;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("model.gguf");
    random_llama(&path, SHAPE, GgmlDType::Q8_0);
    let model = Model::open(&path).expect("the model");
    let context_tokens = Some(PROMPT_TOKENS + STEPS);
    let options = Options { context_tokens, threads: Some(THREADS), prune: true, ..Options::default() };
    let engine = LlamaCppEngine::new(&model, options).expect("llama.cpp loads the model");
    let tokens = Dice(1).tokens(PROMPT_TOKENS, SHAPE.vocab);
    let own = Own::load(&path);
    let all: BTreeSet<usize> = (0..SHAPE.layers).collect();
    let names = [
        "untraced".to_owned(),
        format!("layers {SAMPLED:?}, all points, recorded as a run"),
        "all layers, all points, recorded as a run".to_owned(),
        "llama.cpp's eval callback, every tensor copied and dropped".to_owned(),
    ];
    let mut times = vec![Vec::new(); names.len()];
    untraced(&engine, &tokens);
    // Interleaved, so that whatever else the machine does strikes all of them alike.
    for _ in 0..ROUNDS {
        times[0].push(seconds(|| untraced(&engine, &tokens)));
        times[1].push(seconds(|| traced(&engine, &tokens, SAMPLED.into(), dir.path())));
        times[2].push(seconds(|| traced(&engine, &tokens, all.clone(), dir.path())));
        times[3].push(seconds(|| own.run(&tokens)));
    }
    println!(
        "Random llama, hidden {}, {} layers, Q8_0; {PROMPT_TOKENS} tokens, {STEPS} decode steps, {THREADS} threads; medians of {ROUNDS} rounds.\n",
        SHAPE.hidden, SHAPE.layers
    );
    println!("| tracing | time s | over untraced | each round |\n|---|---|---|---|");
    for (name, of) in names.iter().zip(&times) {
        let ratios: Vec<f64> = of.iter().zip(&times[0]).map(|(t, plain)| t / plain).collect();
        let each: Vec<String> = ratios.iter().map(|r| format!("{r:.3}")).collect();
        println!("| {name} | {:.2} | {:.3} | {} |", median(of), median(&ratios), each.join(" "));
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The passes of a recording: the tokens of further steps are chosen; prefill of all; prefill of the prompt but its last token,
/// and the steps.
fn untraced(engine: &LlamaCppEngine, tokens: &[u32]) {
    let n = tokens.len();
    let session = || engine.unwatched_session().expect("a context");
    let closed = || Tap::closed();
    let greedy = |logits: &[f32]| {
        let best =
            logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, l)| if *l > b.1 { (i, *l) } else { b });
        best.0 as u32
    };
    let mut all = tokens.to_vec();
    let mut choosing = session();
    let mut logits = choosing.prefill(tokens, n - 1..n, &mut closed()).expect("prefill");
    for step in 1..STEPS {
        all.push(greedy(&logits));
        if step + 1 < STEPS {
            logits = choosing.decode(all[all.len() - 1], &mut closed()).expect("decode");
        }
    }
    session().prefill(&all, n - 1..all.len(), &mut closed()).expect("prefill");
    let mut decoding: Box<dyn Session> = session();
    decoding.prefill(&all[..n - 1], 0..0, &mut closed()).expect("prefill");
    for token in &all[n - 1..] {
        decoding.decode(*token, &mut closed()).expect("decode");
    }
}

fn traced(engine: &LlamaCppEngine, tokens: &[u32], layers: BTreeSet<usize>, dir: &Path) {
    let plan = Plan {
        prompts: vec![PromptInfo { id: "bench".into(), tokens: tokens.to_vec(), ..Default::default() }],
        mode: Mode::AsDesigned,
        steps: STEPS,
        layers,
        points: Phase::ALL.into_iter().flat_map(|p| engine.points(p)).collect::<BTreeSet<Point>>(),
        repeats: 0,
        unwatched: false,
        forced: false,
        decoded: 0,
        payloads: true,
        rows: None,
        compress: false,
        overwrite: true,
    };
    record(engine, &plan, &dir.join("run"), Manifest::default(), &mut Unwatched).expect("a recording");
}

/// llama.cpp by itself.
struct Own(*mut sys::llama_model);

/// Copies whatever is computed.
unsafe extern "C" fn copy_all(tensor: *mut sys::ggml_tensor, ask: bool, data: *mut c_void) -> bool {
    if ask {
        return true;
    }
    // SAFETY: the buffer that the context was made with; nobody else uses it while llama.cpp computes.
    let buffer = unsafe { &mut *data.cast::<Vec<u8>>() };
    // SAFETY: a node that has just been computed.
    let size = unsafe { sys::ggml_nbytes(tensor) };
    buffer.resize(size.max(buffer.len()), 0);
    // SAFETY: the buffer is as long as the tensor.
    unsafe { sys::ggml_backend_tensor_get(tensor, buffer.as_mut_ptr().cast(), 0, size) };
    true
}

impl Own {
    fn load(path: &Path) -> Own {
        let path = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path without NUL");
        // SAFETY: a NUL-terminated path and default parameters; the engine has started llama.cpp.
        let model = unsafe { sys::llama_model_load_from_file(path.as_ptr(), sys::llama_model_default_params()) };
        assert!(!model.is_null(), "llama.cpp loads the model");
        Own(model)
    }

    /// The same passes as [`untraced`], of the same lengths.
    fn run(&self, tokens: &[u32]) {
        let mut all: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
        let n = all.len();
        all.extend(std::iter::repeat_n(1, STEPS - 1));
        self.pass(&mut all[..n], STEPS - 2);
        self.pass(&mut all, 0);
        self.pass(&mut all[..n - 1], STEPS);
    }

    fn pass(&self, tokens: &mut [i32], steps: usize) {
        let mut buffer: Vec<u8> = Vec::new();
        // SAFETY: the model and the buffer outlive the context, the batches their calls; the context is freed once.
        unsafe {
            let mut parameters = sys::llama_context_default_params();
            parameters.n_ctx = (PROMPT_TOKENS + STEPS) as u32;
            parameters.n_batch = parameters.n_ctx;
            (parameters.n_threads, parameters.n_threads_batch) = (THREADS as i32, THREADS as i32);
            parameters.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
            parameters.cb_eval = Some(copy_all);
            parameters.cb_eval_user_data = (&raw mut buffer).cast();
            let context = sys::llama_init_from_model(self.0, parameters);
            assert!(!context.is_null(), "a context");
            assert_eq!(
                sys::llama_decode(context, sys::llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32)),
                0
            );
            for _ in 0..steps {
                let mut token = 1;
                assert_eq!(sys::llama_decode(context, sys::llama_batch_get_one(&raw mut token, 1)), 0);
            }
            sys::llama_free(context);
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: loaded once, freed once.
        unsafe { sys::llama_model_free(self.0) };
    }
}
