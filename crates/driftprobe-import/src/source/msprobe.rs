//! msprobe's dumps: `stepN/rankR/dump.json` and the tensors that it names.

use super::{INDEX_BYTES_MAX, NAME_BYTES_MAX, Named, Pass, below, beside, name_of, natural, one_rank, too_long};
use crate::error::{ImportError, Result};
use crate::load::{Loader, Origin};
use driftprobe_trace::read_file;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Whether a file is an index of msprobe.
pub fn is_dump(path: &Path) -> bool {
    name_of(path) == "dump.json"
}

fn rank_of(path: &Path) -> Option<u32> {
    name_of(path.parent()?).strip_prefix("rank")?.parse().ok()
}

/// The passes of a dump: of each step, the first call of each module, the second, and so on.
pub fn passes(root: &Path, files: &[PathBuf], rank: Option<u32>, loader: &mut Loader) -> Result<Vec<Pass>> {
    let found: Vec<&PathBuf> = files.iter().filter(|file| is_dump(file)).collect();
    let rank = one_rank(root, found.iter().filter_map(|file| rank_of(file)).collect(), rank)?;
    let mut passes = Vec::new();
    for file in found.into_iter().filter(|file| rank_of(file) == rank) {
        passes.extend(step(root, file, loader)?);
    }
    Ok(passes)
}

/// Names of tensors, and of their files.
type Names = Vec<(String, String)>;

/// The names of the tensors in an index of these bytes, by call; `file` is what errors call it.
///
/// # Errors
/// If it is no index.
pub fn tensors(file: &Path, text: &[u8]) -> Result<BTreeMap<u64, Names>> {
    let hint = "it is msprobe's index of a step with `task: tensor`";
    let json: Value = serde_json::from_slice(text).map_err(|e| ImportError::file(file, e, hint))?;
    let data = json.get("data").and_then(Value::as_object);
    let data = data.ok_or_else(|| ImportError::file(file, "key data: not an object", hint))?;
    let mut calls: BTreeMap<u64, Names> = BTreeMap::new();
    for (key, value) in data {
        let (module, call) = module_of(key);
        let list = calls.entry(call).or_default();
        for (part, suffix) in
            [("input", ".input"), ("input_args", ".input"), ("input_kwargs", ".input"), ("output", "")]
        {
            let part = value.get(part).unwrap_or(&Value::Null);
            collect(part, &format!("{module}{suffix}"), true, list).map_err(|name| too_long(file, &name))?;
        }
    }
    Ok(calls)
}

fn step(root: &Path, file: &Path, loader: &mut Loader) -> Result<Vec<Pass>> {
    let text = read_file(file, INDEX_BYTES_MAX).map_err(|e| ImportError::io("read", file, &e))?;
    let folder = file.parent().unwrap_or(root).join("dump_tensor_data");
    let mut calls: BTreeMap<u64, Vec<Named>> = BTreeMap::new();
    for (call, tensors) in tensors(file, &text)? {
        let list = calls.entry(call).or_default();
        for (name, data_name) in tensors {
            let path = beside(&folder, file, &data_name)?;
            let origin = match data_name.ends_with(".npy") {
                true => Origin::Npy(path),
                false => Origin::Torch(path.clone(), single(&path, loader)?),
            };
            list.push(Named { name, origin, fixed: None });
        }
    }
    let label = below(root, file.parent().unwrap_or(root));
    let label_of = |call: u64| if call == 0 { label.clone() } else { format!("{label}, call {call}") };
    let mut passes: Vec<Pass> =
        calls.into_iter().map(|(call, tensors)| Pass { label: label_of(call), tensors, ..Pass::default() }).collect();
    passes.retain(|pass| !pass.tensors.is_empty());
    passes.sort_by(|a, b| natural(&a.label, &b.label));
    Ok(passes)
}

/// The name of a file's only tensor.
fn single(path: &Path, loader: &mut Loader) -> Result<String> {
    let mut names = loader.torch_names(path)?;
    match (names.pop(), names.len()) {
        (Some((name, _)), 0) => Ok(name),
        (_, rest) => {
            let what = format!("holds {} tensors, expected one", if rest == 0 { 0 } else { rest + 1 });
            Err(ImportError::file(path, what, "msprobe writes one tensor a file"))
        }
    }
}

/// `Module.model.norm.LlamaRMSNorm.forward.0`: the module's name and which call it is; an API's name as it stands.
fn module_of(key: &str) -> (String, u64) {
    let parts: Vec<&str> = key.split('.').collect();
    let forward = parts.iter().rposition(|part| *part == "forward");
    let call = |part: Option<&&str>| part.and_then(|part| part.parse().ok()).unwrap_or(0);
    match (forward, key.strip_prefix("Module.")) {
        (Some(at), Some(_)) if at > 1 => (parts.get(1..at - 1).unwrap_or_default().join("."), call(parts.get(at + 1))),
        _ => (key.to_owned(), 0),
    }
}

/// Names of the tensors in a list or dict of arguments, and of their files. The first of a list has no number.
///
/// # Errors
/// The name that is too long.
fn collect(value: &Value, name: &str, first: bool, found: &mut Names) -> std::result::Result<(), String> {
    if name.len() > NAME_BYTES_MAX {
        return Err(name.to_owned());
    }
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                let name = if i == 0 && first { name.to_owned() } else { format!("{name}.{i}") };
                collect(item, &name, false, found)?;
            }
        }
        Value::Object(fields) => match fields.get("data_name").and_then(Value::as_str) {
            Some(data_name) => found.push((name.to_owned(), data_name.to_owned())),
            None => {
                for (key, item) in fields {
                    collect(item, &format!("{name}.{key}"), false, found)?;
                }
            }
        },
        _ => {}
    }
    Ok(())
}
