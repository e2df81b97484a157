//! Dumps on disk: which format, which forward passes, which tensors by which names.

mod folder;
mod greta;
mod hugging_face;
mod llama_cpp;
mod msprobe;
mod sglang;

pub use greta::{Loose, loose};
pub use hugging_face::tensors as hugging_face_tensors;
pub use llama_cpp::ids as token_ids;
pub use msprobe::tensors as msprobe_tensors;

use crate::error::{ImportError, Result};
use crate::load::{Loader, Origin};
use driftprobe_trace::{Phase, Point};
use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest index of a dump that is read: what says which tensors there are, in memory as JSON.
pub(crate) const INDEX_BYTES_MAX: u64 = 256 << 20;
/// Longest name of a tensor. Names join keys on the way to it, and every tensor has its own.
pub(crate) const NAME_BYTES_MAX: usize = 4096;

/// A dump's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// SGLang's dumper: a file a tensor.
    Sglang,
    /// SGLang's forward hook: a file a pass.
    SglangHook,
    /// msprobe.
    Msprobe,
    /// The model debugger of Hugging Face transformers.
    HuggingFace,
    /// llama.cpp's debug example.
    LlamaCpp,
    /// Folders of safetensors or npy files.
    Folder,
    /// GRETA's JSONL and logits.
    Greta,
}

impl Format {
    /// Every format, in the order in which a folder is tried.
    pub const ALL: &'static [Format] = &[
        Format::HuggingFace,
        Format::Msprobe,
        Format::SglangHook,
        Format::Sglang,
        Format::LlamaCpp,
        Format::Folder,
        Format::Greta,
    ];

    /// Name on the command line and in a manifest.
    pub const fn id(self) -> &'static str {
        match self {
            Format::Sglang => "sglang",
            Format::SglangHook => "sglang-hook",
            Format::Msprobe => "msprobe",
            Format::HuggingFace => "huggingface",
            Format::LlamaCpp => "llama-cpp",
            Format::Folder => "folder",
            Format::Greta => "greta",
        }
    }

    /// The map that its names usually go by.
    pub const fn usual_map(self) -> Option<&'static str> {
        match self {
            Format::Sglang | Format::SglangHook => Some("sglang"),
            Format::Msprobe | Format::HuggingFace => Some("transformers"),
            Format::LlamaCpp | Format::Folder | Format::Greta => None,
        }
    }

    fn fits(self, files: &[PathBuf]) -> bool {
        match self {
            Format::HuggingFace => files.iter().any(|file| hugging_face::is_tree(file)),
            Format::Msprobe => files.iter().any(|file| msprobe::is_dump(file)),
            Format::SglangHook => files.iter().any(|file| sglang::is_pass(file)),
            Format::Sglang => files.iter().any(|file| sglang::is_dump(file)),
            Format::LlamaCpp => files.iter().any(|file| llama_cpp::is_logits(file)),
            Format::Folder => files.iter().any(|file| folder::is_tensor(file)),
            Format::Greta => files.iter().any(|file| greta::is_lines(file)),
        }
    }
}

/// One row whose place its name tells.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// Its point.
    pub point: Point,
    /// Its layer.
    pub layer: i32,
    /// Index of its token in the sequence.
    pub index: u64,
    /// Its position, if told.
    pub position: Option<u64>,
}

/// A tensor by its name in the dump.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name: `MODULE` for an output, `MODULE.input` for what enters, `.1` and so on for further ones.
    pub name: String,
    /// Where it lies.
    pub origin: Origin,
    /// Its place, if the name tells it.
    pub fixed: Option<Fixed>,
}

/// One forward pass of a dump, or the loose rows of one phase.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// What the dump calls it.
    pub label: String,
    /// Its phase, if the dump or the user says it.
    pub phase: Option<Phase>,
    /// Its tensors, in the dump's order.
    pub tensors: Vec<Named>,
    /// The tokens of the whole sequence up to here, if the dump has them apart from its tensors.
    pub sequence: Option<Vec<u32>>,
}

/// The format of the dump at `path`.
///
/// # Errors
/// If it cannot be listed, or nothing there is known.
pub fn detect(path: &Path) -> Result<Format> {
    let files = files(path)?;
    let found = Format::ALL.iter().copied().find(|format| format.fits(&files));
    found.ok_or_else(|| {
        let hint =
            "name the folder that the tool wrote into (docs/import.md lists the layouts), or the format with --from";
        ImportError::file(path, format!("none of its {} files is of a dump that is known", files.len()), hint)
    })
}

