//! Two processes at once on one folder: each ends in a whole result or is refused, and what lies there is whole.

use super::support::{driftprobe, listed, orderly, passes, place, record, tree};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// How often two are started: how they fall together is chance.
const ROUNDS: u64 = 6;

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Both to their ends: at least one passes, and one that does not was refused with a hint, or says that what it was judging
/// is no longer whole.
fn both_end(children: [Child; 2]) -> String {
    let ends = children.map(|child| orderly(child.wait_with_output().unwrap()));
    assert!(ends.iter().any(|(code, _)| *code == 0), "{ends:?}");
    for (code, said) in &ends {
        let refused = *code == 2 && said.contains("error: ") && said.contains("hint: ");
        let replaced = *code == 3 && said.contains("PAYLOAD_DAMAGED");
        assert!(*code == 0 || refused || replaced, "{code}: {said}");
    }
    ends.map(|(_, said)| said).concat()
}

fn is(dir: &Path, whole: &std::collections::BTreeMap<String, Vec<u8>>, of: &str) {
    let there = tree(dir);
    assert!(there == *whole, "{of}: {:#?}, expected {:#?}", listed(&there), listed(whole));
}

#[test]
fn two_runs_into_one_folder_leave_one_whole_run() {
    let alone = place();
    passes(&mut record(alone.path(), "run", &[]));
    let whole = tree(&alone.path().join("run"));
    let dir = place();
    let dir = dir.path();
    for options in [&[] as &[&str], &["--overwrite"]] {
        for round in 0..ROUNDS {
            let first = start(record(dir, "run", options));
            sleep(Duration::from_millis(round * round * 10));
            let second = start(record(dir, "run", options));
            both_end([first, second]);
            is(&dir.join("run"), &whole, &format!("{options:?}, round {round}"));
            if options.is_empty() {
                fs::remove_dir_all(dir.join("run")).unwrap();
            }
        }
    }
}

#[test]
fn a_run_that_is_being_recorded_is_not_overwritten() {
    let dir = place();
    let dir = dir.path();
    let mut long = start(record(dir, "run", &["--repeats", "100000"]));
    while !dir.join("run/repeat-1/manifest.json").exists() {
        assert!(long.try_wait().unwrap().is_none(), "ended already");
        sleep(Duration::from_millis(2));
    }
    let said = super::support::refused(&mut record(dir, "run", &["--overwrite"]));
    assert!(said.contains("run: another process is writing a run here"), "{said}");
    assert!(long.try_wait().unwrap().is_none(), "it goes on");
    long.kill().unwrap();
    long.wait().unwrap();
    // Whoever held the folder is gone, and with it what held it.
    passes(&mut record(dir, "run", &["--overwrite"]));
}

#[test]
fn two_analyses_of_one_run_write_the_same_reports() {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "run", &[]));
    for words in
        [&["analyze", "run", "--simulate", "1e9"] as &[&str], &["analyze", "run", "--by-prompt", "--jobs", "2"]]
    {
        passes(&mut driftprobe(dir, words));
        let whole = tree(&dir.join("run"));
        for round in 0..ROUNDS {
            let first = start(driftprobe(dir, words));
            sleep(Duration::from_millis(round * 5));
            let second = start(driftprobe(dir, words));
            both_end([first, second]);
            is(&dir.join("run"), &whole, &format!("{words:?}, round {round}"));
            fs::remove_dir_all(dir.join("run/report")).unwrap();
        }
        assert!(!dir.join("run/report").exists());
    }
}
