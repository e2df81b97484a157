//! The writer: file names from any prompt id, order of what reaches the disk, and what happens when it cannot.

use driftprobe_trace::{
    Dtype, HashAlgo, HashCheck, Manifest, Phase, Point, PromptInfo, Row, RowRecord, Rows, Run, RunWriter, TraceError,
};
use std::path::Path;

fn record(point: Point, row: u64, values: &[f32]) -> RowRecord {
    RowRecord {
        point,
        layer: 2,
        step: 0,
        pos_id: row,
        logical_tok_idx: row,
        token_id: 1,
        seq_len: 4,
        kv_len: None,
        dtype: Dtype::F32,
        stored_dtype: None,
        shape: vec![values.len() as u64],
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        logits_top: None,
        payload: true,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn readable_ids_give_the_documented_file_names() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut writer = RunWriter::create(dir.path(), Manifest::default())?;
    for phase in Phase::ALL {
        writer.begin("p6_len_16", phase)?;
        writer.record(record(Point::AttnOut, 3, &[1.0]))?;
    }
    writer.finish(true)?;
    assert_eq!(names(&dir.path().join("traces")), ["p6_len_16_decode_trace.jsonl", "p6_len_16_trace.jsonl"]);
    assert_eq!(names(&dir.path().join("tensors")), ["p6_len_16.decode.safetensors", "p6_len_16.prefill.safetensors"]);
    let run = Run::open(dir.path())?;
    let key = run.events.iter().filter_map(|e| e.payload.as_ref()).map(|p| &*p.key).next();
    assert_eq!(key, Some("attn_out.2.3"));
    Ok(())
}

#[test]
fn no_two_prompts_share_a_file_whatever_their_ids() -> Result<(), TraceError> {
    let long = "long/".repeat(100);
    let longer = format!("{long}x");
    let ids = [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a%2Fb",
        "a\\b",
        "A",
        "a",
        "x",
        "x_decode",
        "é",
        "\u{1F600}",
        "a b",
        "a\0b",
        "-",
        "%",
        "<script>",
        "CON",
        &long,
        &longer,
        "a~2",
    ];
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut writer = RunWriter::create(&dir.path().join("run"), Manifest::default())?;
    for (i, id) in ids.iter().enumerate() {
        for (phase, sign) in [(Phase::Prefill, 1.0), (Phase::Decode, -1.0)] {
            writer.begin(id, phase)?;
            writer.record(record(Point::AttnOut, 3, &[sign * (i + 1) as f32]))?;
        }
    }
    writer.finish(true)?;
    assert_eq!(names(dir.path()), ["run"], "nothing was written outside the run");
    let tensors = names(&dir.path().join("run/tensors"));
    assert_eq!(tensors.len(), 2 * ids.len());
    let lower: std::collections::BTreeSet<String> = tensors.iter().map(|n| n.to_lowercase()).collect();
    assert_eq!(lower.len(), tensors.len(), "names differ also where case does not count");
    let run = Run::open(&dir.path().join("run"))?;
    assert_eq!(run.events.len(), 2 * ids.len());
    for event in &run.events {
        let i = ids.iter().position(|id| **id == *event.prompt_id).expect("an id that was given");
        let sign = if event.phase == Phase::Prefill { 1.0 } else { -1.0 };
        assert_eq!(run.row(event)?.map(|row| row.value(0)), Some(sign * (i + 1) as f64));
    }
    Ok(())
}

#[test]
fn prefill_last_is_the_last_row_of_the_prompt_also_when_it_is_written_in_pieces() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let prompt = PromptInfo { id: "p".into(), tokens: vec![1; 5], ..PromptInfo::default() };
    let mut writer = RunWriter::create(dir.path(), Manifest { prompts: Some(vec![prompt]), ..Manifest::default() })?;
    for row in 2..5 {
        writer.begin("p", Phase::Prefill)?;
        writer.record(record(Point::AttnOut, row, &[row as f32]))?;
    }
    writer.finish(true)?;
    let run = Run::open(dir.path())?;
    let spelled: Vec<_> = run.events.iter().map(|e| &*e.phase_spelling).collect();
    assert_eq!(spelled, ["prefill", "prefill", "prefill_last"]);
    for (event, row) in run.events.iter().zip(2..5) {
        assert_eq!(run.row(event)?.map(|r| r.value(0)), Some(f64::from(row)), "no piece overwrites another");
    }
    Ok(())
}