/// The forward passes of a dump, in its own order.
///
/// # Errors
/// If files are missing, damaged or refused.
pub fn passes(path: &Path, format: Format, rank: Option<u32>, loader: &mut Loader) -> Result<Vec<Pass>> {
    let files = files(path)?;
    let passes = match format {
        Format::Sglang => sglang::dumper(path, &files, rank, loader),
        Format::SglangHook => sglang::hook(path, &files, rank, loader),
        Format::Msprobe => msprobe::passes(path, &files, rank, loader),
        Format::HuggingFace => hugging_face::passes(path, &files),
        Format::LlamaCpp => llama_cpp::passes(path, &files),
        Format::Folder => folder::passes(path, &files, loader),
        Format::Greta => Ok(vec![]),
    }?;
    if passes.iter().all(|pass| pass.tensors.is_empty()) {
        let hint = "check --from; docs/import.md lists what each format looks like";
        return Err(ImportError::file(path, format!("holds no tensors in the layout of {}", format.id()), hint));
    }
    Ok(passes)
}

/// Most files of a dump.
const FILES_MAX: usize = 1 << 20;
/// Deepest folder that is looked into.
const DEPTH_MAX: usize = 8;

/// The files below a folder, or the one file, in natural order.
///
/// # Errors
/// If a folder cannot be listed or lies too deep; for a link to a folder, a pipe or a device.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let kind = fs::metadata(path).map_err(|e| ImportError::io("open", path, &e))?;
    if !kind.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut todo = vec![(path.to_owned(), 0)];
    while let Some((dir, depth)) = todo.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| ImportError::io("list", &dir, &e))? {
            let entry = entry.map_err(|e| ImportError::io("list", &dir, &e))?;
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match is_dir {
                true if depth < DEPTH_MAX => todo.push((entry.path(), depth + 1)),
                true => {
                    let what = format!("more than {DEPTH_MAX} folders within each other");
                    return Err(ImportError::file(&entry.path(), what, "name a folder that lies nearer to the dump"));
                }
                false if fs::metadata(entry.path()).is_ok_and(|kind| kind.is_dir()) => {
                    let hint = "copy here what it leads to, or take it out of the dump";
                    return Err(ImportError::file(&entry.path(), "is a link to a folder, which is not followed", hint));
                }
                // A pipe or a device, which a link may lead to, has no end.
                false if fs::metadata(entry.path()).is_ok_and(|kind| !kind.is_file() && !kind.is_dir()) => {
                    let hint = "take it out of the dump; do not import what a stranger wrote";
                    return Err(ImportError::file(&entry.path(), "is neither a file nor a folder", hint));
                }
                false => found.push(entry.path()),
            }
        }
        if found.len() > FILES_MAX {
            return Err(ImportError::file(
                path,
                format!("more than {FILES_MAX} files"),
                "name a smaller part of the dump",
            ));
        }
    }
    // The root is the same for all, and what it is called is no part of the dump.
    let mut named: Vec<(String, PathBuf)> = found.into_iter().map(|file| (below(path, &file), file)).collect();
    named.sort_by(|(a, file), (b, other)| natural(a, b).then_with(|| file.cmp(other)));
    Ok(named.into_iter().map(|(_, file)| file).collect())
}

