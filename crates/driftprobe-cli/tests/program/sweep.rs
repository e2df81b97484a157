//! `driftprobe run --sweep`: one run a value, one table, one picture.

use crate::driftprobe;
use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::TempDir;

/// A small sweep.
fn sweep(dir: &TempDir, axis: &str) -> Command {
    let mut command = driftprobe(dir);
    let small = ["--prompts", "Truth is", "--layers", "0", "--repeats", "0", "--mode", "as_designed", "--out", "swept"];
    command.args(["run", "--sweep", axis]).args(small);
    command
}

#[test]
fn every_value_has_its_run_and_all_stand_in_one_table_and_one_picture() {
    let dir = tempfile::tempdir().unwrap();
    sweep(&dir, "batch=1,2,3").assert().code(0).stdout(
        contains("PASS over 3 values of batch (sequences)")
            .and(contains("wrote swept/sweep.svg"))
            // In prefill a batch is more rows of the same product; in decode it is another kernel from 2 on.
            .and(contains("2, decode: parts from 1")),
    );
    for value in ["1", "2", "3"] {
        let run = dir.path().join("swept").join(value);
        assert!(run.join("manifest.json").is_file() && run.join("report/drift.html").is_file(), "{value}");
        let manifest = std::fs::read_to_string(run.join("manifest.json")).unwrap();
        assert!(manifest.contains(&format!("\"batch\": {value}")), "{manifest}");
    }
    let svg = std::fs::read_to_string(dir.path().join("swept/sweep.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("batch (sequences)"));
    assert!(std::fs::read(dir.path().join("swept/sweep.png")).unwrap().starts_with(b"\x89PNG"));
    let json = std::fs::read(dir.path().join("swept/sweep.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["schema"], &json["axis"]), (&1.into(), &"batch".into()));
    assert_eq!(json["values"].as_array().unwrap().len(), 3);
}

#[test]
fn threads_change_no_bit_and_prompts_have_the_length_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    sweep(&dir, "threads=1,3")
        .args(["--format", "json"])
        .assert()
        .code(0)
        .stdout(contains("\"unit\": \"threads\"").and(contains("\"onset\": null")));
    let manifest = std::fs::read_to_string(dir.path().join("swept/3/manifest.json")).unwrap();
    assert!(manifest.contains("\"threads\": 3"), "{manifest}");
    let both = sweep(&dir, "context=5,40").args(["--overwrite", "--format", "tsv"]).output().unwrap();
    assert!(both.status.success());
    for tokens in [5, 40] {
        let manifest = std::fs::read(dir.path().join(format!("swept/{tokens}/manifest.json"))).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["prompts"][0]["tokens"].as_array().unwrap().len(), tokens);
    }
}

#[test]
fn a_fault_under_every_value_fails_and_what_is_no_value_is_said_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    sweep(&dir, "prefill-chunk=2,8")
        .args(["--fault", "NORM_EPS:attn:0.01@decode:layer0"])
        .assert()
        .code(1)
        .stdout(contains("FAIL over 2 values").and(contains("first failure: text_0")));
    let wrong = [
        ("batch=1,none", "\"none\" is no count from 1"),
        ("prefill-attention=naive,fused", "expected naive or blocked:COUNT"),
        ("speed=1,2", "none of prefill-chunk, batch"),
        ("batch=1", "expected 2 to 64 values"),
        ("flash-attention=on,off", "--flash-attention is no option of the engine embedded"),
    ];
    // A value beside those of the sweep would be passed over.
    for (axis, option, value) in [("batch=1,2", "--batch", "3"), ("context=5,40", "--prompt-tokens", "7")] {
        let dir = tempfile::tempdir().unwrap();
        let refused = contains(format!("and {option} is given too")).and(contains("hint: "));
        sweep(&dir, axis).args([option, value]).assert().code(2).stderr(refused);
        assert!(!dir.path().join("swept").exists(), "{axis}");
    }
    for (axis, said) in wrong {
        let dir = tempfile::tempdir().unwrap();
        sweep(&dir, axis).assert().code(2).stderr(contains(said));
        assert!(!dir.path().join("swept").join("1").exists(), "{axis}");
    }
}
