//! A dataset read prompt by prompt gives of each prompt what the run's folder gives of it.

mod common;

use common::{OWN, Recording, only_file, put, told_alone, write_all, write_run};
use driftprobe_parquet::open_index;
use driftprobe_trace::{ByPrompt, RunIndex};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

/// What `index` says of each prompt.
fn all(index: &dyn ByPrompt) -> Vec<(String, String)> {
    let told = |id: &str| told_alone(&index.prompt(id).unwrap_or_else(|e| panic!("{e}")));
    index.prompts().iter().map(|id| (id.to_string(), told(id))).collect()
}

/// The run at `path` says the same from a dataset as from its folder, prompt by prompt; the number of its prompts.
fn same(path: &Path) -> usize {
    let dataset = folder();
    put(path, dataset.path(), "one").unwrap_or_else(|e| panic!("{e}"));
    let table = open_index(dataset.path(), None).unwrap_or_else(|e| panic!("{e}")).expect("a run");
    let lines = RunIndex::open(path).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((table.manifest(), table.shard()), (lines.manifest(), lines.shard()));
    let (from_table, from_lines) = (all(&table), all(&lines));
    for ((id, one), (other_id, other)) in from_table.iter().zip(&from_lines) {
        assert_eq!(id, other_id);
        for (one, other) in one.lines().zip(other.lines()) {
            assert_eq!(one, other, "{id}");
        }
        assert_eq!(one.lines().count(), other.lines().count(), "{id}");
    }
    assert_eq!(from_table.len(), from_lines.len());
    from_table.len()
}

#[test]
fn each_prompt_of_a_run_with_repeats_and_of_what_lies_in_it() {
    let (dir, dataset) = (folder(), folder());
    write_all(dir.path());
    assert_eq!(same(dir.path()), 3);
    put(dir.path(), dataset.path(), "one").expect("exported");
    for name in ["kv_aligned", "search-1", "search-2"] {
        let inner = open_index(dataset.path(), Some(name)).expect("readable").expect(name);
        let lines = RunIndex::open(&dir.path().join(name)).expect("a run");
        let text = |index: &dyn ByPrompt| format!("{:?}", index.prompt("p2").expect("a prompt").events);
        assert_eq!(text(&inner), text(&lines), "{name}");
    }
    assert!(open_index(dataset.path(), Some("search-3")).expect("readable").is_none());
}

#[test]
fn prompts_whose_lines_are_mixed_over_many_row_groups() {
    let dir = folder();
    let mut lines = String::new();
    for number in 0..4000 {
        // Long stretches of one prompt, short ones of others, one that comes again, and lines of no prompt.
        let id = ["a", "b", "c", "a", "d"][(number / 700) % 5];
        let id = if number % 97 == 0 { "everywhere" } else { id };
        let point = if number % 500 == 7 { "from the future" } else { "attn_out" };
        let event = if number % 1000 == 3 { "weather" } else { "stage_trace" };
        let unknown = if number % 800 == 5 { ",\"mine\":1" } else { "" };
        let _ = writeln!(
            lines,
            r#"{{"event":"{event}","prompt_id":"{id}","phase":"decode","point":"{point}","layer":{number}{unknown}}}"#
        );
    }
    fs::write(dir.path().join("t.jsonl"), lines).expect("lines");
    assert_eq!(same(dir.path()), 5);
}

#[test]
fn traces_of_another_engine() {
    let greta = Path::new(env!("CARGO_MANIFEST_DIR")).join("../driftprobe-trace/tests/fixtures/greta/drift");
    assert_eq!(same(&greta), 3);
}

#[test]
fn what_another_prompts_rows_hold_is_refused_before_any_prompt_is_read() {
    let (dir, dataset) = (folder(), folder());
    write_run(dir.path(), OWN);
    put(dir.path(), dataset.path(), "one").expect("exported");
    fs::remove_file(dataset.path().join("run=one/_run.json")).expect("deleted");
    let file = only_file(dataset.path());
    let mut bytes = fs::read(&file).expect("file");
    let at = bytes.len() / 3;
    bytes[at..at + 300].fill(0xa5);
    fs::write(&file, bytes).expect("file");
    // The damage is in the columns, whichever prompt it is of.
    let outcome = open_index(dataset.path(), None).map(|index| index.map(|index| index.prompts()));
    match outcome {
        Err(e) => assert!(e.to_string().contains("part-0.parquet"), "{e}"),
        // It fell into a payload, which is read when it is asked for.
        Ok(_) => {
            let index = open_index(dataset.path(), None).expect("readable").expect("a run");
            let verify = |id: &str| {
                use driftprobe_trace::Rows;
                let run = index.prompt(id)?;
                run.events.iter().try_for_each(|event| run.verify(event).map(drop))
            };
            assert!(index.prompts().iter().any(|id| verify(id).is_err()), "the damage went unseen");
        }
    }
}

#[test]
fn fingerprints_are_of_what_is_read() {
    let (first, second) = (folder(), folder());
    write_run(first.path(), OWN);
    write_run(second.path(), Recording { seed: 8, ..OWN });
    let dataset = folder();
    for (dir, name) in [(&first, "first"), (&second, "second")] {
        put(dir.path(), dataset.path(), name).expect("exported");
    }
    let of = |name: &str, id: &str| {
        let index = open_index(&dataset.path().join(name), None).expect("readable").expect("a run");
        index.fingerprint(id)
    };
    assert_eq!(of("run=first", "p0"), of("run=first", "p0"));
    assert_ne!(of("run=first", "p0"), of("run=second", "p0"));
    // The prompts' promises differ, though their file is one.
    assert_ne!(of("run=first", "p0"), of("run=first", "p2"));
}
