//! A reader of the few pickle opcodes that `torch.save` writes. It builds data and calls nothing.
//!
//! Every other opcode, name and call is refused with its offset. Objects lie in one list and refer to each other by number:
//! nothing is copied when it is used twice and nothing recurses, so that neither nesting nor sharing costs more than the
//! file's own length. candle-core has a reader too; it copies an object each time that it is used, and allocates a text by
//! the length that the file claims, so it is not used here. Lengths in the file are held against what is left of it before anything is allocated.

mod object;
mod tensor;

pub use object::{Id, Object, Objects};
pub use tensor::{Storage, View};

use object::Global;
use std::collections::HashMap;

/// Largest pickle that is read; tensors' values lie elsewhere.
pub const PICKLE_BYTES_MAX: u64 = 64 << 20;
/// Most objects in one.
const OBJECTS_MAX: usize = 4 << 20;

/// Why a pickle was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pickle, byte {offset}: {what}")]
pub struct PickleError {
    /// Where in the pickle.
    pub offset: usize,
    /// Why.
    pub what: String,
}

/// Opcodes that are refused by name.
const REFUSED: &[(u8, &str)] = &[
    (b'i', "INST"),
    (b'o', "OBJ"),
    (b'b', "BUILD"),
    (0x81, "NEWOBJ"),
    (0x92, "NEWOBJ_EX"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (b'P', "PERSID"),
    (b'1', "POP_MARK"),
    (0x97, "NEXT_BUFFER"),
    (0x98, "READONLY_BUFFER"),
    (0x8f, "EMPTY_SET"),
    (0x90, "ADDITEMS"),
    (0x91, "FROZENSET"),
    (0x96, "BYTEARRAY8"),
    (b'B', "BINBYTES"),
    (b'C', "SHORT_BINBYTES"),
    (0x8e, "BINBYTES8"),
];

/// Reads a pickle.
///
/// # Errors
/// What is refused, and where.
pub fn read(bytes: &[u8]) -> Result<Objects, PickleError> {
    let mut machine =
        Machine { bytes, at: 0, op_at: 0, objects: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
    if bytes.len() as u64 > PICKLE_BYTES_MAX {
        return Err(machine.refusal(format!("{} bytes are more than {PICKLE_BYTES_MAX}", bytes.len())));
    }
    loop {
        machine.op_at = machine.at;
        let code = machine.byte()?;
        if code == b'.' {
            let root = machine.pop()?;
            return Ok(Objects { all: machine.objects, root });
        }
        machine.step(code)?;
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    op_at: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

type Step<T = ()> = Result<T, PickleError>;

impl<'a> Machine<'a> {
    fn refusal(&self, what: impl Into<String>) -> PickleError {
        PickleError { offset: self.op_at, what: what.into() }
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(count);
        let part = end.and_then(|end| self.bytes.get(self.at..end));
        let part = part.ok_or_else(|| self.refusal(format!("{count} bytes expected, the pickle ends before")))?;
        self.at += count;
        Ok(part)
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    /// A little-endian number of `count` ≤ 8 bytes.
    fn number(&mut self, count: usize) -> Step<u64> {
        Ok(self.take(count)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n');
        let line = self.take(length.ok_or_else(|| self.refusal("a line without an end"))?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| self.refusal("a name that is not UTF-8"))
    }

    fn text(&mut self, count: u64) -> Step {
        let count = usize::try_from(count).map_err(|_| self.refusal("a text of impossible length"))?;
        let bytes = self.take(count)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.refusal("a text that is not UTF-8"))?;
        self.push(Object::Text(text.to_owned()))
    }

    fn push(&mut self, object: Object) -> Step {
        if self.objects.len() >= OBJECTS_MAX {
            return Err(self.refusal(format!("more than {OBJECTS_MAX} objects")));
        }
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    /// The topmost object; none below the last mark.
    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(|| self.refusal("nothing on the stack")),
            false => Err(self.refusal("nothing on the stack")),
        }
    }

    fn pop_many(&mut self, count: usize) -> Step<Vec<Id>> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Step<Vec<Id>>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.refusal("no mark on the stack"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| self.refusal("nothing on the stack"))
    }

    fn object(&self, id: Id) -> &Object {
        self.objects.get(id).unwrap_or(&Object::None)
    }

    fn step(&mut self, code: u8) -> Step {
        match code {
            0x80 => self.protocol(),
            0x95 => self.number(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'N' => self.push(Object::None),
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            b'J' | b'K' | b'M' | 0x8a | b'G' => self.scalar(code),
            b'X' | 0x8c | 0x8d => {
                let count = self.number(match code {
                    b'X' => 4,
                    0x8c => 1,
                    _ => 8,
                })?;
                self.text(count)
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memory(code),
            b']' | b'}' | b')' | 0x85..=0x87 | b't' | b'l' | b'd' => self.container(code),
            b'a' | b'e' | b's' | b'u' => self.fill(code),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)
            }
            0x93 => {
                let parts = self.pop_many(2)?;
                let names: Vec<String> =
                    parts.iter().filter_map(|id| self.object(*id).text().map(str::to_owned)).collect();
                match names.as_slice() {
                    [module, name] => self.global(module, name),
                    _ => Err(self.refusal("STACK_GLOBAL without two names")),
                }
            }
            b'R' => self.reduce(),
            b'Q' => {
                let id = self.pop()?;
                let storage = tensor::storage(&self.objects, id).map_err(|what| self.refusal(what))?;
                self.push(Object::Storage(storage))
            }
            other => Err(self.refusal(match REFUSED.iter().find(|(refused, _)| *refused == other) {
                Some((_, name)) => {
                    format!("{name} is refused: it makes objects of arbitrary code, or torch.save never writes it")
                }
                None => format!("opcode 0x{other:02x} is none that torch.save writes"),
            })),
        }
    }

    fn protocol(&mut self) -> Step {
        match self.byte()? {
            2..=5 => Ok(()),
            other => Err(self.refusal(format!("protocol {other}, expected 2 to 5"))),
        }
    }

    fn scalar(&mut self, code: u8) -> Step {
        let object = match code {
            b'J' => Object::Int(i64::from(self.number(4)? as u32 as i32)),
            b'K' => Object::Int(self.number(1)? as i64),
            b'M' => Object::Int(self.number(2)? as i64),
            b'G' => Object::Float(f64::from_bits(self.number(8)?.swap_bytes())),
            _ => {
                let count = self.number(1)? as usize;
                if count > 8 {
                    return Err(self.refusal(format!("an integer of {count} bytes")));
                }
                let value = self.number(count)?;
                // Sign-extended from the number's own length.
                let shift = 64 - 8 * count as u32;
                Object::Int(value.checked_shl(shift).map_or(0, |up| (up as i64) >> shift))
            }
        };
        self.push(object)
    }

    fn memory(&mut self, code: u8) -> Step {
        let slot = match code {
            b'q' | b'h' => self.number(1)? as u32,
            b'r' | b'j' => self.number(4)? as u32,
            _ => self.memo.len() as u32,
        };
        if matches!(code, b'h' | b'j') {
            let id = self.memo.get(&slot).copied();
            self.stack.push(id.ok_or_else(|| self.refusal(format!("memo {slot} is empty")))?);
            return Ok(());
        }
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn container(&mut self, code: u8) -> Step {
        let object = match code {
            b']' => Object::List(vec![]),
            b'}' => Object::Dict(vec![]),
            b')' => Object::Tuple(vec![]),
            0x85..=0x87 => Object::Tuple(self.pop_many(usize::from(code - 0x84))?),
            b't' => Object::Tuple(self.pop_mark()?),
            b'l' => Object::List(self.pop_mark()?),
            _ => {
                let items = self.pop_mark()?;
                Object::Dict(self.pairs(&items)?)
            }
        };
        self.push(object)
    }

    fn pairs(&self, items: &[Id]) -> Step<Vec<(Id, Id)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        match rest {
            [] => Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect()),
            _ => Err(self.refusal("a dict whose last key has no value")),
        }
    }

    fn fill(&mut self, code: u8) -> Step {
        let items = match code {
            b'a' => self.pop_many(1)?,
            b's' => self.pop_many(2)?,
            _ => self.pop_mark()?,
        };
        let pairs = if matches!(code, b's' | b'u') { self.pairs(&items)? } else { vec![] };
        let target = self.top()?;
        match (self.objects.get_mut(target), code) {
            (Some(Object::List(list)), b'a' | b'e') => list.extend(items),
            (Some(Object::Dict(dict)), b's' | b'u') => dict.extend(pairs),
            _ => return Err(self.refusal("items for something that is no list or dict")),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Step {
        match Global::named(module, name) {
            Some(global) => self.push(Object::Global(global)),
            None => Err(self.refusal(format!(
                "the name {module}.{name} is refused: only tensors, dicts, lists, tuples, texts and numbers are read"
            ))),
        }
    }

    /// A call of one of the few known names; no other callable ever lies on the stack.
    fn reduce(&mut self) -> Step {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let made = match (self.object(callable), self.object(arguments)) {
            (Object::Global(Global::OrderedDict), Object::Tuple(items)) if items.is_empty() => Ok(Object::Dict(vec![])),
            (Object::Global(Global::RebuildTensor), Object::Tuple(items)) => {
                tensor::view(&self.objects, items).map(Object::Tensor)
            }
            (Object::Global(Global::RebuildParameter), Object::Tuple(items)) => {
                match items.first().map(|id| self.object(*id)) {
                    Some(Object::Tensor(view)) => Ok(Object::Tensor(view.clone())),
                    _ => Err("a parameter without a tensor".to_owned()),
                }
            }
            (other, _) => Err(format!("a call of {} is refused", other.what())),
        };
        let made = made.map_err(|what| self.refusal(what))?;
        self.push(made)
    }
}
