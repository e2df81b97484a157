//! The C interface as a C program uses it: what is traced is read back, and what is wrong is refused by code and message.

use driftprobe_capi::*;
use driftprobe_trace::{Dtype, Phase, Point, Run};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn last() -> String {
    // SAFETY: the library's own string.
    unsafe { CStr::from_ptr(dp_last_error()) }.to_str().unwrap().to_owned()
}

/// An open run in a folder that is not there yet.
struct Opened(*mut dp_run);

// SAFETY: the interface may be used from any thread.
unsafe impl Sync for Opened {}

impl Opened {
    fn new(dir: &Path, overwrite: bool) -> Opened {
        let mut run = null_mut();
        let dir = c(dir.to_str().unwrap());
        // SAFETY: a string and a place for the handle.
        assert_eq!(unsafe { dp_run_open(dir.as_ptr(), overwrite, &raw mut run) }, dp_status::DP_OK);
        Opened(run)
    }

    fn describe(&self, json: &str) -> dp_status {
        // SAFETY: an open run and a string.
        unsafe { dp_run_describe(self.0, c(json).as_ptr()) }
    }

    fn prompt(&self, id: &str, tokens: &[u32]) -> dp_status {
        // SAFETY: as many tokens as are told.
        unsafe { dp_run_prompt(self.0, c(id).as_ptr(), tokens.as_ptr(), tokens.len()) }
    }

    fn expect(&self, layers: &[u32], points: &[&str], steps: u32) -> dp_status {
        let names: Vec<CString> = points.iter().map(|name| c(name)).collect();
        let points: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: as many layers and points as are told.
        unsafe { dp_run_expect(self.0, layers.as_ptr(), layers.len(), points.as_ptr(), points.len(), steps) }
    }

    fn trace(&self, row: &dp_row) -> dp_status {
        // SAFETY: the tests' rows are as their fields say.
        unsafe { dp_run_trace(self.0, row) }
    }

    fn wants(&self, point: &str, layer: i32) -> bool {
        // SAFETY: an open run and a string.
        unsafe { dp_run_wants(self.0, c(point).as_ptr(), layer) }
    }

    fn close(self, complete: bool) -> dp_status {
        // SAFETY: an open run that nobody uses any more.
        unsafe { dp_run_close(self.0, complete) }
    }
}

/// A contiguous f32 row of `attn_out` at position 2 of a prompt.
fn row(prompt: &CStr, point: &CStr, phase: dp_phase, values: &[f32]) -> dp_row {
    let decode = phase == dp_phase::DP_DECODE;
    dp_row {
        struct_size: size_of::<dp_row>() as u32,
        phase: phase as i32,
        prompt_id: prompt.as_ptr(),
        point: point.as_ptr(),
        layer: 0,
        step: u32::from(decode),
        pos_id: 2,
        token_index: 2,
        token_id: 13,
        seq_len: if decode { 1 } else { 3 },
        kv_len: 3,
        dtype: dp_dtype::DP_F32 as i32,
        stored_dtype: 0,
        rank: 1,
        without_payload: 0,
        shape: [values.len() as u64, 0, 0, 0],
        strides: [0; 4],
        data: values.as_ptr().cast::<c_void>(),
    }
}

#[test]
fn what_is_traced_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let run = Opened::new(&path, false);
    let described = r#"{"engine": {"name": "toy"}, "contract": {"accumulate": "f32"}, "mode": "as_designed"}"#;
    assert_eq!(run.describe(described), dp_status::DP_OK);
    assert_eq!(run.prompt("p", &[7, 11, 13]), dp_status::DP_OK);
    assert_eq!(run.expect(&[0, 4], &["attn_out", "x_in"], 1), dp_status::DP_OK);
    assert!(run.wants("attn_out", 4) && run.wants("residual_pre_attn", 0));
    assert!(!run.wants("attn_out", 1) && !run.wants("mlp_out", 0) && !run.wants("nonsense", 0));
    let (prompt, point) = (c("p"), c("attn_out"));
    let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    assert_eq!(run.trace(&row(&prompt, &point, dp_phase::DP_DECODE, &values)), dp_status::DP_OK);
    // Two heads of three, every other column of a wider matrix, the second head first.
    let strided = dp_row {
        rank: 2,
        shape: [2, 3, 0, 0],
        strides: [-6, 2, 0, 0],
        // SAFETY: inside the values.
        data: unsafe { values.as_ptr().add(6) }.cast(),
        layer: 4,
        ..row(&prompt, &point, dp_phase::DP_PREFILL, &values)
    };
    assert_eq!(run.trace(&strided), dp_status::DP_OK);
    assert_eq!(run.close(true), dp_status::DP_OK);

    let run = Run::open(&path).unwrap();
    let manifest = run.manifest.as_ref().unwrap();
    assert!(manifest.complete);
    assert_eq!(manifest.engine.as_ref().unwrap().name.as_deref(), Some("toy"));
    assert_eq!(manifest.prompts.as_ref().unwrap()[0].tokens, [7, 11, 13]);
    assert_eq!(manifest.layers, Some(vec![0, 4]));
    assert_eq!(run.events.len(), 2);
    for event in &run.events {
        let found = driftprobe_trace::Rows::row(&run, event).unwrap().unwrap();
        let expected: Vec<f64> = match event.phase {
            Phase::Decode => (0..12).map(f64::from).collect(),
            Phase::Prefill => vec![6.0, 8.0, 10.0, 0.0, 2.0, 4.0],
        };
        assert_eq!((event.point, found.dtype, found.to_f64()), (Point::AttnOut, Dtype::F32, expected));
        assert_eq!((event.token_id, event.pos_id, event.kv_len), (Some(13), Some(2), Some(3)));
    }
}