#[test]
fn the_same_rows_give_the_same_bytes() -> Result<(), TraceError> {
    let write = |dir: &Path| -> Result<(), TraceError> {
        let mut writer = RunWriter::create(dir, Manifest::default())?;
        writer.begin("p", Phase::Prefill)?;
        for point in [Point::Logits, Point::AttnOut, Point::EmbedOut] {
            writer.record(record(point, 3, &[1.0, f32::NAN, 3.0]))?;
        }
        writer.finish(true).map(drop)
    };
    let (a, b) = (tempfile::tempdir().expect("temporary folder"), tempfile::tempdir().expect("temporary folder"));
    write(a.path())?;
    write(b.path())?;
    for file in ["manifest.json", "traces/p_trace.jsonl", "tensors/p.prefill.safetensors"] {
        let read = |dir: &Path| std::fs::read(dir.join(file)).expect("a file");
        assert_eq!(read(a.path()), read(b.path()), "{file}");
    }
    Ok(())
}

#[test]
fn numbers_are_json_and_hashes_are_integers() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut writer = RunWriter::create(dir.path(), Manifest::default())?;
    writer.begin("p", Phase::Prefill)?;
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
    writer.record(record(Point::AttnOut, 3, &values))?;
    writer.finish(true)?;
    let text = std::fs::read_to_string(dir.path().join("traces/p_trace.jsonl")).expect("a file");
    let line: serde_json::Value = serde_json::from_str(&text).expect("JSON that any reader takes");
    assert_eq!(line["sample"], serde_json::json!(["NaN", "Infinity", "-Infinity", 1.0, 2.0, 3.0, 4.0, 5.0]));
    let hash = Row::from_f32(&values).hash(HashAlgo::Xxh3_64);
    assert_eq!(line["hash"].as_u64(), Some(hash.value));
    assert_eq!((line["mean"].as_f64(), line["nan"].as_u64(), line["inf"].as_u64()), (Some(4.0), Some(1), Some(2)));
    Ok(())
}

#[test]
fn a_row_without_payload_keeps_its_hash_statistics_and_sample() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut writer = RunWriter::create(dir.path(), Manifest::default())?;
    writer.begin("p", Phase::Decode)?;
    writer.record(RowRecord { payload: false, step: 4, ..record(Point::AttnOut, 3, &[1.0, 2.0, 4.0]) })?;
    writer.finish(true)?;
    assert_eq!(names(&dir.path().join("tensors")), [""; 0]);
    let run = Run::open(dir.path())?;
    let event = &run.events[0];
    assert_eq!((&*event.phase_spelling, event.step, event.stats.max), ("decode3", Some(4), Some(4.0)));
    assert_eq!(event.sample.as_ref().map(|s| s.values.clone()), Some(vec![1.0, 2.0, 4.0]));
    assert_eq!(run.verify(event)?, HashCheck::NoPayload);
    Ok(())
}

#[test]
fn a_row_that_is_none_is_refused() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut writer = RunWriter::create(dir.path(), Manifest::default())?;
    let early = writer.record(record(Point::AttnOut, 3, &[1.0])).expect_err("was taken");
    assert!(early.to_string().contains("before `begin`"), "{early}");
    writer.begin("p", Phase::Prefill)?;
    let mut short = record(Point::AttnOut, 3, &[1.0, 2.0]);
    short.shape = vec![3];
    let error = writer.record(short).expect_err("was taken");
    assert!(error.to_string().contains("`p`, layer 2, `attn_out`: 8 bytes are not a row of dtype f32"), "{error}");
    let mut overflow = record(Point::AttnOut, 3, &[]);
    overflow.shape = vec![u64::MAX, 2];
    assert!(writer.record(overflow).is_err());
    assert!(writer.record(RowRecord { layer: -1, ..record(Point::AttnOut, 3, &[1.0]) }).is_err());
    writer.record(RowRecord { layer: -1, ..record(Point::Logits, 3, &[1.0]) })
}

