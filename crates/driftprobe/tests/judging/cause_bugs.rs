//! The catalogue of bugs: its rows and the hypotheses are of each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// An id: words in capitals, several of them.
fn is_id(text: &str) -> bool {
    text.contains('_') && text.split('_').all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase()))
}

/// The ids that stand between quotes in the sources of hypotheses.
fn given(dir: &Path, ids: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            given(&path, ids);
        } else if !path.ends_with("cause/bugs.rs") {
            let text = fs::read_to_string(&path).unwrap();
            ids.extend(text.split('"').filter(|text| is_id(text)).map(str::to_owned));
        }
    }
}

/// The ids of the documentation, which has those of `BUGS`.
fn listed() -> BTreeSet<String> {
    let page = include_str!("../../../../docs/numerics.md");
    let section = page.split("## Which bug").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.flat_map(|row| row.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn every_hypothesis_has_a_row_and_every_row_a_hypothesis() {
    let mut ids = BTreeSet::new();
    given(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cause"), &mut ids);
    let listed = listed();
    assert!(listed.len() > 40 && is_id("BIAS_REPEATED") && !is_id("UNEXPLAINED") && !is_id("a_b"));
    let without_row: Vec<&String> = ids.difference(&listed).collect();
    assert!(without_row.is_empty(), "BUGS of src/cause/bugs.rs, or docs/numerics.md, has no {without_row:?}");
    let without_hypothesis: Vec<&String> = listed.difference(&ids).collect();
    assert!(without_hypothesis.is_empty(), "no source of src/cause/ gives {without_hypothesis:?}");
}
