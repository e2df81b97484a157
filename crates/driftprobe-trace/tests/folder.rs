//! Who may write into a run's folder, what stays of a run that is overwritten, and whether a run is still the one that was read.

use driftprobe_trace::{
    ALIGNED_DIR, ByPrompt, Dtype, Manifest, Phase, Point, PromptInfo, RowRecord, Run, RunIndex, RunWriter, TraceError,
    is_plan_name,
};
use std::fs;
use std::path::Path;

fn row(pos: u64, value: f32) -> RowRecord {
    RowRecord {
        point: Point::AttnOut,
        layer: 0,
        step: 0,
        pos_id: pos,
        logical_tok_idx: pos,
        token_id: 7,
        seq_len: 1,
        kv_len: None,
        dtype: Dtype::F32,
        stored_dtype: None,
        shape: vec![1],
        bytes: value.to_le_bytes().to_vec(),
        logits_top: None,
        payload: true,
    }
}

fn write(dir: &Path, complete: bool, value: f32) {
    let prompts = ["a", "b"].map(|id| PromptInfo { id: id.to_owned(), tokens: vec![7], ..PromptInfo::default() });
    let manifest = Manifest { prompts: Some(prompts.to_vec()), ..Manifest::default() };
    let mut writer = RunWriter::overwrite(dir, manifest).expect("begun");
    for prompt in ["a", "b"] {
        writer.begin(prompt, Phase::Prefill).expect("begun");
        writer.record(row(0, value)).expect("a row");
    }
    writer.finish(complete).expect("written");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(unix)]
#[test]
fn a_folder_has_one_writer_at_a_time() {
    let dir = tempfile::tempdir().expect("folder");
    let mut first = RunWriter::create(dir.path(), Manifest::default()).expect("begun");
    for begin in [RunWriter::create, RunWriter::overwrite] {
        let refused = begin(dir.path(), Manifest::default()).err().expect("two at once");
        assert!(matches!(&refused, TraceError::InUse { path } if path == dir.path()), "{refused}");
        assert!(refused.hint().contains("another folder"));
    }
    // It holds it when it begins anew too, and what lies beside its own rows stays.
    fs::create_dir(dir.path().join(ALIGNED_DIR)).expect("folder");
    first.begin("p", Phase::Prefill).expect("begun");
    first.record(row(0, 1.0)).expect("a row");
    first.flush_prompt().expect("written");
    first.restart(Manifest::default()).expect("begun anew");
    assert_eq!(Run::open(dir.path()).expect("readable").events.len(), 0);
    assert!(dir.path().join(ALIGNED_DIR).exists());
    assert!(matches!(RunWriter::overwrite(dir.path(), Manifest::default()), Err(TraceError::InUse { .. })));
    drop(first);
    assert!(matches!(RunWriter::create(dir.path(), Manifest::default()), Err(TraceError::RunExists { .. })));
    RunWriter::overwrite(dir.path(), Manifest::default()).expect("free again");
}

#[test]
fn of_a_run_that_is_overwritten_nothing_stays_that_speaks_of_it() {
    let dir = tempfile::tempdir().expect("folder");
    let (run, report) = (dir.path(), dir.path().join("report"));
    write(run, true, 1.0);
    // As a killed process leaves them: a mode in its first moment, parts of files.
    fs::create_dir_all(run.join(ALIGNED_DIR)).expect("folder");
    fs::create_dir_all(&report).expect("folder");
    let left = [
        "drift.json",
        ".drift.md.7.part",
        "merged.md",
        "plan.json",
        "plan-1-of-2.json",
        "reach.json",
        "heatmap.svg",
        "growth.png",
        "units/0123456789abcdef-a.json",
        "layers/.0123456789abcdef-a.before-1-of-2.json.7.part",
    ];
    let kept = [
        "mine.md",
        "plan-b.txt",
        "drift.json.bak",
        "heatmap.txt",
        "layers/mine.json",
        "drift.png",
        "plan-bill-of-quantities.json",
    ];
    for folder in ["units", "layers"] {
        fs::create_dir(report.join(folder)).expect("folder");
    }
    left.iter().chain(&kept).for_each(|name| fs::write(report.join(name), "old").expect("file"));
    fs::write(run.join("remote.json"), "{}").expect("file");
    fs::write(run.join(".manifest.json.7.part"), "{").expect("file");
    fs::create_dir(run.join("search-1")).expect("folder");
    fs::write(run.join("search-1/mine.txt"), "no run").expect("file");
    write(run, true, 2.0);
    assert_eq!(names(run), ["manifest.json", "report", "search-1", "tensors", "traces"]);
    assert_eq!(
        names(&report),
        [
            "drift.json.bak",
            "drift.png",
            "heatmap.txt",
            "layers",
            "mine.md",
            "plan-b.txt",
            "plan-bill-of-quantities.json"
        ]
    );
    assert_eq!(names(&report.join("layers")), ["mine.json"]);
}

