//! SGLang's two dumps: its dumper, a file a tensor, and its forward hook, a file a pass.

use super::{Named, Pass, below, name_of, one_rank};
use crate::error::Result;
use crate::load::{Loader, Origin};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `step=0___rank=0___dump_index=1___name=x.pt`: its keys and values.
fn fields(path: &Path) -> Option<BTreeMap<&str, &str>> {
    let stem = name_of(path).strip_suffix(".pt")?;
    let fields: Option<BTreeMap<&str, &str>> = stem.split("___").map(|part| part.split_once('=')).collect();
    fields.filter(|fields| fields.contains_key("name"))
}

/// Whether the dumper wrote this file.
pub fn is_dump(path: &Path) -> bool {
    fields(path).is_some()
}

/// `Pass00012.pt` in `TP0_PP0_Rank0_pid7`: rank and pass.
fn pass(path: &Path) -> Option<(u32, u64)> {
    let number = name_of(path).strip_prefix("Pass")?.strip_suffix(".pt")?.parse().ok()?;
    let mut parts = name_of(path.parent()?).split('_');
    let numbered = |part: Option<&str>, prefix: &str| part?.strip_prefix(prefix)?.parse::<u32>().ok();
    numbered(parts.next(), "TP")?;
    numbered(parts.next(), "PP")?;
    Some((numbered(parts.next(), "Rank")?, number))
}

/// Whether the forward hook wrote this file.
pub fn is_pass(path: &Path) -> bool {
    pass(path).is_some()
}

/// The passes of a forward hook.
pub fn hook(root: &Path, files: &[PathBuf], rank: Option<u32>, loader: &mut Loader) -> Result<Vec<Pass>> {
    let found: Vec<(u32, &PathBuf)> = files.iter().filter_map(|file| Some((pass(file)?.0, file))).collect();
    let rank = one_rank(root, found.iter().map(|(rank, _)| *rank).collect(), rank)?;
    let mut passes = Vec::new();
    for (_, file) in found.into_iter().filter(|(own, _)| Some(*own) == rank) {
        let names = loader.torch_names(file)?;
        let named = |(name, _): (String, Vec<u64>)| Named {
            origin: Origin::Torch(file.clone(), name.clone()),
            name,
            fixed: None,
        };
        let tensors = names.into_iter().map(named).collect();
        passes.push(Pass { label: below(root, file), tensors, ..Pass::default() });
    }
    Ok(passes)
}

/// The passes of a dumper: its steps, folder by folder.
pub fn dumper(root: &Path, files: &[PathBuf], rank: Option<u32>, loader: &mut Loader) -> Result<Vec<Pass>> {
    let found: Vec<(&PathBuf, BTreeMap<&str, &str>)> = files.iter().filter_map(|f| Some((f, fields(f)?))).collect();
    let rank_of = |fields: &BTreeMap<&str, &str>| fields.get("rank").and_then(|rank| rank.parse::<u32>().ok());
    let rank = one_rank(root, found.iter().filter_map(|(_, fields)| rank_of(fields)).collect(), rank)?;
    let mut passes: BTreeMap<(String, u64), Vec<(u64, Named)>> = BTreeMap::new();
    for (file, fields) in found.iter().filter(|(_, fields)| rank_of(fields) == rank) {
        let number = |key: &str| fields.get(key).and_then(|value| value.parse::<u64>().ok());
        let step = number("step").or_else(|| number("forward_pass_id")).unwrap_or(0);
        let folder = file.parent().map(|folder| below(root, folder)).unwrap_or_default();
        let pass = passes.entry((folder, step)).or_default();
        for (inner, _) in loader.torch_names(file)? {
            let Some(part) = part_of(&inner) else { continue };
            let origin = Origin::Torch((*file).clone(), inner.clone());
            let named = Named { name: name_with(fields, part), origin, fixed: None };
            pass.push((number("dump_index").unwrap_or(0), named));
        }
    }
    Ok(passes.into_iter().map(made).collect())
}

fn made(((folder, step), mut tensors): ((String, u64), Vec<(u64, Named)>)) -> Pass {
    tensors.sort_by_key(|(index, _)| *index);
    let label = if folder.is_empty() { format!("step={step}") } else { format!("{folder}/step={step}") };
    Pass { label, tensors: tensors.into_iter().map(|(_, named)| named).collect(), ..Pass::default() }
}

/// Which part of a dumped value a tensor is: of `{"value", "meta"}` the value, of older files all.
fn part_of(inner: &str) -> Option<&str> {
    match inner.split_once('.') {
        _ if inner == "value" || inner.is_empty() => Some(""),
        Some(("value", part)) => Some(part),
        _ if inner == "meta" || inner.starts_with("meta.") => None,
        _ => Some(inner),
    }
}

/// The dumper's name without what it adds to modules' names, with the user's own keys, as `name___layer_id=3`.
fn name_with(fields: &BTreeMap<&str, &str>, part: &str) -> String {
    const OWN: [&str; 6] = ["name", "step", "forward_pass_id", "rank", "dump_index", "recompute_status"];
    let name = fields.get("name").copied().unwrap_or_default();
    let name = name.strip_prefix("non_intrusive__").unwrap_or(name);
    let (name, inner) = match name.split_once(".output") {
        Some((module, "")) => (module, ""),
        Some((module, index)) if index.starts_with('.') => (module, index),
        _ => (name, ""),
    };
    let mut whole = format!("{}{inner}", name.replace(".inputs.", ".input."));
    for (key, value) in fields.iter().filter(|(key, _)| !OWN.contains(key)) {
        whole.push_str(&format!("___{key}={value}"));
    }
    if !part.is_empty() {
        whole.push_str(&format!(".{part}"));
    }
    whole
}