/// Orders names so that numbers in them, however long, count as numbers: `v2/step2` before `v2/step10`. Names of the same numbers,
/// which differ in leading zeros only, are ordered as text.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        let (Some(first), Some(second)) = (rest_a.chars().next(), rest_b.chars().next()) else {
            return rest_a.len().cmp(&rest_b.len()).then_with(|| a.cmp(b));
        };
        let order = if first.is_ascii_digit() && second.is_ascii_digit() {
            let ((one, behind_a), (two, behind_b)) = (number(rest_a), number(rest_b));
            (rest_a, rest_b) = (behind_a, behind_b);
            // Without leading zeros the longer number is the larger one.
            one.len().cmp(&two.len()).then_with(|| one.cmp(two))
        } else {
            rest_a = rest_a.get(first.len_utf8()..).unwrap_or("");
            rest_b = rest_b.get(second.len_utf8()..).unwrap_or("");
            first.cmp(&second)
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The digits that a text begins with, without leading zeros, and what follows them.
fn number(text: &str) -> (&str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    (number.trim_start_matches('0'), rest)
}

/// A file's name.
pub fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// A path as it lies below `root`.
pub fn below(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// A file beside others that a dump's index names: its name, and no path.
///
/// # Errors
/// If it is a path.
pub fn beside(folder: &Path, index: &Path, name: &str) -> Result<PathBuf> {
    let plain = name.strip_prefix("./").unwrap_or(name);
    if plain.is_empty() || plain.contains(['/', '\\', '\0']) || plain == ".." {
        let hint = "a dump's files lie in its own folder; do not import what a stranger wrote";
        return Err(ImportError::file(index, format!("`{name}` is not the name of a file beside it"), hint));
    }
    Ok(folder.join(plain))
}

/// Why a tensor's name is refused.
pub(crate) fn too_long(index: &Path, name: &str) -> ImportError {
    let begins: String = name.chars().take(40).collect();
    let what = format!("a name of more than {NAME_BYTES_MAX} bytes, which begins `{begins}`");
    ImportError::file(index, what, "a tensor's name joins the keys that lead to it: shorten them")
}

/// The one rank of a dump, or the one that was asked for.
///
/// # Errors
/// If there are several and none was asked for, or not that one.
pub fn one_rank(path: &Path, mut ranks: Vec<u32>, asked: Option<u32>) -> Result<Option<u32>> {
    ranks.sort();
    ranks.dedup();
    match (ranks.as_slice(), asked) {
        (ranks, Some(rank)) if ranks.contains(&rank) => Ok(Some(rank)),
        ([rank], None) => Ok(Some(*rank)),
        ([], None) => Ok(None),
        (_, None) => {
            let hint =
                "name one with --rank N; shards of a tensor-parallel model are parts of rows and cannot be judged";
            Err(ImportError::file(path, format!("holds ranks {ranks:?}"), hint))
        }
        (_, Some(rank)) => {
            Err(ImportError::file(path, format!("holds ranks {ranks:?}, not {rank}"), "name one of them with --rank"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each list stands in its order already; it is sorted out of the reverse, and of each pair both ways are asked.
    #[test]
    fn numbers_in_names_count_as_numbers() {
        let (nines, ones) = ("9".repeat(50), "1".repeat(51));
        let orders: [&[&str]; 8] = [
            &["step2", "step10"],
            // A number before the one that counts, and equal ones behind it.
            &["v2/step2", "v2/step8", "v2/step10", "v2/step11", "v10/step1"],
            &["dump2/pass8.pt", "dump2/pass9.pt", "dump2/pass10.pt", "dump2/pass11.pt"],
            &["2/9/1000", "2/10/1", "10/0/0"],
            // Leading zeros say nothing, unless nothing else does.
            &["007", "07", "7", "08", "8", "010", "10"],
            &["a", "ab", "b", "é"],
            &["2", "2a", "2b", "10a", "a2"],
            // Longer than any integer type.
            &["1", &nines, &ones],
        ];
        for sorted in orders {
            let mut names: Vec<&str> = sorted.iter().rev().copied().collect();
            names.sort_by(|a, b| natural(a, b));
            assert_eq!(names, sorted);
            for (at, a) in sorted.iter().enumerate() {
                for (other, b) in sorted.iter().enumerate() {
                    assert_eq!(natural(a, b), at.cmp(&other), "{a} and {b}");
                }
            }
        }
    }

    #[test]
    fn passes_stand_in_the_order_of_their_numbers_whatever_the_folder_is_called() {
        let dir = tempfile::tempdir().unwrap();
        for root in ["dump", "dump2", "2026-01-02/run7"] {
            let root = dir.path().join(root);
            fs::create_dir_all(&root).unwrap();
            for pass in [11, 9, 10, 8] {
                fs::write(root.join(format!("pass{pass}.safetensors")), "").unwrap();
            }
            let found: Vec<String> = files(&root).unwrap().iter().map(|file| below(&root, file)).collect();
            assert_eq!(found, [8, 9, 10, 11].map(|pass| format!("pass{pass}.safetensors")));
        }
    }
}
