//! Files that break off: at the end of an unfinished run they are noted, anywhere else they are refused. And gzip.

use driftprobe_trace::{Note, Run, Source, TraceError};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use tempfile::TempDir;

const LINE: &str =
    r#"{"event":"stage_trace","prompt_id":"p","phase":"prefill","point":"attn_out","layer":0,"min":NaN}"#;

/// A run with this manifest's `complete` (none: no manifest) and one file.
fn run_with(complete: Option<&str>, name: &str, bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::create_dir(dir.path().join("traces")).expect("folder");
    std::fs::write(dir.path().join("traces").join(name), bytes).expect("file");
    if let Some(complete) = complete {
        let text = format!("{{\"schema\":1,\"complete\":{complete}}}");
        std::fs::write(dir.path().join("manifest.json"), text).expect("manifest");
    }
    dir
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn torn_at(name: &str, line: u64) -> Note {
    Note::TornTail { source: Source { file: format!("traces/{name}").into(), line } }
}

#[test]
fn a_cut_last_line_is_noted_in_an_unfinished_run_and_refused_in_a_finished_one() {
    for cut in 1..LINE.len() {
        let text = format!("{LINE}\n{}", &LINE[..cut]);
        let unfinished = run_with(Some("false"), "t.jsonl", text.as_bytes());
        let run = Run::open(unfinished.path()).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        assert_eq!(run.events.len(), 1);
        assert_eq!(run.notes, [Note::Incomplete, torn_at("t.jsonl", 2)], "cut at {cut}");
        let finished = run_with(Some("true"), "t.jsonl", text.as_bytes());
        let error = Run::open(finished.path()).expect_err("a damaged run was read");
        assert!(matches!(error, TraceError::Torn { line: 2, .. }), "cut at {cut}: {error}");
    }
    let no_manifest = run_with(None, "t.jsonl", &LINE.as_bytes()[..40]);
    let run = Run::open(no_manifest.path()).expect("readable");
    assert_eq!(run.notes, [Note::ManifestMissing, torn_at("t.jsonl", 1)]);
}

#[test]
fn a_character_cut_in_two_is_a_cut_line() {
    let line = LINE.replace("\"p\"", "\"é\"");
    let cut = line.find('é').expect("it is there") + 1;
    let dir = run_with(Some("false"), "t.jsonl", &line.as_bytes()[..cut]);
    assert_eq!(Run::open(dir.path()).expect("readable").notes, [Note::Incomplete, torn_at("t.jsonl", 1)]);
}

#[test]
fn a_whole_last_line_needs_no_line_end() {
    let dir = run_with(Some("true"), "t.jsonl", format!("{LINE}\n{LINE}").as_bytes());
    let run = Run::open(dir.path()).expect("readable");
    assert_eq!((run.events.len(), run.notes.len()), (2, 0));
}

#[test]
fn a_whole_but_wrong_last_line_is_refused_also_without_a_line_end() {
    let wrong = LINE.replace("\"layer\":0", "\"layer\":-3");
    let dir = run_with(Some("false"), "t.jsonl", wrong.as_bytes());
    assert!(matches!(Run::open(dir.path()), Err(TraceError::Event { line: 1, .. })));
}

#[test]
fn a_broken_line_in_the_middle_is_refused_in_any_run() {
    for complete in [None, Some("false"), Some("true")] {
        let dir = run_with(complete, "t.jsonl", format!("{LINE}\n{}\n{LINE}\n", &LINE[..50]).as_bytes());
        let error = Run::open(dir.path()).expect_err("was read");
        assert!(matches!(error, TraceError::Event { line: 2, .. }), "{error}");
    }
}

#[test]
fn gzip_is_read_also_in_several_members() {
    let mut bytes = gzip(format!("{LINE}\n").as_bytes());
    bytes.extend(gzip(format!("{LINE}\n{LINE}\n").as_bytes()));
    let dir = run_with(Some("true"), "t.jsonl.gz", &bytes);
    let run = Run::open(dir.path()).expect("readable");
    assert_eq!((run.events.len(), run.notes.len()), (3, 0));
    let file = dir.path().join("traces/t.jsonl.gz");
    assert_eq!(Run::open(&file).map(|run| run.events.len()).ok(), Some(3), "the file by itself");
}

#[test]
fn a_cut_gzip_stream_is_a_cut_file() {
    // Many different lines, so that the stream has many bytes to be cut at.
    let text: String =
        (0..50).map(|i| format!("{}\n", LINE.replace("\"min\":NaN", &format!("\"hash\":{}", i * 7919)))).collect();
    let bytes = gzip(text.as_bytes());
    for cut in [1, 10, 12, bytes.len() / 2, bytes.len() - 8, bytes.len() - 1] {
        let unfinished = run_with(Some("false"), "t.jsonl.gz", &bytes[..cut]);
        let run = Run::open(unfinished.path()).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        assert!(run.notes.iter().any(|n| matches!(n, Note::TornTail { .. })), "cut at {cut}");
        let finished = run_with(Some("true"), "t.jsonl.gz", &bytes[..cut]);
        assert!(matches!(Run::open(finished.path()), Err(TraceError::Torn { .. })), "cut at {cut}");
    }
}

#[test]
fn a_damaged_gzip_stream_is_refused() {
    let mut bytes = gzip(format!("{LINE}\n").repeat(20).as_bytes());
    let checksum_at = bytes.len() - 8;
    bytes[checksum_at] ^= 1;
    let dir = run_with(Some("false"), "t.jsonl.gz", &bytes);
    let error = Run::open(dir.path()).expect_err("was read");
    assert!(matches!(&error, TraceError::Event { message, .. } if message.contains("damaged")), "{error}");
    let dir = run_with(Some("false"), "t.jsonl.gz", LINE.as_bytes());
    assert!(Run::open(dir.path()).is_err(), "plain text with a .gz name");
}

#[test]
fn any_file_of_traces_counts_and_the_event_says_its_phase() {
    let dir = run_with(Some("true"), "b.jsonl", format!("{LINE}\n").as_bytes());
    let put = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).expect("file");
    let decode = LINE.replace("prefill", "decode0");
    put("traces/a.jsonl.gz", &gzip(format!("{decode}\n").as_bytes()));
    put("traces/readme.txt", b"not a trace");
    put("loose.jsonl", b"not under traces/");
    let run = Run::open(dir.path()).expect("readable");
    let seen: Vec<String> = run.events.iter().map(|e| format!("{} {}", e.phase, e.source)).collect();
    assert_eq!(seen, ["decode traces/a.jsonl.gz:1", "prefill traces/b.jsonl:1"]);
}

#[test]
fn an_empty_file_holds_no_event_and_is_not_broken() {
    let dir = run_with(Some("true"), "t.jsonl", b"");
    assert_eq!(Run::open(dir.path()).map(|run| run.events.len()).ok(), Some(0));
}
