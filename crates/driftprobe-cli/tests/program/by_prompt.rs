//! `driftprobe analyze --by-prompt`, `--shard` and `merge`: the same bytes however the work was shared, and no PASS without
//! all of it.

use crate::driftprobe;
use driftprobe_trace::{Dtype, Manifest, Phase, Point, PointSet, PromptInfo, RowRecord, RunWriter};
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const REPORTS: [&str; 3] = ["merged.json", "merged.md", "merged.tsv"];
const POINTS: [Point; 3] = [Point::ResidualPreAttn, Point::AttnOut, Point::Logits];

/// A run of five prompts and two steps whose phases agree bit for bit, but for a NaN of decode in one prompt, if asked for.
pub fn write_run(dir: &Path, broken: Option<&str>) {
    let prompts: Vec<PromptInfo> = (0..5u32)
        .map(|n| PromptInfo { id: format!("p{n}"), tokens: (n..n + 6).collect(), ..Default::default() })
        .collect();
    let manifest = Manifest {
        prompts: Some(prompts.clone()),
        layers: Some(vec![0, 1]),
        points: Some(PointSet::Both(POINTS.to_vec())),
        steps: Some(2),
        ..Default::default()
    };
    let mut writer = RunWriter::create(dir, manifest).unwrap();
    for (number, prompt) in prompts.iter().enumerate() {
        for phase in Phase::ALL {
            writer.begin(&prompt.id, phase).unwrap();
            for (position, token_id) in prompt.tokens.iter().enumerate().skip(4) {
                for (point, layer) in POINTS.iter().flat_map(|p| (0..=i32::from(p.layered())).map(move |l| (*p, l))) {
                    let nan = broken == Some(prompt.id.as_str()) && phase == Phase::Decode && layer == 1;
                    let seed = (number * 97 + position * 13 + point as usize * 5) as f32 + layer as f32 * 0.37;
                    let value = |i: u8| if nan && i == 3 { f32::NAN } else { (seed + f32::from(i) * 1.7).sin() };
                    let decodes = phase == Phase::Decode;
                    let record = RowRecord {
                        point,
                        layer,
                        step: if decodes { position as u64 - 3 } else { 0 },
                        pos_id: position as u64,
                        logical_tok_idx: position as u64,
                        token_id: *token_id,
                        seq_len: if decodes { 1 } else { 6 },
                        kv_len: None,
                        dtype: Dtype::F32,
                        stored_dtype: None,
                        shape: vec![8],
                        bytes: (0..8).flat_map(|i| value(i).to_le_bytes()).collect(),
                        logits_top: None,
                        payload: false,
                    };
                    writer.record(record).unwrap();
                }
            }
        }
    }
    writer.finish(true).unwrap();
}

/// Records three short prompts, to be compared and not judged: a model in debug builds takes its time.
fn record(dir: &TempDir, out: &str, more: &[&str]) {
    let small = ["--layers", "0", "--repeats", "0", "--record-only", "--mode", "as_designed", "--out", out];
    driftprobe(dir)
        .arg("run")
        .args(small)
        .args(more)
        .args(["--prompts", "Truth is", "One", "The fox"])
        .assert()
        .code(0);
    let shard = more.iter().skip_while(|word| **word != "--shard").nth(1);
    let shard = shard.map_or_else(String::new, |shard| format!("/shard-{}", shard.replace('/', "-of-")));
    let path = dir.path().join(format!("{out}{shard}/manifest.json"));
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove("model");
    fs::write(path, manifest.to_string()).unwrap();
}

