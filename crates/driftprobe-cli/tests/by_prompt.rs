//! `driftprobe analyze --by-prompt`, `--shard` and `merge`: the same bytes however the work was shared, and no PASS without
//! all of it.

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const REPORTS: [&str; 3] = ["merged.json", "merged.md", "merged.tsv"];

fn driftprobe(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftprobe"));
    command.current_dir(dir.path()).env("NO_COLOR", "1");
    command
}

/// Records three short prompts.
fn record(dir: &TempDir, more: &[&str]) {
    let small = ["--layers", "0", "--repeats", "0", "--record-only", "--prompts", "Truth is", "One two", "The fox is"];
    driftprobe(dir).arg("run").args(more).args(small).assert().code(0);
}

/// Judges by prompt and gives the reports.
fn judged(dir: &TempDir, status: i32, arguments: &[&str], out: &str) -> Vec<Vec<u8>> {
    driftprobe(dir).args(arguments).args(["--out", out]).assert().code(status);
    reports(&dir.path().join(out))
}

fn reports(folder: &Path) -> Vec<Vec<u8>> {
    REPORTS.map(|name| fs::read(folder.join(name)).unwrap()).to_vec()
}

fn shard(dir: &TempDir, index: u32, of: u32, out: &str) {
    let shard = format!("{index}/{of}");
    driftprobe(dir).args(["analyze", "runs/demo", "--shard", &shard, "--out", out]).assert().code(0);
}

fn units(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder.join("units")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn one_machine_three_shards_and_a_run_recorded_in_shards_give_the_same_bytes() {
    for (status, more) in [(0, vec![]), (1, vec!["--fault", "NORM_EPS:attn:0.01@decode:layer0"])] {
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| record(&dir, &[arguments, more.as_slice()].concat());
        run(&["--out", "runs/demo"]);
        let whole = judged(&dir, status, &["analyze", "runs/demo", "--by-prompt", "--jobs", "1"], "whole");
        let json: serde_json::Value = serde_json::from_slice(&whole[0]).unwrap();
        assert_eq!((&json["promised"], &json["missing"]), (&3.into(), &0.into()));
        let counts = if status == 0 { (3, 0) } else { (0, 3) };
        assert_eq!((&json["pass"], &json["fail"]), (&counts.0.into(), &counts.1.into()));
        if status == 1 {
            assert_eq!(json["first_failure"]["cause"]["hypothesis"], "NORM_EPS");
            assert_eq!(json["first_failure"]["place"]["code"], "ATTN_NORM_DRIFT");
            assert_eq!(json["causes"][0]["units"], 3);
        }
        for index in 1..=3 {
            shard(&dir, index, 3, &format!("part-{index}"));
            shard(&dir, index, 2 + index % 2, &format!("other-{index}"));
            run(&["--out", "parts/demo", "--shard", &format!("{index}/3")]);
        }
        assert_eq!(judged(&dir, status, &["merge", "part-2", "part-3", "part-1"], "merged"), whole);
        // 1/3 and 3/3 of one plan and 2/2 of another hold everything together.
        assert_eq!(judged(&dir, status, &["merge", "other-2", "other-1", "other-3"], "mixed"), whole);
        assert_eq!(judged(&dir, status, &["analyze", "parts", "--by-prompt", "--jobs", "3"], "recorded"), whole);
        let missing = judged(&dir, if status == 0 { 3 } else { 1 }, &["merge", "part-1", "part-3"], "lacking");
        assert!(String::from_utf8_lossy(&missing[0]).contains("MISSING_SHARD") && missing != whole);
        fs::remove_dir_all(dir.path().join("parts/demo/shard-2-of-3")).unwrap();
        let arguments = ["analyze", "parts/demo", "--by-prompt"];
        let unrecorded = judged(&dir, if status == 0 { 3 } else { 1 }, &arguments, "unrecorded");
        assert_eq!(unrecorded, missing);
    }
}

#[test]
fn what_is_known_is_not_judged_again_and_what_is_torn_or_of_another_run_is() {
    let dir = tempfile::tempdir().unwrap();
    record(&dir, &["--out", "runs/demo", "--mode", "as_designed"]);
    let arguments = ["analyze", "runs/demo", "--shard", "1/1"];
    let says = |text: &str| driftprobe(&dir).args(arguments).assert().code(0).stdout(contains(text));
    says("3 prompts judged, 0 known already");
    says("0 prompts judged, 3 known already");
    let report = dir.path().join("runs/demo/report");
    driftprobe(&dir).args(["merge", "runs/demo/report"]).assert().code(0).stdout(contains("PASS"));
    let whole = reports(&report);
    // One gone, one torn, one whose verdict somebody has mended.
    let files = units(&report);
    assert_eq!(files.len(), 3);
    fs::remove_file(&files[0]).unwrap();
    let text = fs::read_to_string(&files[1]).unwrap();
    fs::write(&files[1], &text[..text.len() / 2]).unwrap();
    let text = fs::read_to_string(&files[2]).unwrap();
    fs::write(&files[2], text.replace("\"schema\":1", "\"schema\":7")).unwrap();
    driftprobe(&dir).args(["merge", "runs/demo/report"]).assert().code(3).stdout(contains("MISSING_SHARD (3)"));
    says("3 prompts judged, 0 known already");
    driftprobe(&dir).args(["analyze", "runs/demo", "--by-prompt"]).assert().code(0);
    assert_eq!(reports(&report), whole);
    driftprobe(&dir).args(arguments).arg("--fresh").assert().code(0).stdout(contains("3 prompts judged"));
    // Another contract, another budget, another event: other results.
    driftprobe(&dir).args(arguments).args(["--simulate", "1"]).assert().stdout(contains("3 prompts judged"));
    says("3 prompts judged");
    let traces = dir.path().join("runs/demo/traces");
    let file = fs::read_dir(traces).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"seq_len\":", "\"later\":1,\"seq_len\":", 1)).unwrap();
    says("1 prompts judged, 2 known already");
}

