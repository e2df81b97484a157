//! Feeds `runs::inventory`.
#![no_main]

use driftprobe_hostile::{Watched, runs};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

libfuzzer_sys::fuzz_target!(init: driftprobe_hostile::alone(), |data: &[u8]| runs::inventory(data));
