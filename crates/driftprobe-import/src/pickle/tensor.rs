//! Tensors in a pickle: a storage by its name, and which of its values in which order.

use super::object::{Global, Id, Object};
use crate::tensor::Kind;

/// Most axes of a tensor.
const AXES_MAX: usize = 16;

/// Where a tensor's values lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Type of the values.
    pub kind: Kind,
    /// Name of the entry in the archive's `data/`.
    pub key: String,
    /// How many values the pickle says it has.
    pub values: u64,
}

/// A tensor as a view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The storage.
    pub storage: Storage,
    /// First value.
    pub offset: u64,
    /// Shape.
    pub shape: Vec<u64>,
    /// Values from one index of an axis to the next.
    pub strides: Vec<u64>,
}

/// Longest key of a storage; torch counts them. Every tensor has its own copy.
const KEY_BYTES_MAX: usize = 64;

fn object<'a>(objects: &'a [Object], id: Option<&Id>) -> Option<&'a Object> {
    objects.get(*id?)
}

/// `('storage', type, key, device, number of values)`.
pub fn storage(objects: &[Object], id: Id) -> Result<Storage, String> {
    let wrong = || "a persistent id that is no storage of torch".to_owned();
    let Some(Object::Tuple(parts)) = objects.get(id) else { return Err(wrong()) };
    let part = |i: usize| object(objects, parts.get(i));
    match (part(0), part(1), part(2), part(4), parts.len()) {
        (
            Some(Object::Text(word)),
            Some(Object::Global(Global::StorageType(kind))),
            Some(Object::Text(key)),
            Some(Object::Int(values)),
            5,
        ) if word == "storage" => {
            if key.len() > KEY_BYTES_MAX {
                return Err(format!("a storage whose key has {} bytes, expected at most {KEY_BYTES_MAX}", key.len()));
            }
            let values = u64::try_from(*values).map_err(|_| format!("storage {key} of {values} values"))?;
            Ok(Storage { kind: *kind, key: key.clone(), values })
        }
        _ => Err(wrong()),
    }
}

fn sizes(objects: &[Object], id: Option<&Id>, what: &str) -> Result<Vec<u64>, String> {
    let Some(items) = id.and_then(|id| match objects.get(*id) {
        Some(Object::Tuple(items) | Object::List(items)) => Some(items),
        _ => None,
    }) else {
        return Err(format!("a tensor whose {what} is no tuple"));
    };
    if items.len() > AXES_MAX {
        return Err(format!("a tensor of {} axes, expected at most {AXES_MAX}", items.len()));
    }
    let size = |id: &Id| match objects.get(*id) {
        Some(Object::Int(size)) => {
            u64::try_from(*size).map_err(|_| format!("a tensor whose {what} has the negative number {size}"))
        }
        _ => Err(format!("a tensor whose {what} is no tuple of integers")),
    };
    items.iter().map(size).collect()
}

/// `_rebuild_tensor_v2(storage, offset, size, stride, …)`.
pub fn view(objects: &[Object], arguments: &[Id]) -> Result<View, String> {
    let Some(Object::Storage(storage)) = object(objects, arguments.first()) else {
        return Err("a tensor without a storage".to_owned());
    };
    let Some(Object::Int(offset)) = object(objects, arguments.get(1)) else {
        return Err("a tensor whose offset is no integer".to_owned());
    };
    let offset = u64::try_from(*offset).map_err(|_| format!("a tensor with the negative offset {offset}"))?;
    let shape = sizes(objects, arguments.get(2), "shape")?;
    let strides = sizes(objects, arguments.get(3), "strides")?;
    if shape.len() != strides.len() {
        return Err(format!("a tensor of shape {shape:?} with strides {strides:?}"));
    }
    let view = View { storage: storage.clone(), offset, shape, strides };
    match view.end() {
        Some(end) if end <= view.storage.values => Ok(view),
        _ => Err(format!(
            "a tensor of shape {:?}, strides {:?} and offset {offset} leaves its storage {} of {} values",
            view.shape, view.strides, view.storage.key, view.storage.values
        )),
    }
}

impl View {
    /// One past the last value that it uses; the offset if it has none. None: more than can be counted.
    pub fn end(&self) -> Option<u64> {
        if self.shape.contains(&0) {
            return Some(self.offset);
        }
        let axes = self.shape.iter().zip(&self.strides);
        let last = axes
            .map(|(size, stride)| (size - 1).checked_mul(*stride))
            .try_fold(self.offset, |sum, part| sum.checked_add(part?));
        last?.checked_add(1)
    }
}
