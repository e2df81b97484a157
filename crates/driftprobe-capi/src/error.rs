//! Status codes, and the message behind the last one on this thread.

use driftprobe_trace::TraceError;
use std::cell::RefCell;
use std::ffi::{CString, c_char};

/// What a function came to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum dp_status {
    /// It is done.
    DP_OK = 0,
    /// An argument is not what it must be; nothing was changed.
    DP_INVALID = 1,
    /// Not now: the run is closed, or described after its first row.
    DP_STATE = 2,
    /// The folder holds a run already.
    DP_EXISTS = 3,
    /// The system refused to read or write.
    DP_IO = 4,
    /// A mistake in driftprobe itself; the run should be closed.
    DP_PANIC = 5,
}

/// A status and its message.
#[derive(Debug)]
pub struct Failure {
    pub status: dp_status,
    pub message: String,
}

impl Failure {
    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure { status: dp_status::DP_INVALID, message: message.into() }
    }

    pub fn state(message: impl Into<String>) -> Failure {
        Failure { status: dp_status::DP_STATE, message: message.into() }
    }
}

impl From<TraceError> for Failure {
    fn from(e: TraceError) -> Failure {
        let status = match e {
            TraceError::RunExists { .. } | TraceError::NotOurs { .. } => dp_status::DP_EXISTS,
            TraceError::Io { .. } => dp_status::DP_IO,
            _ => dp_status::DP_INVALID,
        };
        Failure { status, message: e.to_string() }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// Keeps the message for [`last`], and gives the status.
pub fn keep(failure: Failure) -> dp_status {
    // A message is cut at a zero byte that a name in it may hold.
    let text: Vec<u8> = failure.message.bytes().take_while(|byte| *byte != 0).collect();
    LAST.with(|last| *last.borrow_mut() = CString::new(text).unwrap_or_default());
    failure.status
}

/// The message of the last failure on this thread; empty if there was none.
pub fn last() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}
