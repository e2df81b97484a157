//! `driftprobe gate` as CI meets it: exit statuses, matrices, baselines, dumps of logits, formats.

use crate::driftprobe;
use predicates::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A small run.
fn run(dir: &TempDir, out: &str, more: &[&str]) {
    let small = ["run", "--prompts", "The quick brown fox", "--layers", "1", "--repeats", "0", "--out", out];
    let recorded = driftprobe(dir).args(small).args(more).output().unwrap();
    assert!(recorded.status.code().is_some_and(|code| code < 2), "{recorded:?}");
}

fn gate(dir: &TempDir, args: &[&str]) -> (i32, Value) {
    let output = driftprobe(dir).arg("gate").args(args).args(["--format", "json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap_or(Value::String(told)))
}

#[test]
fn the_noise_model_decides_and_presets_stand_beside_it() {
    let dir = folder();
    run(&dir, "a", &[]);
    let (status, report) = gate(&dir, &["a", "--preset", "batch-invariant,sglang"]);
    assert_eq!((status, &report["verdict"], &report["decided_by"]), (0, &json!("PASS"), &json!(["noise"])));
    let verdict = |id: &str, mode: &str| {
        let presets = report["runs"][0]["presets"].as_array().unwrap();
        presets.iter().find(|one| one["preset"] == id && one["mode"] == mode).unwrap()["verdict"].clone()
    };
    // Rounding parts most rows of a healthy engine.
    assert_eq!(verdict("batch-invariant", "as_designed"), "FAIL");
    assert_eq!(verdict("sglang", "kv_aligned"), "PASS");
    assert_eq!(gate(&dir, &["a", "--preset", "batch-invariant", "--decide", "preset"]).0, 1);
    assert_eq!(gate(&dir, &["a", "--preset", "batch-invariant", "--decide", "all"]).0, 1);
    assert_eq!(gate(&dir, &["a", "--preset", "sglang", "--decide", "noise,preset"]).0, 0);

    run(&dir, "bad", &["--fault", "ROPE_POSITION_OFFSET:+1@decode:layer1"]);
    let (status, report) = gate(&dir, &["bad"]);
    assert_eq!((status, &report["runs"][0]["noise"]["verdict"]), (1, &json!("FAIL")));
    assert_eq!(gate(&dir, &["a", "bad"]).0, 1, "one of two fails");
}

#[test]
fn usage_that_decides_nothing_is_refused() {
    let dir = folder();
    run(&dir, "a", &["--mode", "as_designed"]);
    let refused: [(&[&str], &str); 6] = [
        (&["a", "--decide", "preset"], "--preset"),
        (&["a", "--decide", "baseline"], "--baseline"),
        (&["a", "--preset", "no-such-gate"], "no-such-gate"),
        (&["nowhere"], "nowhere"),
        (&["a", "--matrix", "a/manifest.json"], "manifest.json"),
        (&["a/traces/../..", "--matrix", "none.toml"], "none.toml"),
    ];
    for (args, told) in refused {
        driftprobe(&dir).arg("gate").args(args).assert().code(2).stderr(predicate::str::contains(told));
    }
    fs::create_dir(dir.path().join("empty")).unwrap();
    driftprobe(&dir).args(["gate", "empty"]).assert().code(2).stderr(predicate::str::contains("neither a run"));
}

#[test]
fn a_matrix_with_a_missing_cell_exits_3() {
    let dir = folder();
    for seed in ["1", "2"] {
        // Folders say nothing: both names are wrong.
        run(&dir, &format!("runs/seed-{}", 10 - seed.parse::<u32>().unwrap()), &["--seed", seed]);
    }
    let write = |text: &str| fs::write(dir.path().join("matrix.toml"), text).unwrap();
    let asked = ["runs", "--matrix", "matrix.toml", "--preset", "guardrail"];
    write(
        "prompts = [\"text_0\"]\nseeds = [1, 2]\nkv_aligned = [0, 1]\ndtype = \"f32\"\nengine = \"driftprobe-embedded\"\nsteps = 1\n",
    );
    let (status, report) = gate(&dir, &asked);
    assert_eq!((status, &report["matrix"]["complete"]), (0, &json!(true)), "{report:#}");
    assert_eq!(report["matrix"]["cells"].as_array().unwrap().len(), 4);
    assert_eq!(report["guardrail"], "PASS_GUARDRAIL");

    write("seeds = [1, 2, 3]\nkv_aligned = [true]\n");
    let (status, report) = gate(&dir, &asked);
    assert_eq!((status, &report["verdict"], &report["guardrail"]), (3, &json!("INCONCLUSIVE"), &json!("INCOMPLETE")));
    let missing: Vec<_> =
        report["matrix"]["cells"].as_array().unwrap().iter().filter(|c| c["status"] == "MISSING").collect();
    assert_eq!((missing.len(), &missing[0]["cell"]), (1, &json!("seed 3, kv_aligned 1")));
    // Runs of the other mode are in no cell, and are listed.
    assert_eq!(report["matrix"]["extra"].as_array().unwrap().len(), 2);
    for format in ["text", "junit"] {
        let output = driftprobe(&dir).arg("gate").args(asked).args(["--format", format]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(3), "{format}");
        assert!(text.contains("seed 3") && text.contains("kv_aligned 1"), "{format}: {text}");
    }

    write("dtype = [\"bf16\"]\n");
    assert_eq!(gate(&dir, &asked).0, 3, "no run says that of itself");
}

#[test]
fn no_worse_than_a_baseline() {
    let dir = folder();
    run(&dir, "old", &["--mode", "as_designed"]);
    run(&dir, "same", &["--mode", "as_designed"]);
    run(&dir, "bad", &["--mode", "as_designed", "--fault", "NORM_EPS:attn:0.1@decode:layer1"]);
    run(&dir, "again", &["--mode", "as_designed", "--fault", "NORM_EPS:attn:0.1@decode:layer1"]);
    run(&dir, "other", &["--mode", "as_designed", "--steps", "2"]);
    let against = |run: &str, baseline: &str| gate(&dir, &[run, "--baseline", baseline, "--decide", "baseline"]);
    assert_eq!(against("same", "old").0, 0);
    let (status, report) = against("bad", "old");
    assert_eq!(status, 1);
    let worse = report["runs"][0]["baseline"]["worse"].to_string();
    assert!(worse.contains("attn_norm_out of layer 1, decode"), "{worse}");
    assert_eq!(against("old", "bad").0, 0);
    assert_eq!(against("again", "bad").0, 0, "no worse, though it fails by itself");
    assert_eq!(gate(&dir, &["again", "--baseline", "bad"]).0, 1, "by default the noise model decides too");
    assert_eq!(against("other", "old").0, 3);
}

/// Dumps of logits as GRETA writes them.
fn dump(dir: &Path, mode: &str, change: impl Fn(usize, usize) -> f64, tokens: usize) {
    fs::create_dir_all(dir).unwrap();
    let metadata = json!({"dtype": "bf16", "prompt_len": 12, "gen_len": 8, "seed": 0, "kv_aligned": 1, "mode": mode,
        "token_span": {"start": 12, "count": 8}});
    fs::write(dir.join("metadata.json"), metadata.to_string()).unwrap();
    let line = |token: usize| {
        let logit = |at: usize| ((at * 7 + token * 3) as f64).sin() + change(token, at);
        let logits: Vec<String> = (0..50).map(|at| logit(at).to_string()).collect();
        format!("{{\"token_idx\": {token}, \"token_id\": {}, \"logits\": [{}]}}\n", 40 + token, logits.join(", "))
    };
    fs::write(dir.join("logits.jsonl"), (0..tokens).map(line).collect::<String>()).unwrap();
}

#[test]
fn dumps_of_logits_are_gated_by_presets() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    dump(&at("l/prefill"), "prefill", |_, _| 0.0, 8);
    dump(&at("l/decode"), "decode", |_, _| 5e-4, 8);
    dump(&at("over"), "decode", |_, _| 2e-3, 8);
    dump(&at("nan"), "decode", |token, at| if (token, at) == (3, 4) { f64::NAN } else { 0.0 }, 8);
    dump(&at("short"), "decode", |_, _| 0.0, 7);
    let named = |decode: &str| {
        let (status, report) = gate(&dir, &["l/prefill", decode, "--preset", "guardrail"]);
        (status, report["guardrail"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(named("l/decode"), (0, "PASS_GUARDRAIL_LOCAL".to_owned()));
    assert_eq!(named("over"), (1, "FAIL_GUARDRAIL".to_owned()));
    assert_eq!(named("nan"), (1, "FAIL_GUARDRAIL".to_owned()));
    assert_eq!(named("short"), (3, "INCONCLUSIVE".to_owned()));
    // A folder of both; bit equality cannot be read off decimal numbers.
    assert_eq!(gate(&dir, &["l", "--preset", "guardrail,top-1,sglang"]).0, 0);
    assert_eq!(gate(&dir, &["l", "--preset", "flash-attn"]).0, 3);
    // One file on both sides is no evidence, and no gate is none.
    driftprobe(&dir).args(["gate", "l/prefill", "l/prefill", "--preset", "guardrail"]).assert().code(2);
    driftprobe(&dir).args(["gate", "l"]).assert().code(2).stderr(predicate::str::contains("--preset guardrail"));
    driftprobe(&dir).args(["gate", "l/decode", "over", "--preset", "guardrail"]).assert().code(2);
    // A dump without its partner fills no cell.
    let alone = ["l/prefill", "--preset", "guardrail"];
    assert_eq!(gate(&dir, &alone).0, 3);
    // GRETA's own config.json is a matrix.
    fs::write(at("config.json"), r#"{"kv_aligned": [1], "seeds": [0], "dtype": "bf16", "prompt_len": 12, "span": 8}"#)
        .unwrap();
    let (status, report) = gate(&dir, &["l", "--preset", "guardrail", "--matrix", "config.json"]);
    assert_eq!((status, &report["guardrail"]), (0, &json!("PASS_GUARDRAIL")));
    fs::write(at("config.json"), r#"{"kv_aligned": [0, 1], "seeds": [0]}"#).unwrap();
    assert_eq!(gate(&dir, &["l", "--preset", "guardrail", "--matrix", "config.json"]).0, 3);
    fs::write(at("config.json"), r#"{"kv_aligned": 1, "seeds": [0]}"#).unwrap();
    let (status, report) = gate(&dir, &[&alone[..], &["--matrix", "config.json"]].concat());
    assert_eq!((status, &report["matrix"]["cells"][0]["status"]), (3, &json!("MISSING")));
}

#[test]
fn github_gets_annotations_on_standard_output_and_the_summary_in_its_file() {
    let dir = folder();
    run(&dir, "bad", &["--fault", "ROPE_POSITION_OFFSET:+1@decode:layer1"]);
    for (command, heading) in [("gate", "# Gate: FAIL"), ("analyze", "# ")] {
        let summary = dir.path().join(format!("{command}.md"));
        let mut asked = driftprobe(&dir);
        asked.args([command, "bad", "--format", "github"]).env("GITHUB_STEP_SUMMARY", &summary);
        let output = asked.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text.lines().all(|line| line.starts_with("::")) && text.contains("::error title="), "{text}");
        assert!(fs::read_to_string(summary).unwrap().contains(heading), "{command}");
        driftprobe(&dir)
            .args([command, "bad", "--format", "junit"])
            .assert()
            .code(1)
            .stdout(predicate::str::contains("<failure"));
    }
}

#[test]
fn all_files_are_written_and_the_same_twice() {
    let dir = folder();
    run(&dir, "a", &["--mode", "as_designed"]);
    for out in ["one", "two"] {
        driftprobe(&dir).args(["gate", "a", "--preset", "sglang", "--out", out]).assert().code(0);
    }
    for name in ["gate.md", "gate.tsv", "gate.json", "junit.xml"] {
        let [one, two] = ["one", "two"].map(|out| fs::read(dir.path().join(out).join(name)).unwrap());
        assert!(!one.is_empty() && one == two, "{name}");
    }
}

#[test]
fn compare_has_every_format_too() {
    let dir = folder();
    run(&dir, "a", &["--mode", "as_designed"]);
    run(&dir, "b", &["--mode", "as_designed", "--prefill-attention", "blocked:4"]);
    for (format, begins) in [("md", "# Comparison: "), ("tsv", "PHASE\t"), ("junit", "<?xml"), ("github", "::")] {
        let output = driftprobe(&dir).args(["compare", "a", "b", "--format", format]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(begins), "{format}: {output:?}");
    }
}

#[test]
fn a_shard_by_itself_is_not_the_run_that_it_is_a_part_of() {
    let dir = TempDir::new().unwrap();
    let run = ["run", "--layers", "0", "--mode", "as_designed", "--repeats", "0", "--record-only", "--out", "run"];
    let prompts = ["--prompts", "The quick brown fox", "One more time"];
    driftprobe(&dir).args(run).args(prompts).args(["--shard", "1/2"]).assert().code(0);
    for command in [&["gate", "run/shard-1-of-2"][..], &["analyze", "run/shard-1-of-2"]] {
        driftprobe(&dir).args(command).assert().code(3).stdout(predicate::str::contains("MISSING_SHARD"));
    }
}

#[test]
fn a_run_whose_other_mode_is_gone_does_not_pass() {
    let dir = TempDir::new().unwrap();
    driftprobe(&dir)
        .args(["run", "--layers", "all", "--prompts", "The quick brown fox", "--out", "run"])
        .assert()
        .code(0);
    std::fs::remove_dir_all(dir.path().join("run/kv_aligned")).unwrap();
    for command in [&["gate", "run"][..], &["analyze", "run"], &["analyze", "run", "--by-prompt", "--out", "report"]] {
        driftprobe(&dir).args(command).assert().code(3).stdout(predicate::str::contains("EXPECTED_MISSING"));
    }
    // Presets decide nothing of a mode that is not there: whether they pass is not known.
    for decide in ["preset", "all"] {
        let (status, report) = gate(&dir, &["run", "--preset", "sglang", "--decide", decide]);
        assert_eq!((status, &report["verdict"]), (3, &json!("INCONCLUSIVE")), "{report:#}");
        assert_eq!(report["runs"][0]["presets"][0]["verdict"], "INCONCLUSIVE", "{report:#}");
    }
}
