//! Feeds `dumps::map`.
#![no_main]

use driftprobe_hostile::{Watched, dumps};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

libfuzzer_sys::fuzz_target!(init: driftprobe_hostile::alone(), |data: &[u8]| dumps::map(data));
