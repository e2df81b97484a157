//! `driftprobe export`: what is judged from a dataset is judged as the folder that it was made of, byte for byte.

use crate::driftprobe;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;
use tempfile::TempDir;

const REPORTS: [&str; 4] = ["drift.json", "drift.md", "drift.tsv", "drift.html"];

fn record(dir: &TempDir, out: &str, more: &[&str]) {
    let small = ["--layers", "0", "--repeats", "1", "--record-only", "--mode", "both", "--out", out];
    driftprobe(dir).arg("run").args(small).args(more).args(["--prompts", "One"]).assert().code(0);
}

fn export(dir: &TempDir, run: &str, dataset: &str) {
    driftprobe(dir).args(["export", run, "--parquet", dataset]).assert().code(0).stdout(contains("events"));
}

/// The exit status and the reports of `analyze`.
fn judge(dir: &TempDir, run: &str) -> (Option<i32>, Vec<String>) {
    let output = driftprobe(dir).args(["analyze", run, "--out", "judged"]).output().expect("ran");
    let reports = REPORTS.map(|name| fs::read_to_string(dir.path().join("judged").join(name)).expect("a report"));
    fs::remove_dir_all(dir.path().join("judged")).expect("deleted");
    (output.status.code(), reports.into())
}

fn assert_same(dir: &TempDir, run: &str, dataset: &str, expected: i32) {
    let ((code, from_json), (coded, from_dataset)) = (judge(dir, run), judge(dir, dataset));
    assert_eq!((code, coded), (Some(expected), Some(expected)));
    for ((name, one), other) in REPORTS.iter().zip(from_json).zip(from_dataset) {
        assert!(one == other, "{name} differs");
    }
}

#[test]
fn a_clean_run_passes_with_the_same_bytes() {
    let dir = TempDir::new().expect("folder");
    record(&dir, "clean", &[]);
    export(&dir, "clean", "dataset");
    assert_same(&dir, "clean", "dataset/run=clean", 0);
    // The report goes where readers of the dataset pass over it.
    driftprobe(&dir).args(["analyze", "dataset"]).assert().code(0);
    assert!(dir.path().join("dataset/_report/drift.json").is_file());
    assert_same(&dir, "clean", "dataset", 0);
}

#[test]
fn a_faulty_run_fails_with_the_same_bytes() {
    let dir = TempDir::new().expect("folder");
    let fault = ["--fault", "ROPE_POSITION_OFFSET:+1@decode:layer0"];
    record(&dir, "faulty", &fault);
    export(&dir, "faulty", "dataset");
    assert_same(&dir, "faulty", "dataset", 1);
}

#[test]
fn rounds_of_a_search_come_along() {
    let dir = TempDir::new().expect("folder");
    // The fault lies between the layers that are recorded.
    let fault = ["--fault", "GQA_MAP@decode:layer5", "--layers", "0,7", "--repeats", "0", "--mode", "as_designed"];
    let more = ["--prompts", "One", "--out", "searched"];
    driftprobe(&dir).arg("run").args(fault).args(more).assert().code(1);
    assert!(dir.path().join("searched/search-1").is_dir(), "no search followed");
    export(&dir, "searched", "dataset");
    assert!(dir.path().join("dataset/run=searched/search=1").is_dir());
    assert_same(&dir, "searched", "dataset", 1);
}

#[test]
fn what_is_missing_or_too_much_is_said() {
    let dir = TempDir::new().expect("folder");
    record(&dir, "clean", &[]);
    export(&dir, "clean", "dataset");
    let again = || {
        let mut command = driftprobe(&dir);
        command.args(["export", "clean", "--parquet", "dataset"]);
        command
    };
    again().assert().code(2).stderr(contains("lies here already").and(contains("hint: ")).and(contains("--force")));
    again().arg("--force").assert().code(0);
    // Without a name there is no folder to find it in.
    again().args(["--name", ""]).assert().code(2).stderr(contains("without a name").and(contains("hint: ")));
    assert!(!dir.path().join("dataset/run=").exists());
    again().args(["--name", "other", "--no-payloads"]).assert().code(0).stdout(contains("run=other"));
    driftprobe(&dir)
        .args(["analyze", "dataset"])
        .assert()
        .code(2)
        .stderr(contains("holds 2 runs: run=clean, run=other").and(contains("hint: ")));
    fs::remove_dir_all(dir.path().join("dataset/run=clean/search=0/mode=kv_aligned")).expect("deleted");
    driftprobe(&dir)
        .args(["analyze", "dataset/run=clean"])
        .assert()
        .code(2)
        .stderr(contains("mode=kv_aligned").and(contains("missing")).and(contains("hint: ")));
    driftprobe(&dir).args(["export", "nothing", "--parquet", "dataset"]).assert().code(2).stderr(contains("nothing"));
}

#[test]
fn prompt_by_prompt_the_verdict_is_made_of_the_same_bytes() {
    let dir = TempDir::new().expect("folder");
    let small = ["--layers", "0", "--repeats", "1", "--record-only", "--mode", "both", "--prompts", "One", "Truth is"];
    for (out, fault) in [("runs/clean", None), ("runs/faulty", Some("ROPE_POSITION_OFFSET:+1@decode:layer0"))] {
        let fault = fault.iter().flat_map(|fault| ["--fault", fault]);
        driftprobe(&dir).arg("run").args(small).args(fault).args(["--out", out]).assert().code(0);
    }
    export(&dir, "runs", "dataset");
    let judge = |path: &str, out: &str| {
        driftprobe(&dir).args(["analyze", path, "--by-prompt", "--out", out]).assert().code(1);
        ["merged.json", "merged.md", "merged.tsv"].map(|name| fs::read_to_string(dir.path().join(out).join(name)))
    };
    for (one, other) in judge("runs", "from-json").into_iter().zip(judge("dataset", "from-dataset")) {
        assert!(one.expect("a report") == other.expect("a report"));
    }
    // A prompt's rows are missed where the dataset has lost them, and a run where it has lost that.
    fs::remove_file(dir.path().join("dataset/run=clean/search=0/mode=as_designed/repeat=1/part-0.parquet"))
        .expect("lost");
    let lost = driftprobe(&dir).args(["analyze", "dataset", "--by-prompt", "--out", "lost"]).assert().code(2);
    lost.stderr(contains("repeat=1/part-0.parquet: the file is missing"));
}

#[test]
fn shards_in_a_dataset_are_parts_of_one_run() {
    let dir = TempDir::new().expect("folder");
    let small =
        ["--layers", "0", "--repeats", "0", "--record-only", "--mode", "as_designed", "--prompts", "One", "Truth is"];
    for shard in ["1/2", "2/2"] {
        driftprobe(&dir).arg("run").args(small).args(["--shard", shard, "--out", "whole"]).assert().code(0);
    }
    export(&dir, "whole", "dataset");
    let judge = |path: &str, code: i32, out: &str| {
        driftprobe(&dir).args(["analyze", path, "--by-prompt", "--out", out]).assert().code(code);
        fs::read_to_string(dir.path().join(out).join("merged.json")).expect("a report")
    };
    assert_eq!(
        judge("dataset", 0, "a").matches("\"prompt\"").count(),
        judge("whole", 0, "b").matches("\"prompt\"").count()
    );
    fs::remove_dir_all(dir.path().join("dataset/run=shard-2-of-2")).expect("lost");
    assert!(judge("dataset", 3, "c").contains("MISSING_SHARD"));
}
