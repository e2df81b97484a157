//! The same run gives the same bytes: twice, elsewhere, and on any number of threads.

use super::support::{driftprobe, listed, passes, place, record, tree};
use std::collections::BTreeMap;
use std::path::Path;

type Tree = BTreeMap<String, Vec<u8>>;

fn assert_same(found: &Tree, expected: &Tree, how: &str) {
    assert!(found.keys().eq(expected.keys()), "{how}: {:#?}, expected {:#?}", listed(found), listed(expected));
    found.iter().for_each(|(name, bytes)| assert!(expected[name] == *bytes, "{how}: {name}"));
}

/// The number of threads is a setting of the engine, which the manifest tells and reports show: there, and nowhere else.
fn without_threads(mut files: Tree, threads: &str) -> Tree {
    let told = [
        format!("\"threads\": {threads},"),
        format!("| engine.threads | {threads} |"),
        format!("<td>engine.threads</td><td>{threads}</td>"),
    ];
    for (name, bytes) in &mut files {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let count: usize = told.iter().map(|told| text.matches(told).count()).sum();
        let tells = ["manifest.json", "drift.json", "drift.md", "drift.html"].iter().any(|end| name.ends_with(end));
        assert!(count <= 2 && (count > 0) == tells, "{name}: {count}");
        if tells {
            *bytes = told.iter().fold(text, |text, told| text.replace(told, "")).into_bytes();
        }
    }
    files
}

#[test]
fn a_run_gives_the_same_bytes_twice_and_elsewhere() {
    let dir = place();
    passes(&mut record(dir.path(), "run", &[]));
    let first = tree(&dir.path().join("run"));
    let elsewhere = place();
    passes(&mut record(elsewhere.path(), "deeper/and/elsewhere", &[]));
    assert_same(&tree(&elsewhere.path().join("deeper/and/elsewhere")), &first, "elsewhere");
    passes(&mut record(dir.path(), "run", &["--overwrite"]));
    assert_same(&tree(&dir.path().join("run")), &first, "overwritten");
}

#[test]
fn a_run_gives_the_same_bytes_on_any_number_of_threads() {
    let run = |threads: &str| {
        let dir = place();
        passes(&mut record(dir.path(), "run", &["--threads", threads]));
        without_threads(tree(&dir.path().join("run")), threads)
    };
    let first = run("1");
    for name in ["drift.json", "drift.md", "drift.tsv", "drift.html"] {
        assert!(first[&format!("report/{name}")].len() > 100, "{name}");
    }
    assert!(first.keys().filter(|name| name.contains("traces/")).count() >= 8);
    for threads in ["1", "2", "5"] {
        assert_same(&run(threads), &first, &format!("{threads} threads"));
    }
}

#[test]
fn threads_that_the_environment_asks_for_stand_in_the_manifest_and_change_nothing_else() {
    let run = |threads: &str| {
        let dir = place();
        passes(record(dir.path(), "run", &[]).env("RAYON_NUM_THREADS", threads));
        let mut files = without_threads(tree(&dir.path().join("run")), threads);
        for (name, bytes) in files.iter_mut().filter(|(name, _)| !name.ends_with(".safetensors")) {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let told = [
                format!("\"RAYON_NUM_THREADS\": \"{threads}\""),
                format!("RAYON_NUM_THREADS | {threads} |"),
                format!("RAYON_NUM_THREADS</td><td>{threads}</td>"),
            ];
            assert!(!name.ends_with("manifest.json") || told.iter().any(|told| text.contains(told)), "{name}");
            *bytes = told.iter().fold(text, |text, told| text.replace(told, "")).into_bytes();
        }
        files
    };
    assert_same(&run("2"), &run("1"), "RAYON_NUM_THREADS");
}

/// Judges the run, and gives what was written.
fn judged(dir: &Path, threads: &str, more: &[&str]) -> Tree {
    let words = ["analyze", "run", "--simulate", "1e9", "--out", threads];
    passes(driftprobe(dir, &words).args(more).env("RAYON_NUM_THREADS", threads));
    tree(&dir.join(threads))
}

#[test]
fn reports_are_the_same_on_any_number_of_threads_and_of_jobs() {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "run", &[]));
    let one = judged(dir, "1", &[]);
    assert_eq!(one.len(), 4);
    assert_same(&judged(dir, "2", &[]), &one, "analyze");
    let jobs = |jobs: &str| judged(dir, &format!("{jobs}{jobs}"), &["--by-prompt", "--jobs", jobs]);
    let one = jobs("1");
    // Three reports, a plan, and two prompts.
    assert_eq!(one.len(), 6, "{:#?}", listed(&one));
    assert_same(&jobs("2"), &one, "analyze --by-prompt");
    assert_same(&jobs("7"), &one, "analyze --by-prompt");
}

#[test]
fn a_failing_run_and_its_search_give_the_same_bytes_too() {
    let run = |threads: &str| {
        let dir = place();
        let fault = ["--fault", "SCALE_WRONG@decode:layer0", "--layers", "1", "--threads", threads];
        let (code, said) = super::support::ended(&mut record(dir.path(), "run", &fault));
        assert_eq!(code, 1, "{said}");
        without_threads(tree(&dir.path().join("run")), threads)
    };
    let (one, two) = (run("1"), run("2"));
    assert!(one.keys().any(|name| name.starts_with("search-1/traces/")), "{:#?}", listed(&one));
    assert_same(&two, &one, "a fault");
}
