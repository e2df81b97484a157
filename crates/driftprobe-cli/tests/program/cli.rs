//! The binary as a user meets it: exit codes, files, messages, silence in a pipe.

use crate::driftprobe;
use predicates::prelude::*;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const GRETA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../driftprobe-trace/tests/fixtures/greta");
const DEMO_GGUF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../driftprobe-model/demo/model.gguf");

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn without_arguments_the_embedded_model_is_run_and_reported() {
    let dir = folder();
    let expected =
        predicate::str::contains("PASS (STRUCTURAL_DRIFT)").and(predicate::str::contains("wrote runs/DEMO-001"));
    driftprobe(&dir).assert().code(0).stdout(expected).stderr("");
    let run = dir.path().join("runs/DEMO-001");
    let report = json(&run.join("report/drift.json"));
    assert_eq!(report["verdict"], "PASS");
    assert_eq!(report["modes"].as_object().unwrap().len(), 2);
    // 4 prompts, 20 layered points of 5 layers and 4 unlayered ones.
    assert_eq!(report["pairs"]["total"], 4 * (20 * 5 + 4));
    assert_eq!(report["coverage"]["expected"], report["coverage"]["found"]);
    let manifest = json(&run.join("manifest.json"));
    assert_eq!(manifest["complete"], true);
    assert_eq!(manifest["layers"], serde_json::json!([0, 1, 2, 4, 8]));
    assert_eq!(json(&run.join("repeat-1/manifest.json"))["repeat"], 1);
    for name in ["drift.md", "drift.tsv"] {
        let text = fs::read_to_string(run.join("report").join(name)).unwrap();
        assert!(!text.contains("TBD") && !text.contains('\u{1b}'), "{name}");
    }
}

