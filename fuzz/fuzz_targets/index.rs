//! Feeds `runs::index`.
#![no_main]

use driftprobe_hostile::{Watched, runs};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

libfuzzer_sys::fuzz_target!(|data: &[u8]| runs::index(data));
