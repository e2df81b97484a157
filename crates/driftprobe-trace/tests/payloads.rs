//! Payloads: rows of safetensors files, in every dtype; and files that are refused, with the tensor and the reason.

use driftprobe_trace::{Dtype, Event, HashCheck, Rows, Run, TraceError};
use safetensors::tensor::{Dtype as StDtype, TensorView};
use std::path::Path;
use tempfile::TempDir;

/// A run with one event that has these fields beside `payload`, and no payload file yet.
fn run_with(fields: &str, file: &str, key: &str) -> (TempDir, Run) {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::create_dir_all(dir.path().join("traces")).expect("folder");
    std::fs::create_dir_all(dir.path().join("tensors")).expect("folder");
    let line = format!(
        r#"{{"event":"stage_trace","prompt_id":"p","phase":"prefill","point":"attn_out","layer":0{fields},"payload":{{"file":"{file}","key":"{key}"}}}}"#
    );
    std::fs::write(dir.path().join("traces/t.jsonl"), line).expect("file");
    let run = Run::open(dir.path()).expect("a run");
    (dir, run)
}

fn put_tensor(path: &Path, key: &str, dtype: StDtype, shape: &[usize], bytes: &[u8]) {
    let view = TensorView::new(dtype, shape.to_vec(), bytes).expect("a tensor");
    std::fs::write(path, safetensors::serialize([(key, view)], None).expect("memory")).expect("file");
}

fn first(run: &Run) -> &Event {
    run.events.first().expect("one event")
}

