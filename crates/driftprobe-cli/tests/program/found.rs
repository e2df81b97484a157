//! Which runs a folder holds: every one of them is judged, wherever it lies, and none is taken for another.

use crate::by_prompt::write_run;
use crate::driftprobe;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

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

/// The same names and prompts do not make two runs one: of each half the verdict is on half of it.
#[test]
fn results_on_two_runs_of_one_name_are_refused() {
    let dir = TempDir::new().unwrap();
    write_run(&dir.path().join("a/run"), None);
    write_run(&dir.path().join("b/run"), Some("p0"));
    for (index, run) in [(1, "a/run"), (2, "b/run")] {
        let shard = format!("{index}/2");
        driftprobe(&dir).args(["analyze", run, "--shard", &shard, "--out", &format!("s{index}")]).assert().code(0);
    }
    driftprobe(&dir).args(["merge", "s1", "s2"]).assert().code(2).stderr(contains("another run of this name"));
    // A copy is the same run, whenever its files were written.
    write_run(&dir.path().join("c/run"), None);
    driftprobe(&dir).args(["analyze", "c/run", "--shard", "2/2", "--out", "s3"]).assert().code(0);
    driftprobe(&dir).args(["merge", "s1", "s3"]).assert().code(0).stdout(contains("0 missing"));
}

#[test]
fn a_dataset_does_not_hide_the_runs_beside_it() {
    let dir = TempDir::new().unwrap();
    write_run(&dir.path().join("all/good"), None);
    write_run(&dir.path().join("all/deep/er/and/deep/er/bad"), Some("p0"));
    driftprobe(&dir).args(["export", "all/good", "--parquet", "all", "--name", "kept"]).assert().code(0);
    let out = ["--by-prompt", "--out", "report"];
    driftprobe(&dir).arg("analyze").arg("all").args(out).assert().code(1).stdout(contains("3 runs"));
}

/// A sound run beside one that fails, which lies where only this folder's name or neighbours could hide it.
#[test]
fn a_run_that_fails_is_found_wherever_it_lies() {
    for (good, bad) in [
        ("g/good", "g/search-x"),
        ("g/good", "g/search-1"),
        ("g/good", "g/kv_aligned"),
        ("g/good", "g/good/mine"),
        ("g/good", "g/good/search-x"),
        ("g/good", "g/repeat-1"),
        ("g/good", "g/a/b/c/d/e/f/g/h/i/j"),
    ] {
        let dir = TempDir::new().unwrap();
        write_run(&dir.path().join(good), None);
        driftprobe(&dir).args(["gate", "g"]).assert().code(0);
        write_run(&dir.path().join(bad), Some("p0"));
        driftprobe(&dir).args(["gate", "g"]).assert().code(1);
        driftprobe(&dir)
            .args(["analyze", "g", "--by-prompt", "--out", "o"])
            .assert()
            .code(1)
            .stdout(contains("2 runs"));
    }
    // Beside the runs of a dataset.
    let dir = TempDir::new().unwrap();
    write_run(&dir.path().join("good"), None);
    driftprobe(&dir).args(["export", "good", "--parquet", "g", "--name", "kept"]).assert().code(0);
    driftprobe(&dir).args(["gate", "g"]).assert().code(0);
    write_run(&dir.path().join("g/bad"), Some("p0"));
    driftprobe(&dir).args(["gate", "g"]).assert().code(1);
}

/// Nothing was compared of a run that names no prompt, whatever else was.
#[test]
fn a_run_without_a_prompt_does_not_pass_beside_a_sound_one() {
    let whole = r#"{"schema": 1, "complete": true, "prompts": [], "layers": [0], "points": ["logits"], "steps": 1}"#;
    let other = r#"{"event": "other", "prompt_id": "p0"}"#;
    for (manifest, line) in [("", ""), (r#"{"schema": 1}"#, ""), (whole, ""), ("", other)] {
        let dir = TempDir::new().unwrap();
        write_run(&dir.path().join("g/good"), None);
        let empty = dir.path().join("g/empty");
        fs::create_dir_all(empty.join("traces")).unwrap();
        fs::write(empty.join("traces/p.jsonl"), format!("{line}\n").trim_start()).unwrap();
        if !manifest.is_empty() {
            fs::write(empty.join("manifest.json"), manifest).unwrap();
        }
        let told = || contains("NOTHING_COMPARED").and(contains("empty: it names no prompt"));
        driftprobe(&dir).args(["analyze", "g", "--by-prompt", "--out", "o"]).assert().code(3).stdout(told());
        for shard in ["1/2", "2/2"] {
            driftprobe(&dir).args(["analyze", "g", "--shard", shard, "--out", "s"]).assert().code(0);
        }
        driftprobe(&dir).args(["merge", "s"]).assert().code(3).stdout(told());
        fs::remove_dir_all(empty).unwrap();
        driftprobe(&dir).args(["analyze", "g", "--by-prompt", "--out", "o2"]).assert().code(0);
    }
}

/// As of JSON: the same names and prompts do not make two datasets one run.
#[test]
fn shards_of_two_datasets_of_one_name_are_refused() {
    let dir = TempDir::new().unwrap();
    for (run, broken) in [("a", Some("p0")), ("b", Some("p1"))] {
        write_run(&dir.path().join(run), broken);
        let dataset = format!("of-{run}");
        driftprobe(&dir).args(["export", run, "--parquet", &dataset, "--name", "r"]).assert().code(0);
        driftprobe(&dir).args(["analyze", &dataset]).assert().code(1);
    }
    let shard = |dataset: &str, shard: &str, out: &str| {
        driftprobe(&dir).args(["analyze", dataset, "--shard", shard, "--out", out]).assert().code(0);
    };
    // p0, p2 and p4 are the first half, p1 and p3 the second: each is sound in one of the two.
    shard("of-b", "1/2", "s1");
    shard("of-a", "2/2", "s2");
    driftprobe(&dir).args(["merge", "s1", "s2"]).assert().code(2).stderr(contains("another run of this name"));
    // A copy is the same run.
    copy(&dir.path().join("of-b"), &dir.path().join("copy"));
    shard("copy", "2/2", "s3");
    driftprobe(&dir).args(["merge", "s1", "s3"]).assert().code(1).stdout(contains("0 missing"));
}

/// A round of a search is what the search found; of one that is gone nothing is known.
#[test]
fn a_round_that_comes_after_one_that_is_not_there_is_refused() {
    let dir = TempDir::new().unwrap();
    write_run(&dir.path().join("run"), None);
    let round = |number: u32| dir.path().join(format!("run/search-{number}"));
    write_run(&round(2), Some("p0"));
    let by_prompt = ["analyze", "run", "--by-prompt", "--out", "o"];
    let export = ["export", "run", "--parquet", "dataset"];
    for command in [&["analyze", "run"][..], &by_prompt, &["gate", "run"], &export] {
        let told = contains("search-2 is there, and search-1 is not").and(contains("hint:"));
        driftprobe(&dir).args(command).assert().code(2).stderr(told);
    }
    write_run(&round(1), None);
    driftprobe(&dir).args(["analyze", "run"]).assert().code(3);
    driftprobe(&dir).args(export).assert().code(0);
    fs::remove_dir_all(round(2)).unwrap();
    driftprobe(&dir).args(["analyze", "run"]).assert().code(0);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let there = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &there),
            false => drop(fs::copy(&path, there).unwrap()),
        }
    }
}
