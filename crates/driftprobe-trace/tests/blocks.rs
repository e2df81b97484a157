//! Files of many blocks: read in parallel, told as if read line by line.

use driftprobe_trace::{Note, Run, TraceError};
use std::fs;

/// Lines of about 3 MB: several blocks.
const LINES: usize = 16_000;

fn line(number: usize) -> String {
    format!(
        r#"{{"event":"stage_trace","prompt_id":"a prompt","phase":"prefill","point":"attn_out","layer":{number},"pos_id":{number},"shape":[4],"hash":{number},"min":-1.5,"max":0.25,"sample":[0.125,-0.5,0.25,1e-3]}}"#
    )
}

fn lines() -> Vec<String> {
    (1..=LINES).map(line).collect()
}

fn open(files: &[(&str, String)]) -> Result<Run, TraceError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    Run::open(dir.path())
}

#[test]
fn events_keep_their_order_and_their_lines() {
    let mut all = lines();
    // One line longer than a block, one without values, one that the strict reader has to read, and one of spaces.
    all[7000] =
        all[7000].replace("0.125", "0.125, 0.5,".repeat(200_000).trim_end_matches(',')).replace("\"shape\":[4],", "");
    all[8000] = "{\"event\":\"stage_trace\",\"prompt_id\":\"q\",\"phase\":\"decode\",\"point\":\"attn_out\",\"layer\":8001,\"mine\":1}".to_owned();
    all[9000] = " ".repeat(50);
    let text = format!("\u{feff}{}\r\n", all.join("\r\n"));
    let run = open(&[("a.jsonl", text), ("b.jsonl", line(1) + "\n"), ("c.jsonl", String::new())]).unwrap();
    assert_eq!(run.events.len(), LINES);
    let expected = (1..=LINES).filter(|number| *number != 9001);
    for (event, number) in run.events.iter().zip(expected) {
        assert_eq!((event.layer as usize, event.source.line as usize), (number, number));
        assert_eq!(&*event.source.file, "a.jsonl");
    }
    assert_eq!(run.events.last().map(|event| event.source.to_string()), Some("b.jsonl:1".to_owned()));
    assert_eq!(run.events[7000].sample.as_ref().map(|sample| sample.values.len()), Some(400_003));
    let assumed = run.notes.iter().find_map(|note| match note {
        Note::HashAlgoAssumed { count } => Some(*count),
        _ => None,
    });
    assert_eq!(assumed, Some(LINES as u64 - 1));
}

#[test]
fn the_first_refusal_counts_wherever_others_lie() {
    for (first, second) in [(15_500, 15_900), (100, 15_000), (6000, 6001)] {
        let mut all = lines();
        all[first - 1] = all[first - 1].replace("\"layer\":", "\"layer\":-");
        all[second - 1] = all[second - 1].replace("attn_out\"", "attn_out");
        let error = open(&[("a.jsonl", all.join("\n")), ("b.jsonl", "no event\n".to_owned())]).unwrap_err();
        let TraceError::Event { path, line, key, .. } = &error else { panic!("{error}") };
        assert!(path.ends_with("a.jsonl"));
        assert_eq!((*line, key.as_str()), (first as u64, "layer"), "{error}");
    }
}

#[test]
fn what_is_cut_off_behind_many_blocks_is_noted() {
    let text = lines().join("\n");
    let run = open(&[("a.jsonl", text[..text.len() - 3].to_owned()), ("b.jsonl", line(1))]).unwrap();
    assert_eq!(run.events.len(), LINES);
    let torn = run.notes.iter().any(|note| matches!(note, Note::TornTail { source } if source.line == LINES as u64));
    assert!(torn, "{:?}", run.notes);
}
