//! Calls into libraries that a file may make panic: what they panic with becomes an error, and nothing is printed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static ISOLATED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`; a panic in it is an error that says what the panic said. What `work` was changing must not be used
/// afterwards for more than another call of this kind.
pub fn isolated<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    // Panics outside of this function are told as they were before.
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !ISOLATED.get() {
                before(info);
            }
        }));
    });
    let outer = ISOLATED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    ISOLATED.set(outer);
    done.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "no word why".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_the_next_call_goes_on() {
        assert_eq!(isolated(|| 3), Ok(3));
        let empty: Vec<u8> = Vec::new();
        assert!(isolated(|| empty[1]).is_err_and(|told| told.contains("index out of bounds")));
        assert_eq!(isolated(|| std::panic::panic_any(5)), Err::<(), _>("no word why".to_owned()));
        assert_eq!(isolated(|| 4), Ok(4));
        assert!(!ISOLATED.get());
    }
}
