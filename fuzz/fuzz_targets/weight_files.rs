//! Feeds `models::weight_files`.
#![no_main]

use driftprobe_hostile::{Watched, models};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

libfuzzer_sys::fuzz_target!(init: driftprobe_hostile::alone(), |data: &[u8]| models::weight_files(data));
