//! Recording less: within a budget, in two passes, compressed. What is found, what is said, and what lies on the disk.

use crate::driftprobe;
use driftprobe_testkit::{LlamaShape, random_llama};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Bytes of the files in a folder whose paths are wanted.
fn bytes(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let one = |path: std::path::PathBuf| match path.is_dir() {
        true => bytes(&path, wanted),
        false if wanted(&path) => fs::metadata(&path).unwrap().len(),
        false => 0,
    };
    entries.map(one).sum()
}

fn recorded(dir: &Path) -> u64 {
    bytes(dir, &|path| !path.components().any(|part| part.as_os_str() == "report"))
}

fn payloads(dir: &Path) -> u64 {
    bytes(dir, &|path| path.extension().is_some_and(|end| end == "safetensors" || end == "zst"))
}

fn report(run: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(run.join("report/drift.json")).unwrap()).unwrap()
}

/// Where the first failure is, and what explains it.
fn found(run: &Path) -> [Value; 5] {
    let json = report(run);
    let first = &json["first_failure"];
    [
        json["verdict"].clone(),
        first["layer"].clone(),
        first["point"].clone(),
        first["phase"].clone(),
        json["cause"]["hypothesis"].clone(),
    ]
}

const SMALL: [&str; 5] = ["run", "--prompts", "The quick brown fox", "--repeats", "0"];

#[test]
fn a_budget_is_kept_in_both_modes_and_every_report_says_what_was_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let budget = ["--budget", "700kB", "--out", "run"];
    driftprobe(&dir).args(SMALL).args(budget).assert().code(0).stdout(contains("LEFT_OUT").and(contains("layers")));
    assert!(recorded(&out) <= 700_000, "{}", recorded(&out));
    let json = report(&out);
    assert_eq!(json["left_out"]["budget_bytes"], 350_000 * 2);
    assert!(json["left_out"]["layers"].as_array().unwrap().len() > 3);
    for name in ["drift.md", "drift.html"] {
        let text = fs::read_to_string(out.join("report").join(name)).unwrap();
        assert!(text.contains("nothing is said of the others by themselves"), "{name}");
    }
    // A budget that holds everything leaves nothing out.
    driftprobe(&dir).args(SMALL).args(["--budget", "1GB", "--out", "all"]).assert().code(0);
    assert!(report(&dir.path().join("all"))["left_out"].is_null());
    let refused = driftprobe(&dir).args(SMALL).args(["--budget", "20kB", "--out", "none"]).assert().code(2);
    refused.stderr(contains("do not hold the statistics").and(contains("hint: allow")));
    assert!(!dir.path().join("none").exists());
}

#[test]
fn a_fault_costs_no_more_than_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    for (out, budget) in [("tight", "360kB"), ("wide", "480kB")] {
        let args = ["--mode", "as_designed", "--fault", "SCALE_WRONG@decode:layer5", "--budget", budget, "--out", out];
        driftprobe(&dir).args(SMALL).args(args).assert().code(1);
        assert!(recorded(&dir.path().join(out)) <= budget.trim_end_matches("kB").parse::<u64>().unwrap() * 1000);
        assert_eq!(found(&dir.path().join(out))[1], 5);
    }
}

#[test]
fn two_passes_find_what_a_full_recording_finds() {
    let dir = tempfile::tempdir().unwrap();
    for fault in ["SCALE_WRONG@decode:layer0", "KV_STALE_SLOT:1@decode:layer3", "NORM_SKIPPED@prefill:layer8"] {
        let of = |how: &[&str], out: &str| {
            let args = ["--mode", "as_designed", "--overwrite", "--fault", fault, "--out", out];
            driftprobe(&dir).args(SMALL).args(args).args(how).assert().code(1);
            found(&dir.path().join(out))
        };
        assert_eq!(of(&["--two-pass"], "two"), of(&["--layers", "all"], "whole"), "{fault}");
    }
    assert!(payloads(&dir.path().join("two")) * 2 < payloads(&dir.path().join("whole")));
}

