//! Runs that change while they are judged: what is said is true of one of them, or nothing is said.

use super::support::{copy, driftprobe, ended, passes, place, record, tree};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

/// How often a run is judged while it changes.
const ROUNDS: usize = 20;

/// Refused because the run changed, with a hint.
fn changed(code: i32, said: &str) -> bool {
    code == 2 && said.contains("changed while it was read") && said.contains("hint: ")
}

/// Puts a manifest into place as engines do: whole.
fn put(run: &Path, manifest: &str) {
    fs::write(run.join(".manifest"), manifest).unwrap();
    fs::rename(run.join(".manifest"), run.join("manifest.json")).unwrap();
}

/// Tells when the work is over, however it ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_manifest_that_is_replaced_meanwhile_is_not_mixed_with_another() {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "run", &[]));
    fs::remove_dir_all(dir.join("run/report")).unwrap();
    let run = dir.join("run");
    let sound = fs::read_to_string(run.join("manifest.json")).unwrap();
    let unfinished = sound.replace("\"complete\": true", "\"complete\": false");
    assert!(sound != unfinished);
    let words: [&[&str]; 2] = [&["--out", "report"], &["--by-prompt", "--fresh", "--jobs", "1", "--out", "report"]];
    for words in words {
        let analyze = || {
            let mut command = driftprobe(dir, &["analyze", "run", "--simulate", "1e9"]);
            let (code, said) = ended(command.args(words));
            let reports = tree(&dir.join("report"));
            let _ = fs::remove_dir_all(dir.join("report"));
            (code, said, reports)
        };
        let [(one, _, reports_of_one), (other, _, reports_of_other)] = [&sound, &unfinished].map(|manifest| {
            put(&run, manifest);
            analyze()
        });
        assert_eq!((one, other), (0, 3));
        let over = AtomicBool::new(false);
        let mut refused = 0;
        scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for manifest in [&sound, &unfinished] {
                        put(&run, manifest);
                        sleep(Duration::from_millis(7));
                    }
                }
            });
            let _over = Over(&over);
            for _ in 0..ROUNDS {
                let (code, said, mut reports) = analyze();
                // What was judged before it changed may lie there, but makes no report.
                if changed(code, &said) {
                    refused += 1;
                    assert!(!reports.keys().any(|name| name.starts_with("drift") || name.starts_with("merged")));
                    continue;
                }
                reports.retain(|name, _| !name.starts_with("units/") && !name.starts_with("plan"));
                let expected = if code == 0 { &reports_of_one } else { &reports_of_other };
                assert!(code == 0 || code == 3, "{code}: {said}");
                assert!(reports.iter().all(|(name, bytes)| expected.get(name) == Some(bytes)), "{said}");
            }
        });
        assert!(refused > 0, "it never changed meanwhile");
    }
}

#[test]
fn files_that_vanish_meanwhile_are_told_or_were_read_before() {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "whole", &[]));
    let files: Vec<String> = tree(&dir.join("whole")).into_keys().filter(|name| !name.starts_with("report/")).collect();
    for (round, file) in files.iter().cycle().take(ROUNDS.max(files.len())).enumerate() {
        copy(&dir.join("whole"), &dir.join("run"));
        fs::remove_dir_all(dir.join("run/report")).unwrap();
        let more: &[&str] = if round % 2 == 0 { &["--by-prompt"] } else { &[] };
        let (code, said) = scope(|threads| {
            threads.spawn(|| {
                sleep(Duration::from_millis(5 + 4 * round as u64));
                fs::remove_file(dir.join("run").join(file)).unwrap();
            });
            ended(driftprobe(dir, &["analyze", "run", "--simulate", "1e9", "--out", "report"]).args(more))
        });
        assert!(code != 2 || said.contains("hint: "), "{file}: {said}");
        // What is gone for good: what was read before is known, and nothing else passes.
        let (after, said) = ended(&mut driftprobe(dir, &["analyze", "run", "--simulate", "1e9", "--out", "after"]));
        // A repeat's manifest promises nothing that the run's does not.
        let promises = !file.ends_with("repeat-1/manifest.json");
        assert!(!promises || after != 0, "{file} is gone: {said}");
        assert!(!file.starts_with("repeat-1/traces") || said.contains("REPEAT_MISSING"), "{file} is gone: {said}");
        println!("{file}: {code}, then {after}");
        fs::remove_dir_all(dir.join("run")).unwrap();
        let _ = fs::remove_dir_all(dir.join("report"));
    }
}
