//! `driftprobe analyze --layer-shard`: the layers of a prompt, judged by several.

use crate::by_prompt::{judged, write_run};
use crate::driftprobe;
use driftprobe_trace::xxh3_128_text;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;
use std::path::PathBuf;

#[test]
fn a_prompt_whose_layers_others_judged_gives_the_same_bytes_and_only_whole_files_of_its_own_rows_are_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["run", "--layers", "0,1", "--repeats", "0", "--record-only", "--steps", "1", "--out", "run"];
    driftprobe(&dir).args(small).args(["--prompts", "The fox sleeps"]).assert().code(0);
    let whole = judged(&dir, 0, &["analyze", "run", "--by-prompt"], "whole");
    let layers = |shard: &str, says: &'static str| {
        let words = ["analyze", "run", "--layer-shard", shard, "--out", "shared"];
        driftprobe(&dir).args(words).assert().code(0).stdout(contains(says));
    };
    layers("2/2", " stages of 1 prompts judged, 0 prompts known already");
    layers("1/2", " stages of 1 prompts judged, 0 prompts known already");
    layers("1/2", "0 stages of 0 prompts judged, 1 prompts known already");
    let folder = dir.path().join("shared/layers");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2);
    // They are no results: by themselves there is no plan, and nothing to merge.
    driftprobe(&dir).args(["merge", "shared"]).assert().code(2).stderr(contains("holds no results of prompts"));
    assert_eq!(judged(&dir, 0, &["analyze", "run", "--by-prompt"], "shared"), whole);

    let conclude = |status: i32, text: &str| {
        fs::write(&files[0], text).unwrap();
        fs::remove_dir_all(dir.path().join("shared/units")).unwrap();
        judged(&dir, status, &["analyze", "run", "--by-prompt"], "shared")
    };
    let good = fs::read_to_string(&files[0]).unwrap();
    let (head, stages) = good.split_once('\n').unwrap();
    let (fingerprint, _) = head.split_once(' ').unwrap();
    let faulty = stages.replacen(
        "{\"exact\":{\"compared\":",
        "{\"mismatch\":{\"differing\":1,\"first\":0,\"largest\":1.0,\"compared\":",
        1,
    );
    assert_ne!(faulty, stages);
    let with_hash = |fingerprint: &str| format!("{fingerprint} {}\n{faulty}", xxh3_128_text(faulty.as_bytes()));
    // What is whole and of these rows is taken up: here somebody lies with a right hash.
    assert_ne!(conclude(1, &with_hash(fingerprint)), whole);
    assert_eq!(judged(&dir, 0, &["analyze", "run", "--by-prompt", "--fresh"], "shared"), whole);
    for unusable in
        [format!("{head}\n{faulty}"), with_hash("another"), good[..good.len() / 2].to_owned(), String::new()]
    {
        assert_eq!(conclude(0, &unusable), whole);
    }
}

#[test]
fn layers_are_judged_by_a_model_and_have_no_report() {
    let dir = tempfile::tempdir().unwrap();
    write_run(&dir.path().join("runs/demo"), None);
    let words = ["analyze", "runs/demo", "--layer-shard", "1/2", "--out", "shared", "--format"];
    let said = driftprobe(&dir).args(words).arg("json").assert().code(0).get_output().stdout.clone();
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
    let number = |name: &str| said[name].as_u64().unwrap();
    assert_eq!(["schema", "prompts", "stages", "known", "without_model"].map(number), [1, 5, 0, 0, 5]);
    driftprobe(&dir)
        .args(words)
        .arg("md")
        .assert()
        .code(2)
        .stderr(contains("no report of their own").and(contains("--by-prompt")));
    driftprobe(&dir)
        .args(["analyze", "runs/demo", "--layer-shard", "1/2", "--shard", "1/2", "--out", "shared"])
        .assert()
        .code(0)
        .stdout(contains("of 3 prompts judged, 3 of them without a model"));
}