#[test]
fn a_run_is_not_overwritten_unless_asked() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path();
    std::fs::write(path.join("keep.txt"), "mine").expect("file");
    let mut writer = RunWriter::create(path, Manifest::default())?;
    writer.begin("old", Phase::Prefill)?;
    writer.record(record(Point::AttnOut, 3, &[1.0]))?;
    writer.finish(true)?;
    RunWriter::create(&path.join("repeat-1"), Manifest { repeat: 1, ..Manifest::default() })?.finish(true)?;
    std::fs::create_dir(path.join("report")).expect("folder");
    std::fs::write(path.join("report/drift.json"), "{}").expect("file");

    let refused = RunWriter::create(path, Manifest::default()).err().expect("was overwritten");
    assert!(matches!(refused, TraceError::RunExists { .. }));
    assert_eq!(Run::open(path).map(|run| (run.events.len(), run.repeats.len())).ok(), Some((1, 1)));

    RunWriter::overwrite(path, Manifest::default())?.finish(true)?;
    assert_eq!(Run::open(path).map(|run| (run.events.len(), run.repeats.len())).ok(), Some((0, 0)));
    assert_eq!(names(path), ["keep.txt", "manifest.json", "report", "tensors", "traces"]);
    assert_eq!(names(&path.join("report")), [""; 0], "a report of the old run would speak of another");
    Ok(())
}

#[test]
fn what_is_not_known_to_be_a_run_is_not_overwritten() {
    for manifest in [None, Some(r#"{"name": "a web page", "icons": []}"#)] {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mine = dir.path().join("traces/mine.jsonl");
        std::fs::create_dir(dir.path().join("traces")).expect("folder");
        std::fs::write(&mine, "hi").expect("file");
        if let Some(text) = manifest {
            std::fs::write(dir.path().join("manifest.json"), text).expect("file");
        }
        let refused = RunWriter::overwrite(dir.path(), Manifest::default()).err().expect("was overwritten");
        assert!(matches!(refused, TraceError::NotOurs { .. }), "{refused}");
        assert_eq!(std::fs::read_to_string(&mine).expect("still there"), "hi");
    }
}

#[test]
fn files_that_are_not_read_are_noted() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    RunWriter::create(dir.path(), Manifest::default())?.finish(true)?;
    assert_eq!(Run::open(dir.path())?.notes, []);
    std::fs::write(dir.path().join("traces/late.JSONL"), "{}").expect("file");
    std::fs::write(dir.path().join("beside.jsonl"), "").expect("file");
    let notes: Vec<String> = Run::open(dir.path())?.notes.iter().map(ToString::to_string).collect();
    assert!(
        notes.len() == 2 && notes[0].contains("traces/late.JSONL") && notes[1].contains("beside.jsonl"),
        "{notes:?}"
    );
    Ok(())
}

#[test]
fn a_writer_that_is_dropped_leaves_a_readable_run_that_says_so() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut writer = RunWriter::create(dir.path(), Manifest { complete: true, ..Manifest::default() })?;
    writer.begin("p", Phase::Prefill)?;
    writer.record(record(Point::AttnOut, 3, &[1.0]))?;
    writer.begin("p", Phase::Decode)?;
    writer.record(record(Point::AttnOut, 3, &[1.0]))?;
    drop(writer);
    let run = Run::open(dir.path())?;
    assert!(!run.is_complete());
    assert_eq!(run.events.iter().map(|e| e.phase).collect::<Vec<_>>(), [Phase::Prefill]);
    assert_eq!(run.verify(&run.events[0])?, HashCheck::Matches);
    Ok(())
}

#[test]
fn what_cannot_be_written_is_told_with_its_path() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let file = dir.path().join("file");
    std::fs::write(&file, "not a folder").expect("file");
    let error = RunWriter::create(&file.join("run"), Manifest::default()).err().expect("was made");
    assert!(error.to_string().contains("run"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_with_the_file_and_leaves_an_incomplete_run() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut writer = RunWriter::create(dir.path(), Manifest::default())?;
    std::os::unix::fs::symlink("/dev/full", dir.path().join("traces/p_trace.jsonl")).expect("link");
    writer.begin("p", Phase::Prefill)?;
    writer.record(record(Point::AttnOut, 3, &[1.0]))?;
    let error = writer.flush_prompt().expect_err("was written");
    assert!(error.to_string().contains("p_trace.jsonl: cannot write: No space left"), "{error}");
    std::fs::remove_file(dir.path().join("traces/p_trace.jsonl")).expect("link");
    assert!(!Run::open(dir.path())?.is_complete());
    Ok(())
}
