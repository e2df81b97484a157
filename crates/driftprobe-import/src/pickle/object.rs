//! What a pickle may hold: plain data, and tensors as views of storages.

use super::tensor::{Storage, View};
use crate::tensor::Kind;
use driftprobe_trace::Dtype;

/// Number of an object in [`Objects::all`].
pub type Id = usize;

/// The names that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `torch.FloatStorage` and its like.
    StorageType(Kind),
}

const fn int(bytes: usize) -> Kind {
    Kind::Int { signed: true, bytes }
}

/// torch's names of storages.
const STORAGES: &[(&str, Kind)] = &[
    ("DoubleStorage", Kind::Float(Dtype::F64)),
    ("FloatStorage", Kind::Float(Dtype::F32)),
    ("HalfStorage", Kind::Float(Dtype::F16)),
    ("BFloat16Storage", Kind::Float(Dtype::Bf16)),
    ("LongStorage", int(8)),
    ("IntStorage", int(4)),
    ("ShortStorage", int(2)),
    ("CharStorage", int(1)),
    ("ByteStorage", Kind::Int { signed: false, bytes: 1 }),
    ("BoolStorage", Kind::Bool),
];

impl Global {
    /// The name, if it is one of them.
    pub fn named(module: &str, name: &str) -> Option<Global> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
            ("torch", name) => {
                STORAGES.iter().find(|(own, _)| *own == name).map(|(_, kind)| Global::StorageType(*kind))
            }
            _ => None,
        }
    }
}

/// One object of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Id>),
    /// A dict, in its order.
    Dict(Vec<(Id, Id)>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A known name.
    Global(Global),
    /// Where values lie.
    Storage(Storage),
    /// A tensor.
    Tensor(View),
}

impl Object {
    /// Its text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, in words.
    pub fn what(&self) -> &'static str {
        match self {
            Object::None => "None",
            Object::Bool(_) => "a bool",
            Object::Int(_) | Object::Float(_) => "a number",
            Object::Text(_) => "a text",
            Object::List(_) => "a list",
            Object::Dict(_) => "a dict",
            Object::Tuple(_) => "a tuple",
            Object::Global(Global::OrderedDict) => "collections.OrderedDict with arguments",
            Object::Global(Global::RebuildTensor) => "torch._utils._rebuild_tensor_v2 without a tuple",
            Object::Global(Global::RebuildParameter) => "torch._utils._rebuild_parameter without a tuple",
            Object::Global(Global::StorageType(_)) => "a storage type",
            Object::Storage(_) => "a storage",
            Object::Tensor(_) => "a tensor",
        }
    }
}

/// A pickle's objects, which refer to each other by number.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// All of them.
    pub all: Vec<Object>,
    /// The one that was saved.
    pub root: Id,
}

/// Deepest nesting of containers that is looked into.
const DEPTH_MAX: usize = 64;
/// Most tensors and containers that are looked at; a pickle can hold one a million times.
const VISITS_MAX: usize = 1 << 20;
/// Longest name of a tensor: keys are joined, and one key may stand in many dicts.
const NAME_BYTES_MAX: usize = 4096;
/// Most bytes of all names together.
const NAMES_BYTES_MAX: usize = 64 << 20;

impl Objects {
    /// The object of this number.
    pub fn get(&self, id: Id) -> &Object {
        self.all.get(id).unwrap_or(&Object::None)
    }

    /// The tensors with their names: keys and numbers on the way from the root, joined by dots.
    ///
    /// # Errors
    /// If containers are nested too deeply or there are too many.
    pub fn tensors(&self) -> Result<Vec<(String, View)>, String> {
        let mut found = Vec::new();
        // Tensors are shared now and then, not everything many times: a small file gives no long list.
        let visits_max = VISITS_MAX.min(1024 + 16 * self.all.len());
        let mut walk = Walk { todo: vec![(self.root, String::new(), 0)], visits: 1, visits_max, named: 0 };
        while let Some((id, name, depth)) = walk.todo.pop() {
            if depth > DEPTH_MAX {
                return Err(format!("containers nested more than {DEPTH_MAX} deep"));
            }
            match self.get(id) {
                Object::Tensor(view) => found.push((name, view.clone())),
                Object::List(items) | Object::Tuple(items) => {
                    for (i, item) in items.iter().enumerate().rev() {
                        walk.add(*item, (&name, &i.to_string()), depth + 1)?;
                    }
                }
                Object::Dict(items) => {
                    for (key, value) in items.iter().rev() {
                        match self.get(*key) {
                            Object::Text(key) => walk.add(*value, (&name, key), depth + 1)?,
                            Object::Int(number) => walk.add(*value, (&name, &number.to_string()), depth + 1)?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// What is still to be looked at.
struct Walk {
    todo: Vec<(Id, String, usize)>,
    visits: usize,
    visits_max: usize,
    named: usize,
}

impl Walk {
    fn add(&mut self, id: Id, (name, key): (&str, &str), depth: usize) -> Result<(), String> {
        self.visits += 1;
        if self.visits > self.visits_max {
            let most = self.visits_max;
            return Err(format!("more than {most} objects, counted as often as they are used"));
        }
        let len = name.len().saturating_add(key.len());
        self.named = self.named.saturating_add(len);
        if len > NAME_BYTES_MAX || self.named > NAMES_BYTES_MAX {
            let begins: String = name.chars().chain(key.chars()).take(40).collect();
            return Err(format!(
                "a name of more than {NAME_BYTES_MAX} bytes, or names of more than {NAMES_BYTES_MAX} together: `{begins}` …"
            ));
        }
        let name = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        self.todo.push((id, name, depth));
        Ok(())
    }
}
