//! A run read prompt by prompt: nothing lost, nothing read more mildly than as a whole.

use driftprobe_trace::{ByPrompt, Event, Note, Run, RunIndex, TraceError};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn line(prompt: &str, phase: &str, layer: i32) -> String {
    format!(
        r#"{{"event":"stage_trace","prompt_id":"{prompt}","phase":"{phase}","point":"attn_out","layer":{layer},"min":NaN}}"#
    )
}

fn manifest(complete: bool, prompts: &[&str]) -> String {
    let prompts: Vec<String> = prompts.iter().map(|id| format!(r#"{{"id":"{id}","tokens":[1,2]}}"#)).collect();
    let slots = r#"{"a":{"prefill":[0,1]},"zz":{"prefill":[0,0]}}"#;
    format!(
        r#"{{"schema":1,"complete":{complete},"prompts":[{}],"layers":[0],"points":["attn_out"],"steps":1,"slots":{slots}}}"#,
        prompts.join(",")
    )
}

fn write(dir: &Path, manifest: Option<String>, files: &[(&str, String)]) {
    fs::create_dir_all(dir.join("traces")).unwrap();
    if let Some(text) = manifest {
        fs::write(dir.join("manifest.json"), text).unwrap();
    }
    for (name, text) in files {
        fs::write(dir.join("traces").join(name), text).unwrap();
    }
}

/// Two files with lines of three prompts in turns, empty lines, a banner, CR LF, a BOM, and a repeat.
fn interleaved() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut text = "\u{feff}".to_owned();
    for layer in 0..4 {
        for prompt in ["b", "a", "a", "stranger"] {
            text += &(line(prompt, "prefill", layer) + if layer == 2 { "\r\n" } else { "\n" });
        }
        text += "\n";
        text += "{\"event\":\"banner\",\"prompt_id\":\"nobody\"}\n";
    }
    let quick = line("a", "decode0", 1).replace("NaN", "1.5");
    let unknown = quick.replace("attn_out", "my_point");
    let other = format!("{quick}\n{unknown}\n{}", line("b", "decode", 0));
    write(dir.path(), Some(manifest(true, &["b", "a", "empty"])), &[("t.jsonl", text), ("u.jsonl", other)]);
    let again = [("t.jsonl", format!("{}\n{}\n", line("late", "prefill", 0), line("a", "prefill", 0)))];
    let repeat = manifest(true, &["b", "a", "empty"]).replace("\"schema\":1", "\"schema\":1,\"repeat\":1");
    write(&dir.path().join("repeat-1"), Some(repeat), &again);
    fs::write(dir.path().join("traces/readme.txt"), "x").unwrap();
    dir
}

/// NaN is not equal to itself.
fn told(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| format!("{event:?}")).collect()
}

#[test]
fn every_prompt_has_the_events_that_the_whole_run_has_of_it() {
    let dir = interleaved();
    let whole = Run::open(dir.path()).unwrap();
    let index = RunIndex::open(dir.path()).unwrap();
    let prompts = index.prompts();
    let ids: Vec<&str> = prompts.iter().map(|id| &**id).collect();
    assert_eq!(ids, ["b", "a", "empty", "late", "stranger"]);
    assert_eq!(index.events(), whole.events.len() as u64 + whole.unmapped.len() as u64);
    let mut found = 0;
    for id in ids {
        let run = index.prompt(id).unwrap();
        let of = |run: &Run| run.events.iter().filter(|event| *event.prompt_id == *id).cloned().collect::<Vec<_>>();
        assert_eq!(told(&run.events), told(&of(&whole)), "{id}");
        assert_eq!(told(&run.repeats[0].events), told(&of(&whole.repeats[0])), "{id}");
        let unmapped: Vec<_> = whole.unmapped.iter().filter(|one| *one.prompt_id == *id).cloned().collect();
        assert_eq!(run.unmapped, unmapped);
        found += run.events.len() + run.unmapped.len();
        // What is no prompt's is everybody's.
        assert!(run.notes.contains(&Note::UnknownEvent { kind: "banner".into(), count: 4 }), "{:?}", run.notes);
        assert!(run.notes.contains(&Note::IgnoredFile { name: "traces/readme.txt".into() }));
        let manifest = run.manifest.unwrap();
        let promised: Vec<&str> = manifest.prompts.iter().flatten().map(|prompt| prompt.id.as_str()).collect();
        let named = ["a", "b", "empty"].contains(&id);
        assert_eq!(promised, if named { vec![id] } else { vec![] });
        assert_eq!(manifest.expected().unwrap().len(), usize::from(named));
        // The table of a prompt that is none of the run's stays a finding.
        let slots: Vec<String> = manifest.slots.unwrap().as_object().unwrap().keys().cloned().collect();
        assert_eq!(slots, if id == "a" { vec!["a", "zz"] } else { vec!["zz"] }, "{id}");
    }
    assert_eq!(found as u64, index.events());
}

