//! llama.cpp's process-wide state: started once, its messages kept for errors in place of the terminal.

use driftprobe_engine::EngineError;
use llama_cpp_sys_2 as sys;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, Once, PoisonError};

/// Characters of messages that are kept.
const KEPT_MAX: usize = 600;

static MESSAGES: Mutex<String> = Mutex::new(String::new());
static STARTED: Once = Once::new();

/// Starts llama.cpp, once a process.
pub fn start() {
    STARTED.call_once(|| {
        // SAFETY: `keep` has the type of a log callback, lives as long as the program and does not unwind; no user data.
        unsafe { sys::llama_log_set(Some(keep), std::ptr::null_mut()) };
        // SAFETY: has no preconditions; called once, before any other function of llama.cpp.
        unsafe { sys::llama_backend_init() };
    });
}

/// Keeps warnings and errors.
unsafe extern "C" fn keep(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    let grave = level == sys::GGML_LOG_LEVEL_ERROR || level == sys::GGML_LOG_LEVEL_WARN;
    if text.is_null() || !grave {
        return;
    }
    // SAFETY: llama.cpp hands a NUL-terminated string over that lives until this function returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut kept = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() + text.len() <= KEPT_MAX {
        kept.push_str(&text);
    }
}

/// An error of llama.cpp, with what it has said since the last one.
pub fn failure(what: impl Into<String>, hint: &str) -> EngineError {
    let mut kept = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let said: Vec<&str> = kept.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut what = what.into();
    if !said.is_empty() {
        what = format!("{what}: {}", said.join("; "));
    }
    kept.clear();
    EngineError::Foreign { what: format!("llama.cpp: {what}"), hint: hint.to_owned() }
}

/// Forgets what was said so far: it belongs to something that went well.
pub fn forget_messages() {
    MESSAGES.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Text that llama.cpp holds for ever.
///
/// # Safety
/// `text` is null or a NUL-terminated string that is never freed.
pub unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null; NUL-terminated and valid by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
