//! One line of a trace as it stands there, before it is an [`Event`](crate::Event): which fields, of which types.

use crate::json::{self, Located};
use crate::quick;
use crate::scalar::{Hash64, Num, Text};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;

/// `{"file": …, "key": …}`.
#[derive(Clone, Debug)]
pub struct RawPayload<'a> {
    /// Path of the file in the run's folder, not checked yet.
    pub file: Text<'a>,
    /// Name of the tensor in it.
    pub key: Text<'a>,
}

macro_rules! raw_event {
    ($($field:ident: $ty:ty;)*) => {
        /// An event as it stands in a line or a row: the fields of docs/trace-format.md, of the right types and otherwise
        /// not checked. Outer `None`: the field is not there. Inner `None`: it is `null`.
        #[derive(Clone, Debug, Default)]
        pub struct RawEvent<'a> {
            $(#[doc = concat!("`", stringify!($field), "`")] pub $field: Option<$ty>,)*
            /// Names of fields that this version does not know.
            pub unknown: Vec<String>,
        }

        impl<'de> Deserialize<'de> for RawEvent<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawEvent<'de>, D::Error> {
                struct EventVisitor;
                impl<'de> Visitor<'de> for EventVisitor {
                    type Value = RawEvent<'de>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an event (one JSON object)")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawEvent<'de>, A::Error> {
                        let mut raw = RawEvent::default();
                        while let Some(Text(key)) = map.next_key::<Text>()? {
                            match key.as_ref() {
                                $(stringify!($field) => {
                                    if raw.$field.is_some() {
                                        return Err(twice());
                                    }
                                    raw.$field = Some(map.next_value()?);
                                })*
                                name => {
                                    if raw.unknown.iter().any(|known| known == name) {
                                        return Err(twice());
                                    }
                                    raw.unknown.push(name.to_owned());
                                    map.next_value::<IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(raw)
                    }
                }
                deserializer.deserialize_map(EventVisitor)
            }
        }
    };
}

raw_event! {
    event: Option<Text<'a>>;
    prompt_id: Option<Text<'a>>;
    phase: Option<Text<'a>>;
    point: Option<Text<'a>>;
    tensor: Option<Text<'a>>;
    layer: Option<i32>;
    step: Option<u64>;
    pos_id: Option<u64>;
    logical_tok_idx: Option<u64>;
    token_id: Option<u32>;
    seq_len: Option<u64>;
    kv_len: Option<u64>;
    dtype: Option<Text<'a>>;
    stored_dtype: Option<Text<'a>>;
    shape: Option<Vec<u64>>;
    hash_algo: Option<Text<'a>>;
    hash: Option<Hash64>;
    min: Num;
    max: Num;
    mean: Num;
    abs_sum: Num;
    nan: Option<u64>;
    inf: Option<u64>;
    nz_count: Option<u64>;
    sample: Option<Vec<Num>>;
    sample_idx: Option<Vec<u64>>;
    payload: Option<RawPayload<'a>>;
    top1_id: Option<u32>;
    top1_logit: Num;
    top2_id: Option<u32>;
    top2_logit: Num;
    gap: Num;
    vocab: Option<u64>;
}

fn twice<E: de::Error>() -> E {
    E::custom("the key stands there twice")
}

impl<'de> Deserialize<'de> for RawPayload<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawPayload<'de>, D::Error> {
        struct PayloadVisitor;
        impl<'de> Visitor<'de> for PayloadVisitor {
            type Value = RawPayload<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with `file` and `key`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawPayload<'de>, A::Error> {
                let (mut file, mut key) = (None, None);
                while let Some(Text(name)) = map.next_key::<Text>()? {
                    let slot = match name.as_ref() {
                        "file" => &mut file,
                        "key" => &mut key,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if slot.is_some() {
                        return Err(twice());
                    }
                    *slot = Some(map.next_value()?);
                }
                Ok(RawPayload {
                    file: file.ok_or_else(|| de::Error::missing_field("file"))?,
                    key: key.ok_or_else(|| de::Error::missing_field("key"))?,
                })
            }
        }
        deserializer.deserialize_map(PayloadVisitor)
    }
}

/// Parses a line and gives what it says to `accept`; bare words for NaN and the infinities are let pass.
///
/// # Errors
/// Where the line is not an event: the key, and why. Also what `accept` says.
pub fn parse_line<T>(line: &str, accept: impl FnOnce(RawEvent<'_>) -> Result<T, Located>) -> Result<T, Located> {
    if let Some(raw) = quick::read(line) {
        return accept(raw);
    }
    let first = match serde_json::from_str::<RawEvent>(line) {
        Ok(raw) => return accept(raw),
        Err(e) => e,
    };
    let Some((quoted, quotes)) = json::quote_bare_words(line) else {
        return Err(json::locate_error(line, &first));
    };
    match serde_json::from_str::<RawEvent>(&quoted) {
        Ok(raw) => accept(raw),
        Err(e) => {
            let offset = json::offset_of(&quoted, e.line(), e.column());
            let added = quotes.iter().filter(|&&at| at < offset).count();
            let key = json::key_at(line, offset.saturating_sub(added));
            Err(Located { line: 1, key, message: json::message_of(&e) })
        }
    }
}
