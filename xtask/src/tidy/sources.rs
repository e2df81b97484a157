//! Rules of the sources: length, no panic on input, a pure core, nothing that points out of the repository.

use super::{File, Findings, Tree};

/// Longest source file, in lines.
const LINES_MAX: usize = 400;

/// What may not stand in code that is not a test. `assert!` of a documented contract may.
const PANICS: &[&str] = &[".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!(", "dbg!("];

/// What the core may not use. Its own test reads for more; this one also sees a test that was taken out.
const IMPURE: &[&str] = &["std::fs", "std::env::", "std::time", "std::net"];

/// A neighbour of the repository, spelled so that this file does not name it.
const OUTSIDE: &str = concat!("../", "shared");

pub fn check(tree: &Tree, findings: &mut Findings) {
    for (name, _, file) in tree.sources() {
        // These two are for tests, whose way of failing a panic is.
        if file.path.ends_with("/tests.rs") || ["driftprobe-testkit", "driftprobe-hostile"].contains(&name) {
            continue;
        }
        forbid(file, PANICS, "would panic on input: return an error", findings);
        if name == "driftprobe" {
            forbid(file, IMPURE, "the core is pure: let the caller do it", findings);
        }
    }
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs")) {
        length(file, findings);
    }
    for file in &tree.files {
        for (number, _) in file.lines().filter(|(_, line)| line.contains(OUTSIDE)) {
            findings.push(format!("{}:{number}: points out of the repository", file.path));
        }
    }
}

fn length(file: &File, findings: &mut Findings) {
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        findings.push(format!("{}: {lines} lines, more than {LINES_MAX}: split it", file.path));
    }
}

/// Finds words outside comments and outside the tests at the end of a file. (Files named `tests.rs` are tests altogether.)
fn forbid(file: &File, words: &[&str], why: &str, findings: &mut Findings) {
    let tests = file.text.find("#[cfg(test)]\nmod tests {").unwrap_or(file.text.len());
    let code = file.text.get(..tests).unwrap_or_default();
    for (number, line) in (1..).zip(code.lines()).filter(|(_, line)| !line.trim_start().starts_with("//")) {
        for word in words.iter().filter(|word| line.contains(**word)) {
            findings.push(format!("{}:{number}: `{word}` {why}", file.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        let mut findings = Findings::new();
        check(&Tree { root: ".".into(), files: vec![file] }, &mut findings);
        findings.len()
    }

    #[test]
    fn panics_count_outside_comments_and_tests_only() {
        let path = "crates/driftprobe-trace/src/a.rs";
        assert_eq!(found(path, "/// x.unwrap()\nfn f() {}\n#[cfg(test)]\nmod tests {\n    x.unwrap();\n}\n"), 0);
        assert_eq!(found(path, "#[cfg(test)]\nmod testing;\nfn f() {\n    x.unwrap();\n    panic!();\n}\n"), 2);
    }

    #[test]
    fn only_the_core_must_be_pure() {
        assert_eq!(found("crates/driftprobe-trace/src/a.rs", "use std::fs;\n"), 0);
        assert_eq!(found("crates/driftprobe/src/a.rs", "use std::fs;\n"), 1);
    }

    #[test]
    fn long_files_and_paths_out_of_the_repository_are_found() {
        let line = "fn f() {}\n";
        assert_eq!(found("xtask/src/a.rs", &line.repeat(LINES_MAX)), 0);
        assert_eq!(found("xtask/src/a.rs", &line.repeat(LINES_MAX + 1)), 1);
        assert_eq!(found("README.md", &format!("see {OUTSIDE}/a.md")), 1);
    }
}
