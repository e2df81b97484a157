//! What is exported is read again as it was: events to the last bit, notes, manifests, rows, and all that lies in a run.

mod common;

use common::{OWN, Recording, only_file, put, told, write_all, write_run};
use driftprobe_parquet::{Export, export, is_dataset, open, runs};
use driftprobe_trace::{Mode, Rows, Run};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

/// The run at `path` says the same from a dataset as from its folder; what it says.
fn same(path: &Path) -> String {
    let dataset = folder();
    put(path, dataset.path(), "one").unwrap_or_else(|e| panic!("{e}"));
    assert!(is_dataset(dataset.path()) && !is_dataset(path));
    let from_json = told(&Run::open(path).unwrap_or_else(|e| panic!("{e}")));
    for path in [dataset.path(), &dataset.path().join("run=one")] {
        no_difference(&told(&open(path).unwrap_or_else(|e| panic!("{e}"))), &from_json);
    }
    from_json
}

fn no_difference(one: &str, other: &str) {
    for (one, other) in one.lines().zip(other.lines()) {
        assert_eq!(one, other);
    }
    assert_eq!(one.lines().count(), other.lines().count());
}

#[test]
fn all_that_lies_in_a_run_comes_back() {
    let dir = folder();
    write_all(dir.path());
    let all = same(dir.path());
    // The comparison above saw what it should have seen.
    assert_eq!(all.matches("\nrepeat ").count(), 3, "{all}");
    for inside in ["\nkv_aligned ", "\nsearch-1 ", "\nsearch-2 "] {
        assert!(all.contains(inside), "{inside}");
    }
    assert!(all.contains("Matches") && all.contains("NoPayload") && all.contains("NaN") && all.contains("-inf"));
}

#[test]
fn traces_of_another_engine_come_back_without_a_manifest() {
    let greta = Path::new(env!("CARGO_MANIFEST_DIR")).join("../driftprobe-trace/tests/fixtures/greta");
    for name in ["drift", "offset"] {
        let all = same(&greta.join(name));
        assert!(all.starts_with("None\n[ManifestMissing, HashAlgoAssumed"), "{}", &all[..80]);
    }
    same(&greta.join("drift/p0_short_trace.jsonl"));
}

#[test]
fn odd_lines_come_back_as_they_are_accepted() {
    let dir = folder();
    let lines = [
        r#"{"event":"stage_trace","prompt_id":"p","phase":"prefill_last","tensor":"x_in","layer":3,"hash":18446744073709551615,"min":"-Infinity","max":null,"mean":-0.0,"abs_sum":5e-324,"nan":18446744073709551615,"sample":[null,"NaN",-0.0,1e308],"sample_idx":[9007199254740993,1,2,3]}"#,
        r#"{"event":"stage_trace","prompt_id":"p","phase":"decode17","point":"attn_out","layer":0,"hash":"9223372036854775808","hash_algo":"md5","dtype":"fp8","mine":1,"yours":{"a":[]},"shape":[0,7]}"#,
        r#"{"event":"stage_trace","prompt_id":"é\u0000\"","phase":"decode","point":"attn_out","layer":2147483647,"step":null,"sample":[],"shape":[]}"#,
        r#"{"event":"stage_trace","prompt_id":"p","phase":"prefill","point":"from the future","layer":-7,"min":1}"#,
        r#"{"event":"stage_logits","prompt_id":"p","phase":"decode0","layer":5,"token_id":4294967295,"top1_id":4294967295,"top1_logit":"inf","gap":NaN,"vocab":1}"#,
        r#"{"event":"weather","layer":12}"#,
    ];
    fs::write(dir.path().join("t.jsonl"), lines.join("\n\n")).expect("file");
    let all = same(dir.path());
    for note in ["UnknownHashAlgo", "UnknownDtype", "UnknownPoint", "UnknownEvent", "UnknownField", "from the future"] {
        assert!(all.contains(note), "{note}: {all}");
    }
}

#[test]
fn a_run_that_was_cut_short_stays_one() {
    let dir = folder();
    write_run(dir.path(), OWN);
    let manifest = dir.path().join("manifest.json");
    let text = fs::read_to_string(&manifest).expect("manifest");
    fs::write(&manifest, text.replace("\"complete\": true", "\"complete\": false")).expect("manifest");
    let trace = dir.path().join("traces/p0_trace.jsonl");
    let text = fs::read_to_string(&trace).expect("trace");
    fs::write(&trace, &text[..text.len() - 40]).expect("trace");
    fs::write(dir.path().join("traces/notes.txt"), "").expect("file");
    fs::create_dir(dir.path().join("repeat-1")).expect("folder");
    let all = same(dir.path());
    for note in ["Incomplete", "TornTail", "IgnoredFile", "EmptyRepeat"] {
        assert!(all.contains(note), "{note}");
    }
}

