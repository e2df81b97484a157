//! The scalars of an event: numbers that may be NaN or infinite, hashes that never pass through a float, strings.

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::borrow::Cow;
use std::fmt;

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
pub struct Num(
    /// Its value.
    pub f64,
);

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
pub struct Hash64(
    /// Its value.
    pub u64,
);

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
#[derive(Clone, Debug)]
pub struct Text<'a>(
    /// The text.
    pub Cow<'a, str>,
);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
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