#[test]
fn rows_of_every_dtype_are_read_exactly() -> Result<(), TraceError> {
    // 1.5, −2, NaN, +∞ by their bits in each format.
    let cases: [(StDtype, Dtype, Vec<u8>); 4] = [
        (
            StDtype::F64,
            Dtype::F64,
            [1.5f64, -2.0, f64::NAN, f64::INFINITY].iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        (
            StDtype::F32,
            Dtype::F32,
            [1.5f32, -2.0, f32::NAN, f32::INFINITY].iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        (StDtype::F16, Dtype::F16, [0x3e00u16, 0xc000, 0x7e00, 0x7c00].iter().flat_map(|v| v.to_le_bytes()).collect()),
        (
            StDtype::BF16,
            Dtype::Bf16,
            [0x3fc0u16, 0xc000, 0x7fc0, 0x7f80].iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
    ];
    for (stored, dtype, bytes) in cases {
        // [4] in the event, [2, 2] in the file: only the element count binds.
        let fields = format!(r#","dtype":"{dtype}","shape":[4]"#);
        let (dir, run) = run_with(&fields, "tensors/a.safetensors", "k");
        put_tensor(&dir.path().join("tensors/a.safetensors"), "k", stored, &[2, 2], &bytes);
        let row = run.row(first(&run))?.expect("a payload");
        assert_eq!((row.dtype, row.len(), row.bytes()), (dtype, 4, &*bytes));
        assert_eq!((row.value(0), row.value(1), row.value(3)), (1.5, -2.0, f64::INFINITY));
        assert!(row.value(2).is_nan() && row.value(4).is_nan());
        assert_eq!(row.to_f64()[..2], [1.5, -2.0]);
        assert_eq!(run.verify(first(&run))?, HashCheck::NoHash);
        let stats = row.stats();
        assert_eq!((stats.min, stats.max, stats.mean, stats.abs_sum), (Some(-2.0), Some(1.5), Some(-0.25), Some(3.5)));
        assert_eq!((stats.nan, stats.inf, stats.nz_count), (Some(1), Some(1), Some(4)));
    }
    Ok(())
}

/// The refusal of a payload whose file is made by `make`.
fn refusal(fields: &str, make: impl FnOnce(&Path)) -> String {
    let (dir, run) = run_with(fields, "tensors/a.safetensors", "k");
    make(&dir.path().join("tensors/a.safetensors"));
    let error = run.row(first(&run)).expect_err("was read");
    let TraceError::Payload { key, event, message, .. } = &error else { panic!("{error}") };
    assert_eq!((key.as_str(), event.to_string().as_str()), ("k", "traces/t.jsonl:1"));
    assert!(error.to_string().contains("a.safetensors"), "{error}");
    message.clone()
}

#[test]
fn each_bad_payload_is_refused_with_its_reason() {
    let f32s = |n: usize| vec![0u8; 4 * n];
    let header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let write = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).expect("file");
    let said = [
        (refusal("", |_| {}), "cannot open"),
        (refusal("", |p| std::fs::create_dir(p).expect("folder")), "not a regular file"),
        (refusal("", |p| write(p, b"")), "safetensors"),
        (refusal("", |p| write(p, b"\xff\xff\xff\xff\xff\xff\xff\xff{}")), "safetensors"),
        (
            refusal("", |p| write(p, &header(r#"{"k":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 7))),
            "safetensors",
        ),
        (
            refusal("", |p| write(p, &header(r#"{"k":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8))),
            "safetensors",
        ),
        (
            refusal("", |p| {
                let huge = r#"{"k":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,8]}}"#;
                write(p, &header(huge, 8));
            }),
            "safetensors",
        ),
        (refusal("", |p| put_tensor(p, "other", StDtype::F32, &[1], &f32s(1))), "no such tensor"),
        (refusal("", |p| put_tensor(p, "k", StDtype::I32, &[1], &f32s(1))), "I32"),
        (
            refusal(r#","dtype":"bf16""#, |p| put_tensor(p, "k", StDtype::F32, &[1], &f32s(1))),
            "f32, the event says bf16",
        ),
        (
            refusal(r#","shape":[2,3]"#, |p| put_tensor(p, "k", StDtype::F32, &[5], &f32s(5))),
            "[5], the event says [2, 3]",
        ),
    ];
    for (message, part) in said {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_run_is_refused_and_one_inside_it_is_not() -> Result<(), TraceError> {
    let outside = tempfile::tempdir().expect("temporary folder");
    put_tensor(&outside.path().join("x"), "k", StDtype::F32, &[1], &[0; 4]);
    let message = refusal("", |p| std::os::unix::fs::symlink(outside.path().join("x"), p).expect("link"));
    assert!(message.contains("link"), "{message}");

    let (dir, run) = run_with("", "tensors/a.safetensors", "k");
    put_tensor(&dir.path().join("tensors/real.safetensors"), "k", StDtype::F32, &[1], &[0; 4]);
    std::os::unix::fs::symlink("real.safetensors", dir.path().join("tensors/a.safetensors")).expect("link");
    assert!(run.row(first(&run))?.is_some());
    Ok(())
}

#[test]
fn bytes_that_are_not_those_that_were_hashed_are_an_error() -> Result<(), TraceError> {
    // xxh3-64 of the bytes of [1.0, 2.0] as f32, by another implementation (the PyPI package xxhash).
    let bytes: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let fields = r#","hash_algo":"xxh3-64","hash":5613973946596914359"#;
    let (dir, run) = run_with(fields, "tensors/a.safetensors", "k");
    let path = dir.path().join("tensors/a.safetensors");
    put_tensor(&path, "k", StDtype::F32, &[2], &bytes);
    assert_eq!(run.verify(first(&run))?, HashCheck::Matches);

    let (dir, run) = run_with(fields, "tensors/a.safetensors", "k");
    let mut flipped = bytes;
    flipped[0] ^= 1;
    put_tensor(&dir.path().join("tensors/a.safetensors"), "k", StDtype::F32, &[2], &flipped);
    let error = run.verify(first(&run)).expect_err("one bit is another row");
    assert!(matches!(error, TraceError::PayloadHash { .. }), "{error}");
    Ok(())
}

#[test]
fn gretas_hash_sees_the_first_256_values_only() -> Result<(), TraceError> {
    let values: Vec<f32> = (0..300).map(|i| i as f32 * 0.37 - 11.0).collect();
    // FNV-1a over whole 32-bit words, written out once more.
    let expected = values
        .iter()
        .take(256)
        .fold(1_469_598_103_934_665_603u128, |h, v| ((h ^ u128::from(v.to_bits())) * 1_099_511_628_211) % (1 << 64));
    for (changed, matches) in [(None, true), (Some(256), true), (Some(255), false)] {
        let mut values = values.clone();
        if let Some(i) = changed {
            values[i] += 1.0;
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let (dir, run) = run_with(&format!(r#","hash":{expected}"#), "tensors/a.safetensors", "k");
        put_tensor(&dir.path().join("tensors/a.safetensors"), "k", StDtype::F32, &[300], &bytes);
        assert_eq!(run.verify(first(&run)).is_ok(), matches, "value {changed:?} changed");
        assert_eq!(first(&run).hash.map(|h| h.algo.covers(300)), Some(256));
    }
    Ok(())
}

#[test]
fn a_16_bit_row_has_gretas_hash_of_its_widened_values() -> Result<(), TraceError> {
    let words = [0x3fc0u16, 0xc000, 0x0001];
    let expected = words
        .iter()
        .fold(1_469_598_103_934_665_603u128, |h, w| ((h ^ (u128::from(*w) << 16)) * 1_099_511_628_211) % (1 << 64));
    let (dir, run) = run_with(&format!(r#","dtype":"bf16","hash":{expected}"#), "tensors/a.safetensors", "k");
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    put_tensor(&dir.path().join("tensors/a.safetensors"), "k", StDtype::BF16, &[3], &bytes);
    assert_eq!(run.verify(first(&run))?, HashCheck::Matches);
    Ok(())
}

#[test]
#[cfg(unix)]
fn one_file_under_two_names_is_no_second_evidence() {
    type Link = fn(&Path, &Path) -> std::io::Result<()>;
    let links: [Link; 2] = [|a, b| std::os::unix::fs::symlink(a, b), |a, b| std::fs::hard_link(a, b)];
    for link in links {
        let (dir, run) = run_with("", "tensors/a.safetensors", "k");
        let path = dir.path().join("tensors/a.safetensors");
        put_tensor(&path, "k", StDtype::F32, &[1], &[0; 4]);
        link(&path, &dir.path().join("tensors/b.safetensors")).expect("a link");
        assert!(run.row(first(&run)).is_ok());
        let mut other = first(&run).clone();
        if let Some(payload) = &mut other.payload {
            payload.file = "tensors/b.safetensors".into();
        }
        let error = run.row(&other).expect_err("was read").to_string();
        assert!(error.contains("tensors/a.safetensors, by another name or link"), "{error}");
        assert!(run.row(first(&run)).is_ok(), "the first name stays good");
    }
}
