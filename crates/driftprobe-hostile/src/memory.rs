//! An allocator that counts, so that memory which grows by what a file claims is seen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

/// The system's allocator, with each thread's bytes counted, and those of all together.
pub struct Watched;

static ALL_HELD: AtomicIsize = AtomicIsize::new(0);
static ALL_MOST: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    let change = 0isize.saturating_add_unsigned(more).saturating_sub_unsigned(less);
    let all = ALL_HELD.fetch_add(change, Relaxed).saturating_add(change);
    ALL_MOST.fetch_max(all, Relaxed);
    // While a thread ends, its cells may be gone; what is allocated then is of no interest.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add_unsigned(more).saturating_sub_unsigned(less));
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: every call is passed on unchanged to the system's allocator; counting touches no allocated memory and does not
// allocate.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Runs `work` and panics if this thread held more than `allowed` bytes more than before at any moment. Where [`Watched`] is
/// not the program's allocator, nothing is seen.
pub fn bounded<T>(allowed: usize, work: impl FnOnce() -> T) -> T {
    let before = HELD.with(Cell::get);
    MOST.with(|most| most.set(before));
    let done = work();
    let most = MOST.with(Cell::get).saturating_sub(before);
    assert!(most <= isize::try_from(allowed).unwrap_or(isize::MAX), "{most} bytes were held, {allowed} are allowed");
    done
}

/// The most bytes that all threads together held more than before while `work` ran. Where [`Watched`] is not the program's
/// allocator, 0.
pub fn most_held<T>(work: impl FnOnce() -> T) -> (T, isize) {
    let before = ALL_HELD.load(Relaxed);
    ALL_MOST.store(before, Relaxed);
    let done = work();
    (done, ALL_MOST.load(Relaxed).saturating_sub(before))
}

/// Bytes that reading `len` bytes of input may take: a fixed part for what readers always set up, and what a byte may grow to
/// (a number in a list is a 32-byte value, and lists double).
pub fn allowance(len: usize) -> usize {
    (512 << 10) + 256 * len
}