#[test]
fn two_passes_of_a_clean_run_find_nothing_and_say_what_they_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--two-pass", "--out", "run"];
    let assert = driftprobe(&dir).args(SMALL).args(args).assert().code(0);
    assert
        .stdout(contains("LEFT_OUT").and(contains("first of two passes")).and(contains("recorded again with layers")));
    // The second pass has both modes, and judging the folder later gives the same.
    assert!(dir.path().join("run/search-1/kv_aligned/manifest.json").is_file());
    let before = fs::read_to_string(dir.path().join("run/report/drift.json")).unwrap();
    driftprobe(&dir).args(["analyze", "run"]).assert().code(0);
    assert_eq!(fs::read_to_string(dir.path().join("run/report/drift.json")).unwrap(), before);
}

/// The first pass promises the second: without it, or with half of it, there is no PASS.
#[test]
fn two_passes_without_the_second_do_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    driftprobe(&dir).args(SMALL).args(["--two-pass", "--out", "run"]).assert().code(0);
    let judged = |words: &[&str], code: i32, says: &str| {
        driftprobe(&dir).arg("analyze").args(words).assert().code(code).stdout(contains(says));
    };
    let by_prompt = ["run", "--by-prompt", "--out", "units"];
    judged(&by_prompt, 0, "PASS");
    fs::remove_dir_all(dir.path().join("run/search-1/kv_aligned")).unwrap();
    judged(&["run"], 3, "NO_SECOND_PASS");
    judged(&by_prompt, 3, "NO_SECOND_PASS");
    fs::remove_dir_all(dir.path().join("run/search-1")).unwrap();
    judged(&["run"], 3, "--two-pass --overwrite");
    judged(&by_prompt, 3, "NO_SECOND_PASS");
    // Of several prompts one is recorded again; the others lack nothing.
    let two = ["run", "--prompts", "Truth is", "The quick brown fox", "--repeats", "0", "--mode", "as_designed"];
    driftprobe(&dir).args(two).args(["--two-pass", "--out", "two"]).assert().code(0);
    judged(&["two"], 0, "PASS");
    judged(&["two", "--by-prompt", "--out", "units-of-two"], 0, "PASS");
    // A round of the other one is none of the one that was promised.
    let manifest: Value = serde_json::from_slice(&fs::read(dir.path().join("two/manifest.json")).unwrap()).unwrap();
    let other = if manifest["second_pass"]["prompt_id"] == "text_0" { "2" } else { "1" };
    let shard = format!("{other}/2");
    driftprobe(&dir).args(two).args(["--record-only", "--shard", &shard, "--out", "part"]).assert().code(0);
    fs::remove_dir_all(dir.path().join("two/search-1")).unwrap();
    fs::rename(dir.path().join(format!("part/shard-{other}-of-2")), dir.path().join("two/search-1")).unwrap();
    judged(&["two"], 3, "NO_SECOND_PASS");
    judged(&["two", "--by-prompt", "--out", "units-of-two"], 3, "NO_SECOND_PASS");
    // And whoever asks for both ways at once is told that it is one or the other.
    let both = driftprobe(&dir).args(SMALL).args(["--two-pass", "--budget", "1MB", "--out", "x"]).assert().code(2);
    both.stderr(contains("cannot be used with"));
}

#[test]
fn a_deep_model_is_searched_in_a_fraction_of_the_payloads() {
    let dir = tempfile::tempdir().unwrap();
    let shape = LlamaShape { layers: 12, ..LlamaShape::TINY };
    random_llama(&dir.path().join("deep.gguf"), shape, candle_core::quantized::GgmlDType::F32);
    let tokens: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % 48).collect();
    fs::write(dir.path().join("p.json"), serde_json::json!({"id": "p", "tokens": tokens}).to_string()).unwrap();
    let of = |how: &[&str], out: &str| {
        let args = ["run", "--model", "deep.gguf", "--prompts", "p.json", "--repeats", "0", "--mode", "as_designed"];
        let fault = ["--fault", "GQA_MAP@decode:layer7", "--out", out];
        driftprobe(&dir).args(args).args(fault).args(how).assert().code(1);
        found(&dir.path().join(out))
    };
    let two = of(&["--two-pass"], "two");
    assert_eq!(two[1], 7);
    assert_eq!(two, of(&["--layers", "all"], "whole"));
    let [two, whole] = ["two", "whole"].map(|name| payloads(&dir.path().join(name)));
    assert!(two * 100 < whole * 40, "{two} of {whole} bytes");
}

