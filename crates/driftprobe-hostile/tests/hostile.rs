//! The files of `tests/hostile/`: each is refused with the words that its README has for it, in bounded memory.
#![cfg(feature = "models")]

use driftprobe_hostile::{Watched, bounded};
use driftprobe_import::{hugging_face_tensors, npy, pickle, read_logprobs};
use driftprobe_model::{Tokenizer, Weights};
use driftprobe_remote::{File, parse_list, unpack};
use driftprobe_trace::bytes::{PayloadFile, read};
use driftprobe_trace::{Phase, Rows, Run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// What a reader may hold at most, whatever a file claims: 64 MiB of one line or of expanded lines, twice while they grow.
const HELD_BYTES_MAX: usize = 256 << 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/hostile")
}

/// What the reader of a folder's files says of one; nothing, where it takes it.
fn said(reader: &str, path: &Path) -> Result<(), String> {
    let bytes = || fs::read(path).unwrap();
    let with_hint = |text: String, hint: &str| {
        assert!(!hint.is_empty(), "{text}");
        text
    };
    match reader {
        "archive" => {
            let hash = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
            let files: Vec<File> = parse_list(&format!("{hash}  run/a\n")).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let unpacked = unpack(bytes().as_slice(), &files, &dir.path().join("run"));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something lies beside the folder");
            unpacked.map(drop)
        }
        "gguf" => Weights::open_gguf(path).map(drop).map_err(|e| with_hint(e.to_string(), &e.hint().unwrap())),
        "gguf-tokenizer" | "tokenizer" => match Tokenizer::from_file(path) {
            Err(e) => Err(with_hint(e.to_string(), &e.hint().unwrap())),
            Ok(tokenizer) => tokenizer.encode("a").map(|ids| assert_eq!(ids, [0], "one token and nothing around it")),
        },
        "logprobs" => read_logprobs(path, Phase::Decode).map(drop).map_err(|e| with_hint(e.to_string(), e.hint())),
        "npy" => npy::read(path, &bytes()).map(drop).map_err(|e| with_hint(e.to_string(), e.hint())),
        "parquet" => {
            let run = driftprobe_parquet::open(path).map_err(|e| with_hint(e.to_string(), e.hint()))?;
            assert_eq!(run.events.len(), 1);
            run.row(&run.events[0]).map(drop).map_err(|e| with_hint(e.to_string(), e.hint()))
        }
        "payload-zst" => {
            let line = br#"{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"logits","payload":{"file":"f","key":"a"}}"#;
            let event = read(line, false, false).unwrap().events.remove(0);
            PayloadFile::new(bytes(), true)?.row(&event).map(|row| assert_eq!(row.unwrap().to_f64(), [0.0, 0.0]))
        }
        "pickle" => pickle::read(&bytes()).map_err(|e| e.to_string())?.tensors().map(drop),
        "run" => Run::open(path).map(drop).map_err(|e| with_hint(e.to_string(), e.hint())),
        "tree" => hugging_face_tensors(path, &bytes()).map(drop).map_err(|e| with_hint(e.to_string(), e.hint())),
        _ => panic!("tests/hostile/{reader}: no reader of this name"),
    }
}

/// Rows of the README's table: file, reason, what the reader says.
fn table() -> Vec<[String; 3]> {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [file, reason, says] = cells[..] else { panic!("{row}: not three cells") };
        [file.trim_end_matches('`').to_owned(), reason.to_owned(), says.to_owned()]
    });
    rows.collect()
}

#[test]
fn every_file_is_refused_in_the_words_that_are_promised() {
    let mut otherwise = Vec::new();
    for [file, reason, says] in table() {
        assert!(reason.len() >= 10, "{file}: no reason");
        let reader = file.split('/').next().unwrap();
        let told = bounded(HELD_BYTES_MAX, || said(reader, &root().join(&file)));
        let as_promised = match says.as_str() {
            "nothing" => told == Ok(()),
            says => told.as_ref().is_err_and(|told| told.contains(says)),
        };
        if !as_promised {
            otherwise.push(format!("{file}: {told:?}, not {says:?}"));
        }
    }
    assert!(otherwise.is_empty(), "{}", otherwise.join("\n"));
}

#[test]
fn every_file_stands_in_the_table() {
    let listed: BTreeSet<String> = table().into_iter().map(|[file, ..]| file).collect();
    let mut lying = BTreeSet::new();
    for folder in fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        for file in fs::read_dir(&folder).unwrap() {
            let (folder, file) = (folder.file_name().unwrap().to_owned(), file.unwrap().file_name());
            lying.insert(format!("{}/{}", folder.to_str().unwrap(), file.to_str().unwrap()));
        }
    }
    assert_eq!(lying, listed);
    assert!(listed.len() >= 30);
}