/// Judges by prompt and gives the reports.
pub fn judged(dir: &TempDir, status: i32, arguments: &[&str], out: &str) -> Vec<Vec<u8>> {
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
fn one_machine_and_shards_in_any_number_give_the_same_bytes() {
    for (status, broken) in [(0, None), (1, Some("p2"))] {
        let dir = tempfile::tempdir().unwrap();
        write_run(&dir.path().join("runs/demo"), broken);
        let whole = judged(&dir, status, &["analyze", "runs/demo", "--by-prompt", "--jobs", "1"], "whole");
        assert_eq!(judged(&dir, status, &["analyze", "runs", "--by-prompt", "--jobs", "4"], "four"), whole);
        let json: serde_json::Value = serde_json::from_slice(&whole[0]).unwrap();
        let number = |name: &str| json[name].as_u64().unwrap();
        let failed = u64::from(broken.is_some());
        assert_eq!(["promised", "pass", "fail", "missing"].map(number), [5, 5 - failed, failed, 0]);
        if broken.is_some() {
            let first = &json["first_failure"];
            assert_eq!((&first["prompt"], &first["place"]["phase"]), (&"p2".into(), &"decode".into()));
            assert_eq!((&first["place"]["point"], &first["place"]["layer"]), (&"residual_pre_attn".into(), &1.into()));
        }
        for index in 1..=3 {
            shard(&dir, index, 3, &format!("part-{index}"));
            shard(&dir, index, 3, "shared");
        }
        shard(&dir, 2, 2, "half");
        assert_eq!(judged(&dir, status, &["merge", "part-2", "part-3", "part-1"], "merged"), whole);
        assert_eq!(judged(&dir, status, &["merge", "shared"], "merged"), whole);
        // Shards of different numbers: places 0, 3 and 2 of one, 1 and 3 of the other; place 4 is nobody's.
        let lacking = ["merge", "part-1", "half", "part-3"];
        let lacking = judged(&dir, if broken.is_some() { 1 } else { 3 }, &lacking, "lacking");
        let lacking: serde_json::Value = serde_json::from_slice(&lacking[0]).unwrap();
        assert_eq!((&lacking["missing"], &lacking["reasons"][0]["code"]), (&1.into(), &"MISSING_SHARD".into()));
    }
}

#[test]
fn a_run_recorded_in_shards_is_the_run_recorded_in_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    record(&dir, "whole/demo", &[]);
    let whole = judged(&dir, 3, &["analyze", "whole/demo", "--by-prompt"], "one");
    for index in ["1/3", "2/3", "3/3"] {
        record(&dir, "parts/demo", &["--shard", index]);
    }
    assert_eq!(judged(&dir, 3, &["analyze", "parts", "--by-prompt"], "recorded"), whole);
    let text = |reports: Vec<Vec<u8>>| String::from_utf8(reports[0].clone()).unwrap();
    assert!(!text(whole).contains("MISSING_SHARD"));
    fs::remove_dir_all(dir.path().join("parts/demo/shard-2-of-3")).unwrap();
    let lacking = text(judged(&dir, 3, &["analyze", "parts/demo", "--by-prompt"], "lacking"));
    assert!(lacking.contains("MISSING_SHARD") && lacking.contains("demo: text_1"), "{lacking}");
    // Of each shard its machine may have results of its own.
    for shard in ["shard-1-of-3", "shard-3-of-3"] {
        let one = text(judged(&dir, 3, &["analyze", &format!("parts/demo/{shard}"), "--by-prompt"], shard));
        assert!(one.contains("\"missing\": 2"), "{one}");
    }
    assert_eq!(text(judged(&dir, 3, &["merge", "shard-3-of-3", "shard-1-of-3"], "merged")), lacking);
}

#[test]
fn a_shard_of_a_passing_run_by_itself_does_not_pass_by_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("demo/shard-1-of-2");
    write_run(&run, None);
    driftprobe(&dir).args(["analyze", "demo", "--by-prompt"]).assert().code(0);
    let path = run.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let shard = r#"{"shard":{"index":1,"of":2,"prompts":["p0","p1","p2","p3","p4","p5"]},"#;
    fs::write(&path, text.replacen('{', shard, 1)).unwrap();
    driftprobe(&dir).args(["analyze", "demo", "--by-prompt"]).assert().code(3).stdout(contains("demo: p5"));
    fs::write(&path, text.replacen('{', r#"{"shard":"first","#, 1)).unwrap();
    let refused = contains("manifest.json:1: shard").and(contains("hint:"));
    driftprobe(&dir).args(["analyze", "demo", "--by-prompt"]).assert().code(2).stderr(refused);
}

#[test]
fn what_is_known_is_not_judged_again_and_what_is_torn_or_of_another_run_is() {
    let dir = tempfile::tempdir().unwrap();
    write_run(&dir.path().join("runs/demo"), None);
    let arguments = ["analyze", "runs/demo", "--shard", "1/1"];
    let says = |text: &str| driftprobe(&dir).args(arguments).assert().code(0).stdout(contains(text));
    says("5 prompts judged, 0 known already");
    says("0 prompts judged, 5 known already");
    let report = dir.path().join("runs/demo/report");
    driftprobe(&dir).args(["merge", "runs/demo/report"]).assert().code(0).stdout(contains("PASS"));
    let whole = reports(&report);
    // One gone, one torn, one of another schema, one in another's place.
    let files = units(&report);
    assert_eq!(files.len(), 5);
    fs::remove_file(&files[0]).unwrap();
    let text = fs::read_to_string(&files[1]).unwrap();
    fs::write(&files[1], &text[..text.len() / 2]).unwrap();
    let text = fs::read_to_string(&files[2]).unwrap();
    fs::write(&files[2], text.replace("\"schema\":1", "\"schema\":7")).unwrap();
    fs::copy(&files[4], &files[3]).unwrap();
    let told = driftprobe(&dir).args(["merge", "runs/demo/report"]).assert().code(3);
    // What to do is said, and which file cannot be used; of one that is gone there is none to name.
    told.stdout(contains("MISSING_SHARD (4)").and(contains("hint: judge them with the same command again")));
    let lacking = fs::read_to_string(report.join("merged.json")).unwrap();
    let named =
        |file: &Path| lacking.contains(&format!("units/{} is torn", file.file_name().unwrap().to_string_lossy()));
    assert!(!named(&files[0]) && !named(&files[4]) && files[1..4].iter().any(|file| named(file)), "{lacking}");
    says("4 prompts judged, 1 known already");
    driftprobe(&dir).args(["analyze", "runs/demo", "--by-prompt"]).assert().code(0);
    assert_eq!(reports(&report), whole);
    driftprobe(&dir).args(arguments).arg("--fresh").assert().code(0).stdout(contains("5 prompts judged"));
    // Another budget, another contract, another event: other results.
    driftprobe(&dir).args(arguments).args(["--simulate", "1"]).assert().stdout(contains("5 prompts judged"));
    driftprobe(&dir).args(arguments).args(["--contract", "f32"]).assert().stdout(contains("5 prompts judged"));
    says("5 prompts judged");
    let file = dir.path().join("runs/demo/traces/p1_trace.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"seq_len\":", "\"later\":1,\"seq_len\":", 1)).unwrap();
    says("1 prompts judged, 4 known already");
}

