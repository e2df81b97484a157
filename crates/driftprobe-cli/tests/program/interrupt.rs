//! Ctrl-C leaves a run that can be read, says so, and cannot pass.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_driftprobe");

fn start(dir: &Path) -> Child {
    // Long enough to be still at it when the signal comes.
    Command::new(BINARY)
        .args([
            "run",
            "--steps",
            "1000",
            "--layers",
            "all",
            "--repeats",
            "1000000",
            "--out",
            "run",
            "--prompts",
            "Truth",
        ])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn an_interrupted_run_is_readable_and_cannot_pass() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = dir.path().join("p.json");
    fs::write(&prompts, r#"[{"id": "a", "text": "Truth"}]"#).unwrap();
    let mut child = Command::new(BINARY)
        .args(["run", "--layers", "all", "--repeats", "1000", "--prompts", "p.json", "--out", "run"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Folders of repeats are there from the first; each prompt's rows are written before those of its repeats.
    let first_repeat = dir.path().join("run/repeat-1/traces/a_trace.jsonl");
    while !first_repeat.exists() {
        assert!(child.try_wait().unwrap().is_none(), "ended before it was interrupted");
        sleep(Duration::from_millis(20));
    }
    interrupt(&child);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert!(message.contains("interrupted") && message.contains("hint:"), "{message}");
    let manifest = fs::read_to_string(dir.path().join("run/manifest.json")).unwrap();
    assert!(manifest.contains("\"complete\": false"), "{manifest}");
    let analyzed = Command::new(BINARY).args(["analyze", "run"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(analyzed.status.code(), Some(3), "{}", String::from_utf8_lossy(&analyzed.stderr));
}

#[test]
fn a_run_interrupted_before_anything_was_recorded_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start(dir.path());
    sleep(Duration::from_millis(1500));
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!dir.path().join("run/report/drift.json").exists());
}

/// While the first pass is judged, or the second is recorded: the rest of the search is not.
#[test]
fn a_search_that_is_interrupted_says_so_like_any_recording() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(BINARY)
        .args(["run", "--two-pass", "--mode", "as_designed", "--repeats", "0", "--steps", "24"])
        .args(["--prompts", "Truth", "--out", "run"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let first_pass = dir.path().join("run/manifest.json");
    while !fs::read_to_string(&first_pass).is_ok_and(|text| text.contains("\"complete\": true")) {
        assert!(child.try_wait().unwrap().is_none(), "ended before it was interrupted");
        sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    let status = child.wait().unwrap();
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(status.code(), Some(130), "{message}");
    assert!(message.contains("interrupted") && message.contains("driftprobe analyze run"), "{message}");
    assert!(!dir.path().join("run/report/drift.json").exists());
}
