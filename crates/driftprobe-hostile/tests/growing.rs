//! What a run's length does to memory: nothing while it is recorded, nothing while it is judged by prompt.
#![cfg(feature = "program")]

use driftprobe_hostile::{Watched, most_held};
use std::ffi::OsString;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Runs the program in this process; the most memory that it held, in bytes.
fn held(arguments: &[&str]) -> isize {
    let all = std::iter::once("driftprobe").chain(arguments.iter().copied()).map(OsString::from);
    let (status, most) = most_held(|| driftprobe_cli::main_with(all, None));
    assert_ne!(status, 2, "{arguments:?}");
    most
}

/// A run of so many prompts, equally long: the most memory while recording, while judging by prompt, and as a whole.
fn of(prompts: usize, dir: &Path) -> [isize; 3] {
    let one = |number: usize| {
        let tokens: Vec<usize> = (0..16).map(|at| 1 + (number * 31 + at * 17) % 250).collect();
        serde_json::json!({"id": format!("p{number}"), "tokens": tokens})
    };
    let all: Vec<serde_json::Value> = (0..prompts).map(one).collect();
    let file = dir.join(format!("{prompts}.json"));
    std::fs::write(&file, serde_json::Value::from(all).to_string()).unwrap();
    let (file, run) = (file.display().to_string(), dir.join(format!("run{prompts}")).display().to_string());
    let small = ["--mode", "as_designed", "--repeats", "0", "--steps", "2", "--simulate", "0"];
    // Kernels keep a MB a thread; with threads of its own each recording has it, and none has it before.
    let recording = ["run", "--record-only", "--layers", "0,1", "--threads", "1", "--prompts", &file, "--out", &run];
    let recording = [&recording[..], &small[..]].concat();
    [
        held(&recording),
        held(&["analyze", &run, "--by-prompt", "--jobs", "1", "--simulate", "0"]),
        held(&["analyze", &run, "--simulate", "0"]),
    ]
}

#[test]
fn memory_does_not_grow_with_the_number_of_prompts() {
    let dir = tempfile::tempdir().unwrap();
    // What is set up once and for good is not counted. Of prompts that do not pass, the first 20 are kept for the report.
    of(1, dir.path());
    let (few, many) = (of(25, dir.path()), of(60, dir.path()));
    let grown = |at: usize| many[at] - few[at];
    // Of each prompt its name and tokens stay, and a line of the report; its events, judged, are hundreds of times as much.
    assert!(100 * grown(0) < grown(2), "recording: {} bytes for 25 prompts, {} for 60", few[0], many[0]);
    assert!(100 * grown(1) < grown(2), "judging by prompt: {} bytes for 25 prompts, {} for 60", few[1], many[1]);
    // The measure itself: of a run that is judged as a whole all events are held.
    assert!(many[2] > 2 * few[2], "judging as a whole: {} bytes for 25 prompts, {} for 60", few[2], many[2]);
}
