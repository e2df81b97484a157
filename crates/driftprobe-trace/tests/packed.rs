//! Compressed payloads: read as what was written, kept only where they save, and refused where they are not what they say.

use driftprobe_trace::{
    Dtype, Manifest, Phase, Point, RowRecord, Rows, Run, RunWriter, SAMPLE_VALUES, TENSORS_DIR, TraceError,
};
use std::fs;
use std::path::{Path, PathBuf};

fn record(layer: i32, values: &[f32]) -> RowRecord {
    RowRecord {
        point: Point::KCache,
        layer,
        step: 0,
        pos_id: 3,
        logical_tok_idx: 3,
        token_id: 7,
        seq_len: 4,
        kv_len: Some(4),
        dtype: Dtype::F32,
        stored_dtype: None,
        shape: vec![values.len() as u64],
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        logits_top: None,
        payload: true,
    }
}

/// Values that repeat, or do not.
fn values(layer: i32, repeating: bool) -> Vec<f32> {
    let mut state = 1 + layer as u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f32::from_bits((state >> 32) as u32 & 0xbfff_ffff)
    };
    let some: Vec<f32> = (0..4096).map(|_| next()).collect();
    if repeating { some.iter().cycle().take(4 * 4096).copied().collect() } else { some }
}

fn write(dir: &Path, layers: i32, repeating: bool) -> Run {
    let mut writer = RunWriter::create(dir, Manifest::default()).unwrap();
    writer.set_compression(true);
    writer.begin("p", Phase::Prefill).unwrap();
    for layer in 0..layers {
        writer.record(record(layer, &values(layer, repeating))).unwrap();
    }
    writer.finish(true).unwrap();
    Run::open(dir).unwrap()
}

fn only_file(dir: &Path) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(dir.join(TENSORS_DIR)).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn what_was_written_is_read_and_the_manifest_says_what_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    // More than a frame, and rows of it in every order.
    let run = write(dir.path(), 40, true);
    let file = only_file(dir.path());
    assert!(file.to_string_lossy().ends_with(".safetensors.zst"));
    let said = run.manifest.as_ref().unwrap().compression.clone().unwrap();
    assert_eq!((said.files, said.files_left_plain), (1, 0));
    assert_eq!(said.bytes, fs::metadata(&file).unwrap().len());
    assert!(said.plain_bytes > 40 * 4 * 4096 * 4 && said.bytes * 2 < said.plain_bytes, "{said:?}");
    assert_eq!(run.events.len(), 40);
    for event in run.events.iter().rev().chain(&run.events) {
        let row = run.row(event).unwrap().unwrap();
        let expected = values(event.layer, true);
        assert_eq!(row.to_f64(), expected.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
        assert_eq!(event.sample.as_ref().unwrap().values.len(), SAMPLE_VALUES);
    }
}

#[test]
fn what_compressing_does_not_save_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let run = write(dir.path(), 3, false);
    assert!(only_file(dir.path()).to_string_lossy().ends_with(".safetensors"));
    let said = run.manifest.as_ref().unwrap().compression.clone().unwrap();
    assert_eq!((said.files, said.files_left_plain, said.plain_bytes), (0, 1, said.bytes));
    assert!(run.row(&run.events[0]).unwrap().is_some());
}

#[test]
fn a_rows_bytes_are_no_row_of_another_length() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = write(dir.path(), 2, true);
    run.events[0].shape = Some(vec![5]);
    assert!(matches!(run.row(&run.events[0]), Err(TraceError::Payload { .. })));
}

/// Every damage is refused with file and tensor, or leaves the row as it was; nothing panics and nothing else is given.
#[test]
fn damage_is_refused_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = write(dir.path(), 3, true);
    let file = only_file(dir.path());
    let whole = fs::read(&file).unwrap();
    let rows: Vec<_> = run.events.iter().map(|event| run.row(event).unwrap().unwrap().bytes().to_vec()).collect();
    let look = |bytes: &[u8], what: &str| {
        // A file that is mapped keeps its bytes: the next is another one under its name.
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
        let run = Run::open(dir.path()).unwrap();
        let mut refused = 0;
        for (event, expected) in run.events.iter().zip(&rows) {
            match run.row(event) {
                Ok(row) if row.as_ref().is_some_and(|row| row.bytes() == expected) => {}
                // The event's hash tells.
                Ok(row) => refused += u32::from(event.verify(&row.unwrap()).is_err()),
                Err(error) => {
                    assert!(error.to_string().contains(".zst"), "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0 || what == "a bit", "{what}: taken as it was");
    };
    for cut in [0, 1, 7, 12, 100, whole.len() / 2, whole.len() - 10, whole.len() - 1] {
        look(&whole[..cut], "cut");
    }
    look(&[whole.as_slice(), b"more"].concat(), "lengthened");
    for at in (0..whole.len()).step_by(whole.len() / 150 + 1).chain(whole.len() - 60..whole.len()) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        look(&bytes, "a bit");
    }
    // A table that promises more than the frames hold, and one that promises less.
    for change in [1i64 << 28, -1] {
        let mut bytes = whole.clone();
        let at = whole.len() - 9 - 4;
        let size = i64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())) + change;
        bytes[at..at + 4].copy_from_slice(&(size as u32).to_le_bytes());
        look(&bytes, "a lie in the table");
    }
}
