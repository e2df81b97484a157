//! No memory is asked for on a file's word alone: a claim of a length that the file cannot hold is refused before
//! anything of that size is allocated. Counted by an allocator that remembers the largest request.

use driftprobe_model::{Model, Weights};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn saw(size: usize) {
    // While a thread ends, its cell may be gone; what is allocated then is of no interest.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is passed on unchanged to the system's allocator; noting the size touches no allocated memory and
// does not allocate.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        saw(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        saw(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        saw(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn largest(work: impl FnOnce()) -> usize {
    LARGEST.with(|largest| largest.set(0));
    work();
    LARGEST.with(Cell::get)
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)).unwrap()
}

#[test]
fn the_allocator_sees_what_is_asked_for() {
    assert!(largest(|| drop(std::hint::black_box(vec![0u8; 1 << 22]))) >= 1 << 22);
    assert!(largest(|| drop(std::hint::black_box(vec![0u8; 10]))) < 1 << 10);
}

#[test]
fn no_eight_bytes_of_a_gguf_header_make_it_ask_for_more_than_the_file_holds() {
    const HEADER_BYTES: usize = 2500;
    let bytes = fixture("gguf/llama-f16.gguf");
    // A value in a list takes some thirty times the byte that it may have in the file.
    let allowed = 64 * bytes.len();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, &bytes).unwrap();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    let mut put = |at: usize, bytes: &[u8]| {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(bytes).unwrap();
    };
    for claim in [u64::MAX, 1 << 62, 1 << 35, 1 << 25] {
        for at in 4..HEADER_BYTES {
            put(at, &claim.to_le_bytes());
            let asked = largest(|| drop((Model::open(&path).map(drop), Weights::open_gguf(&path).map(drop))));
            assert!(asked <= allowed, "{claim} at {at}: {asked} bytes");
            put(at, &bytes[at..at + 8]);
        }
    }
    assert!(Model::open(&path).is_ok());
}

#[test]
fn no_size_in_a_config_makes_it_ask_for_more_than_its_tensors_need() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), fixture("hf/llama/model.safetensors")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&fixture("hf/llama/config.json")).unwrap();
    for key in
        ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size"]
    {
        for size in [u64::MAX, 1 << 40, 1 << 24, 4096] {
            let mut config = config.clone();
            config[key] = size.into();
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let asked = largest(|| assert!(Model::open(folder.path()).is_err(), "{key} = {size}"));
            assert!(asked <= 16 << 20, "{key} = {size}: {asked} bytes");
        }
    }
}
