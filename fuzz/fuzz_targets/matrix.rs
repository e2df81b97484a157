//! Feeds `settings::matrix`.
#![no_main]

use driftprobe_hostile::{Watched, settings};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

libfuzzer_sys::fuzz_target!(|data: &[u8]| settings::matrix(data));
