//! What comes back is written inside its folder or not at all, and is what was packed.

use driftprobe_remote::{File, parse_list, unpack};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file(path: &str, bytes: &[u8]) -> File {
    File { path: PathBuf::from(path), sha256: sha256(bytes) }
}

/// An archive of raw names, which `tar`'s own builder would refuse.
fn packed(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, kind, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

use tar::EntryType::{Directory, Link, Regular, Symlink};

#[test]
fn what_was_packed_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let archive = packed(&[
        ("run/", Directory, b""),
        ("run/manifest.json", Regular, b"{}"),
        ("run/traces/a.jsonl", Regular, b"line\n"),
    ]);
    let files = [file("manifest.json", b"{}"), file("traces/a.jsonl", b"line\n")];
    assert_eq!(unpack(&archive[..], &files, &out).unwrap(), 7);
    assert_eq!(std::fs::read(out.join("traces/a.jsonl")).unwrap(), b"line\n");
}

#[test]
fn nothing_is_written_outside_and_nothing_unannounced() {
    let good = file("a", b"x");
    let refused: &[(&str, Vec<u8>)] = &[
        ("is not inside", packed(&[("../evil", Regular, b"x")])),
        ("is not inside", packed(&[("run/../../evil", Regular, b"x")])),
        ("is not inside", packed(&[("/evil", Regular, b"x")])),
        ("is not inside", packed(&[("evil", Regular, b"x")])),
        ("neither file nor folder", packed(&[("run/a", Symlink, b"")])),
        ("neither file nor folder", packed(&[("run/a", Link, b"")])),
        ("was not announced", packed(&[("run/a", Regular, b"x"), ("run/b", Regular, b"x")])),
        ("File exists", packed(&[("run/a", Regular, b"x"), ("run/a", Regular, b"x")])),
        ("run/a is missing", packed(&[("run/", Directory, b"")])),
        ("has hash", packed(&[("run/a", Regular, b"y")])),
        ("cut off or damaged", packed(&[("run/a", Regular, b"x")])[..20].to_vec()),
        ("cut off or damaged", b"no archive at all".to_vec()),
    ];
    for (says, archive) in refused {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("inner/run");
        let error = unpack(&archive[..], std::slice::from_ref(&good), &out).unwrap_err();
        assert!(error.contains(says), "{error} does not say {says:?}");
        let strays = [dir.path().join("evil"), dir.path().join("inner/evil"), PathBuf::from("/evil")];
        assert!(strays.iter().all(|stray| !stray.exists()), "{says}");
    }
}

#[test]
fn lists_of_hashes_are_read_strictly() {
    let hash = sha256(b"x");
    assert_eq!(parse_list(&format!("{hash}  run/a b\n")).unwrap(), [file("a b", b"x")]);
    for bad in [
        format!("{hash} run/a\n"),
        format!("{}  run/a\n", &hash[1..]),
        format!("{hash}  ../a\n"),
        format!("{hash}  run/../a\n"),
        format!("{hash}  /run/a\n"),
        format!("\\{hash}  run/a\\nb\n"),
    ] {
        assert!(parse_list(&bad).is_err(), "{bad}");
    }
    assert!(!Path::new("/run/a").exists());
}
