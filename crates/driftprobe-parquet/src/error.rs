//! What can be wrong with a dataset, in the words of the trace format's errors.

use driftprobe_trace::TraceError;
use parquet::errors::ParquetError;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

/// For a file that somebody else must put right.
pub const COPY_AGAIN: &str = "copy the file again, or export the run again: `driftprobe export`";

/// For a table that does not have the columns that it should have.
pub const SEE_SCHEMA: &str = "write the columns that docs/parquet.md lists, in the types that it gives";

/// For parts that are not there.
pub const EXPORT_AGAIN: &str = "copy all of the run's folder, or export the run again: `driftprobe export --force`";

/// A fault of a dataset.
pub fn fault(path: &Path, at: impl Into<String>, message: impl Into<String>, hint: &'static str) -> TraceError {
    TraceError::Dataset { path: path.to_owned(), at: at.into(), message: message.into(), hint }
}

/// What the Parquet reader or writer refused.
pub fn parquet_error(path: &Path, at: impl Into<String>) -> impl FnOnce(ParquetError) -> TraceError {
    let (path, at) = (path.to_owned(), at.into());
    move |e| fault(&path, at, e.to_string(), COPY_AGAIN)
}

thread_local! {
    /// Whether this thread's panics are told as errors, and so not to the terminal.
    static TOLD: Cell<bool> = const { Cell::new(false) };
}

/// From now on, whatever takes note of panics is not told of those that [`guarded`] makes errors of.
fn tell_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            if !TOLD.get() {
                before(panicked);
            }
        }));
    });
}

/// Runs what reads bytes of a stranger: the Parquet reader is meant to refuse them, and where it panics instead, that is a
/// refusal too. Whatever was half read is dropped with it.
///
/// # Errors
/// What `read` says, or that the reader gave up.
pub fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, TraceError>) -> Result<T, TraceError> {
    tell_once();
    let outer = TOLD.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    TOLD.set(outer);
    outcome.unwrap_or_else(|why| {
        let said = why.downcast_ref::<String>().map(String::as_str).or(why.downcast_ref::<&str>().copied());
        let message = format!("the Parquet reader gave up: {}", said.unwrap_or("no reason given"));
        Err(fault(path, "", message, COPY_AGAIN))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_reader_is_an_error_with_the_file() {
        let e = guarded::<()>(Path::new("a/b.parquet"), || panic!("at offset {}", 7)).expect_err("a panic");
        assert_eq!(e.to_string(), "a/b.parquet: the Parquet reader gave up: at offset 7");
        assert!(!TOLD.get(), "the next panic would go unseen");
    }
}
