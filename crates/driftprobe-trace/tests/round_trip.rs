//! What the writer writes, the reader reads: events, rows, hashes, bit for bit.

use driftprobe_trace::{
    Dtype, HashCheck, Manifest, Note, Phase, Point, PointSet, PromptInfo, RowRecord, Rows, Run, RunWriter, TraceError,
};

fn manifest() -> Manifest {
    let prompt = PromptInfo { id: "p".into(), tokens: vec![5, 6, 7], ..PromptInfo::default() };
    Manifest {
        prompts: Some(vec![prompt]),
        layers: Some(vec![0]),
        points: Some(PointSet::Both(vec![Point::AttnOut, Point::Logits])),
        steps: Some(2),
        ..Manifest::default()
    }
}

fn record(point: Point, row: u64, step: u64, values: &[f32]) -> RowRecord {
    RowRecord {
        point,
        layer: 0,
        step,
        pos_id: row,
        logical_tok_idx: row,
        token_id: 5 + row as u32,
        seq_len: if step == 0 { 3 } else { 1 },
        kv_len: Some(row + 1),
        dtype: Dtype::F32,
        stored_dtype: None,
        shape: vec![values.len() as u64],
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        logits_top: None,
        payload: true,
    }
}

#[test]
fn a_written_run_opens_again() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let run_dir = dir.path().join("run");
    let mut writer = RunWriter::create(&run_dir, manifest())?;
    for (phase, first_step) in [(Phase::Prefill, 0), (Phase::Decode, 1)] {
        writer.begin("p", phase)?;
        for row in 1..3u64 {
            let step = if first_step == 0 { 0 } else { row };
            writer.record(record(Point::AttnOut, row, step, &[row as f32, -0.0, f32::NAN, f32::INFINITY]))?;
            writer.record(record(Point::Logits, row, step, &[0.5, 2.5, 1.0]))?;
        }
    }
    let open = Run::open(&run_dir);
    assert!(open.is_ok_and(|run| run.notes == [Note::Incomplete]), "an unfinished run opens and says so");
    writer.finish(true)?;

    let run = Run::open(&run_dir)?;
    assert!(run.is_complete());
    assert_eq!(run.notes, []);
    assert_eq!(run.events.len(), 8);
    for event in &run.events {
        assert_eq!(run.verify(event)?, HashCheck::Matches);
    }
    let attn: Vec<_> = run.events.iter().filter(|e| e.point == Point::AttnOut).collect();
    let spelled: Vec<_> = attn.iter().map(|e| &*e.phase_spelling).collect();
    assert_eq!(spelled, ["decode0", "decode1", "prefill", "prefill_last"]);
    let row = run.row(attn[0])?.expect("a payload");
    assert_eq!(row.value(1).to_bits(), (-0.0f64).to_bits());
    assert!(row.value(2).is_nan());
    assert_eq!((attn[0].stats.nan, attn[0].stats.inf, attn[0].stats.nz_count), (Some(1), Some(1), Some(3)));
    let top = run.events.iter().find_map(|e| e.logits).expect("logits");
    assert_eq!((top.top1_id, top.top2_id, top.gap), (Some(1), Some(2), Some(1.5)));
    assert_eq!(run.manifest.as_ref().and_then(Manifest::expected).map(|keys| keys.len()), Some(4));
    assert!(matches!(RunWriter::create(&run_dir, manifest()), Err(TraceError::RunExists { .. })));
    Ok(())
}
