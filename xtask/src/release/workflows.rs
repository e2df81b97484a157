//! Workflows: what they call is there. That they are YAML is looked at by `.ci/release.sh`, where there is a parser.

use crate::cargo::packages;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// What is wrong with the files of `.github/workflows`.
///
/// # Errors
/// If the folder or a file in it cannot be read.
pub fn check(root: &Path, workspace: &Value) -> Result<Vec<String>> {
    let names: Vec<&str> = packages(workspace)?.iter().filter_map(|package| package["name"].as_str()).collect();
    let folder = root.join(".github/workflows");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    let mut findings = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(root)?.display().to_string();
        findings.extend(
            calls(&text, &|call| is_there(root, &names, call)).into_iter().map(|what| format!("{name}:{what}")),
        );
    }
    Ok(findings)
}

/// Something that a workflow calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call<'a> {
    Package(&'a str),
    File(&'a str),
    Chore(&'a str),
}

fn is_there(root: &Path, packages: &[&str], call: Call<'_>) -> bool {
    match call {
        Call::Package(name) => packages.contains(&name),
        Call::File(path) => root.join(path).is_file(),
        Call::Chore(name) => crate::has_command(name),
    }
}

/// `line: what` of everything that is not as it must be.
fn calls(text: &str, is_there: &dyn Fn(Call<'_>) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for key in ["name:", "on:", "permissions:", "jobs:"] {
        if !text.lines().any(|line| line.starts_with(key)) {
            findings.push(format!("1: has no `{key}`"));
        }
    }
    for (number, line) in (1..).zip(text.lines()) {
        let mut find = |what: String| findings.push(format!("{number}: {what}"));
        if line.contains('\t') {
            find("a tab, which YAML does not indent by".to_owned());
        }
        let line = line.split(" #").next().unwrap_or_default();
        if let Some((_, action)) = line.split_once("uses: ")
            && !action.split_once('@').is_some_and(|(_, version)| version.starts_with('v'))
            && !action.strip_prefix("./").is_some_and(|path| is_there(Call::File(path)))
        {
            find(format!("{action}: expected a version, as @v4"));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            let call = match pair {
                ["-p" | "--package", name] => Call::Package(name),
                ["xtask", name] => Call::Chore(name),
                [_, path] if path.starts_with(".ci/") || path.starts_with("examples/") => Call::File(path),
                _ => continue,
            };
            if !is_there(call) {
                find(format!("{call:?} is not there"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name: a\non: push\npermissions: {}\njobs:\n  b:\n    steps:\n      - uses: actions/checkout@v4\n      - run: .ci/run\n      - run: cargo xtask release check\n      - run: cargo build -p driftprobe-cli # -p nothing\n";

    #[test]
    fn what_a_workflow_calls_must_be_there() {
        let known = |call: Call<'_>| {
            matches!(call, Call::Package("driftprobe-cli") | Call::File(".ci/run" | "own.yml") | Call::Chore("release"))
        };
        assert_eq!(calls(GOOD, &known), Vec::<String>::new());
        assert_eq!(calls(&GOOD.replace("actions/checkout@v4", "./own.yml"), &known), Vec::<String>::new());
        for (from, to) in [
            ("xtask release", "xtask publish"),
            ("-p driftprobe-cli #", "-p driftprobe-gui #"),
            (".ci/run", ".ci/walk"),
            ("@v4", "@main"),
            ("actions/checkout@v4", "./.github/workflows/gone.yml"),
            ("permissions: {}\n", ""),
            ("    steps", "\tsteps"),
        ] {
            assert_eq!(calls(&GOOD.replace(from, to), &known).len(), 1, "{to}");
        }
    }
}
