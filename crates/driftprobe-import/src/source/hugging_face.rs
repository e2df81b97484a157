//! The model debugger of Hugging Face transformers: a tree of calls in JSON, a safetensors file a tensor.

use super::{INDEX_BYTES_MAX, NAME_BYTES_MAX, Named, Pass, below, beside, name_of, too_long};
use crate::error::{ImportError, Result};
use crate::load::Origin;
use driftprobe_trace::read_file;
use serde_json::Value;
use std::path::{Path, PathBuf};

const FULL: &str = "_debug_tree_FULL_TENSORS.json";
const SUMMARY: &str = "_debug_tree_SUMMARY.json";

/// Whether a file is the debugger's.
pub fn is_tree(path: &Path) -> bool {
    name_of(path).ends_with(FULL) || name_of(path).ends_with(SUMMARY)
}

/// The passes: the debugger keeps one a folder.
pub fn passes(root: &Path, files: &[PathBuf]) -> Result<Vec<Pass>> {
    let trees: Vec<&PathBuf> = files.iter().filter(|file| name_of(file).ends_with(FULL)).collect();
    if trees.is_empty() {
        let hint = "the summary has no tensors: keep the files that the debugger wrote beside it, with use_repr=False";
        return Err(ImportError::file(root, format!("no *{FULL}"), hint));
    }
    trees.into_iter().map(|file| pass(root, file)).collect()
}

fn pass(root: &Path, file: &Path) -> Result<Pass> {
    let text = read_file(file, INDEX_BYTES_MAX).map_err(|e| ImportError::io("read", file, &e))?;
    let label = below(root, file.parent().unwrap_or(root));
    let label = if label.is_empty() { name_of(root).to_owned() } else { label };
    Ok(Pass { label, tensors: named(file, &text)?, ..Pass::default() })
}

/// The names of the tensors in a tree of these bytes; `file` is what errors call it.
///
/// # Errors
/// If it is no tree, or names a file that is not beside it.
pub fn tensors(file: &Path, text: &[u8]) -> Result<Vec<String>> {
    Ok(named(file, text)?.into_iter().map(|tensor| tensor.name).collect())
}

fn named(file: &Path, text: &[u8]) -> Result<Vec<Named>> {
    let hint =
        "it is written by model_addition_debugger_context(model, debug_path=…, use_repr=False, do_prune_layers=False)";
    let tree: Value = serde_json::from_slice(text).map_err(|e| ImportError::file(file, e, hint))?;
    let class = name_of(file).strip_suffix(FULL).unwrap_or_default();
    let mut reading = Reading { file, class, tensors: vec![] };
    let inputs = tree.get("inputs").unwrap_or(&Value::Null);
    for part in ["args", "kwargs"] {
        reading.io(inputs.get(part).unwrap_or(&Value::Null), "")?;
    }
    reading.io(tree.get("outputs").unwrap_or(&Value::Null), "output")?;
    for child in children(&tree) {
        reading.node(child)?;
    }
    Ok(reading.tensors)
}

fn children(node: &Value) -> &[Value] {
    node.get("children").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

struct Reading<'a> {
    file: &'a Path,
    class: &'a str,
    tensors: Vec<Named>,
}

impl Reading<'_> {
    /// A call and those below it. JSON's reader bounds their depth.
    fn node(&mut self, node: &Value) -> Result<()> {
        let path = node.get("module_path").and_then(Value::as_str).unwrap_or_default();
        let module = path.strip_prefix(self.class).and_then(|rest| rest.strip_prefix('.')).unwrap_or(path).to_owned();
        let inputs = node.get("inputs").unwrap_or(&Value::Null);
        if let Some(arguments) = inputs.get("args").and_then(Value::as_array) {
            for (i, argument) in arguments.iter().enumerate() {
                let name = if i == 0 { format!("{module}.input") } else { format!("{module}.input.{i}") };
                self.io(argument, &name)?;
            }
        }
        self.io(inputs.get("kwargs").unwrap_or(&Value::Null), &format!("{module}.input"))?;
        self.io(node.get("outputs").unwrap_or(&Value::Null), &module)?;
        for child in children(node) {
            self.node(child)?;
        }
        Ok(())
    }

    /// A tensor, or a list or dict of them.
    fn io(&mut self, value: &Value, name: &str) -> Result<()> {
        if name.len() > NAME_BYTES_MAX {
            return Err(too_long(self.file, name));
        }
        let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        match value {
            Value::Array(items) => {
                items.iter().enumerate().try_for_each(|(i, item)| self.io(item, &inner(&i.to_string())))
            }
            Value::Object(fields) if fields.contains_key("value") && fields.contains_key("dtype") => {
                let Some(path) = fields.get("value").and_then(Value::as_str) else {
                    let hint = "the debugger wrote texts, not tensors: run it with use_repr=False";
                    return Err(ImportError::file(self.file, format!("tensor `{name}`: printed, not saved"), hint));
                };
                let file = beside(self.file.parent().unwrap_or(Path::new(".")), self.file, path)?;
                let origin = Origin::Safetensors(file, "data".to_owned());
                self.tensors.push(Named { name: name.to_owned(), origin, fixed: None });
                Ok(())
            }
            Value::Object(fields) => fields.iter().try_for_each(|(key, item)| self.io(item, &inner(key))),
            _ => Ok(()),
        }
    }
}