#[test]
fn what_the_reader_of_json_refuses_is_not_exported() {
    let (dir, dataset) = (folder(), folder());
    write_run(dir.path(), OWN);
    let trace = dir.path().join("traces/p2_trace.jsonl");
    let text = fs::read_to_string(&trace).expect("trace");
    fs::write(&trace, text.replacen("\"layer\":1", "\"layer\":1.5", 1)).expect("trace");
    let e = put(dir.path(), dataset.path(), "one").expect_err("a fraction of a layer").to_string();
    assert!(e.contains("p2_trace.jsonl:") && e.contains("layer"), "{e}");
    fs::write(&trace, text).expect("trace");
    fs::write(dir.path().join("tensors/p2.decode.safetensors"), "nothing").expect("tensors");
    let e = put(dir.path(), dataset.path(), "one").expect_err("no payloads").to_string();
    assert!(e.contains("p2.decode.safetensors"), "{e}");
    assert_eq!(fs::read_dir(dataset.path()).expect("folder").count(), 0, "something was left behind");
}

#[test]
fn a_run_is_replaced_only_if_asked_for() {
    let (first, second, dataset) = (folder(), folder(), folder());
    write_run(first.path(), OWN);
    write_run(second.path(), Recording { seed: 9, ..OWN });
    put(first.path(), dataset.path(), "a/b: c").expect("exported");
    let e = put(second.path(), dataset.path(), "a/b: c").expect_err("a run lies there");
    assert!(e.hint().contains("--force"), "{e}");
    let opened = || told(&open(dataset.path()).expect("a run"));
    no_difference(&opened(), &told(&Run::open(first.path()).expect("a run")));
    let forced = Export { run: second.path(), name: "a/b: c", dataset: dataset.path(), payloads: true, force: true };
    let exported = export(&forced).expect("replaced");
    assert_eq!(exported.folder, dataset.path().join("run=a%2Fb%3A%20c"));
    no_difference(&opened(), &told(&Run::open(second.path()).expect("a run")));
    assert_eq!(fs::read_dir(dataset.path()).expect("folder").count(), 1, "something was left behind");
    // What is not known to be a run is not replaced.
    fs::remove_file(exported.folder.join("_run.json")).expect("inventory");
    assert!(export(&forced).is_err());
}

#[test]
fn without_payloads_there_is_all_but_the_rows() {
    let (dir, dataset) = (folder(), folder());
    write_run(dir.path(), OWN);
    let wanted = Export { run: dir.path(), name: "one", dataset: dataset.path(), payloads: false, force: false };
    assert_eq!(export(&wanted).expect("exported").payloads, 0);
    let (run, whole) = (open(dataset.path()).expect("a run"), Run::open(dir.path()).expect("a run"));
    assert_eq!(run.events.len(), whole.events.len());
    for (event, whole) in run.events.iter().zip(whole.events) {
        assert_eq!(run.row(event).expect("no row"), None);
        // As text: a NaN in a sample is not equal to itself.
        assert_eq!(format!("{event:?}"), format!("{:?}", driftprobe_trace::Event { payload: None, ..whole }));
    }
}

#[test]
fn of_several_runs_one_must_be_named() {
    let (dir, dataset) = (folder(), folder());
    write_run(dir.path(), Recording { mode: Mode::KvAligned, payloads: false, ..OWN });
    for name in ["a", "b"] {
        put(dir.path(), dataset.path(), name).expect("exported");
    }
    assert_eq!(runs(dataset.path()).expect("runs").len(), 2);
    let e = open(dataset.path()).expect_err("two runs");
    assert!(e.to_string().contains("run=a, run=b"), "{e}");
    // Recorded in this mode alone, it is the run itself and not one inside another.
    let run = open(&dataset.path().join("run=b")).expect("a run");
    no_difference(&told(&run), &told(&Run::open(dir.path()).expect("a run")));
    // One file stands for itself, as one file of JSON does.
    let alone = only_file(&dataset.path().join("run=a"));
    let run = open(&alone).expect("a file");
    assert!(run.manifest.is_none() && !run.events.is_empty());
}
