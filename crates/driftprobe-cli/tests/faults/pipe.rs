//! Readers that go away, are slow, or have no room: the exit status stays that of the verdict, and nobody panics.

use super::support::{driftprobe, ended, orderly, passes, place, record, tree};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Every way of printing, and the exit status.
const COMMANDS: [(&[&str], i32); 12] = [
    (&["analyze", "run", "--simulate", "1e9"], 0),
    (&["analyze", "run", "--simulate", "1e9", "--format", "json"], 0),
    (&["analyze", "run", "--simulate", "1e9", "--by-prompt", "--out", "units"], 0),
    (&["analyze", "run", "--shard", "1/2", "--out", "shard"], 0),
    (&["report", "run"], 0),
    (&["gate", "run", "--simulate", "1e9"], 0),
    (&["compare", "run", "run/kv_aligned"], -1),
    (&["man"], 0),
    (&["completions", "bash"], 0),
    (&["--help"], 0),
    (&["analyze", "nothing-there"], 2),
    (&["analyze", "run", "--no-such-option"], 2),
];

/// Ends while nobody reads: the read ends of its pipes are closed before it begins.
fn unread(command: &mut Command) -> i32 {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    orderly(child.wait_with_output().unwrap()).0
}

fn run(dir: &Path) {
    passes(&mut record(dir, "run", &[]));
}

#[test]
fn a_reader_that_goes_away_changes_no_exit_status() {
    let dir = place();
    let dir = dir.path();
    run(dir);
    for (words, status) in COMMANDS {
        let watched = ended(&mut driftprobe(dir, words)).0;
        assert!(status < 0 || watched == status, "{words:?} gives {watched}");
        assert_eq!(unread(&mut driftprobe(dir, words)), watched, "{words:?}");
    }
    let report = tree(&dir.join("run"));
    assert_eq!(unread(&mut record(dir, "run", &["--overwrite"])), 0);
    assert!(tree(&dir.join("run")) == report);
    assert_eq!(unread(&mut record(dir, "again", &["--record-only"])), 0);
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let dir = place();
    let dir = dir.path();
    run(dir);
    let mut command = driftprobe(dir, &["analyze", "run", "--simulate", "1e9", "--format", "json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut read = Vec::new();
    let mut pipe = child.stdout.take().unwrap();
    let mut some = [0; 1 << 12];
    while let Some(count) = Some(pipe.read(&mut some).unwrap()).filter(|count| *count > 0) {
        read.extend_from_slice(&some[..count]);
        sleep(Duration::from_millis(2));
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(read == std::fs::read(dir.join("run/report/drift.json")).unwrap());
    assert!(read.len() > 1 << 16, "{} bytes fit into the pipe: nothing was slow", read.len());
}

#[test]
fn output_without_room_is_told_and_the_reports_are_there() {
    let dir = place();
    let dir = dir.path();
    run(dir);
    let report = tree(&dir.join("run/report"));
    std::fs::remove_dir_all(dir.join("run/report")).unwrap();
    let mut command = driftprobe(dir, &["analyze", "run", "--simulate", "1e9"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (code, said) =
        orderly(command.stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap());
    assert_eq!(code, 2);
    assert!(said.contains("standard output: No space left") && said.contains("hint: "), "{said}");
    assert!(tree(&dir.join("run/report")) == report);
    // Nobody can be told; the status still tells.
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut command = driftprobe(dir, &["analyze", "nothing-there"]);
    assert_eq!(orderly(command.stdout(full()).stderr(full()).output().unwrap()).0, 2);
}