#[test]
fn a_run_takes_the_place_of_another_and_of_nothing_else() {
    let dir = tempfile::tempdir().expect("folder");
    let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
    [(&old, 1.0), (&new, 2.0)].into_iter().for_each(|(path, value)| write(path, true, value));
    fs::write(old.join("mine.txt"), "kept").expect("file");
    fs::create_dir(old.join("report")).expect("folder");
    fs::write(old.join("report/drift.md"), "of the old one").expect("file");
    let bytes = fs::read(new.join("traces/a_trace.jsonl")).expect("readable");
    assert_ne!(fs::read(old.join("traces/a_trace.jsonl")).expect("readable"), bytes);
    driftprobe_trace::replace_run(&old, &new).expect("replaced");
    assert_eq!(names(&old), ["manifest.json", "mine.txt", "report", "tensors", "traces"]);
    assert_eq!(names(&old.join("report")), [""; 0]);
    assert_eq!(fs::read(old.join("traces/a_trace.jsonl")).expect("readable"), bytes);
    assert!(Run::open(&old).expect("readable").manifest.is_some_and(|manifest| manifest.complete) && !new.exists());
    // A folder of somebody's that is in its way.
    write(&new, true, 3.0);
    fs::create_dir(new.join("report")).expect("folder");
    fs::write(old.join("report/mine.md"), "kept").expect("file");
    let refused = driftprobe_trace::replace_run(&old, &new).expect_err("in the way");
    assert!(matches!(&refused, TraceError::NotOurs { path } if *path == old.join("report")), "{refused}");
    assert!(Run::open(&old).is_ok() && Run::open(&new).is_ok());
    // What is no run is nobody's to delete.
    let runs = dir.path().join("runs");
    fs::create_dir_all(runs.join("repeat-1")).expect("folder");
    let refused = driftprobe_trace::replace_run(&runs, &new).expect_err("no run");
    assert!(matches!(&refused, TraceError::NotOurs { path } if *path == runs), "{refused}");
    assert!(runs.join("repeat-1").is_dir());
    fs::remove_dir_all(&new).expect("deleted");
    // Somebody's files that only look like a run's.
    write(&new, true, 3.0);
    fs::write(old.join("manifest.json"), "{\"name\": \"a web extension\"}").expect("file");
    let refused = driftprobe_trace::replace_run(&old, &new).expect_err("not ours");
    assert!(matches!(&refused, TraceError::NotOurs { path } if *path == old), "{refused}");
    assert!(old.join("traces/a_trace.jsonl").is_file() && new.join("manifest.json").is_file());
}

/// docs/scale.md: `plan.json`, `plan-I-of-N.json`.
#[test]
fn a_plan_is_known_by_its_whole_name() {
    for name in ["plan.json", "plan-1-of-3.json", "plan-10-of-4294967295.json"] {
        assert!(is_plan_name(name), "{name}");
    }
    let others = ["plan-2024-budget.json", "planets.json", "plan-b.json", "plan-1.json", "plan-1-of-.json"];
    let more =
        ["plan--of-2.json", "plan-1-of-2-of-3.json", "plan-one-of-two.json", "plan-1-of-2.json.bak", "my-plan.json"];
    for name in
        others.iter().chain(&more).chain(&["Plan.json", "plan-+1-of-2.json", "plan-\u{661}-of-2.json", "plan", ""])
    {
        assert!(!is_plan_name(name), "{name}");
    }
}

#[test]
fn a_run_that_is_written_anew_is_no_longer_the_one_that_was_read() {
    let dir = tempfile::tempdir().expect("folder");
    write(dir.path(), true, 1.0);
    let (run, index) = (Run::open(dir.path()).expect("readable"), RunIndex::open(dir.path()).expect("readable"));
    run.seen().unchanged().expect("nothing happened");
    index.unchanged().expect("nothing happened");
    let manifest = dir.path().join("manifest.json");
    let text = fs::read_to_string(&manifest).expect("readable");
    for other in [Some(text.replace("\"complete\": true", "\"complete\": false")), None] {
        match other {
            Some(other) => fs::write(&manifest, other).expect("written"),
            None => fs::remove_file(&manifest).expect("deleted"),
        }
        for outcome in [run.seen().unchanged(), index.unchanged()] {
            let error = outcome.expect_err("it changed");
            assert!(matches!(&error, TraceError::Changed { path, .. } if *path == manifest), "{error}");
        }
        fs::write(&manifest, &text).expect("written");
    }
    run.seen().unchanged().expect("it is as it was");
}

#[test]
fn a_prompt_is_read_as_it_was_found_or_not_at_all() {
    let dir = tempfile::tempdir().expect("folder");
    write(dir.path(), true, 1.0);
    let index = RunIndex::open(dir.path()).expect("readable");
    assert_eq!(index.prompt("a").expect("readable").events.len(), 1);
    let file = dir.path().join("traces/a_trace.jsonl");
    let text = fs::read_to_string(&file).expect("readable");
    // As long as before, and an event as good as before.
    let other = text.replace("\"token_id\":7", "\"token_id\":8");
    assert!(other != text && other.len() == text.len());
    fs::write(&file, other).expect("written");
    let error = index.prompt("a").expect_err("another event");
    assert!(matches!(&error, TraceError::Changed { path, line: 1 } if *path == file), "{error}");
    index.prompt("b").expect("the other prompt is as it was");
    fs::remove_file(&file).expect("deleted");
    let error = index.prompt("a").expect_err("it is gone");
    assert!(matches!(&error, TraceError::Io { path, .. } if *path == file) && error.to_string().contains("a_trace"));
    fs::write(&file, text).expect("written");
    index.prompt("a").expect("as it was found");
}
