//! msprobe's dumps: `stepN/rankR/dump.json` and the tensors that it names.

use super::{Named, Pass, below, beside, name_of, natural, one_rank};
use crate::error::{ImportError, Result};
use crate::load::{Loader, Origin};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
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

fn step(root: &Path, file: &Path, loader: &mut Loader) -> Result<Vec<Pass>> {
    let text = fs::read(file).map_err(|e| ImportError::io("read", file, &e))?;
    let hint = "it is msprobe's index of a step with `task: tensor`";
    let json: Value = serde_json::from_slice(&text).map_err(|e| ImportError::file(file, e, hint))?;
    let data = json.get("data").and_then(Value::as_object);
    let data = data.ok_or_else(|| ImportError::file(file, "key data: not an object", hint))?;
    let folder = file.parent().unwrap_or(root).join("dump_tensor_data");
    let mut calls: BTreeMap<u64, Vec<Named>> = BTreeMap::new();
    for (key, value) in data {
        let (module, call) = module_of(key);
        let mut tensors = Vec::new();
        for (part, suffix) in
            [("input", ".input"), ("input_args", ".input"), ("input_kwargs", ".input"), ("output", "")]
        {
            collect(value.get(part).unwrap_or(&Value::Null), &format!("{module}{suffix}"), true, &mut tensors);
        }
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
fn collect(value: &Value, name: &str, first: bool, found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                let name = if i == 0 && first { name.to_owned() } else { format!("{name}.{i}") };
                collect(item, &name, false, found);
            }
        }
        Value::Object(fields) => match fields.get("data_name").and_then(Value::as_str) {
            Some(data_name) => found.push((name.to_owned(), data_name.to_owned())),
            None => fields.iter().for_each(|(key, item)| collect(item, &format!("{name}.{key}"), false, found)),
        },
        _ => {}
    }
}
