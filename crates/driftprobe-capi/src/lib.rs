//! The C interface: an engine opens a run, says what it runs, traces rows from host memory, and closes the run.
//!
//! All functions may be called from any thread, but [`dp_run_close`], after which the handle is gone. None lets a panic
//! cross the border. Each gives a [`dp_status`]; [`dp_last_error`] has the message of the last failure on the calling thread.
//!
//! `include/driftprobe.h` is made from this file by cbindgen; a test holds that it is the newest.

// The names are those of the header.
#![allow(non_camel_case_types)]

mod error;
mod row;
mod run;

pub use error::dp_status;
pub use row::{dp_dtype, dp_phase, dp_row};

use driftprobe_trace::Point;
use error::Failure;
use row::text;
use run::Recording;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// A run that is being written.
pub struct dp_run {
    recording: Recording,
}

/// Runs `work`; a panic ends here.
fn guarded(work: impl FnOnce() -> Result<(), Failure>) -> dp_status {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => dp_status::DP_OK,
        Ok(Err(failure)) => error::keep(failure),
        Err(_) => error::keep(Failure {
            status: dp_status::DP_PANIC,
            message: "a mistake in driftprobe; hint: please report it".to_owned(),
        }),
    }
}

/// # Safety
/// `run` is null or came from [`dp_run_open`] and is not closed.
unsafe fn opened<'a>(run: *const dp_run) -> Result<&'a Recording, Failure> {
    // SAFETY: null is refused; the caller vouches for the rest.
    unsafe { run.as_ref() }.map(|run| &run.recording).ok_or_else(|| Failure::invalid("the run is NULL"))
}

/// # Safety
/// `first` is null, or `count` values can be read there for as long as the result is used.
unsafe fn list<'a, T>(what: &str, first: *const T, count: usize) -> Result<&'a [T], Failure> {
    match (first.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::invalid(format!("{what} is NULL"))),
        // SAFETY: not null, and the caller vouches for the rest.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(first, count) }),
    }
}

/// The version of this library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn dp_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The message of the last failure on this thread; empty if there was none. Valid until the next failure on it.
#[unsafe(no_mangle)]
pub extern "C" fn dp_last_error() -> *const c_char {
    error::last()
}

/// Opens a run that will lie in the folder `dir`; its folder is made with the first row. With `overwrite`, a run that
/// lies there is deleted then; without, the first row gives DP_EXISTS.
///
/// # Safety
/// `dir` is a string that ends with a zero byte; `run` points to a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dp_run_open(dir: *const c_char, overwrite: bool, run: *mut *mut dp_run) -> dp_status {
    guarded(|| {
        if run.is_null() {
            return Err(Failure::invalid("the place for the run is NULL"));
        }
        // SAFETY: as the caller vouches.
        let dir = unsafe { text("dir", dir)? };
        let opened = Box::new(dp_run { recording: Recording::new(PathBuf::from(dir), overwrite) });
        // SAFETY: not null, and the caller vouches that a handle can be written there.
        unsafe { run.write(Box::into_raw(opened)) };
        Ok(())
    })
}

/// Sets fields of manifest.json: `{"engine": {…}, "model": {…}, "config": {…}, "contract": {…}, "mode": …}`, as
/// docs/trace-format.md has them. May be called more than once; before the first row.
///
/// # Safety
/// `run` came from `dp_run_open` and is not closed; `json` ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dp_run_describe(run: *mut dp_run, json: *const c_char) -> dp_status {
    // SAFETY: as the caller vouches.
    guarded(|| unsafe { opened(run)?.describe(text("json", json)?) })
}

/// Adds a prompt: its id, and all tokens that prefill is fed (n, and one for each decode step after the first).
///
/// # Safety
/// `run` came from `dp_run_open` and is not closed; `id` ends with a zero byte; `count` tokens lie at `tokens`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dp_run_prompt(
    run: *mut dp_run,
    id: *const c_char,
    tokens: *const u32,
    count: usize,
) -> dp_status {
    // SAFETY: as the caller vouches.
    guarded(|| unsafe { opened(run)?.prompt(text("id", id)?, list("tokens", tokens, count)?.to_vec()) })
}

/// Says what will be traced: layers, points by id or alias, and decode steps. What is promised and not traced makes the
/// run INCONCLUSIVE.
///
/// # Safety
/// `run` came from `dp_run_open` and is not closed; so many layers and points lie there; strings end with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dp_run_expect(
    run: *mut dp_run,
    layers: *const u32,
    layer_count: usize,
    points: *const *const c_char,
    point_count: usize,
    steps: u32,
) -> dp_status {
    guarded(|| {
        // SAFETY: as the caller vouches.
        let (run, layers) = unsafe { (opened(run)?, list("layers", layers, layer_count)?) };
        // SAFETY: likewise.
        let names = unsafe { list("points", points, point_count)? };
        let point = |name: &*const c_char| {
            // SAFETY: likewise.
            let name = unsafe { text("a point", *name)? };
            Point::parse(name).ok_or_else(|| Failure::invalid(format!("{name} is not a point")))
        };
        run.promise(layers, &names.iter().map(point).collect::<Result<Vec<_>, _>>()?, steps)
    })
}

/// Records a variable of the environment as it is set, such as HIP_LAUNCH_BLOCKING; not if it is not set.
///
/// # Safety
/// `run` came from `dp_run_open` and is not closed; `name` ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dp_run_environment(run: *mut dp_run, name: *const c_char) -> dp_status {
    // SAFETY: as the caller vouches.
    guarded(|| unsafe { opened(run)?.variable(text("name", name)?) })
}

/// Whether the run promises this point of this layer: ask before a row is copied from a device. False for what is no
/// point, and for NULL.
///
/// # Safety
/// `run` is NULL or came from `dp_run_open` and is not closed; `point` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dp_run_wants(run: *const dp_run, point: *const c_char, layer: i32) -> bool {
    let mut wanted = false;
    guarded(|| {
        // SAFETY: as the caller vouches.
        let (run, name) = unsafe { (opened(run)?, text("point", point)?) };
        wanted = Point::parse(name).is_some_and(|point| run.wants(point, layer));
        Ok(())
    });
    wanted
}

/// Traces one row. The values are copied before it returns. Rows of different prompts and phases may come in any order
/// and from any thread.
///
/// # Safety
/// `run` came from `dp_run_open` and is not closed; `row` points to a dp_row as its fields say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dp_run_trace(run: *mut dp_run, row: *const dp_row) -> dp_status {
    guarded(|| {
        // SAFETY: as the caller vouches.
        let (run, (prompt, phase, record)) = unsafe { (opened(run)?, row::copied(row)?) };
        run.trace(prompt, phase, record)
    })
}

/// Writes what has been traced so far. Otherwise rows are written at 64 MiB a prompt and phase, and when the run is closed.
///
/// # Safety
/// `run` came from `dp_run_open` and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dp_run_flush(run: *mut dp_run) -> dp_status {
    // SAFETY: as the caller vouches.
    guarded(|| unsafe { opened(run)?.flush() })
}

/// Closes the run, `complete` if all that was promised has been traced: nothing else can PASS. The handle is gone, also
/// where this fails. NULL is left alone.
///
/// # Safety
/// `run` is NULL or came from `dp_run_open`, is not closed, and no other thread uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dp_run_close(run: *mut dp_run, complete: bool) -> dp_status {
    guarded(|| {
        if run.is_null() {
            return Ok(());
        }
        // SAFETY: made by Box::into_raw in dp_run_open, and given back once.
        unsafe { Box::from_raw(run) }.recording.close(complete)
    })
}
