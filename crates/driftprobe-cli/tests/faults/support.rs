//! The program as a process, small runs for it to make, and what it leaves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program.
pub const BINARY: &str = env!("CARGO_BIN_EXE_driftprobe");

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/hf/llama");

/// Options of a run of both modes with a repeat, which takes a fraction of a second and passes, unless others are given.
const SMALL: [[&str; 2]; 4] = [["--steps", "1"], ["--layers", "all"], ["--simulate", "1e9"], ["--prompts", "p.json"]];

/// Two prompts for the small model.
const PROMPTS: &str = r#"[{"id": "one", "tokens": [3, 1, 4]}, {"id": "two", "tokens": [2, 7]}]"#;

/// A folder with prompts, to work in.
pub fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.json"), PROMPTS).unwrap();
    dir
}

/// The program, in a folder, as nobody watches it.
pub fn driftprobe(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(dir).env("NO_COLOR", "1").env_remove("RAYON_NUM_THREADS").stdin(Stdio::null());
    command
}

/// `driftprobe run` of the small model into a folder.
pub fn record(dir: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = driftprobe(dir, &["run", "--model", MODEL, "--out", out]);
    command.args(SMALL.iter().filter(|option| !more.contains(&option[0])).flatten()).args(more);
    command
}

/// Runs it to its end, which must be an orderly one: the exit status, and what it said.
pub fn ended(command: &mut Command) -> (i32, String) {
    orderly(command.output().unwrap())
}

/// The exit status of a process that ended in order, and what it said on both streams.
pub fn orderly(output: Output) -> (i32, String) {
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let code = output.status.code();
    assert!(code.is_some_and(|code| (0..=3).contains(&code)), "{}: {said}", output.status);
    assert!(!said.contains("panicked"), "{said}");
    (code.unwrap(), said)
}

/// Asserts that it was refused in words, with a hint.
pub fn refused(command: &mut Command) -> String {
    let (code, said) = ended(command);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("error: ") && said.contains("hint: "), "{said}");
    said
}

/// Asserts that it passes.
pub fn passes(command: &mut Command) {
    let (code, said) = ended(command);
    assert_eq!(code, 0, "{said}");
}

/// Every file in a folder and those within it, by its path in it.
pub fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        // Whatever is looked at may be on its way.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                    files.extend(fs::read(&path).ok().map(|bytes| (name, bytes)));
                }
            }
        }
    }
    files
}

/// Of a tree what is recorded: its reports, and parts of files that a killed process left, aside.
pub fn recorded(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let is_recorded = |name: &&String| !name.starts_with("report/") && !name.ends_with(".part");
    files.keys().filter(is_recorded).map(|name| (name.clone(), files[name].clone())).collect()
}

/// Names and lengths, for messages.
pub fn listed(files: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    files.iter().map(|(name, bytes)| format!("{name} ({})", bytes.len())).collect()
}

/// A copy of a folder.
pub fn copy(from: &Path, to: &Path) {
    for (name, bytes) in tree(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
