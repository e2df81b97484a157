//! JSON as engines really write it: keys twice, bare `NaN`, u64 hashes; and where in the text an error lies.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;
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
    enum Frame {
        Object { key: Option<String>, in_value: bool },
        Array { index: usize },
    }
    let bytes = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let mut stack: Vec<Frame> = Vec::new();
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        match b {
            b'"' => {
                let end = string_end(bytes, i);
                if let Some(Frame::Object { key, in_value: false }) = stack.last_mut() {
                    let name = bytes.get(i + 1..end).unwrap_or_default();
                    *key = Some(String::from_utf8_lossy(name).into_owned());
                }
                i = end;
            }
            b'{' => stack.push(Frame::Object { key: None, in_value: false }),
            b'[' => stack.push(Frame::Array { index: 0 }),
            b'}' | b']' => drop(stack.pop()),
            b':' => {
                if let Some(Frame::Object { in_value, .. }) = stack.last_mut() {
                    *in_value = true;
                }
            }
            b',' => match stack.last_mut() {
                Some(Frame::Object { in_value, .. }) => *in_value = false,
                Some(Frame::Array { index }) => *index += 1,
                None => {}
            },
            _ => {}
        }
        i += 1;
    }
    let mut path = String::new();
    for frame in &stack {
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

/// The value of a word for NaN or an infinity as printers of several languages spell it.
pub fn not_finite(word: &str) -> Option<f64> {
    let (sign, name) = match word.as_bytes().first() {
        Some(b'-') => (-1.0, word.get(1..)?),
        Some(b'+') => (1.0, word.get(1..)?),
        _ => (1.0, word),
    };
    if name.eq_ignore_ascii_case("nan") {
        Some(f64::NAN)
    } else if name.eq_ignore_ascii_case("inf") || name.eq_ignore_ascii_case("infinity") {
        Some(sign * f64::INFINITY)
    } else {
        None
    }
}

/// A number as an event may hold it: a JSON number, a word for NaN or an infinity in quotes, or `null` for NaN.
#[derive(Clone, Copy, Debug)]
pub struct Num(pub f64);

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Num, D::Error> {
        struct NumVisitor;
        impl Visitor<'_> for NumVisitor {
            type Value = Num;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, `NaN`, `Infinity` or `-Infinity`")
            }

            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Num, E> {
                Ok(Num(v))
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Num, E> {
                Ok(Num(v as f64))
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Num, E> {
                Ok(Num(v as f64))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Num, E> {
                Ok(Num(f64::NAN))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Num, E> {
                not_finite(v).map(Num).ok_or_else(|| E::invalid_value(de::Unexpected::Str(v), &self))
            }
        }
        deserializer.deserialize_any(NumVisitor)
    }
}

/// A hash: an unsigned 64-bit integer, as a JSON integer or its decimal digits in a string. Never a float.
#[derive(Clone, Copy, Debug)]
pub struct Hash64(pub u64);

impl<'de> Deserialize<'de> for Hash64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hash64, D::Error> {
        struct HashVisitor;
        impl Visitor<'_> for HashVisitor {
            type Value = Hash64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an unsigned 64-bit integer (or its decimal digits as a string)")
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Hash64, E> {
                Ok(Hash64(v))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Hash64, E> {
                let digits = !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit());
                let value = digits.then(|| v.parse().ok()).flatten();
                value.map(Hash64).ok_or_else(|| E::invalid_value(de::Unexpected::Str(v), &self))
            }
        }
        deserializer.deserialize_any(HashVisitor)
    }
}

/// A string that borrows from the text where it can.
#[derive(Debug)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'de>, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(v)))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(v.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
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
