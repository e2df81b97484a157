//! The core opens no file, clock, environment or socket, and its results have no random order: held by reading its
//! sources.

use std::fs;
use std::path::Path;

const FORBIDDEN: [&str; 12] = [
    "std::fs",
    "std::net",
    "std::time",
    "std::env::",
    "std::process",
    "std::io",
    "std::thread",
    "HashMap",
    "HashSet",
    "println!",
    "File::open",
    "SystemTime",
];

fn check(dir: &Path, checked: &mut usize) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check(&path, checked);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for word in FORBIDDEN {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
        *checked += 1;
    }
}

#[test]
fn the_core_is_pure() {
    let mut checked = 0;
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut checked);
    assert!(checked > 20, "{checked} files");
}
