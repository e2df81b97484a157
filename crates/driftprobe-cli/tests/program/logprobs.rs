//! `driftprobe logprobs` as a trainer meets it: own engines, the link to the first tensor that drifts, two files, limits.

use crate::driftprobe;
use predicates::prelude::*;
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Exit status, and logprobs.json or what was said in its place.
fn logprobs(dir: &TempDir, args: &[&str]) -> (i32, Value) {
    let output = driftprobe(dir).arg("logprobs").args(args).args(["--format", "json"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::String(told));
    (output.status.code().unwrap(), report)
}

/// A short generation of the embedded model.
fn generated(dir: &TempDir, out: &str, more: &[&str]) -> (i32, Value) {
    let short = ["--prompts", "The quick brown fox", "Truth", "--tokens", "12", "--out", out];
    logprobs(dir, &[&short, more].concat())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_sound_engine_is_measured_and_its_worst_token_is_rounding() {
    let dir = folder();
    for (dtype, at_most) in [("f32", 1e-9), ("bf16", 2.5e-3)] {
        let (status, report) = generated(&dir, dtype, &["--dtype", dtype, "--layers", "0,1"]);
        assert_eq!((status, &report["outcome"], &report["exit_code"]), (0, &json!("MEASURED"), &json!(0)));
        assert!(report["why"][0].as_str().unwrap().contains("nothing has passed"));
        let metrics = &report["metrics"];
        assert_eq!((&metrics["tokens"], report["sequences"].as_array().unwrap().len()), (&json!(24), 2));
        // Two paths: something differs, and by no more than rounding.
        assert!(number(&metrics["mean_abs_delta"]) > 0.0 && number(&metrics["k3"]) <= at_most, "{metrics}");
        let trace = &report["worst"][0]["trace"];
        assert_eq!((&trace["verdict"], &trace["sub_verdict"]), (&json!("PASS"), &json!("STRUCTURAL_DRIFT")));
        assert_eq!((&trace["kind"], &trace["causes"]), (&json!("STRUCTURAL"), &json!([])));
        assert_eq!(trace["first"].as_str().unwrap().split(", ").nth(2), Some("layer 0"), "rounding parts them at once");
        assert_eq!(report["worst"][1]["trace"], Value::Null, "one is traced");
        // What was written says the same to whoever reads it.
        let files = [format!("{dtype}/prefill.jsonl"), format!("{dtype}/decode.jsonl")];
        let (status, again) = logprobs(&dir, &[&files[0], &files[1]]);
        assert_eq!((status, &again["metrics"], &again["engine"]), (0, metrics, &Value::Null));
        let run = dir.path().join(dtype);
        for file in ["logprobs.json", "logprobs.md", "logprobs.tsv", "logprobs.svg", "logprobs.png"] {
            assert!(run.join("report").join(file).is_file(), "{file}");
        }
        assert_eq!(fs::read_to_string(run.join("report/logprobs.tsv")).unwrap().lines().count(), 25);
        driftprobe(&dir).args(["analyze", &format!("{dtype}/worst-1")]).assert().code(0);
    }
}

#[test]
fn a_fault_parts_the_scores_and_the_worst_token_leads_to_it() {
    let dir = folder();
    let clean = number(&generated(&dir, "clean", &["--trace-worst", "0"]).1["metrics"]["mean_abs_delta"]);
    for (number_of, fault, phase, layer, id) in [
        (0, "ROPE_POSITION_OFFSET:+1@decode:layer2", "decode", 2, "ROPE_POSITION_OFFSET"),
        (1, "RESIDUAL_DROPPED@prefill:layer1", "prefill", 1, "RESIDUAL_DROPPED"),
        // Not among the layers that are recorded at first: the search finds it.
        (2, "GQA_MAP@decode:layer3", "decode", 3, "GQA_MAP"),
    ] {
        let layers = if number_of == 2 { "0,2,4,8" } else { "0,1,2" };
        let out = format!("bad-{number_of}");
        let (status, report) = generated(&dir, &out, &["--fault", fault, "--layers", layers]);
        assert_eq!((status, &report["outcome"]), (1, &json!("FAIL")), "{fault}: {report}");
        assert!(number(&report["metrics"]["mean_abs_delta"]) > 100.0 * clean, "{fault}");
        let trace = &report["worst"][0]["trace"];
        assert_eq!((&trace["verdict"], &trace["kind"]), (&json!("FAIL"), &json!("FAULT")), "{trace}");
        assert_eq!((&trace["phase"], &trace["layer"]), (&json!(phase), &json!(layer)), "{trace}");
        assert!(trace["hypotheses"].as_array().unwrap().contains(&json!(id)), "{trace}");
        // The run's decode has the cache that the generation built, so that it shows the same.
        assert_eq!(trace["reproduced"], true, "{trace}");
        assert!(report["why"][0].as_str().unwrap().contains("finds a fault"));
        assert!(report["engine"].as_str().unwrap().contains(id));
        // Without a trace nobody says what it is.
        let files = [format!("bad-{number_of}/prefill.jsonl"), format!("bad-{number_of}/decode.jsonl")];
        assert_eq!(logprobs(&dir, &[&files[0], &files[1]]).0, 0);
        assert_eq!(logprobs(&dir, &[&files[0], &files[1], "--max-mean-abs", "1e-4"]).0, 1);
    }
}

/// Every key that decode has written is turned too far: behind a prefill only one of them would be.
#[test]
fn the_trace_has_the_cache_that_the_generation_built() {
    let dir = folder();
    let (_, report) = generated(&dir, "a", &["--fault", "ROPE_POSITION_OFFSET:+1@decode", "--layers", "0"]);
    let worst = &report["worst"][0];
    let (measured, run) = (number(&worst["delta"]), number(&worst["trace"]["run_delta"]));
    assert!((measured - run).abs() < 1e-3 * measured.abs(), "{measured} {run}");
    let manifest: Value =
        serde_json::from_slice(&fs::read(dir.path().join("a/worst-1/manifest.json")).unwrap()).unwrap();
    let prompt = &manifest["prompts"][0];
    assert_eq!(prompt["tokens"].as_array().unwrap().len() as u64, worst["index"].as_u64().unwrap());
    assert!(prompt["decoded"].as_u64().is_some_and(|decoded| decoded < 12));
}

#[test]
fn tokens_are_drawn_by_the_seed_and_scored_at_temperature_one() {
    let dir = folder();
    let drawn = |out: &str, more: &[&str]| {
        let (status, report) = generated(&dir, out, &[more, &["--trace-worst", "0"]].concat());
        assert_eq!(status, 0, "{report}");
        let text = fs::read_to_string(dir.path().join(out).join("decode.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let tokens: Vec<u64> = lines.iter().map(|line| line["token_id"].as_u64().unwrap()).collect();
        let mean = lines.iter().map(|line| number(&line["logprob"])).sum::<f64>() / lines.len() as f64;
        (tokens, mean, report["sampling"].as_str().unwrap().to_owned())
    };
    let greedy = drawn("greedy", &[]);
    assert_eq!(drawn("cold", &["--temperature", "1e-6"]).0, greedy.0, "the limit of low temperatures");
    let one = drawn("one", &["--temperature", "1", "--seed", "7"]);
    assert_eq!(drawn("again", &["--temperature", "1", "--seed", "7"]), one);
    assert_ne!(drawn("other", &["--temperature", "1", "--seed", "8"]).0, one.0);
    let hot = drawn("hot", &["--temperature", "100"]);
    assert!(hot.1 < one.1 && one.1 < greedy.1, "{} {} {}", hot.1, one.1, greedy.1);
    assert!(one.2.contains("temperature 1 with seed 7") && greedy.2.contains("likeliest"));
}

/// Lines of one sequence; each is `index token logprob`.
fn write(dir: &TempDir, name: &str, phase: &str, lines: &[(u64, u32, &str)]) {
    let line = |(index, token, logprob): &(u64, u32, &str)| {
        let phase = if phase.is_empty() { String::new() } else { format!(", \"phase\": \"{phase}\"") };
        format!("{{\"sequence\": \"s\", \"index\": {index}, \"token_id\": {token}, \"logprob\": {logprob}{phase}}}\n")
    };
    fs::write(dir.path().join(name), lines.iter().map(line).collect::<String>()).unwrap();
}

const LINES: [(u64, u32, &str); 3] = [(4, 10, "-0.5"), (5, 11, "-1.5"), (6, 12, "-0.25")];

#[test]
fn one_recording_given_twice_says_nothing_and_two_that_are_equal_do() {
    let dir = folder();
    write(&dir, "p.jsonl", "", &LINES);
    write(&dir, "copy.jsonl", "", &LINES);
    for second in ["p.jsonl", "./p.jsonl", "copy.jsonl"] {
        let (status, report) = logprobs(&dir, &["p.jsonl", second, "--max-k3", "1"]);
        assert_eq!((status, &report["outcome"]), (3, &json!("INCONCLUSIVE")), "{second}");
        assert_eq!(report["findings"][0]["code"], "NOT_INDEPENDENT");
        assert_eq!(report["limits"][0]["verdict"], "INCONCLUSIVE");
    }
    write(&dir, "prefill.jsonl", "prefill", &LINES);
    write(&dir, "decode.jsonl", "decode", &LINES);
    let (status, report) = logprobs(&dir, &["prefill.jsonl", "decode.jsonl"]);
    assert_eq!((status, &report["metrics"]["equal"], &report["outcome"]), (0, &json!(3), &json!("MEASURED")));
    assert_eq!(logprobs(&dir, &["prefill.jsonl", "prefill.jsonl"]).0, 3, "whatever its lines say");
    let swapped = logprobs(&dir, &["decode.jsonl", "prefill.jsonl"]);
    assert_eq!(swapped.0, 2);
    assert!(swapped.1.as_str().unwrap().contains("decode.jsonl:1: phase \"decode\""), "{}", swapped.1);
}

#[test]
fn limits_decide_and_what_was_not_compared_passes_none() {
    let dir = folder();
    write(&dir, "p.jsonl", "", &LINES);
    write(&dir, "d.jsonl", "", &[LINES[0], (5, 11, "-1.4"), LINES[2]]);
    let with = |limits: &[&str]| logprobs(&dir, &[&["p.jsonl", "d.jsonl"], limits].concat());
    let (status, report) = with(&[]);
    assert_eq!((status, &report["worst"][0]["index"], &report["metrics"]["equal"]), (0, &json!(5), &json!(2)));
    for (limit, fails) in [("--max-mean-abs=0.03", true), ("--max-mean-abs=0.04", false), ("--max-ratio=1.1", true)] {
        assert_eq!(with(&[limit]).0, i32::from(fails), "{limit}");
    }
    assert_eq!((with(&["--max-ratio", "1.2"]).0, with(&["--max-k3", "1e-4"]).0), (0, 1));
    assert_eq!((with(&["--preset", "sglang-kl"]).0, with(&["--preset", "sglang-kl,sglang-kl-invariant"]).0), (0, 1));
    assert_eq!(with(&["--preset", "sglang-kl"]).1["outcome"], "PASS");

    for (name, lines, code) in [
        ("missing", vec![LINES[0], LINES[1]], "PREFILL_ONLY"),
        ("other", vec![LINES[0], (5, 99, "-1.5"), LINES[2]], "OTHER_TOKEN"),
        ("twice", vec![LINES[0], LINES[1], LINES[2], LINES[0]], "TWICE"),
        ("nan", vec![LINES[0], LINES[1], (6, 12, "NaN")], "NO_LOGPROB"),
        ("zero", vec![(4, 10, "0"), (5, 11, "0.0"), (6, 12, "0")], "FROZEN"),
        ("empty", vec![], "NOTHING_COMPARED"),
    ] {
        write(&dir, "d.jsonl", "", &lines);
        let (status, report) = with(&[]);
        assert_eq!((status, &report["outcome"]), (3, &json!("INCONCLUSIVE")), "{name}");
        assert!(report["findings"].as_array().unwrap().iter().any(|one| one["code"] == code), "{name}: {report}");
        assert_ne!(with(&["--max-ratio", "1e9"]).0, 0, "{name}");
    }
}

#[test]
fn lines_that_are_not_of_the_format_are_refused_with_their_number() {
    let dir = folder();
    write(&dir, "p.jsonl", "", &LINES);
    for (name, bad, told) in [
        ("d.jsonl", "{\"sequence\": \"s\", \"index\": 5, \"token\": 11, \"logprob\": -1}\n", "unknown field `token`"),
        ("d.jsonl", "{\"sequence\": \"s\", \"ind", "d.jsonl:2"),
        ("d.jsonl.gz", "no gzip", "d.jsonl.gz:1"),
    ] {
        let good =
            if name.ends_with("gz") { "" } else { "{\"sequence\":\"s\",\"index\":4,\"token_id\":1,\"logprob\":-1}\n" };
        fs::write(dir.path().join(name), format!("{good}{bad}")).unwrap();
        let told = predicate::str::contains(told).and(predicate::str::contains("hint: a line is"));
        driftprobe(&dir).args(["logprobs", "p.jsonl", name]).assert().code(2).stderr(told);
    }
    driftprobe(&dir)
        .args(["logprobs", "p.jsonl", "none.jsonl"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("none.jsonl").and(predicate::str::contains("hint:")));
}

#[test]
fn usage_that_makes_no_sense_is_refused_before_any_work() {
    let dir = folder();
    write(&dir, "p.jsonl", "", &LINES);
    fs::create_dir(dir.path().join("taken")).unwrap();
    write(&dir, "taken/prefill.jsonl", "", &LINES);
    let refused: [(&[&str], &str); 10] = [
        (&["p.jsonl"], "2 values required"),
        (&["p.jsonl", "p.jsonl", "--model", "DEMO"], "cannot be used with"),
        (&["p.jsonl", "p.jsonl", "--tokens", "3"], "cannot be used with"),
        (&["p.jsonl", "p.jsonl", "--batch", "2"], "cannot be used with"),
        (&["--tokens", "0"], "--tokens 0"),
        (&["--steps", "3"], "--tokens"),
        (&["--tokens", "100000"], "context"),
        (&["--max-ratio", "0.5"], "from 1 on"),
        (&["--max-k3", "nan"], "from 0 on"),
        (&["--out", "taken"], "--overwrite"),
    ];
    for (args, told) in refused {
        let told = predicate::str::contains(told);
        driftprobe(&dir).arg("logprobs").args(args).assert().code(2).stdout("").stderr(told);
    }
    assert!(!dir.path().join("logprobs").exists(), "nothing was begun");
    // What is refused is not offered.
    let offered = predicate::str::contains("--tokens <N>").and(predicate::str::contains("--steps").not());
    driftprobe(&dir).args(["logprobs", "--help"]).assert().code(0).stdout(offered);
}

#[test]
fn the_summary_fits_the_terminal_and_says_how_to_trace() {
    let dir = folder();
    let asked = ["logprobs", "--prompts", "Truth", "--tokens", "6"];
    let output = driftprobe(&dir).args(asked).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty() && !text.contains('\u{1b}'));
    assert!(
        text.starts_with("MEASURED: 6 tokens of 1 sequence") && text.contains("wrote logprobs/DEMO-001/decode.jsonl")
    );
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let files = ["logprobs/DEMO-001/prefill.jsonl", "logprobs/DEMO-001/decode.jsonl"];
    let output = driftprobe(&dir).arg("logprobs").args(files).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("driftprobe run --model MODEL --prompts worst.json"), "{text}");
    assert!(!text.contains("wrote"));
}
