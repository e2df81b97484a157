//! Feeds `program::layers`.
#![no_main]

use driftprobe_hostile::{Watched, program};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

libfuzzer_sys::fuzz_target!(init: driftprobe_hostile::alone(), |data: &[u8]| program::layers(data));
