//! Clocks that jump: nothing that is said depends on one, and each place that looks at one is known.

use super::support::{driftprobe, passes, place, record, tree};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Sources that look at a clock or at the time of a file, and what for.
const LOOK: [(&str, &str); 6] = [
    ("driftprobe-cli/src/progress.rs", "when progress is shown, and how fast it is"),
    ("driftprobe-cli/src/reach.rs", "the limit that --seconds asks for; what was not tried is said"),
    ("driftprobe-cli/src/remote.rs", "the name of a job on another machine"),
    ("driftprobe-parquet/src/index.rs", "a dataset that changed since it was read is read again"),
    ("driftprobe-remote/src/job.rs", "how long a lost connection is waited for"),
    ("driftprobe-trace/src/index.rs", "payloads that changed since a prompt was judged: it is judged again"),
];

/// Words that look at a clock.
const CLOCKS: [&str; 6] = ["Instant", "SystemTime", "UNIX_EPOCH", ".modified()", ".created()", "chrono"];

#[test]
fn each_place_that_looks_at_a_clock_is_known() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let mut found: Vec<String> = Vec::new();
    for (name, bytes) in tree(&crates) {
        let is_source = name.split('/').nth(1) == Some("src") && name.ends_with(".rs");
        // Published programs; what only tests and chores use is neither.
        let text = String::from_utf8_lossy(&bytes);
        if is_source && CLOCKS.iter().any(|clock| text.contains(clock)) {
            found.push(name);
        }
    }
    assert_eq!(found, LOOK.map(|(name, _)| name), "a clock decides nothing that is said of a run");
}

#[test]
fn times_of_files_in_the_past_and_in_the_future_change_no_report() {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "run", &[]));
    let words: [&[&str]; 2] = [&["analyze", "run", "--simulate", "1e9"], &["analyze", "run", "--by-prompt"]];
    for words in words {
        passes(&mut driftprobe(dir, words));
        let mut reports = tree(&dir.join("run/report"));
        // What a prompt was judged by has the times of its payloads in it.
        reports.retain(|name, _| !name.starts_with("units/") && !name.starts_with("plan"));
        for time in [SystemTime::UNIX_EPOCH, SystemTime::now() + Duration::from_secs(3_000_000_000)] {
            for name in tree(&dir.join("run")).keys() {
                let file = File::options().append(true).open(dir.join("run").join(name)).unwrap();
                file.set_modified(time).unwrap();
            }
            passes(&mut driftprobe(dir, words));
            let again = tree(&dir.join("run/report"));
            assert!(reports.iter().all(|(name, bytes)| again.get(name) == Some(bytes)), "{words:?}, {time:?}");
        }
        fs::remove_dir_all(dir.join("run/report")).unwrap();
    }
}