#[test]
fn a_shard_says_as_data_what_it_did_and_that_it_is_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    write_run(&dir.path().join("runs/demo"), Some("p2"));
    let asked = |shard: &str, format: &str| {
        let mut command = driftprobe(&dir);
        command.args(["analyze", "runs/demo", "--by-prompt", "--shard", shard, "--out", "out", "--format", format]);
        command
    };
    let done = |shard: &str| -> serde_json::Value {
        serde_json::from_slice(&asked(shard, "json").assert().code(0).get_output().stdout).unwrap()
    };
    let counts = |json: &serde_json::Value| {
        ["judged", "known", "pass", "fail", "inconclusive"].map(|name| json[name].as_u64().unwrap())
    };
    // p0, p2 and p4; then p1 and p3.
    let first = done("1/2");
    assert_eq!(counts(&first), [3, 0, 2, 1, 0]);
    assert_eq!(counts(&done("2/2")), [2, 0, 2, 0, 0]);
    assert_eq!(counts(&done("1/2")), [0, 3, 2, 1, 0]);
    assert_eq!(
        (&first["shard"]["index"], &first["shard"]["of"], &first["folder"]),
        (&1.into(), &2.into(), &"out".into())
    );
    assert!(first["verdict"].is_null() && first["hint"].as_str().unwrap().contains("driftprobe merge"));
    let told = contains("2 PASS, 1 FAIL, 0 INCONCLUSIVE here").and(contains("the verdict is that of all 2 shards"));
    asked("1/2", "text").assert().code(0).stdout(told);
    for format in ["md", "tsv"] {
        asked("1/2", format).assert().code(2).stderr(contains("no report of its own").and(contains("hint: ")));
    }
}

#[test]
fn results_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_run(&dir.path().join("runs/demo"), None);
    shard(&dir, 1, 2, "a");
    shard(&dir, 1, 1, "b");
    // The same prompt with two results.
    let file = units(&dir.path().join("a")).remove(0);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"hash_match\":", "\"hash_match\":1", 1)).unwrap();
    let differ = contains("two results for it").and(contains("hint:"));
    driftprobe(&dir).args(["merge", "a", "b", "--out", "c"]).assert().code(2).stderr(differ);
    // Another run of the same name.
    let path = dir.path().join("runs/demo/manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"p4\"", "\"p7\"")).unwrap();
    shard(&dir, 1, 1, "other");
    let other = contains("prompts are not the same").and(contains("hint:"));
    driftprobe(&dir).args(["merge", "b", "other", "--out", "c"]).assert().code(2).stderr(other);
    driftprobe(&dir).args(["merge", "runs/demo"]).assert().code(2).stderr(contains("holds no results"));
    fs::write(dir.path().join("b/plan-1-of-1.json"), "{").unwrap();
    driftprobe(&dir).args(["merge", "b"]).assert().code(2).stderr(contains("not a plan"));
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
fn what_lies_beside_results_and_is_no_plan_stays() {
    let dir = tempfile::tempdir().unwrap();
    write_run(&dir.path().join("runs/demo"), None);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let own = ["plan-2024-budget.json", "planets.json", "plan-b-of-c.json"];
    own.iter().for_each(|name| fs::write(out.join(name), "{\"mine\": 1}").unwrap());
    // Of another number of shards than the next: its plan is what goes.
    shard(&dir, 1, 2, "out");
    assert!(out.join("plan-1-of-2.json").exists());
    shard(&dir, 1, 1, "out");
    assert!(!out.join("plan-1-of-2.json").exists() && out.join("plan-1-of-1.json").exists());
    driftprobe(&dir).args(["merge", "out"]).assert().code(0).stdout(contains("PASS"));
    driftprobe(&dir).args(["analyze", "runs/demo", "--by-prompt", "--out", "out"]).assert().code(0);
    for name in own {
        assert_eq!(fs::read_to_string(out.join(name)).unwrap(), "{\"mine\": 1}", "{name}");
    }
}