#[test]
fn compressed_payloads_give_the_same_report() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--steps", "4", "--layers", "0,8", "--mode", "as_designed"];
    driftprobe(&dir).args(SMALL).args(args).args(["--out", "plain"]).assert().code(0);
    driftprobe(&dir).args(SMALL).args(args).args(["--compress", "--out", "packed"]).assert().code(0);
    let [plain, packed] = ["plain", "packed"].map(|name| dir.path().join(name));
    assert!(payloads(&packed) * 10 <= payloads(&plain) * 9);
    let rows = |run: &Path| {
        report(run)["rows"].as_array().unwrap().iter().map(|row| row["verdict"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(rows(&plain), rows(&packed));
    assert_eq!(report(&plain)["end_to_end"], report(&packed)["end_to_end"]);
}

/// What was left out on purpose is no ground against a prompt by itself either.
#[test]
fn a_run_within_a_budget_is_judged_by_prompt_as_it_is_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let budget = ["--budget", "350kB", "--mode", "as_designed", "--out", "run"];
    driftprobe(&dir).args(SMALL).args(budget).assert().code(0);
    driftprobe(&dir).args(["analyze", "run", "--by-prompt", "--out", "report"]).assert().code(0);
}

/// Of rows that were left out only counts are known; those of infinities are compared too.
#[test]
fn a_masked_score_of_one_phase_in_a_row_that_was_left_out_does_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    let run =
        ["run", "--prompts", "The quick brown fox jumps", "--repeats", "0", "--mode", "as_designed", "--out", "run"];
    let how = ["--dtype", "bf16", "--budget", "350kB", "--fault", "MASK_MISSES_NEWEST@decode:layer5"];
    driftprobe(&dir).args(run).args(how).assert().code(1);
}

/// What judging `run` ends with: as a whole, prompt by prompt, in a gate, and as a dataset.
fn judged(dir: &tempfile::TempDir, run: &str) -> Vec<i32> {
    let _ = fs::remove_dir_all(dir.path().join("set"));
    let code = |args: &[&str]| driftprobe(dir).args(args).assert().get_output().status.code().unwrap();
    assert_eq!(code(&["export", run, "--parquet", "set"]), 0);
    let judged = [
        &["analyze", run, "--out", "a"][..],
        &["analyze", run, "--by-prompt", "--fresh", "--out", "b"],
        &["gate", run],
        &["analyze", "set", "--out", "c"],
        &["analyze", "set", "--by-prompt", "--fresh", "--out", "d"],
    ];
    judged.into_iter().map(code).collect()
}

