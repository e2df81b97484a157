//! What fuzzers found is fed to the same readers again, by plain `cargo test`; and every target has its place.

use driftprobe_hostile::{TARGETS, Watched, target};
use driftprobe_trace::bytes::PayloadFile;
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

#[cfg(all(feature = "models", feature = "program"))]
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

/// Seeds that other programs wrote. Were one refused, nothing behind the check that refused it would be reached.
#[test]
fn every_seed_is_read() {
    for folder in names(&fuzz().join("seeds")) {
        let feed = target(&folder).unwrap_or_else(|| panic!("fuzz/seeds/{folder}: no target has this name"));
        for seed in names(&fuzz().join("seeds").join(&folder)) {
            println!("{folder}/{seed}");
            let bytes = fs::read(fuzz().join("seeds").join(&folder).join(&seed)).unwrap();
            feed(&bytes);
            let file = match (folder.as_str(), bytes[0]) {
                (_, 0) => bytes[1..].to_vec(),
                ("parquet", _) => {
                    let footer = u32::from(u16::from_be_bytes([bytes[1], bytes[2]]));
                    [b"PAR1", &bytes[3..], &footer.to_le_bytes(), b"PAR1"].concat()
                }
                _ => continue,
            };
            match folder.as_str() {
                "parquet" => assert_eq!(driftprobe_parquet::bytes::open(file).unwrap().events.len(), 2, "{seed}"),
                "payload_zst" => {
                    assert_eq!(PayloadFile::new(file, true).unwrap_or_else(|e| panic!("{e}")).names(), ["a", "b"])
                }
                other => panic!("fuzz/seeds/{other}: not held to anything"),
            }
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

#[cfg(all(feature = "models", feature = "program"))]
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