#[test]
fn rows_come_from_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let run = Opened::new(&path, false);
    let shared = &run;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let (prompt, point) = (c(&format!("p{}", thread % 2)), c("mlp_out"));
                for layer in 0..50 {
                    let values = [thread as f32, layer as f32];
                    let phase = if thread < 2 { dp_phase::DP_PREFILL } else { dp_phase::DP_DECODE };
                    let row = dp_row { layer, ..row(&prompt, &point, phase, &values) };
                    assert_eq!(shared.trace(&row), dp_status::DP_OK);
                    if layer == 25 {
                        // SAFETY: an open run.
                        assert_eq!(unsafe { dp_run_flush(shared.0) }, dp_status::DP_OK);
                    }
                }
            });
        }
    });
    assert_eq!(run.close(true), dp_status::DP_OK);
    let run = Run::open(&path).unwrap();
    assert_eq!(run.events.len(), 200);
    for event in &run.events {
        let row = driftprobe_trace::Rows::row(&run, event).unwrap().unwrap();
        assert_eq!(row.value(1), f64::from(event.layer));
    }
}

#[test]
fn what_is_wrong_is_refused_by_code_and_message() {
    let dir = tempfile::tempdir().unwrap();
    let run = Opened::new(&dir.path().join("run"), false);
    let (prompt, point, values) = (c("p"), c("attn_out"), [1.0, 2.0]);
    let good = row(&prompt, &point, dp_phase::DP_PREFILL, &values);
    let odd = c("attention");
    for (bad, says) in [
        (dp_row { struct_size: 8, ..good }, "struct_size is 8"),
        (dp_row { phase: 7, ..good }, "phase 7"),
        (dp_row { prompt_id: null(), ..good }, "prompt_id is NULL"),
        (dp_row { point: odd.as_ptr(), ..good }, "attention of layer 0 of prompt p: not a point"),
        (dp_row { layer: -1, ..good }, "once a layer"),
        (dp_row { dtype: 0, ..good }, "dtype is not told"),
        (dp_row { dtype: 99, ..good }, "dtype 99"),
        (dp_row { stored_dtype: -3, ..good }, "stored_dtype -3"),
        (dp_row { rank: 0, ..good }, "rank is 0"),
        (dp_row { rank: 5, ..good }, "rank is 5"),
        (dp_row { shape: [0; 4], ..good }, "no values"),
        (dp_row { rank: 2, shape: [u64::MAX, 3, 0, 0], ..good }, "too large"),
        (dp_row { data: null(), ..good }, "data is NULL"),
    ] {
        assert_eq!(run.trace(&bad), dp_status::DP_INVALID, "{says}");
        assert!(last().contains(says), "{} does not say {says:?}", last());
    }
    // SAFETY: null is refused.
    unsafe {
        assert_eq!(dp_run_trace(null_mut(), &raw const good), dp_status::DP_INVALID);
        assert_eq!(dp_run_trace(run.0, null()), dp_status::DP_INVALID);
        assert_eq!(dp_run_open(null(), false, null_mut()), dp_status::DP_INVALID);
        assert_eq!(dp_run_close(null_mut(), true), dp_status::DP_OK);
    }
    for (json, says) in [
        ("[]", "not one JSON object"),
        ("{", "not one JSON object"),
        (r#"{"complete": true}"#, "not the engine's to say"),
        (r#"{"mode": "sideways"}"#, "mode"),
    ] {
        assert_eq!(run.describe(json), dp_status::DP_INVALID, "{json}");
        assert!(last().contains(says), "{} does not say {says:?}", last());
    }
    assert_eq!(run.expect(&[0], &[], 1), dp_status::DP_INVALID);
    assert_eq!(run.expect(&[0], &["nonsense"], 1), dp_status::DP_INVALID);
    assert_eq!(run.prompt("p", &[1]), dp_status::DP_OK);
    assert_eq!(run.prompt("p", &[1]), dp_status::DP_INVALID);
    // After the first row nothing more is described, and what was refused has left no trace.
    assert_eq!(run.trace(&good), dp_status::DP_OK);
    assert_eq!(run.describe("{}"), dp_status::DP_STATE);
    assert_eq!(run.close(false), dp_status::DP_OK);
    let path = dir.path().join("run");
    let found = Run::open(&path).unwrap();
    assert_eq!((found.events.len(), found.manifest.unwrap().complete), (1, false));

    let again = Opened::new(&path, false);
    assert_eq!(again.trace(&good), dp_status::DP_EXISTS);
    assert!(last().contains("run"), "{}", last());
    assert_eq!(again.close(true), dp_status::DP_EXISTS);
    assert_eq!(Run::open(&path).unwrap().events.len(), 1);
    let over = Opened::new(&path, true);
    assert_eq!(over.close(true), dp_status::DP_OK);
    assert_eq!(Run::open(&path).unwrap().events.len(), 0);
}
