//! Feeds `program::plan`.
#![no_main]

use driftprobe_hostile::{Watched, program};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

libfuzzer_sys::fuzz_target!(|data: &[u8]| program::plan(data));
