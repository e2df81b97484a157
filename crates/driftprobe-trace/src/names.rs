//! How phases and points are spelled in JSON.

use crate::{Phase, Point};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

impl Phase {
    /// Both, prefill first.
    pub const ALL: [Phase; 2] = [Phase::Prefill, Phase::Decode];

    /// Name as it stands in a manifest.
    pub const fn id(self) -> &'static str {
        match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        }
    }

    /// As events spell it: `prefill`, and `decode0` for the first step (step 1).
    pub fn spelling(self, step: u64) -> Arc<str> {
        match self {
            Phase::Prefill => Arc::from(self.id()),
            Phase::Decode => Arc::from(format!("{self}{}", step.saturating_sub(1))),
        }
    }

    /// The phase of an event's spelling: `prefill`, `prefill_last`, `decode`, `decode0`, `decode1`, …
    pub fn parse(spelling: &str) -> Option<Phase> {
        match spelling {
            "prefill" | "prefill_last" => Some(Phase::Prefill),
            _ => {
                let step = spelling.strip_prefix("decode")?;
                step.bytes().all(|b| b.is_ascii_digit()).then_some(Phase::Decode)
            }
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de> Deserialize<'de> for Phase {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Phase, D::Error> {
        deserializer.deserialize_str(NameVisitor("`prefill` or `decode`", PhantomData))
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Point, D::Error> {
        deserializer.deserialize_str(NameVisitor("the id or an alias of a point", PhantomData))
    }
}

/// Something that has a name.
trait Named: Sized {
    fn named(name: &str) -> Option<Self>;
}

impl Named for Point {
    fn named(name: &str) -> Option<Point> {
        Point::parse(name)
    }
}

impl Named for Phase {
    fn named(name: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|p| p.id() == name)
    }
}

struct NameVisitor<T>(&'static str, PhantomData<T>);

impl<T: Named> Visitor<'_> for NameVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<T, E> {
        T::named(name).ok_or_else(|| E::invalid_value(de::Unexpected::Str(name), &self))
    }
}
