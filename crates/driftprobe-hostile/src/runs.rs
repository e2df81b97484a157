//! Readers of runs: manifest, events (alone, compressed, prompt by prompt), payloads.

use crate::memory::{allowance, bounded};
use crate::told;
use driftprobe_trace::bytes::{both_readers, read, row_in};
use driftprobe_trace::{ByPrompt, Event, Manifest, Run, RunIndex, TraceError, Unmapped};
use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows that one short manifest may promise: tokens × layers × points grow faster than its bytes.
const PROMISED_BYTES: usize = 64 << 20;

/// `manifest.json`: what is read can be written, and is read again as it was.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("manifest.json");
    let read = bounded(allowance(data.len()), || Manifest::parse(text, path));
    match read {
        Err(e) => told(&e, e.hint()),
        Ok(manifest) => {
            bounded(PROMISED_BYTES, || drop(manifest.expected()));
            manifest.one_sided_points();
            let written = serde_json::to_string(&manifest).expect("a manifest that was read can be written");
            let again = Manifest::parse(&written, path).expect("a manifest that was written can be read");
            assert_eq!(again, manifest, "{written}");
        }
    }
}

/// Lines of events: the quick reader takes what the strict one takes, and says the same; a run that ended is read as one
/// that did not, but for what is cut off.
pub fn events(data: &[u8]) {
    let (complete, unfinished) =
        bounded(2 * allowance(data.len()), || (read(data, false, true), read(data, false, false)));
    match (complete, unfinished) {
        (Ok(a), Ok(b)) => assert_eq!((same(&a.events), &a.unmapped), (same(&b.events), &b.unmapped)),
        (Err(TraceError::Torn { .. }), Ok(_)) => {}
        (Err(a), Err(b)) => {
            assert_eq!(a.to_string(), b.to_string());
            told(&a, a.hint());
        }
        (a, b) => panic!("complete: {a:?}, unfinished: {b:?}"),
    }
    for line in String::from_utf8_lossy(data).lines() {
        if let (Some(quick), strict) = both_readers(line) {
            assert_eq!(Some(quick), strict, "{line}");
        }
    }
}

/// A compressed trace file.
pub fn events_gz(data: &[u8]) {
    // gzip can hold a thousandfold; a line is held whole.
    let read = bounded(allowance(data.len()) * 1100, || read(data, true, false));
    if let Err(e) = read {
        told(&e, e.hint());
    }
}

thread_local! {
    static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// A folder in memory, if the machine has that, for readers that want files.
pub fn folder() -> PathBuf {
    FOLDER.with(|folder| {
        let made = folder.get_or_init(|| {
            let memory = Path::new("/dev/shm");
            let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            made.expect("a temporary folder")
        });
        made.path().to_owned()
    })
}

/// A run read as a whole, and prompt by prompt: the same events, the same refusals. The input is a manifest and lines, with
/// an empty line between.
pub fn index(data: &[u8]) {
    let at = data.windows(2).position(|two| two == b"\n\n");
    let (manifest, lines) = data.split_at(at.unwrap_or(0));
    let dir = folder();
    let manifest_file = dir.join("manifest.json");
    if manifest.is_empty() {
        let _ = fs::remove_file(&manifest_file);
    } else {
        fs::write(&manifest_file, manifest).expect("written");
    }
    fs::write(dir.join("t.jsonl"), lines).expect("written");
    let whole = Run::open(&dir);
    let parts = RunIndex::open(&dir).and_then(|index| {
        assert!(index.prompts().iter().all(|id| index.fingerprint(id) == index.fingerprint(id)));
        let all: Result<Vec<Run>, TraceError> = index.prompts().iter().map(|id| index.prompt(id)).collect();
        Ok((index.events(), all?))
    });
    match (whole, parts) {
        (Ok(whole), Ok((count, parts))) => {
            assert_eq!(count, (whole.events.len() + whole.unmapped.len()) as u64);
            let sorted = |mut all: Vec<Event>| {
                all.sort_by_key(|event| event.source.line);
                same(&all)
            };
            let together = parts.iter().flat_map(|run| run.events.iter().cloned()).collect();
            assert_eq!(sorted(together), sorted(whole.events));
            let unmapped = |all: &mut dyn Iterator<Item = &Unmapped>| {
                let mut all: Vec<(u64, String)> = all.map(|one| (one.source.line, one.point.clone())).collect();
                all.sort();
                all
            };
            let together = unmapped(&mut parts.iter().flat_map(|run| &run.unmapped));
            assert_eq!(together, unmapped(&mut whole.unmapped.iter()));
        }
        (Err(a), Err(b)) => {
            told(&a, a.hint());
            told(&b, b.hint());
        }
        (a, b) => panic!("as a whole: {a:?}, by prompt: {:?}", b.map(|(count, _)| count)),
    }
}

/// Events as text: NaN is NaN there.
fn same(events: &[Event]) -> String {
    format!("{events:?}")
}

/// A payload file: every tensor that its header names is a row, with statistics and hash, or is refused.
pub fn payload(data: &[u8]) {
    let line = |key: &str| {
        let key = serde_json::to_string(key).unwrap_or_default();
        format!(
            "{{\"event\":\"stage_trace\",\"prompt_id\":\"p\",\"phase\":\"decode\",\"point\":\"logits\",\
             \"payload\":{{\"file\":\"tensors/f\",\"key\":{key}}}}}\n"
        )
    };
    // Keys as the header has them, found without its reader: whatever stands in quotes.
    let text = String::from_utf8_lossy(data.get(8..).unwrap_or_default()).into_owned();
    let keys = text.split('"').skip(1).step_by(2).take(16);
    for key in keys.chain(["x"]) {
        let Ok(found) = read(line(key).as_bytes(), false, true) else { continue };
        for event in &found.events {
            match bounded(allowance(data.len()), || row_in(data, event)) {
                Err(e) => told(e, "copy the file again"),
                Ok(None) => panic!("the event has a payload"),
                Ok(Some(row)) => {
                    assert_eq!(row.values().len(), row.len());
                    let stats = row.stats();
                    assert!(stats.nan.is_some() && stats.min.is_none_or(f64::is_finite));
                    let _ = (row.hash(driftprobe_trace::HashAlgo::Xxh3_64), row.logits_top(), row.value(row.len()));
                    let _ = row.hash(driftprobe_trace::HashAlgo::GretaFnv1a256);
                }
            }
        }
    }
}
