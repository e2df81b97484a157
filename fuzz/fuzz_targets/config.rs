//! Feeds `models::config`.
#![no_main]

use driftprobe_hostile::{Watched, models};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

libfuzzer_sys::fuzz_target!(|data: &[u8]| models::config(data));