#[test]
fn shards_that_were_recorded_in_different_ways_are_no_run() {
    let dir = tempfile::tempdir().unwrap();
    record(&dir, "demo", &["--shard", "1/2"]);
    record(&dir, "demo", &["--shard", "2/2", "--dtype", "bf16"]);
    let refused = contains("settings are not the same").and(contains("hint:"));
    driftprobe(&dir).args(["analyze", "demo", "--by-prompt"]).assert().code(2).stderr(refused);
}

/// A model whose config says something else has judged nothing yet, whatever its weights are.
#[test]
fn what_was_judged_with_another_config_is_judged_again() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/transformers-traces/models/llama");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(name), model.join(name)).unwrap();
    }
    fs::write(dir.path().join("prompts.json"), r#"[{"id":"p","tokens":[3,1,4,1,5,9,2,6]}]"#).unwrap();
    let small = ["run", "--prompts", "prompts.json", "--repeats", "0", "--record-only", "--mode", "as_designed"];
    driftprobe(&dir).args(small).args(["--model", "model", "--layers", "0,1", "--out", "run"]).assert().code(0);
    let judge_within = |flops: &str, says: &'static str, part: [&str; 2]| {
        let words = ["analyze", "run", "--out", "out", "--simulate", flops];
        driftprobe(&dir).args(words).args(part).assert().code(0).stdout(contains(says));
    };
    let judge = |says: &'static str, part: [&str; 2]| judge_within("0", says, part);
    judge("0 prompts known already", ["--layer-shard", "1/2"]);
    judge("1 prompts known already", ["--layer-shard", "1/2"]);
    // What simulating may cost is nothing to a stage.
    judge_within("1e9", "1 prompts known already", ["--layer-shard", "1/2"]);
    judge("1 prompts judged, 0 known already", ["--shard", "1/1"]);
    judge("0 prompts judged, 1 known already", ["--shard", "1/1"]);
    let text = fs::read_to_string(model.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["rms_norm_eps"] = 3e-4.into();
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    judge("0 prompts known already", ["--layer-shard", "2/2"]);
    judge("1 prompts judged, 0 known already", ["--shard", "1/1"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_result_is_no_result() {
    let dir = tempfile::tempdir().unwrap();
    write_run(&dir.path().join("runs/demo"), None);
    let whole = judged(&dir, 0, &["analyze", "runs/demo", "--by-prompt"], "out");
    let unit = units(&dir.path().join("out")).remove(0);
    let layers = dir.path().join("out/layers");
    fs::create_dir(&layers).unwrap();
    let stem = unit.file_stem().unwrap().to_str().unwrap();
    fs::remove_file(&unit).unwrap();
    for pipe in [unit.clone(), layers.join(format!("{stem}.1-of-2.json"))] {
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    }
    assert_eq!(judged(&dir, 0, &["analyze", "runs/demo", "--by-prompt"], "out"), whole);
}

#[test]
fn a_run_that_is_all_of_its_shards_and_lacks_prompts_passes_neither_whole_nor_by_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["run", "--layers", "0", "--repeats", "0", "--record-only", "--steps", "1", "--out", "run"];
    driftprobe(&dir).args(small).args(["--prompts", "The fox sleeps"]).assert().code(0);
    driftprobe(&dir).args(["analyze", "run"]).assert().code(0);
    let path = dir.path().join("run/manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let own = manifest["prompts"][0]["id"].clone();
    manifest["shard"] = serde_json::json!({"index": 1, "of": 1, "prompts": [own, "p1", "p2"]});
    fs::write(&path, manifest.to_string()).unwrap();
    for how in [&["analyze", "run"][..], &["analyze", "run", "--by-prompt"]] {
        driftprobe(&dir).args(how).assert().code(3).stdout(contains("MISSING_SHARD"));
    }
}