#[test]
fn a_second_run_does_not_touch_the_first() {
    let dir = folder();
    let quick = ["run", "--prompts", "Truth", "--layers", "0", "--repeats", "0"];
    driftprobe(&dir).args(quick).assert().code(0);
    let first = fs::read(dir.path().join("runs/DEMO-001/manifest.json")).unwrap();
    driftprobe(&dir).args(quick).assert().code(0).stdout(predicate::str::contains("DEMO-002"));
    assert_eq!(first, fs::read(dir.path().join("runs/DEMO-001/manifest.json")).unwrap());
    driftprobe(&dir)
        .args(quick)
        .args(["--out", "runs/DEMO-001"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("hint:").and(predicate::str::contains("DEMO-001")));
    driftprobe(&dir).args(quick).args(["--out", "runs/DEMO-001", "--overwrite"]).assert().code(0);
}

#[test]
fn gretas_drift_traces_are_read_as_they_are() {
    let dir = folder();
    let drift = format!("{GRETA}/drift");
    driftprobe(&dir).args(["analyze", &drift, "--out", "out"]).assert().code(3);
    let report = json(&dir.path().join("out/drift.json"));
    assert_eq!(report["pairs"]["total"], 48);
    assert_eq!(report["first_failure"]["prompt_id"], "p0_short");
    assert_eq!(report["first_failure"]["point"], "attn_out");
    assert_eq!(report["first_failure"]["layer"], 0);
    assert_eq!(report["root_cause"], Value::Null);
}

#[test]
fn gretas_unpaired_traces_are_inconclusive() {
    let dir = folder();
    let offset = format!("{GRETA}/offset");
    driftprobe(&dir).args(["analyze", &offset, "--out", "out"]).assert().code(3);
    let report = json(&dir.path().join("out/drift.json"));
    assert_eq!(report["pairs"]["total"], 0);
    assert_eq!(report["root_cause"], "TRACE_OFFSET");
    assert_ne!(report["verdict"], "PASS");
}

#[test]
fn every_format_can_be_printed() {
    let dir = folder();
    let drift = format!("{GRETA}/drift");
    for (format, name) in [("json", "drift.json"), ("md", "drift.md"), ("tsv", "drift.tsv")] {
        let output = driftprobe(&dir).args(["analyze", &drift, "--out", "out", "--format", format]).output().unwrap();
        assert_eq!(output.stdout, fs::read(dir.path().join("out").join(name)).unwrap(), "{format}");
    }
}

#[test]
fn the_summary_fits_eighty_columns() {
    let dir = folder();
    let output = driftprobe(&dir).args(["run", "--layers", "all", "--steps", "2"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let reported = text.lines().filter(|l| !l.starts_with("wrote "));
    for line in reported {
        assert!(line.chars().count() <= 80, "{line:?}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
}

#[test]
fn prompts_come_from_texts_files_folders_and_token_lists() {
    let dir = folder();
    let prompts = dir.path().join("prompts");
    fs::create_dir(&prompts).unwrap();
    fs::write(prompts.join("a.txt"), "Truth\n").unwrap();
    fs::write(prompts.join("b.json"), r#"[{"id": "ids", "tokens": [0, 5, 9]}, {"id": "words", "text": "Wit"}]"#)
        .unwrap();
    let arguments = ["run", "--prompts", "prompts", "The learned", "--layers", "0", "--repeats", "0", "--out", "run"];
    driftprobe(&dir).args(arguments).assert().code(0);
    let manifest = json(&dir.path().join("run/manifest.json"));
    let ids: Vec<&str> = manifest["prompts"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "ids", "words", "text_3"]);
    assert_eq!(manifest["prompts"][1]["tokens"], serde_json::json!([0, 5, 9]));
    assert_eq!(manifest["prompts"][0]["text"], "Truth");
}

#[test]
fn prompts_can_be_chosen_by_their_ids() {
    let dir = folder();
    let small = ["run", "--layers", "0", "--repeats", "0", "--record-only", "--out", "run", "--only"];
    driftprobe(&dir).args(small).args(["p9_long", "p0_short"]).assert().code(0);
    let manifest = json(&dir.path().join("run/manifest.json"));
    let ids: Vec<&str> = manifest["prompts"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["p0_short", "p9_long"]);
    let unknown = driftprobe(&dir).args(small).args(["p0_short", "p7"]).assert().code(2);
    unknown.stderr(predicate::str::contains("p7").and(predicate::str::contains("p6_len_32")));
}

#[test]
fn the_environment_of_greta_is_honoured_and_recorded() {
    let dir = folder();
    let arguments = ["run", "--prompts", "Truth", "--repeats", "0", "--out", "run"];
    driftprobe(&dir)
        .args(arguments)
        .env("GRETA_TRACE_LAYERS", "1, 3")
        .env("GRETA_TRACE_STAGE_POINTS", "x_in,attn_out")
        .env("GRETA_SEED", "7")
        .assert()
        .code(0);
    let manifest = json(&dir.path().join("run/manifest.json"));
    assert_eq!(manifest["layers"], serde_json::json!([1, 3]));
    assert_eq!(manifest["points"], serde_json::json!(["residual_pre_attn", "attn_out"]));
    assert_eq!(manifest["seed"], 7);
    assert_eq!(manifest["env"]["GRETA_SEED"], "7");
}

#[test]
fn both_formats_of_the_demo_are_the_same_model() {
    let dir = folder();
    let common = ["run", "--prompts", "Truth", "--layers", "0", "--repeats", "0"];
    driftprobe(&dir).args(common).args(["--out", "st"]).assert().code(0);
    driftprobe(&dir).args(common).args(["--model", DEMO_GGUF, "--out", "gguf"]).assert().code(0);
    let (st, gguf) = (json(&dir.path().join("st/manifest.json")), json(&dir.path().join("gguf/manifest.json")));
    assert_eq!(st["prompts"][0]["tokens"], gguf["prompts"][0]["tokens"]);
    assert_eq!(st["config"]["hidden_size"], gguf["config"]["hidden_size"]);
    assert_eq!(gguf["config"]["rope_layout"], "interleaved");
}

#[test]
fn what_cannot_be_done_is_said_with_a_hint() {
    let dir = folder();
    fs::write(dir.path().join("empty.txt"), "").unwrap();
    fs::write(dir.path().join("junk.txt"), b"\xff\xfe\x00").unwrap();
    fs::write(dir.path().join("bad.json"), r#"{"id": "x"}"#).unwrap();
    let cases: [(&[&str], &str); 12] = [
        (&["run", "--model", "nowhere"], "nowhere"),
        (&["run", "--layers", "0,99"], "layer 99"),
        (&["run", "--layers", "zero"], "zero"),
        (&["run", "--points", "attn_out,q_proj_out"], "q_proj_out"),
        (&["run", "--prompts", "missing.txt"], "missing.txt"),
        (&["run", "--prompts", "bad.json"], "bad.json"),
        (&["run", "--steps", "0"], "0 decode steps"),
        (&["run", "--prompts", "Truth", "--steps", "1021"], "1025 tokens"),
        (&["run", "--prompts", "junk.txt"], "junk.txt"),
        (&["run", "--device", "abacus"], "abacus"),
        (&["run", "--device", "cuda"], "cuda"),
        (&["analyze", "nowhere"], "nowhere"),
    ];
    for (arguments, named) in cases {
        let expected = predicate::str::contains("error:")
            .and(predicate::str::contains("hint:"))
            .and(predicate::str::contains(named));
        driftprobe(&dir).args(arguments).assert().code(2).stdout("").stderr(expected);
    }
    let left: Vec<PathBuf> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    for folder in left {
        let runs = fs::read_dir(&folder).unwrap().count();
        assert_eq!(runs, 0, "{} holds what a refused run left", folder.display());
    }
}

#[test]
fn completions_and_the_manual_page_are_printed() {
    let dir = folder();
    driftprobe(&dir).args(["completions", "bash"]).assert().code(0).stdout(predicate::str::contains("complete -F"));
    driftprobe(&dir).arg("man").assert().code(0).stdout(predicate::str::contains(".TH driftprobe"));
}

#[test]
fn every_help_text_has_examples() {
    let dir = folder();
    let commands = ["run", "analyze", "report", "compare", "gate", "logprobs", "reach", "power", "import", "doctor"];
    for command in commands.into_iter().chain(["completions", "man"]) {
        let expected = predicate::str::contains("Examples:");
        driftprobe(&dir).args([command, "--help"]).assert().code(0).stdout(expected);
    }
    driftprobe(&dir).arg("--help").assert().code(0).stdout(predicate::str::contains("Exit status:"));
}

#[test]
#[cfg(unix)]
fn a_reader_that_has_seen_enough_changes_nothing() {
    let dir = folder();
    let drift = format!("{GRETA}/drift");
    let arguments = ["analyze", &drift, "--out", "out", "--format", "md"];
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_driftprobe"))
        .args(arguments)
        .current_dir(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_fault_in_a_layer_that_is_not_traced_is_searched_for_and_named() {
    let dir = folder();
    let arguments = ["run", "--prompts", "The learned", "--layers", "0,2,8", "--repeats", "0", "--mode", "as_designed"];
    let fault = ["--fault", "GQA_MAP@decode:layer5", "--out", "run"];
    driftprobe(&dir).args(arguments).args(fault).assert().code(1).stdout(predicate::str::contains("Cause: GQA_MAP"));
    let report = json(&dir.path().join("run/report/drift.json"));
    assert_eq!(report["root_cause"], "ATTN_SCORES_DRIFT");
    assert_eq!(report["first_failure"]["layer"], 5);
    assert_eq!(report["first_failure"]["phase"], "decode");
    assert_eq!(report["cause"]["hypothesis"], "GQA_MAP");
    assert!(dir.path().join("run/search-1/manifest.json").exists());
    // The search's runs go with the run that they belong to.
    driftprobe(&dir).args(arguments).args(["--out", "run", "--overwrite"]).assert().code(0);
    assert!(!dir.path().join("run/search-1").exists());
}

#[test]
fn analyze_takes_the_model_and_the_contract_that_it_is_given() {
    let dir = folder();
    let traces = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/transformers-traces/llama-bf16-clean");
    let analyze = |more: &[&str]| {
        let mut command = driftprobe(&dir);
        command.args(["analyze", traces, "--out", "out"]).args(more);
        command
    };
    analyze(&[]).assert().code(0);
    analyze(&["--contract", "bf16"]).assert().code(0).stdout(predicate::str::contains("CONTRACT"));
    analyze(&["--contract", "no-such"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("transformers-eager-bf16").and(predicate::str::contains("hint:")));
    fs::write(dir.path().join("bad.json"), "[1]").unwrap();
    analyze(&["--contract", "bad.json"]).assert().code(2).stderr(predicate::str::contains("bad.json"));
    analyze(&["--model", "DEMO"]).assert().code(3).stdout(predicate::str::contains("WRONG_MODEL"));
}

#[test]
fn power_says_what_is_seen_and_what_is_not() {
    let dir = folder();
    let faults = ["--faults", "SCALE_MISSING", "NORM_EPS:attn:0.0000100001", "--prompts", "The learned"];
    let output = driftprobe(&dir).args(["power", "--format", "json"]).args(faults).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(table["sound_run"], "PASS");
    let [gross, tiny] = [&table["faults"][0], &table["faults"][1]];
    assert!(gross["seen"] == true && gross["placed"] == true && gross["named"][0] == "SCALE_MISSING", "{gross}");
    assert!(tiny["seen"] == false, "{tiny}");
    driftprobe(&dir).args(["power", "--faults", "NO_SUCH"]).assert().code(2);
    // What the model cannot have does not stand in the way of the others.
    let both = ["power", "--faults", "SOFTCAP_MISSING", "SCALE_MISSING", "--prompts", "The learned"];
    let said = driftprobe(&dir).args(both).assert().code(0).get_output().stdout.clone();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("Not applicable here:\n  SOFTCAP_MISSING") && said.contains("alone (--layer"), "{said}");
    driftprobe(&dir).args(["power", "--faults", "SOFTCAP_MISSING"]).assert().code(2);
}
