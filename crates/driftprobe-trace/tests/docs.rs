//! The public specification says what the code does: every point is in its table, in order, and its examples are read.

use driftprobe_trace::{ContractFields, Dtype, HashAlgo, Manifest, Note, Point, Run, TraceError};
use std::path::Path;

const DOC: &str = include_str!("../../../docs/trace-format.md");

/// The contents of the fenced blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    DOC.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn the_points_table_is_that_of_the_code() {
    let rows: Vec<Vec<&str>> = DOC
        .lines()
        .skip_while(|line| !line.starts_with("| point | aliases |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let ids: Vec<String> = rows.iter().map(|row| row[1].trim_matches('`').to_owned()).collect();
    let expected: Vec<&str> = Point::ALL.iter().map(|p| p.id()).collect();
    assert_eq!(ids, expected, "every id, in search order");
    for (point, row) in Point::ALL.iter().zip(&rows) {
        let aliases: Vec<&str> = row[2].split(", ").map(|a| a.trim_matches('`')).filter(|a| !a.is_empty()).collect();
        assert_eq!(aliases, point.aliases(), "aliases of {point}");
        assert_eq!(row[4].contains("unlayered") || row[4] == "unlayered", !point.layered(), "{point}");
    }
}

#[test]
fn names_of_dtypes_and_hashes_are_in_it() {
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
        assert!(DOC.contains(&format!("`{dtype}`")), "{dtype}");
    }
    for algo in [HashAlgo::Xxh3_64, HashAlgo::GretaFnv1a256] {
        assert!(DOC.contains(&format!("| `{algo}` |")), "{algo}");
    }
}

#[test]
fn fields_of_a_contract_are_in_it() {
    let row = DOC.lines().find(|line| line.starts_with("| `contract` |")).expect("the row of the contract");
    for field in ContractFields::NAMED {
        assert!(row.contains(&format!("`{field}`")), "{field} is not in the row of `contract`");
    }
}

#[test]
fn its_examples_are_read() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut events = 0;
    let traces = blocks("jsonl");
    assert_eq!(traces.len(), 2);
    for (i, text) in traces.iter().enumerate() {
        std::fs::write(dir.path().join(format!("{i}.jsonl")), text).expect("file");
        events += text.lines().count();
    }
    let run = Run::open(dir.path())?;
    assert_eq!((run.events.len(), run.unmapped.len()), (events, 0));
    assert_eq!(run.notes, [Note::ManifestMissing, Note::HashAlgoAssumed { count: 3 }]);
    let manifests = blocks("json");
    assert_eq!(manifests.len(), 2);
    let manifest = |text: &str| Manifest::parse(text, Path::new("docs/trace-format.md"));
    let (whole, left_out) = (manifest(manifests[0])?, manifest(manifests[1])?);
    assert!(whole.extra.is_empty() && left_out.extra.is_empty(), "the example has a field that the code does not know");
    assert_eq!(whole.expected().map(|keys| keys.len()), Some(2 * (5 + 1)));
    let recording = left_out.recording.expect("what was left out");
    assert!(recording.extra.is_empty() && recording.samples == 64);
    assert!(recording.is_left_out(Point::AttnOut, 2) && !recording.is_left_out(Point::AttnOut, 23));
    // A later version may mean other things by the same words.
    let later = manifests[1].replace("\"version\": 1", "\"version\": 2");
    assert!(manifest(&later).is_err_and(|error| error.to_string().contains("recording.version")));
    Ok(())
}
