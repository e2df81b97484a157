//! `doctor`, `man`, `completions` and colours.

use crate::driftprobe;
use predicates::prelude::*;
use serde_json::Value;

#[test]
fn doctor_finds_this_machine_fit_for_the_embedded_model() {
    let dir = tempfile::tempdir().unwrap();
    let output = driftprobe(&dir).args(["doctor", "--format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    for name in
        ["driftprobe", "cpu", "memory", "gpu", "engine embedded", "engine llama-cpp", "model", "tokenizer", "disk"]
    {
        let check =
            checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {report:#}"));
        assert!(["ok", "warn", "fail"].contains(&check["status"].as_str().unwrap()));
        assert!(check["status"] == "ok" || check["hint"].is_string(), "{check}");
    }
    let text = driftprobe(&dir).arg("doctor").output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(!dir.path().join("runs").exists(), "looking leaves nothing behind");
}

#[test]
fn doctor_fails_on_a_model_that_cannot_be_read_and_a_place_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("broken.gguf"), b"GGUF nonsense").unwrap();
    let told = predicate::str::contains("fail").and(predicate::str::contains("broken.gguf"));
    driftprobe(&dir).args(["doctor", "--model", "broken.gguf"]).assert().code(2).stdout(told);
    std::fs::write(dir.path().join("file"), b"").unwrap();
    driftprobe(&dir).args(["doctor", "--out", "file/runs"]).assert().code(2).stdout(predicate::str::contains("fail"));
}

#[test]
fn every_command_has_a_manual_page_and_every_shell_completions() {
    let dir = tempfile::tempdir().unwrap();
    driftprobe(&dir).arg("man").assert().code(0).stdout(predicate::str::contains(".TH driftprobe"));
    driftprobe(&dir).args(["man", "gate"]).assert().code(0).stdout(predicate::str::contains("\\-\\-preset"));
    driftprobe(&dir).args(["man", "nothing"]).assert().code(2).stderr(predicate::str::contains("hint:"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        driftprobe(&dir)
            .args(["completions", shell])
            .assert()
            .code(0)
            .stdout(predicate::str::contains("--baseline").or(predicate::str::contains("baseline")));
    }
}

#[test]
fn colour_is_for_terminals_unless_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let colour = || predicate::str::contains("\u{1b}[");
    type Case = (&'static [&'static str], Option<(&'static str, &'static str)>, bool);
    let cases: [Case; 5] = [
        (&[], None, false),
        (&["--color", "always"], None, true),
        (&["--color", "never"], Some(("CLICOLOR_FORCE", "1")), false),
        (&[], Some(("CLICOLOR_FORCE", "1")), true),
        (&["--color", "auto"], Some(("NO_COLOR", "1")), false),
    ];
    for (args, variable, coloured) in cases {
        let mut command = driftprobe(&dir);
        command.arg("doctor").args(args).envs(variable);
        let assert = command.assert().code(0);
        if coloured {
            assert.stdout(colour())
        } else {
            assert.stdout(colour().not())
        };
    }
}
