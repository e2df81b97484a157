//! `driftprobe reach`: what it prints and writes, and how it ends.

use crate::{GRETA, driftprobe};
use predicates::prelude::*;
use std::fs;
use tempfile::TempDir;

/// A run of the embedded model whose prefill attends in blocks: of two lengths, so that no count of parts is the same.
fn run(dir: &TempDir) {
    let prompts = ["The quick brown fox jumps over the lazy dog and sleeps", "Truth is the first"];
    let what = ["run", "--layers", "0,1", "--prompts", prompts[0], prompts[1]];
    let how = ["--repeats", "0", "--mode", "as_designed", "--record-only", "--steps", "2", "--out", "run"];
    let kernels = ["--prefill-attention", "blocked:4"];
    driftprobe(dir).args(what).args(how).args(kernels).assert().code(0);
}

#[test]
fn the_mechanism_is_printed_and_written() {
    let dir = tempfile::tempdir().unwrap();
    run(&dir);
    let found = driftprobe(&dir).args(["reach", "run"]).assert().code(0);
    let text = String::from_utf8(found.get_output().stdout.clone()).unwrap();
    assert!(text.contains("prefill: blocks of 4 keys") && text.contains("onset at kv_len 5"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("wrote run/report/reach.json"));
    let read = |name: &str| fs::read_to_string(dir.path().join("run/report").join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("reach.json")).unwrap();
    assert_eq!((json["schema"].as_u64(), json["ended_early"].as_bool()), (Some(1), Some(false)));
    let attention = json["mechanisms"].as_array().unwrap().iter().find(|one| one["point"] == "attn_out").unwrap();
    assert_eq!(attention["onset_kv_len"].as_u64(), Some(5));
    assert!(read("reach.md").starts_with("# Reachability\n"));
    // The same again, as data and as Markdown; the layers and points asked for alone.
    for (format, name) in [("json", "reach.json"), ("md", "reach.md")] {
        driftprobe(&dir).args(["reach", "run", "--format", format]).assert().code(0).stdout(read(name));
    }
    let some = ["reach", "run", "--points", "mlp_out", "--layers", "1", "--format", "json", "--out", "some"];
    driftprobe(&dir).args(some).assert().code(0);
    let json = fs::read_to_string(dir.path().join("some/reach.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let findings = json["findings"].as_array().unwrap();
    assert!(!findings.is_empty() && findings.iter().all(|one| one["point"] == "mlp_out"));
    let rows = findings.iter().flat_map(|one| one["rows"].as_array().unwrap());
    assert!(rows.into_iter().all(|row| row["layer"] == 1));
}

#[test]
fn without_a_model_or_with_a_wrong_word_it_cannot_run() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |args: &[&str], says: &str| {
        driftprobe(&dir).arg("reach").args(args).assert().code(2).stderr(predicate::str::contains(says));
    };
    refused(&[GRETA], "name it with --model");
    refused(&["nowhere"], "nowhere");
    run(&dir);
    refused(&["run", "--seconds", "0"], "give a number of seconds above 0");
    refused(&["run", "--points", "attn_oot"], "attn_out");
    refused(&["run", "--layers", "one"], "expected numbers from 0");
    refused(&["run", "--layers", "0,77"], "there is no layer 77: the model has 9, from 0");
    refused(&["run", "--layers", "1,5"], "the run records nothing of layer 5");
    refused(&["run", "--layers", "1,5"], "hint: expected all, or some of those recorded: 0, 1");
}

#[test]
fn where_there_is_nothing_to_search_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    run(&dir);
    let exact = ["reach", "run", "--points", "embed_out"];
    driftprobe(&dir).args(exact).assert().code(3).stdout(predicate::str::contains("Nothing could be searched"));
}
