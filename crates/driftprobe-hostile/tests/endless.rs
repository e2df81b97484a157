//! Links in folders from somewhere that lead to what never ends or never begins: a device, a pipe. No reader follows them.
#![cfg(all(feature = "models", target_os = "linux"))]

use driftprobe_import::{Progress, Request, TorchFile, import};
use driftprobe_model::{Model, Tokenizer};
use driftprobe_trace::{Rows, Run, RunIndex};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Both kinds of file without an end, in turn, where `name` should be.
fn each_endless(dir: &Path, name: &str, mut read: impl FnMut() -> String + Send) {
    let path = dir.join(name);
    for kind in ["device", "pipe"] {
        let _ = fs::remove_file(&path);
        match kind {
            "device" => symlink("/dev/zero", &path).unwrap(),
            _ => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
        }
        // Whoever waits for a pipe waits forever: then this test ends.
        let told = thread::scope(|scope| {
            let (tell, told) = channel();
            let read = &mut read;
            scope.spawn(move || tell.send(read()));
            let told = told.recv_timeout(Duration::from_secs(60));
            if told.is_err() {
                eprintln!("{name} as a {kind} was waited for");
                std::process::abort();
            }
            told.unwrap()
        });
        assert!(
            ["regular", "neither", "leads out"].iter().any(|says| told.contains(says)),
            "{name} as a {kind}: {told}"
        );
    }
}

fn copy(from: &str, to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(from);
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_model_of_devices_and_pipes_is_refused() {
    for name in ["config.json", "model.safetensors"] {
        let dir = tempfile::tempdir().unwrap();
        copy("hf/llama", dir.path());
        each_endless(dir.path(), name, || Model::open(dir.path()).map(drop).unwrap_err().to_string());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    each_endless(dir.path(), "tokenizer.json", || Tokenizer::from_file(&path).map(drop).unwrap_err().to_string());
    let path = dir.path().join("model.gguf");
    each_endless(dir.path(), "model.gguf", || Model::open(&path).map(drop).unwrap_err().to_string());
}

#[test]
fn a_run_of_devices_and_pipes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    each_endless(dir.path(), "manifest.json", || {
        let by_prompt = RunIndex::open(dir.path()).map(drop).unwrap_err().to_string();
        assert_eq!(by_prompt, Run::open(dir.path()).map(drop).unwrap_err().to_string());
        by_prompt
    });
    let dir = tempfile::tempdir().unwrap();
    let event = "{\"event\":\"stage_trace\",\"prompt_id\":\"p\",\"phase\":\"decode\",\"point\":\"logits\",\
                 \"payload\":{\"file\":\"f.safetensors\",\"key\":\"a\"}}\n";
    fs::write(dir.path().join("t.jsonl"), event).unwrap();
    let run = Run::open(dir.path()).unwrap();
    each_endless(dir.path(), "f.safetensors", || run.row(&run.events[0]).map(drop).unwrap_err().to_string());
}

#[test]
fn a_dump_of_devices_and_pipes_is_refused() {
    for name in ["prefill.safetensors", "dump.json", "M_debug_tree_FULL_TENSORS.json", "logits.jsonl", "a.npy"] {
        let dir = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        each_endless(dir.path(), name, || {
            let request = Request::new(Some(dir.path().to_owned()), out.path().join("run"));
            import(&request, &mut |_: Progress<'_>| {}).map(drop).unwrap_err().to_string()
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pt");
    each_endless(dir.path(), "a.pt", || TorchFile::open(&path).map(drop).unwrap_err().to_string());
}

#[test]
fn a_dataset_of_devices_and_pipes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run=a");
    let partition = run.join("search=0/mode=as_designed/repeat=0");
    fs::create_dir_all(&partition).unwrap();
    fs::write(partition.join("events.parquet"), "PAR1").unwrap();
    each_endless(&run, "_run.json", || driftprobe_parquet::open(dir.path()).map(drop).unwrap_err().to_string());
}
