//! What fuzzers found is fed to the same readers again, by plain `cargo test`; and every target has its place.

use driftprobe_hostile::{TARGETS, Watched, target};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_finding_stays_mended() {
    for folder in names(&fuzz().join("regressions")) {
        let feed = target(&folder).unwrap_or_else(|| panic!("fuzz/regressions/{folder}: no target has this name"));
        let inputs = names(&fuzz().join("regressions").join(&folder));
        assert!(!inputs.is_empty(), "{folder}");
        for input in inputs {
            println!("{folder}/{input}");
            feed(&fs::read(fuzz().join("regressions").join(&folder).join(input)).unwrap());
        }
    }
}

#[test]
fn every_target_takes_nothing_and_noise() {
    for (_, feed) in TARGETS {
        for input in [&b""[..], b"\0", b"{}", b"[]\n", b"{\"", &[0xff; 64], &[0x28; 300]] {
            feed(input);
        }
    }
}

#[test]
fn every_target_has_a_fuzzer_that_feeds_it() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let files: BTreeSet<String> = TARGETS.iter().map(|(name, _)| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), files);
    for (name, _) in TARGETS {
        let text = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("::{name}(data)")), "{name}.rs feeds another target");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
    }
}

/// What the targets rest on: an allocation past what is allowed is seen, in this thread, and one within is not.
#[test]
fn memory_that_is_held_is_seen() {
    driftprobe_hostile::bounded(1 << 10, || drop(std::hint::black_box(vec![0u8; 1 << 9])));
    let large = || driftprobe_hostile::bounded(1 << 10, || drop(std::hint::black_box(vec![0u8; 1 << 11])));
    assert!(std::panic::catch_unwind(large).is_err());
    let grown = || {
        driftprobe_hostile::bounded(1 << 10, || {
            let mut all = Vec::new();
            (0..200).for_each(|_| all.push(Box::new([0u8; 16])));
            std::hint::black_box(all);
        })
    };
    assert!(std::panic::catch_unwind(grown).is_err(), "many small ones");
}