#[test]
fn a_refused_line_is_refused_with_the_same_file_line_and_key() {
    let good = format!("{}\n{}\n", line("a", "prefill", 0), line("b", "prefill", 0));
    let bad = [
        // Found when the prompt is read.
        line("b", "sideways", 0),
        line("b", "prefill", -3),
        line("b", "prefill", 0).replace("\"layer\":0", "\"layer\":0,\"layer\":0"),
        line("b", "prefill", 0).replace("NaN", "\"x\""),
        // Found by the pass over the run.
        line("b", "prefill", 0).replace("\"prompt_id\"", "\"prompt_id\":\"a\",\"prompt_id\""),
        line("b", "prefill", 0).replace("\"prompt_id\":\"b\"", "\"prompt_id\":7"),
        line("b", "prefill", 0).replace("\"prompt_id\":\"b\",", ""),
        "{\"event\":".to_owned(),
        "[]".to_owned(),
    ];
    for bad in bad {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), Some(manifest(false, &["a", "b"])), &[("t.jsonl", format!("{good}{bad}\n{good}"))]);
        let whole = Run::open(dir.path()).expect_err(&bad).to_string();
        let parts = RunIndex::open(dir.path()).and_then(|index| {
            assert!(index.prompt("a").is_ok(), "{bad}");
            index.prompt("b")
        });
        assert_eq!(parts.expect_err(&bad).to_string(), whole);
    }
}

#[test]
fn a_cut_last_line_is_everybodys_finding_or_refused() {
    let last = line("b", "decode0", 3);
    for cut in [1, 20, 60, last.len() - 1] {
        let text = format!("{}\n{}", line("a", "prefill", 0), &last[..cut]);
        for (complete, file) in [(Some(false), "t.jsonl"), (None, "t.jsonl"), (Some(true), "t.jsonl")] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), complete.map(|complete| manifest(complete, &["a", "b"])), &[(file, text.clone())]);
            match (RunIndex::open(dir.path()), Run::open(dir.path())) {
                (Ok(index), Ok(whole)) => {
                    for id in ["a", "b"] {
                        assert_eq!(index.prompt(id).unwrap().notes, whole.notes, "cut at {cut}");
                    }
                }
                (Err(ours), Err(theirs)) => assert_eq!(ours.to_string(), theirs.to_string()),
                (ours, theirs) => panic!("cut at {cut}: {:?} against {:?}", ours.err(), theirs.err()),
            }
        }
    }
    // A whole last line needs no line feed.
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Some(manifest(true, &["a", "b"])), &[("t.jsonl", last)]);
    assert_eq!(RunIndex::open(dir.path()).unwrap().prompt("b").unwrap().events.len(), 1);
}

#[test]
fn the_fingerprint_follows_the_prompts_own_bytes_and_the_manifest() {
    let dir = interleaved();
    let taken = || {
        let index = RunIndex::open(dir.path()).unwrap();
        ["a", "b"].map(|id| index.fingerprint(id))
    };
    let first = taken();
    assert_eq!(taken(), first);
    assert_ne!(first[0], first[1]);
    let traces = dir.path().join("traces/u.jsonl");
    let text = fs::read_to_string(&traces).unwrap();
    fs::write(&traces, text.replace("\"decode\"", "\"decode7\"")).unwrap();
    let changed = taken();
    assert!(changed[0] == first[0] && changed[1] != first[1]);
    // A repeat's bytes count, and what the manifest says of all.
    let repeat = dir.path().join("repeat-1/traces/t.jsonl");
    fs::write(&repeat, line("a", "prefill", 1)).unwrap();
    let repeated = taken();
    assert!(repeated[0] != changed[0] && repeated[1] == changed[1]);
    let text = manifest(false, &["b", "a", "empty"]);
    fs::write(dir.path().join("manifest.json"), text).unwrap();
    let unfinished = taken();
    assert!(unfinished[0] != repeated[0] && unfinished[1] != repeated[1]);
    fs::create_dir(dir.path().join("tensors")).unwrap();
    fs::write(dir.path().join("tensors/a.safetensors"), "x").unwrap();
    assert!(taken()[1] != unfinished[1]);
}

