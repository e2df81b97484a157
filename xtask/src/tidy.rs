//! `cargo xtask tidy`: holds what the documentation promises and what the style asks against the files themselves.
//!
//! Everything is read from the working tree, so that a change is checked before it is committed. All findings are listed;
//! any of them fails the command.

mod docs;
mod entry;
mod sources;

use crate::cargo::{metadata, packages};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository.
struct File {
    /// Path from the root, separated by `/`.
    path: String,
    text: String,
}

/// All text files, by path.
struct Tree {
    root: PathBuf,
    files: Vec<File>,
}

/// What is wrong, as `path:line: what`.
type Findings = Vec<String>;

pub fn run() -> Result<()> {
    let root = crate::cargo::root()?;
    let mut files = vec![];
    walk(&root, &root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let tree = Tree { root, files };
    let mut findings = Findings::new();
    sources::check(&tree, &mut findings);
    docs::check(&tree, &mut findings)?;
    arrows(&tree, &mut findings)?;
    for finding in &findings {
        println!("{finding}");
    }
    ensure!(findings.is_empty(), "{} findings", findings.len());
    println!("tidy: {} files, nothing found", tree.files.len());
    Ok(())
}

fn walk(root: &Path, dir: &Path, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let built = ["target", "runs", ".git", ".cache", "__pycache__", "shared", "corpus", "artifacts"];
        let built = built.contains(&name.as_str());
        if built || name.starts_with(".venv") || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, files)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            files.push(File { path, text });
        }
    }
    Ok(())
}

impl Tree {
    fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The sources under `crates/*/src`, with the name of the crate and the path within `src`.
    fn sources(&self) -> impl Iterator<Item = (&str, &str, &File)> {
        self.files.iter().filter_map(|file| {
            let (name, rest) = file.path.strip_prefix("crates/")?.split_once('/')?;
            let within = rest.strip_prefix("src/").filter(|path| path.ends_with(".rs"))?;
            Some((name, within, file))
        })
    }
}

fn need<'a>(tree: &'a Tree, path: &str) -> Result<&'a File> {
    tree.get(path).with_context(|| format!("{path} is missing"))
}

impl File {
    /// The lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

/// Which crates of the workspace a crate may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("driftprobe-trace", &[]),
    ("driftprobe-model", &[]),
    ("driftprobe-engine", &["driftprobe-trace", "driftprobe-model"]),
    ("driftprobe-llama-cpp", &["driftprobe-trace", "driftprobe-model", "driftprobe-engine"]),
    ("driftprobe", &["driftprobe-trace", "driftprobe-model"]),
    ("driftprobe-capi", &["driftprobe-trace"]),
    ("driftprobe-import", &["driftprobe-trace"]),
    ("driftprobe-parquet", &["driftprobe-trace"]),
    ("driftprobe-remote", &[]),
    ("driftprobe-testkit", &[]),
    (
        "driftprobe-hostile",
        &[
            "driftprobe-trace",
            "driftprobe-model",
            "driftprobe-import",
            "driftprobe-parquet",
            "driftprobe-remote",
            "driftprobe",
            "driftprobe-cli",
        ],
    ),
    ("driftprobe-python", &["driftprobe", "driftprobe-cli", "driftprobe-model", "driftprobe-trace"]),
    ("xtask", &["driftprobe", "driftprobe-trace", "driftprobe-model", "driftprobe-engine", "driftprobe-testkit"]),
    (
        "driftprobe-cli",
        &[
            "driftprobe",
            "driftprobe-trace",
            "driftprobe-model",
            "driftprobe-engine",
            "driftprobe-import",
            "driftprobe-parquet",
            "driftprobe-remote",
            "driftprobe-llama-cpp",
        ],
    ),
];

fn arrows(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let metadata = metadata(&tree.root, &["--no-deps"])?;
    let packages = packages(&metadata)?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    for (name, _) in ARROWS.iter().filter(|(name, _)| !names.contains(name)) {
        findings.push(format!("Cargo.toml: there is no crate {name}"));
    }
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            findings.push(format!("{name}: the list of arrows does not have it"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        // Tests may use what the crate itself may not: the core's drive real engines.
        for dependency in dependencies.filter(|dependency| dependency["kind"].as_str() != Some("dev")) {
            let to = dependency["name"].as_str().unwrap_or_default();
            if names.contains(&to) && !allowed.contains(&to) {
                findings.push(format!("{name}: may not use {to}"));
            }
        }
    }
    Ok(())
}
