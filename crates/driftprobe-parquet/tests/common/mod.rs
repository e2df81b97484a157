//! Runs for the tests, and what lies in them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use driftprobe_parquet::{Export, Exported, export};
use driftprobe_trace::{
    Dtype, Manifest, Mode, Phase, Point, PointSet, PromptInfo, RowRecord, Rows, Run, RunWriter, TraceError,
};
use std::path::Path;

pub const POINTS: [Point; 3] = [Point::ResidualPreAttn, Point::AttnOut, Point::Logits];

/// Which recording of a run is written.
#[derive(Clone, Copy)]
pub struct Recording {
    pub mode: Mode,
    pub repeat: u32,
    pub payloads: bool,
    /// Differs from recording to recording, and so do the rows.
    pub seed: u64,
}

pub const OWN: Recording = Recording { mode: Mode::AsDesigned, repeat: 0, payloads: true, seed: 1 };

/// A run of three prompts and two steps, rows in all dtypes; a NaN and an infinity among them.
pub fn write_run(dir: &Path, recording: Recording) {
    let ids = ["p0", "a prompt/with: \"odd\" name", "p2"];
    let prompts =
        ids.iter().map(|id| PromptInfo { id: id.to_string(), tokens: vec![3, 1, 4, 1, 5], ..Default::default() });
    let manifest = Manifest {
        mode: Some(recording.mode),
        repeat: recording.repeat,
        prompts: Some(prompts.collect()),
        layers: Some(vec![0, 1]),
        points: Some(PointSet::Both(POINTS.to_vec())),
        steps: Some(2),
        ..Default::default()
    };
    let mut writer = RunWriter::create(dir, manifest).expect("a new run");
    for (number, id) in (0u64..).zip(ids) {
        for phase in Phase::ALL {
            writer.begin(id, phase).expect("begin");
            for position in 3..5 {
                for (point, layer) in POINTS.iter().flat_map(|p| (0..=i32::from(p.layered())).map(move |l| (*p, l))) {
                    let dtype =
                        [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16][(number as usize + point as usize) % 4];
                    let seed = recording.seed * 1000 + number * 97 + position * 13 + point as u64 * 5 + layer as u64;
                    let value = |at: u64| match (seed + at) % 29 {
                        0 => f32::NAN,
                        1 => f32::NEG_INFINITY,
                        _ => ((seed + at * 7) as f32).sin() + if phase == Phase::Decode { 1e-3 } else { 0.0 },
                    };
                    let decodes = phase == Phase::Decode;
                    let record = RowRecord {
                        point,
                        layer,
                        step: if decodes { position - 2 } else { 0 },
                        pos_id: position,
                        logical_tok_idx: position,
                        token_id: 1,
                        seq_len: if decodes { 1 } else { 5 },
                        kv_len: (layer == 0).then_some(position + 1),
                        dtype,
                        stored_dtype: (layer == 1).then_some(Dtype::F16),
                        shape: vec![2, 4],
                        bytes: (0..8).flat_map(|at| bytes(dtype, value(at))).collect(),
                        logits_top: None,
                        payload: recording.payloads && layer < 1,
                    };
                    writer.record(record).expect("a row");
                }
            }
        }
    }
    writer.finish(true).expect("finished");
}

fn bytes(dtype: Dtype, value: f32) -> Vec<u8> {
    match dtype {
        Dtype::F64 => f64::from(value).to_le_bytes().to_vec(),
        Dtype::F32 => value.to_le_bytes().to_vec(),
        // The upper half of an f32 is a bf16, and any two bytes are an f16.
        Dtype::F16 | Dtype::Bf16 => value.to_le_bytes()[2..].to_vec(),
    }
}

/// A run with everything that lies in a run: repeats, the other mode with its own, two rounds of a search.
pub fn write_all(dir: &Path) {
    write_run(dir, OWN);
    write_run(&dir.join("repeat-1"), Recording { repeat: 1, payloads: false, ..OWN });
    write_run(&dir.join("repeat-2"), Recording { repeat: 2, payloads: false, seed: 2, ..OWN });
    let aligned = Recording { mode: Mode::KvAligned, seed: 3, ..OWN };
    write_run(&dir.join("kv_aligned"), aligned);
    write_run(&dir.join("kv_aligned/repeat-1"), Recording { repeat: 1, ..aligned });
    write_run(&dir.join("search-1"), Recording { seed: 4, ..OWN });
    write_run(&dir.join("search-1/kv_aligned"), Recording { seed: 5, ..aligned });
    write_run(&dir.join("search-2"), Recording { seed: 6, ..OWN });
}

/// Exports `run` under the name `name` into `dataset`.
pub fn put(run: &Path, dataset: &Path, name: &str) -> Result<Exported, TraceError> {
    export(&Export { run, name, dataset, payloads: true, force: false })
}

/// Everything that a run holds and what lies in it, as text; where it lies left out.
pub fn told(run: &Run) -> String {
    let mut text = told_alone(run);
    for name in ["kv_aligned", "search-1", "search-2", "search-3", "report"] {
        if let Some(inner) = run.inner(name).unwrap_or_else(|e| panic!("{e}")) {
            text += &format!("{name} {}\n", told(&inner));
        }
    }
    text
}

/// Everything that a run holds, its rows' bytes too.
pub fn told_alone(run: &Run) -> String {
    let mut text = format!("{:?}\n{:?}\n{:?}\n", run.manifest, run.notes, run.unmapped);
    for event in &run.events {
        let row = run.row(event).unwrap_or_else(|e| panic!("{e}"));
        let row = row.map(|row| (row.dtype, row.shape.clone(), row.bytes().to_vec()));
        text += &format!("{event:?} {row:?} {:?}\n", run.verify(event).unwrap_or_else(|e| panic!("{e}")));
    }
    for repeat in &run.repeats {
        text += &format!("repeat {}\n", told_alone(repeat));
    }
    text
}

/// The only Parquet file below a folder.
pub fn only_file(dir: &Path) -> std::path::PathBuf {
    let mut found = vec![];
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => open.push(path),
                false if path.extension().is_some_and(|ending| ending == "parquet") => found.push(path),
                false => {}
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}