#[test]
fn the_fingerprint_follows_payloads_wherever_in_the_run_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let of = |prompt: &str, file: &str| {
        line(prompt, "prefill", 0).replace("\"min\"", &format!(r#""payload":{{"file":"{file}","key":"k"}},"min""#))
    };
    // A bare NaN is read strictly, a plain number is not: both say where their rows lie.
    let quick = of("b", "tensors/deep/b.safetensors").replace("NaN", "1.5");
    let text = format!("{}\n{quick}\n{}\n", of("a", "data/a.safetensors"), of("c", "tensors/link.safetensors"));
    write(dir.path(), Some(manifest(true, &["a", "b", "c"])), &[("t.jsonl", text)]);
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("tensors/deep")).unwrap();
    fs::create_dir_all(dir.path().join("data")).unwrap();
    let link = outside.path().join("far.safetensors");
    let files = [dir.path().join("data/a.safetensors"), dir.path().join("tensors/deep/b.safetensors"), link.clone()];
    files.iter().for_each(|file| fs::write(file, "x").unwrap());
    #[cfg(unix)]
    std::os::unix::fs::symlink(&link, dir.path().join("tensors/link.safetensors")).unwrap();
    let taken = || RunIndex::open(dir.path()).unwrap().fingerprint("a");
    // What nobody names is none of the run's.
    let before = taken();
    fs::write(dir.path().join("data/other.txt"), "x").unwrap();
    assert_eq!(taken(), before);
    for file in files.iter().take(if cfg!(unix) { 3 } else { 2 }) {
        let before = taken();
        fs::write(file, "xy").unwrap();
        assert_ne!(taken(), before, "{}: changed", file.display());
        let before = taken();
        fs::remove_file(file).unwrap();
        assert_ne!(taken(), before, "{}: deleted", file.display());
    }
}

#[test]
fn compressed_files_and_files_that_change_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), None, &[("t.jsonl.gz", String::new())]);
    let refused = RunIndex::open(dir.path()).err().unwrap();
    assert!(matches!(refused, TraceError::Compressed { .. }) && refused.hint().contains("gunzip"));
    let dir = tempfile::tempdir().unwrap();
    let text = |ids: [&str; 2]| ids.map(|id| line(id, "prefill", 0) + "\n").concat();
    write(dir.path(), None, &[("t.jsonl", text(["a", "b"]))]);
    let index = RunIndex::open(dir.path()).unwrap();
    fs::write(dir.path().join("traces/t.jsonl"), text(["b", "a"])).unwrap();
    assert!(matches!(index.prompt("a"), Err(TraceError::Changed { line: 1, .. })));
    fs::write(dir.path().join("traces/t.jsonl"), "").unwrap();
    assert!(matches!(index.prompt("b"), Err(TraceError::Changed { line: 2, .. })));
}

#[test]
fn a_part_of_a_run_says_of_what_and_its_prompts_are_told_without() {
    let dir = tempfile::tempdir().unwrap();
    let told = |shard: &str| {
        let text = manifest(true, &["a"]).replacen('{', &format!("{{\"shard\":{shard},"), 1);
        write(dir.path(), Some(text), &[("t.jsonl", line("a", "prefill", 0))]);
        RunIndex::open(dir.path())
    };
    let index = told(r#"{"index":2,"of":3,"prompts":["z","a"]}"#).unwrap();
    let shard = index.shard().unwrap();
    assert_eq!((shard.index, shard.of, shard.prompts.len()), (2, 3, 2));
    assert_eq!(index.prompt("a").unwrap().manifest.unwrap().shard, None);
    for (wrong, key) in [
        (r#"{"index":0,"of":3,"prompts":[]}"#, "shard.index"),
        (r#"{"index":4,"of":3,"prompts":[]}"#, "shard.index"),
        (r#"{"index":1,"of":1,"prompts":["a","a"]}"#, "shard.prompts"),
        (r#"{"index":1,"of":1}"#, "shard"),
    ] {
        let error = told(wrong).err().unwrap();
        assert!(matches!(&error, TraceError::Manifest { key: at, .. } if at == key), "{wrong}: {error}");
    }
}

#[test]
fn one_file_and_a_loose_folder_are_runs_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t.jsonl"), line("a", "prefill", 0)).unwrap();
    for path in [dir.path().to_owned(), dir.path().join("t.jsonl")] {
        let index = RunIndex::open(&path).unwrap();
        let (run, whole) = (index.prompt("a").unwrap(), Run::open(&path).unwrap());
        assert_eq!((told(&run.events), run.notes, run.dir), (told(&whole.events), whole.notes, whole.dir));
    }
    assert!(matches!(RunIndex::open(&dir.path().join("none")), Err(TraceError::Io { .. })));
}
