//! Readers of runs: manifest, events (alone, compressed, prompt by prompt), payloads.

use crate::framed;
use crate::memory::{allowance, bounded};
use crate::told;
use driftprobe_trace::bytes::{PayloadFile, both_readers, read};
use driftprobe_trace::{ByPrompt, Event, HashAlgo, Manifest, Row, Rows, Run, RunIndex, TraceError};
use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows that one short manifest may promise: tokens × layers × points grow faster than its bytes.
const PROMISED_BYTES: usize = 64 << 20;

/// `_run.json` of a dataset: what is read can be written, and is read again as it was.
pub fn inventory(data: &[u8]) {
    match bounded(allowance(data.len()), || driftprobe_parquet::bytes::inventory(data)) {
        Err(e) => told(&e, e.hint()),
        Ok(written) => {
            let again = driftprobe_parquet::bytes::inventory(&written).expect("an inventory that was written is read");
            assert_eq!(written, again);
        }
    }
}

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
        let (events, parts) = (index.events(), by_prompt(&index)?);
        let found: usize = parts.iter().map(|run| run.events.len() + run.unmapped.len()).sum();
        assert_eq!(events, found as u64);
        Ok(parts)
    });
    agree(whole.as_ref(), parts);
}

/// The runs of an index's prompts.
fn by_prompt(index: &dyn ByPrompt) -> Result<Vec<Run>, TraceError> {
    assert!(index.prompts().iter().all(|id| index.fingerprint(id) == index.fingerprint(id)));
    index.prompts().iter().map(|id| index.prompt(id)).collect()
}

/// The whole and its parts: the same events, or both refused.
fn agree(whole: Result<&Run, &TraceError>, parts: Result<Vec<Run>, TraceError>) {
    match (whole, parts) {
        (Ok(whole), Ok(parts)) => {
            let sorted = |runs: &[&Run]| {
                let mut all: Vec<String> = runs.iter().flat_map(|run| &run.events).map(|e| format!("{e:?}")).collect();
                all.extend(runs.iter().flat_map(|run| &run.unmapped).map(|one| format!("{one:?}")));
                all.sort();
                all
            };
            assert_eq!(sorted(&parts.iter().collect::<Vec<_>>()), sorted(&[whole]));
        }
        (Err(a), Err(b)) => {
            told(a, a.hint());
            told(&b, b.hint());
        }
        (a, b) => panic!("as a whole: {a:?}, by prompt: {b:?}"),
    }
}

/// Events as text: NaN is NaN there.
fn same(events: &[Event]) -> String {
    format!("{events:?}")
}

/// An event whose payload is this tensor.
fn event_of(key: &str) -> Option<Event> {
    let key = serde_json::to_string(key).unwrap_or_default();
    let line = format!(
        "{{\"event\":\"stage_trace\",\"prompt_id\":\"p\",\"phase\":\"decode\",\"point\":\"logits\",\
         \"payload\":{{\"file\":\"tensors/f\",\"key\":{key}}}}}\n"
    );
    read(line.as_bytes(), false, true).ok()?.events.pop()
}

/// A row that was read: as many values as it says, statistics that are numbers, a hash.
fn sound(row: &Row) {
    assert_eq!(row.values().len(), row.len());
    let stats = row.stats();
    assert!(stats.nan.is_some() && stats.min.is_none_or(f64::is_finite));
    let _ = (row.hash(HashAlgo::Xxh3_64), row.logits_top(), row.value(row.len()));
    let _ = row.hash(HashAlgo::GretaFnv1a256);
}

/// Asks a payload file for these tensors, in at most so many bytes.
fn ask<'k>(file: &PayloadFile, keys: impl Iterator<Item = &'k str>, allowed: usize) {
    for event in keys.filter_map(event_of) {
        match bounded(allowed, || file.row(&event)) {
            Err(e) => told(e, "copy the file again"),
            Ok(None) => panic!("the event has a payload"),
            Ok(Some(row)) => sound(&row),
        }
    }
}

/// A payload file: every tensor that its header names is a row, with statistics and hash, or is refused.
pub fn payload(data: &[u8]) {
    let file = match bounded(allowance(data.len()), || PayloadFile::new(data.to_vec(), false)) {
        Err(e) => return told(e, "copy the file again"),
        Ok(file) => file,
    };
    // Keys as the header has them, found without its reader: whatever stands in quotes.
    let text = String::from_utf8_lossy(data.get(8..).unwrap_or_default()).into_owned();
    let keys = text.split('"').skip(1).step_by(2).take(16);
    ask(&file, keys.chain(["x"]), allowance(data.len()));
}

/// What decompressing makes room for whatever the file: a window that a frame's header asks for.
const PACKED_BYTES: usize = 32 << 20;

/// A compressed payload file: as it lies there, or of frames and a table that are in order but where the input says otherwise.
/// Every tensor is a row, or is refused.
pub fn payload_zst(data: &[u8]) {
    let Some((form, rest)) = data.split_first() else { return };
    let bytes = if form & 1 == 0 { rest.to_vec() } else { framed::packed(rest) };
    let allowed = PACKED_BYTES + 64 * allowance(bytes.len());
    let file = match bounded(allowed, || PayloadFile::new(bytes, true)) {
        Err(e) => return told(e, "copy the file again"),
        Ok(file) => file,
    };
    let names = file.names();
    let names = || names.iter().map(String::as_str).take(16);
    // Twice: from the file, and from what is kept of it.
    ask(&file, names().chain(names()).chain(["x"]), allowed);
}

/// What a Parquet file may make its reader hold whatever its size: some thousand events, and texts of a dictionary.
const TABLE_BYTES: usize = 160 << 20;

/// A Parquet file of events: as it lies there, or with an end that says where its footer begins. The whole run and its prompts
/// hold the same, and every payload is a row or is refused.
pub fn parquet(data: &[u8]) {
    let Some((form, rest)) = data.split_first() else { return };
    let bytes = if form & 1 == 0 { rest.to_vec() } else { framed::parquet(rest) };
    let allowed = TABLE_BYTES + 16 * allowance(bytes.len());
    let whole = bounded(allowed, || driftprobe_parquet::bytes::open(bytes.clone()));
    let parts =
        bounded(2 * allowed, || driftprobe_parquet::bytes::open_index(bytes).and_then(|index| by_prompt(&index)));
    agree(whole.as_ref(), parts);
    let Ok(run) = whole else { return };
    for event in run.events.iter().take(16) {
        match bounded(allowed, || run.row(event)) {
            Err(e) => told(&e, e.hint()),
            Ok(None) => {}
            Ok(Some(row)) => sound(&row),
        }
    }
}
