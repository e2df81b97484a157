//! Hostile pickles and damaged files are refused with a reason, and nothing panics.

use driftprobe_import::{TorchFile, pickle};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/import-dumps")
}

fn refused(bytes: &[u8]) -> String {
    match pickle::read(bytes) {
        Err(e) => e.to_string(),
        Ok(objects) => objects.tensors().expect_err("it was read"),
    }
}

/// The pickle that torch wrote: entry data.pkl of a file of it.
fn real() -> Vec<u8> {
    let file = fs::File::open(fixtures().join("views/views.pt")).unwrap();
    let mut archive = zip::ZipArchive::new(file).unwrap();
    let mut bytes = Vec::new();
    std::io::copy(&mut archive.by_name("views/data.pkl").unwrap(), &mut bytes).unwrap();
    bytes
}

#[test]
fn calls_of_arbitrary_code_are_refused_by_name_and_offset() {
    let message = refused(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.");
    assert!(message.contains("byte 2") && message.contains("os.system"), "{message}");
    // Protocol 4 spells it otherwise.
    let message = refused(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.");
    assert!(message.contains("byte 17") && message.contains("posix.system"), "{message}");
    for (bytes, name) in [
        (&b"\x80\x02(X\x02\x00\x00\x00idios\nsystem\n."[..], "INST"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\x83\x01\x00.", "EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        (b"\x80\x02}}b.", "BUILD"),
        (b"\x80\x02}}\x81.", "NEWOBJ"),
        (b"\x80\x02(}o.", "OBJ"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02cbuiltins\neval\n.", "builtins.eval"),
        // A known name called in another way than torch does.
        (b"\x80\x02ccollections\nOrderedDict\n}R.", "OrderedDict"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "storage type"),
        (b"\x80\x02K\x01)R.", "a number"),
        (b"\x80\x02X\x04\x00\x00\x00evil)R.", "a text"),
        (b"\x80\x02X\x07\x00\x00\x00storageQ.", "no storage"),
        (b"\xff.", "0xff"),
        (b"\x80\x09.", "protocol 9"),
    ] {
        let message = refused(bytes);
        assert!(message.contains(name) && message.contains("byte "), "{name}: {message}");
    }
}

#[test]
fn lengths_are_held_against_the_file_before_anything_is_allocated() {
    for bytes in [
        &b"\x80\x02X\xff\xff\xff\xffabc."[..],
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8a\xff.",
        b"\x80\x02cos",
        b"\x80\x02",
        b"",
        b".",
        b"\x80\x02t.",
        b"\x80\x02h\x07.",
        b"\x80\x02s.",
        b"\x80\x02(K\x01d.",
        b"\x80\x02K\x01K\x02a.",
    ] {
        refused(bytes);
    }
}

#[test]
fn nesting_and_sharing_cost_no_more_than_the_files_length() {
    // A million lists, each in the next.
    let mut deep = b"\x80\x02".to_vec();
    deep.extend(vec![b']'; 1_000_000]);
    deep.extend(vec![b'a'; 999_999]);
    deep.push(b'.');
    assert!(refused(&deep).contains("deep"));
    let mut marks = b"\x80\x02".to_vec();
    marks.extend(vec![b'('; 1_000_000]);
    marks.extend(vec![b't'; 1_000_000]);
    marks.push(b'.');
    assert!(refused(&marks).contains("deep"));
    // Forty lists, each of which holds the one before it ten times: 10^40 objects.
    let mut bomb = b"\x80\x02]q\x00".to_vec();
    for level in 1..40u8 {
        bomb.extend([b']', b'(']);
        for _ in 0..10 {
            bomb.extend([b'h', level - 1]);
        }
        bomb.extend([b'e', b'q', level]);
    }
    bomb.push(b'.');
    assert!(refused(&bomb).contains("counted as often as they are used"));
    // A list that holds itself.
    assert!(refused(b"\x80\x02]q\x00h\x00a.").contains("deep"));
}

/// `_rebuild_tensor_v2(storage, offset, shape, strides)` with numbers of one byte, or four.
fn tensor(offset: i32, shape: &[i32], strides: &[i32], values: i32) -> Vec<u8> {
    let number = |n: i32| [&b"J"[..], &n.to_le_bytes()].concat();
    let tuple = |all: &[i32]| [&b"("[..], &all.iter().flat_map(|n| number(*n)).collect::<Vec<u8>>(), b"t"].concat();
    [
        &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"[..],
        b"X\x03\x00\x00\x00cpu",
        &number(values),
        b"tQ",
        &number(offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtR.",
    ]
    .concat()
}

#[test]
fn tensors_that_leave_their_storage_are_refused() {
    assert_eq!(pickle::read(&tensor(0, &[2, 3], &[3, 1], 6)).unwrap().tensors().unwrap().len(), 1);
    for (offset, shape, strides, values) in [
        (1, &[2, 3][..], &[3, 1][..], 6),
        (0, &[2, 3], &[4, 1], 6),
        (0, &[7], &[1], 6),
        (0, &[i32::MAX, i32::MAX, i32::MAX], &[i32::MAX, i32::MAX, 1], i32::MAX),
        (7, &[], &[], 6),
    ] {
        let message = refused(&tensor(offset, shape, strides, values));
        assert!(message.contains("leaves its storage"), "{message}");
    }
    for (offset, shape, strides, values) in [
        (-1, &[2][..], &[1][..], 6),
        (0, &[-2], &[1], 6),
        (0, &[2], &[-1], 6),
        (0, &[2], &[1], -6),
        (0, &[2, 2], &[1], 6),
        (0, &[1; 17], &[1; 17], 6),
    ] {
        refused(&tensor(offset, shape, strides, values));
    }
}

/// A `.pt` file of one pickle and one storage.
fn archive(folder: &Path, method: zip::CompressionMethod, pickle: &[u8], storage: &[u8]) -> PathBuf {
    use std::io::Write as _;
    let path = folder.join("made.pt");
    let mut writer = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in [("made/data.pkl", pickle), ("made/byteorder", b"little"), ("made/data/0", storage)] {
        writer.start_file(name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[test]
fn a_storage_smaller_than_it_is_said_to_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let stored = zip::CompressionMethod::Stored;
    let path = archive(folder.path(), stored, &tensor(0, &[2, 3], &[3, 1], 6), &[0; 24]);
    assert_eq!(TorchFile::open(&path).unwrap().read("").unwrap().bytes.len(), 24);
    let path = archive(folder.path(), stored, &tensor(0, &[2, 3], &[3, 1], 6), &[0; 23]);
    let message = TorchFile::open(&path).unwrap().read("").unwrap_err().to_string();
    assert!(message.contains("need more than the 5 values"), "{message}");
    // Strides of zero: a tensor of 8 GB out of four bytes.
    let path = archive(folder.path(), stored, &tensor(0, &[1 << 16, 1 << 15], &[0, 0], 1), &[0; 4]);
    let message = TorchFile::open(&path).unwrap().read("").unwrap_err().to_string();
    assert!(message.contains("expanded"), "{message}");
}

/// Makes every entry of an archive say that it is deflated and holds 2^31 bytes.
fn claim_compression(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    for i in 0..bytes.len() - 4 {
        match &bytes[i..i + 4] {
            b"PK\x03\x04" => {
                bytes[i + 8] = 8;
                bytes[i + 22..i + 26].copy_from_slice(&(1u32 << 31).to_le_bytes());
            }
            b"PK\x01\x02" => {
                bytes[i + 10] = 8;
                bytes[i + 24..i + 28].copy_from_slice(&(1u32 << 31).to_le_bytes());
            }
            _ => {}
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn compressed_entries_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = archive(folder.path(), zip::CompressionMethod::Stored, &tensor(0, &[1], &[1], 1), &[0; 4]);
    claim_compression(&path);
    let Err(e) = TorchFile::open(&path) else { panic!("it was opened") };
    assert!(e.to_string().contains("compressed"), "{e}");
    assert!(e.hint().contains("never compresses"));
}

#[test]
fn files_that_are_no_archives_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    for bytes in
        [&b""[..], b"PK", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"PK\x03\x04", b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0"]
    {
        fs::write(&path, bytes).unwrap();
        assert!(TorchFile::open(&path).is_err());
    }
}

/// Opens a file and reads all it has; whatever comes of it.
fn read_all(path: &Path) -> usize {
    let Ok(mut file) = TorchFile::open(path) else { return 0 };
    let names: Vec<String> = file.tensors().map(|(name, _)| name.to_owned()).collect();
    names.iter().filter(|name| file.read(name).is_ok()).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_pickle_makes_it_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = real();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(objects) = pickle::read(&bytes) {
            let _ = objects.tensors();
        }
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = pickle::read(&[b"\x80\x02", &bytes[..]].concat());
    }

    #[test]
    fn no_damage_to_a_file_makes_it_panic(
        cut in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        whole in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.pt");
        let mut bytes = fs::read(fixtures().join("views/views.pt")).unwrap();
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        let length = bytes.len();
        for (at, byte) in edits.into_iter().filter(|_| length > 0) {
            let at = at.index(length);
            bytes[at] = byte;
        }
        fs::write(&path, bytes).unwrap();
        read_all(&path);
    }
}

#[test]
fn a_changed_value_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.pt");
    let mut bytes = fs::read(fixtures().join("views/views.pt")).unwrap();
    let value = 22.0f32.to_le_bytes();
    let at = bytes.windows(4).position(|window| window == value).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let message = TorchFile::open(&path).unwrap().read("plain").unwrap_err().to_string();
    assert!(message.contains("checksum") || message.contains("Checksum"), "{message}");
}
