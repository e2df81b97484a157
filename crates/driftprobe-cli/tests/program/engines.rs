//! Which engine runs, and options that do not fit it.

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;

const GGUF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../driftprobe-model/demo/model.gguf");

fn run(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftprobe"));
    let quick = ["run", "--prompts", "Truth is", "--layers", "0,1", "--repeats", "0", "--out"];
    let dir = tempfile::tempdir().unwrap();
    command.args(quick).arg(dir.path().join("run")).args(arguments);
    for name in ["GRETA_TRACE_LAYERS", "GRETA_TRACE_STAGE_LAYERS", "GRETA_TRACE_STAGE_POINTS", "GRETA_SEED"] {
        command.env_remove(name);
    }
    command
}

#[test]
fn options_of_another_engine_are_refused_by_name() {
    for option in [&["--flash-attention", "on"][..], &["--ubatch", "8"], &["--prune"]] {
        let refused = contains(option[0]).and(contains("embedded")).and(contains("hint:"));
        run(option).assert().code(2).stderr(refused);
    }
    let embedded = [
        &["--dtype", "bf16"][..],
        &["--prefill-attention", "naive"],
        &["--decode-attention", "naive"],
        &["--prefill-chunk", "4"],
        &["--batch", "2"],
        &["--quantised-matmul", "integer"],
        &["--fault", "ROPE_THETA"],
    ];
    for option in embedded {
        let refused = contains(option[0]).and(contains("llama-cpp")).and(contains("hint:"));
        run(option).args(["--engine", "llama-cpp"]).assert().code(2).stderr(refused);
    }
    run(&["--kv-cache", "q8_0"]).assert().code(2).stderr(contains("q8_0").and(contains("--engine llama-cpp")));
}

#[cfg(not(feature = "llama-cpp"))]
#[test]
fn an_engine_that_is_not_built_in_is_said_so_with_a_remedy() {
    let refused = contains("no llama.cpp in it").and(contains("--features llama-cpp"));
    run(&["--engine", "llama-cpp", "--model", GGUF]).assert().code(2).stderr(refused);
}

#[cfg(feature = "llama-cpp")]
mod llama_cpp {
    use super::*;
    use std::fs;

    #[test]
    fn its_micro_batches_and_its_attention_are_swept_and_its_generations_measured() {
        let dir = tempfile::tempdir().unwrap();
        let driftprobe = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_driftprobe"));
            command.current_dir(dir.path()).args(args).args(["--engine", "llama-cpp", "--model", GGUF]);
            command
        };
        let small = ["--prompts", "Truth is the first", "--layers", "0", "--repeats", "0", "--mode", "as_designed"];
        for (axis, out) in [("ubatch=512,4", "ubatch"), ("flash-attention=off,on", "flash"), ("kv-cache=f32,f16", "kv")]
        {
            let sweep = ["run", "--sweep", axis, "--out", out];
            driftprobe(&sweep).args(small).assert().code(0).stdout(contains("PASS over 2 values"));
        }
        let measure = ["logprobs", "--tokens", "6", "--prompts", "Truth is", "--out", "logprobs", "--max-k3", "0.01"];
        driftprobe(&measure).assert().code(0).stdout(contains("PASS: 6 tokens of 1 sequence"));
        assert!(dir.path().join("logprobs/worst-1/report/drift.html").is_file());
    }

    #[test]
    fn the_trained_model_passes_in_llama_cpp_with_its_kernel_found() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("own");
        let mut own = Command::new(env!("CARGO_BIN_EXE_driftprobe"));
        own.args([
            "run",
            "--prompts",
            "Truth is",
            "--layers",
            "all",
            "--engine",
            "llama-cpp",
            "--flash-attention",
            "on",
        ]);
        own.args(["--model", GGUF, "--threads", "2", "--out"]).arg(&out);
        own.assert().code(0).stdout(contains("PASS"));
        let report = fs::read_to_string(out.join("report/drift.md")).unwrap();
        assert!(report.contains("Q is rounded to f16 before it meets the keys"), "{report}");
        assert!(report.contains("the sum of weighted values is accumulated in f16"));
        assert!(report.contains("Traced against untraced: in prefill 1 of 1 rows of logits are bit-equal"));
        let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
        assert!(manifest.contains("\"llama.cpp\""));
    }

    #[test]
    fn what_llama_cpp_cannot_do_is_refused_with_a_remedy() {
        let hint = |what: &'static str| contains(what).and(contains("hint:"));
        let engine = ["--engine", "llama-cpp"];
        run(&engine).assert().code(2).stderr(hint("GGUF files only"));
        run(&engine).args(["--model", GGUF, "--kv-cache", "bf16"]).assert().code(2).stderr(hint("bf16"));
        run(&engine)
            .args(["--model", GGUF, "--kv-cache", "q8_0"])
            .assert()
            .code(2)
            .stderr(hint("--flash-attention on"));
        run(&engine).args(["--model", GGUF, "--device", "rocm"]).assert().code(2).stderr(hint("llama-cpp-rocm"));
        run(&engine).args(["--model", GGUF, "--ubatch", "0"]).assert().code(2).stderr(hint("micro-batch"));
    }
}
