//! What tests nothing does not pass: one file under two names, a run as its own baseline, points that show no bug.

use crate::driftprobe;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

#[test]
fn a_run_in_which_no_bug_would_have_shown_is_no_pass() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["run", "--prompts", "Truth is", "--dtype", "bf16", "--repeats", "0", "--mode", "as_designed"];
    let one = ["--layers", "0", "--points", "logits", "--out", "logits"];
    let faulty = ["--fault", "SCALE_WRONG@decode:layer5"];
    driftprobe(&dir).args(small).args(one).args(faulty).assert().code(3).stdout(contains("NO_POWER"));
    driftprobe(&dir).args(["gate", "logits"]).assert().code(3);
    driftprobe(&dir).args(["analyze", "logits"]).assert().code(3).stdout(contains("NO_POWER"));
    let by_prompt = ["analyze", "logits", "--by-prompt", "--out", "by-prompt"];
    driftprobe(&dir).args(by_prompt).assert().code(3).stdout(contains("NO_POWER"));
    driftprobe(&dir).args(["merge", "by-prompt", "--out", "merged"]).assert().code(3).stdout(contains("NO_POWER"));
    let sound = ["--layers", "0", "--points", "logits", "--out", "sound"];
    driftprobe(&dir).args(small).args(sound).assert().code(3);
    driftprobe(&dir).args(["compare", "logits", "sound"]).assert().code(3).stdout(contains("NO_POWER"));
    let all = ["--layers", "0", "--out", "all"];
    driftprobe(&dir).args(small).args(all).assert().code(0).stdout(contains("NO_POWER").not());
}

/// Whether an engine repeats itself is no longer known where its repeats are gone.
#[test]
fn a_run_that_lost_a_repeat_does_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["run", "--prompts", "Truth is", "--layers", "0", "--repeats", "2", "--out", "run"];
    driftprobe(&dir).args(small).assert().code(0);
    for lost in ["repeat-2", "kv_aligned/repeat-1"] {
        let (from, to) = (dir.path().join("run").join(lost), dir.path().join("lost"));
        fs::rename(&from, &to).unwrap();
        for command in
            [&["analyze", "run"][..], &["gate", "run"], &["analyze", "run", "--by-prompt", "--out", "report"]]
        {
            driftprobe(&dir).args(command).assert().code(3).stdout(contains("REPEAT_MISSING"));
        }
        fs::rename(&to, &from).unwrap();
        fs::remove_dir_all(dir.path().join("report")).unwrap();
    }
    driftprobe(&dir).args(["analyze", "run"]).assert().code(0).stdout(contains("REPEAT_MISSING").not());
}

#[test]
fn a_run_is_not_its_own_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["run", "--prompts", "Truth is", "--layers", "0", "--repeats", "0", "--mode", "as_designed"];
    driftprobe(&dir).args(small).args(["--out", "run"]).assert().code(0);
    let own = ["gate", "run", "--baseline", "./run", "--decide", "baseline"];
    driftprobe(&dir).args(own).assert().code(2).stderr(contains("its own baseline").and(contains("hint:")));
}

/// A dump of `logits` a line.
fn dump(dir: &TempDir, phase: &str, logits: &str) -> PathBuf {
    let folder = dir.path().join(phase);
    fs::create_dir_all(&folder).unwrap();
    let metadata = r#"{"mode": "PHASE", "kv_aligned": 1, "token_span": {"start": 0, "count": 2}}"#;
    fs::write(folder.join("metadata.json"), metadata.replace("PHASE", phase)).unwrap();
    let line = |index| {
        let logits = logits.replace("1.5", &format!("1.{index}5"));
        format!("{{\"token_idx\": {index}, \"token_id\": 7, \"logits\": {logits}}}\n")
    };
    fs::write(folder.join("logits.jsonl"), [line(0), line(1)].concat()).unwrap();
    folder.join("logits.jsonl")
}

#[test]
fn dumps_of_one_file_or_of_one_logit_pass_no_gate() {
    let dir = tempfile::tempdir().unwrap();
    let gate = ["gate", "prefill", "decode", "--preset", "guardrail"];
    let prefill = dump(&dir, "prefill", "[2, 1.5, 0]");
    let decode = dump(&dir, "decode", "[2, 1.5, 0]");
    driftprobe(&dir).args(gate).assert().code(0);
    fs::remove_file(&decode).unwrap();
    fs::hard_link(&prefill, &decode).unwrap();
    driftprobe(&dir).args(gate).assert().code(2).stderr(contains("both dumps are this one file"));
    fs::remove_file(&decode).unwrap();
    dump(&dir, "prefill", "[2]");
    dump(&dir, "decode", "[2]");
    driftprobe(&dir).args(gate).assert().code(3).stdout(contains("not as many logits as each other"));
}

#[test]
fn equal_scores_count_only_where_their_lines_say_whose_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let line = |index: usize, phase: &str| {
        let logprob = -1.25 - index as f64 / 8.0;
        format!("{{\"sequence\": \"s\", \"index\": {index}, \"token_id\": {index}, \"logprob\": {logprob}{phase}}}\n")
    };
    let write = |name: &str, phase: &str| {
        fs::write(dir.path().join(name), (0..4).map(|index| line(index, phase)).collect::<String>()).unwrap();
    };
    let logprobs = || {
        let mut command = driftprobe(&dir);
        command.args(["logprobs", "p.jsonl", "d.jsonl", "--max-k3", "1"]);
        command
    };
    write("p.jsonl", ", \"phase\": \"prefill\"");
    write("d.jsonl", ", \"phase\": \"decode\"");
    logprobs().assert().code(0).stdout(contains("PASS"));
    // A copy with other spaces.
    write("p.jsonl", "");
    write("d.jsonl", " ");
    logprobs().assert().code(3).stdout(contains("NOT_INDEPENDENT"));
    write("d.jsonl", ", \"phase\": \"decode\"");
    logprobs().assert().code(3).stdout(contains("NOT_INDEPENDENT"));
}

#[test]
fn a_sweep_replaces_none_unless_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("swept")).unwrap();
    fs::write(dir.path().join("swept/sweep.json"), "{}").unwrap();
    let sweep = ["run", "--sweep", "batch=1,2", "--prompts", "Truth", "--layers", "0", "--out", "swept"];
    driftprobe(&dir).args(sweep).assert().code(2).stderr(contains("--overwrite"));
    assert_eq!(fs::read_to_string(dir.path().join("swept/sweep.json")).unwrap(), "{}");
}