#[test]
fn a_first_pass_without_its_second_passes_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let [run, away] = ["run", "away"].map(|name| dir.path().join(name));
    // A fault that the first pass does not show.
    let fault = ["--mode", "as_designed", "--dtype", "bf16", "--fault", "SCALE_WRONG@decode:layer1"];
    let prompts = ["run", "--prompts", "The quick brown fox jumps", "--repeats", "0", "--two-pass"];
    driftprobe(&dir).args(prompts).args(fault).args(["--out", "run"]).assert().code(1);
    fs::rename(run.join("search-1"), &away).unwrap();
    assert_eq!(judged(&dir, "run"), [3; 5], "it was promised");
    let analyzed = || driftprobe(&dir).args(["analyze", "run"]).assert();
    fs::rename(&away, run.join("search-2")).unwrap();
    analyzed().code(2).stderr(contains("search-1 is not"));
    fs::rename(run.join("search-2"), &away).unwrap();
    // As it lies there when the run is killed before it is known what the second pass is to be.
    let text = fs::read_to_string(run.join("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["second_pass"]["prompt_id"], "text_0");
    manifest.as_object_mut().unwrap().remove("second_pass");
    fs::write(run.join("manifest.json"), manifest.to_string()).unwrap();
    analyzed().code(3).stdout(contains("NO_SECOND_PASS"));
    // A second pass of another run.
    fs::write(run.join("manifest.json"), text).unwrap();
    let other = ["run", "--prompts", "Once upon a time", "--repeats", "0", "--two-pass", "--mode", "as_designed"];
    driftprobe(&dir).args(other).args(["--dtype", "bf16", "--out", "other"]).assert().code(0);
    fs::rename(dir.path().join("other/search-1"), run.join("search-1")).unwrap();
    analyzed().code(3).stdout(contains("NO_SECOND_PASS"));
    // Its own.
    fs::remove_dir_all(run.join("search-1")).unwrap();
    fs::rename(&away, run.join("search-1")).unwrap();
    assert_eq!(judged(&dir, "run"), [1; 5]);
}

#[test]
fn a_second_pass_is_part_of_what_a_shard_has_seen() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = ["run", "--prompts", "The quick brown fox jumps", "--prompts", "Once upon a time"];
    let how = ["--mode", "as_designed", "--dtype", "bf16", "--repeats", "0", "--two-pass", "--out", "a/run"];
    driftprobe(&dir).args(prompts).args(how).args(["--fault", "SCALE_WRONG@decode:layer1"]).assert().code(1);
    let [whole, without] = ["a/run", "b/run"].map(|name| dir.path().join(name));
    fs::create_dir_all(without.join("traces")).unwrap();
    for name in ["manifest.json", "traces", "tensors"] {
        let copied = std::process::Command::new("cp").arg("-rp").arg(whole.join(name)).arg(&without).status().unwrap();
        assert!(copied.success());
    }
    driftprobe(&dir).args(["analyze", "b/run", "--shard", "1/2", "--out", "m1"]).assert().code(0);
    driftprobe(&dir).args(["analyze", "a/run", "--shard", "2/2", "--out", "m2"]).assert().code(0);
    let refused = driftprobe(&dir).args(["merge", "m1", "m2"]).assert().code(2);
    refused.stderr(contains("run").and(contains("hint:")));
    // A round of prompts that are none of the run's.
    fs::write(dir.path().join("p.json"), r#"{"id": "else", "tokens": [5, 6, 7, 8, 9, 10]}"#).unwrap();
    driftprobe(&dir).args(["run", "--prompts", "p.json"]).args(&how[..7]).args(["--out", "else"]).assert().code(0);
    fs::rename(dir.path().join("else/search-1"), without.join("search-1")).unwrap();
    for how in [&[][..], &["--by-prompt"]] {
        let refused = driftprobe(&dir).args(["analyze", "b/run"]).args(how).assert().code(2);
        refused.stderr(contains("search-1 holds prompt else"));
    }
}

/// A budget is that of all shards: each plans for all of them, wherever it is recorded.
#[test]
fn shards_within_a_budget_are_the_run_within_it() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = ["run", "--prompts", "One", "The quick brown fox", "Truth is", "--repeats", "0", "--record-only"];
    // Half-way between two of the plan's steps: the manifest that two shards have more of makes no other plan.
    let how = ["--mode", "as_designed", "--steps", "4", "--budget", "4500kB"];
    let record = |out: &str, more: &[&str]| {
        driftprobe(&dir).args(prompts).args(how).args(["--out", out]).args(more).assert().code(0);
        recorded(&dir.path().join(out))
    };
    let whole = record("whole/demo", &[]);
    record("parts/demo", &["--shard", "1/2"]);
    let parts = record("parts/demo", &["--shard", "2/2"]);
    assert!(parts <= 4_500_000 && parts * 10 > whole * 9, "{parts} and {whole} in one piece");
    let judged = |runs: &str, out: &str| {
        driftprobe(&dir).args(["analyze", runs, "--by-prompt", "--out", out]).assert().code(0);
        ["json", "md", "tsv"].map(|end| fs::read_to_string(dir.path().join(out).join(format!("merged.{end}"))).unwrap())
    };
    let reports = judged("whole/demo", "one");
    assert!(reports[0].contains("LEFT_OUT"));
    assert_eq!(judged("parts/demo", "two"), reports);
    let refused = driftprobe(&dir).args(["run", "--two-pass", "--shard", "1/2", "--out", "none"]).assert().code(2);
    refused.stderr(contains("--shard").and(contains("hint:")).and(contains("--budget")));
    assert!(!dir.path().join("none").exists());
}
