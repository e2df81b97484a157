//! Hugging Face folders that differ from a fixture in one thing.

use super::fixture;
use driftprobe_model::{Model, ModelError};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub struct Folder(TempDir);

/// A tensor on its way into a file: dtype, shape, bytes.
pub type Stored = (Dtype, Vec<usize>, Vec<u8>);

impl Folder {
    /// A copy of `fixtures/hf/<name>`.
    pub fn copy(name: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for entry in fs::read_dir(fixture("hf").join(name)).unwrap() {
            let from = entry.unwrap().path();
            // The expected logits lie beside the model, but are no part of it.
            if from.file_name().is_some_and(|n| n != "expected.safetensors") {
                fs::copy(&from, folder.file(from.file_name().unwrap())).unwrap();
            }
        }
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    pub fn open(&self) -> Result<Model, ModelError> {
        Model::open(self.path())
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.file(name), bytes).unwrap();
    }

    /// Edits a JSON object in place.
    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
        let mut json: Value = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        edit(json.as_object_mut().unwrap());
        self.write(name, serde_json::to_vec(&json).unwrap());
    }

    /// Sets (or, with null, removes) keys of config.json.
    pub fn config(&self, keys: Value) -> &Folder {
        self.edit_json("config.json", |config| {
            for (key, value) in keys.as_object().unwrap() {
                if value.is_null() {
                    config.remove(key)
                } else {
                    config.insert(key.clone(), value.clone())
                };
            }
        });
        self
    }

    /// Edits the tensors of one safetensors file.
    pub fn edit_tensors(&self, name: &str, edit: impl FnOnce(&mut BTreeMap<String, Stored>)) {
        let mut tensors = stored(&fs::read(self.file(name)).unwrap());
        edit(&mut tensors);
        self.write(name, serialised(&tensors));
    }
}

pub fn stored(bytes: &[u8]) -> BTreeMap<String, Stored> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    file.iter().map(|(name, t)| (name.to_owned(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn serialised(tensors: &BTreeMap<String, Stored>) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}