#[test]
fn results_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    record(&dir, &["--out", "runs/demo", "--mode", "as_designed"]);
    shard(&dir, 1, 2, "a");
    shard(&dir, 1, 1, "b");
    // The same prompt with two results.
    let file = units(&dir.path().join("a")).remove(0);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"hash_match\":", "\"hash_match\":1", 1)).unwrap();
    let differ = contains("two results for it").and(contains("hint:"));
    driftprobe(&dir).args(["merge", "a", "b", "--out", "c"]).assert().code(2).stderr(differ);
    // Another run of the same name.
    fs::remove_dir_all(dir.path().join("runs")).unwrap();
    driftprobe(&dir)
        .args(["run", "--out", "runs/demo", "--layers", "0", "--repeats", "0", "--record-only", "--prompts", "Else"])
        .assert()
        .code(0);
    shard(&dir, 1, 1, "other");
    driftprobe(&dir)
        .args(["merge", "b", "other", "--out", "c"])
        .assert()
        .code(2)
        .stderr(contains("prompts are not the same"));
    driftprobe(&dir).args(["merge", "runs/demo"]).assert().code(2).stderr(contains("holds no results"));
    for (arguments, said) in [
        (vec!["analyze", "runs/demo", "b"], "add --by-prompt"),
        (vec!["analyze", "runs/demo", "runs/demo", "--by-prompt"], "--out"),
        (vec!["analyze", "other", "--by-prompt"], "holds no run"),
        (vec!["analyze", "runs/demo", "--shard", "3/2"], "expected I/N"),
        (vec!["analyze", "runs/demo", "--by-prompt", "--format", "junit"], "no JUnit"),
        (vec!["run", "--shard", "2/2", "--out", "x", "--prompts", "One"], "holds none of the 1 prompts"),
        (vec!["run", "--shard", "1/2"], "--out"),
    ] {
        driftprobe(&dir).args(&arguments).assert().code(2).stderr(contains(said));
    }
}

#[test]
fn shards_that_were_recorded_in_different_ways_are_no_run() {
    let dir = tempfile::tempdir().unwrap();
    record(&dir, &["--out", "demo", "--shard", "1/2", "--mode", "as_designed"]);
    record(&dir, &["--out", "demo", "--shard", "2/2", "--mode", "as_designed", "--dtype", "bf16"]);
    let refused = contains("settings are not the same").and(contains("hint:"));
    driftprobe(&dir).args(["analyze", "demo", "--by-prompt"]).assert().code(2).stderr(refused);
    // A single shard by itself is a run of its prompts; by prompt it lacks the others.
    driftprobe(&dir).args(["analyze", "demo/shard-1-of-2"]).assert().code(0);
    driftprobe(&dir).args(["analyze", "demo/shard-1-of-2", "--by-prompt"]).assert().code(3);
}

#[test]
fn many_runs_have_names_that_tell_them_apart() {
    let dir = tempfile::tempdir().unwrap();
    let greta = concat!(env!("CARGO_MANIFEST_DIR"), "/../driftprobe-trace/tests/fixtures/greta/drift");
    let copy = |to: &str| {
        let to = dir.path().join(to);
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(greta).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    };
    ["all/x/same", "all/y/same", "all/z/other"].into_iter().for_each(copy);
    driftprobe(&dir)
        .args(["analyze", "all", "--by-prompt", "--format", "tsv"])
        .assert()
        .code(3)
        .stdout(contains("\nx/same\t").and(contains("\ny/same\t")).and(contains("\nz/other\t")));
    let report = dir.path().join("all/report/merged.json");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(json["runs"], 3);
}
