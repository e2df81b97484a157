//! JSON as engines really write it: keys twice, bare `NaN`; and where in the text an error lies.

use crate::scalar::not_finite;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// An error in a JSON text: line (from 1), path of the key (`prompts[2].tokens[0]`, empty at the top), message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub line: u64,
    pub key: String,
    pub message: String,
}

/// Parses one JSON value and refuses an object that has a key twice, at any depth.
pub fn strict_value(text: &str) -> Result<Value, Located> {
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(value)) => Ok(value),
        Err(e) => Err(locate_error(text, &e)),
    }
}

/// What serde_json says, with the path of the key at which it says so.
pub fn locate_error(text: &str, error: &serde_json::Error) -> Located {
    let offset = offset_of(text, error.line(), error.column());
    Located { line: error.line().max(1) as u64, key: key_at(text, offset), message: message_of(error) }
}

/// The message without the position at its end.
pub fn message_of(error: &serde_json::Error) -> String {
    let full = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    full.strip_suffix(&position).map_or(full.clone(), str::to_owned)
}

/// Byte offset of a 1-based line and a 1-based column in bytes.
pub fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column).min(text.len())
}

/// Path of the key whose value the text before `offset` ends in.
pub fn key_at(text: &str, offset: usize) -> String {
    let bytes = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    // A list where none belongs is told just past its bracket: the list is meant, not its first element.
    let bytes = bytes.strip_suffix(b"[").unwrap_or(bytes);
    let mut cursor = Cursor::default();
    while cursor.step(bytes) {}
    cursor.path()
}

/// Line (from 1) on which the value of a key's path begins; 1 if there is no such key.
pub fn line_of_key(text: &str, path: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut cursor = Cursor::default();
    while cursor.step(bytes) {
        if cursor.path() == path {
            let space = bytes.iter().skip(cursor.at).take_while(|b| b.is_ascii_whitespace()).count();
            let before = bytes.get(..cursor.at + space).unwrap_or_default();
            return 1 + before.iter().filter(|&&b| b == b'\n').count() as u64;
        }
    }
    1
}

/// Walks over a JSON text, token by token, and knows in which key's value it is. Broken text does not stop it.
#[derive(Default)]
struct Cursor {
    at: usize,
    stack: Vec<Frame>,
}

enum Frame {
    Object { key: Option<String>, in_value: bool },
    Array { index: usize },
}

impl Cursor {
    /// Goes past one byte or string; `false` at the end.
    fn step(&mut self, bytes: &[u8]) -> bool {
        let Some(&b) = bytes.get(self.at) else { return false };
        match b {
            b'"' => {
                let end = string_end(bytes, self.at);
                if let Some(Frame::Object { key, in_value: false }) = self.stack.last_mut() {
                    let name = bytes.get(self.at + 1..end).unwrap_or_default();
                    *key = Some(String::from_utf8_lossy(name).into_owned());
                }
                self.at = end;
            }
            b'{' => self.stack.push(Frame::Object { key: None, in_value: false }),
            b'[' => self.stack.push(Frame::Array { index: 0 }),
            b'}' | b']' => drop(self.stack.pop()),
            b':' => {
                if let Some(Frame::Object { in_value, .. }) = self.stack.last_mut() {
                    *in_value = true;
                }
            }
            b',' => match self.stack.last_mut() {
                Some(Frame::Object { in_value, .. }) => *in_value = false,
                Some(Frame::Array { index }) => *index += 1,
                None => {}
            },
            _ => {}
        }
        self.at += 1;
        true
    }

    /// E.g. `prompts[2].tokens[0]`; empty at the top.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.stack {
            match frame {
                Frame::Object { key: Some(key), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Frame::Object { key: None, .. } => {}
                Frame::Array { index } => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }
}

/// Index of the quote that closes the string opened at `start`, or the end of the text.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while let Some(&b) = bytes.get(i) {
        match b {
            b'"' => return i,
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// `text` with bare words for NaN and the infinities, outside strings, put in quotes, and the offsets in the result at
/// which a quote was put in. `None` if there is no such word.
pub fn quote_bare_words(text: &str) -> Option<(String, Vec<usize>)> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len() + 16);
    let mut quotes = Vec::new();
    let (mut i, mut copied) = (0, 0);
    while let Some(&b) = bytes.get(i) {
        if b == b'"' {
            i = string_end(bytes, i) + 1;
        } else if b.is_ascii_alphabetic() || matches!(b, b'-' | b'+') {
            let rest = bytes.get(i + 1..).unwrap_or_default();
            let len = 1 + rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
            let end = i + len;
            if let Some(word) = text.get(i..end).filter(|word| not_finite(word).is_some()) {
                out.push_str(text.get(copied..i).unwrap_or_default());
                quotes.push(out.len());
                out.push('"');
                out.push_str(word);
                quotes.push(out.len());
                out.push('"');
                copied = end;
            }
            i = end;
        } else {
            i += 1;
        }
    }
    if quotes.is_empty() {
        return None;
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Some((out, quotes))
}

/// A JSON value in which no object has a key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        struct StrictVisitor;
        impl<'de> Visitor<'de> for StrictVisitor {
            type Value = Strict;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_bool<E>(self, v: bool) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_u64<E>(self, v: u64) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_str<E>(self, v: &str) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict(Value::Null))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
                let mut list = Vec::new();
                while let Some(Strict(value)) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Strict(Value::Array(list)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut object = Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    if object.contains_key(&key) {
                        return Err(de::Error::custom("the key stands there twice"));
                    }
                    let Strict(value) = map.next_value()?;
                    object.insert(key, value);
                }
                Ok(Strict(Value::Object(object)))
            }
        }
        deserializer.deserialize_any(StrictVisitor)
    }
}
