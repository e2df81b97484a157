//! Mapping files: from a dump's names to points, axes and parts.

mod pattern;
mod sizes;

pub use sizes::Sizes;

use crate::error::{ImportError, Result};
use driftprobe_trace::Point;
use pattern::Pattern;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The maps that are built in, by name.
const BUILT_IN: &[(&str, &str)] = &[
    ("transformers", include_str!("maps/transformers.toml")),
    ("vllm", include_str!("maps/vllm.toml")),
    ("sglang", include_str!("maps/sglang.toml")),
    ("onnxruntime", include_str!("maps/onnxruntime.toml")),
    ("llama-cpp", include_str!("maps/llama-cpp.toml")),
    ("greta", include_str!("maps/greta.toml")),
];

const HINT: &str = "docs/import.md has the format of mapping files, and an example";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMap {
    #[serde(default)]
    flags: BTreeMap<String, String>,
    #[serde(default)]
    tensor: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    name: OneOrMany,
    point: Option<OneOrMany>,
    #[serde(default)]
    split: Vec<RawPart>,
    axes: Option<String>,
    order: Option<String>,
    layer: Option<i32>,
    rows: Option<String>,
    only: Option<String>,
    role: Option<String>,
    unmapped: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPart {
    point: String,
    size: SizeName,
}

/// The width of a part: a number, or `q`, `kv`, `hidden`, `intermediate` by the model's config.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum SizeName {
    /// So many columns.
    Columns(u64),
    /// By name.
    Named(String),
}

/// What a tensor is.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// The rows of these points, one and the same tensor.
    Points(Vec<Point>),
    /// Parts side by side on the last axis.
    Split(Vec<(Point, SizeName)>),
    /// The ids of the tokens that were fed.
    Tokens,
    /// Their positions.
    Positions,
    /// Known, and not to be mapped, for this reason.
    Unmapped(String),
}

/// One entry of a map.
#[derive(Clone, Debug)]
pub struct Entry {
    names: Vec<Pattern>,
    /// What the tensor is.
    pub meaning: Meaning,
    /// The tensor's axes, innermost last; further ones before them have size 1.
    pub axes: Vec<String>,
    /// The row's axes in their order, if not as in the tensor.
    pub order: Option<Vec<String>>,
    /// The tensor may hold the last token's row only.
    pub last_only: bool,
    only: Option<String>,
    /// The layer of a name that has none.
    layer: i32,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    /// What it is called.
    pub name: String,
    flags: Vec<(String, Pattern)>,
    entries: Vec<Entry>,
}

/// What tells model families apart, as a map's entries ask for it: flags that are set.
pub type Flags = BTreeMap<String, bool>;

impl Map {
    /// A built-in map.
    pub fn built_in(name: &str) -> Option<Result<Map>> {
        let (name, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
        Some(Map::parse(name, text))
    }

    /// The names of the built-in maps.
    pub fn names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    /// A map by its name, or from a file.
    ///
    /// # Errors
    /// If there is neither, or the file is no map.
    pub fn open(name: &str) -> Result<Map> {
        if let Some(map) = Map::built_in(name) {
            return map;
        }
        let text = std::fs::read_to_string(Path::new(name)).map_err(|e| {
            let hint = format!("give a TOML file, or one of {}", Map::names().join(", "));
            ImportError::new(format!("map {name} cannot be read: {e}"), hint)
        })?;
        Map::parse(name, &text)
    }

    /// A map from its text.
    ///
    /// # Errors
    /// If it is not TOML, or an entry makes no sense.
    pub fn parse(name: &str, text: &str) -> Result<Map> {
        let refuse = |what: String| ImportError::new(format!("map {name}: {what}"), HINT);
        let raw: RawMap = toml::from_str(text).map_err(|e| refuse(e.to_string()))?;
        let mut flags = Vec::new();
        for (flag, pattern) in raw.flags {
            flags
                .push((flag.clone(), Pattern::parse(&pattern).map_err(|what| refuse(format!("flag {flag}: {what}")))?));
        }
        let mut entries = Vec::new();
        for (i, raw) in raw.tensor.into_iter().enumerate() {
            entries.push(entry(raw).map_err(|what| refuse(format!("tensor {}: {what}", i + 1)))?);
        }
        let map = Map { name: name.to_owned(), flags, entries };
        let known = |only: &str| map.flags.iter().any(|(flag, _)| flag == only.trim_start_matches('!'));
        match map.entries.iter().filter_map(|entry| entry.only.as_deref()).find(|only| !known(only)) {
            Some(only) => Err(refuse(format!("only = \"{only}\": no such flag in [flags]"))),
            None => Ok(map),
        }
    }

    /// The flags of a model: by its config, where that says so, otherwise by whether a tensor of the flag's name is there.
    pub fn flags<'a>(&self, config: Option<&Sizes>, names: impl Iterator<Item = &'a str> + Clone) -> Flags {
        let flag = |(flag, pattern): &(String, Pattern)| {
            let stated = config.and_then(|config| config.flag(flag));
            let seen = || names.clone().any(|name| pattern.matches(name).is_some());
            (flag.clone(), stated.unwrap_or_else(seen))
        };
        self.flags.iter().map(flag).collect()
    }

    /// The entry of a name, its place in the map, and the layer (−1: none in the name). An output's first part, `name.0`,
    /// goes by the output's name too.
    pub fn find(&self, name: &str, flags: &Flags) -> Option<(usize, &Entry, i32)> {
        let applies = |entry: &&(usize, &Entry)| match entry.1.only.as_deref() {
            None => true,
            Some(only) => match only.strip_prefix('!') {
                Some(not) => !flags.get(not).copied().unwrap_or(false),
                None => flags.get(only).copied().unwrap_or(false),
            },
        };
        let with = |name: &str| {
            let mut entries = self.entries.iter().enumerate().collect::<Vec<_>>().into_iter().filter(|e| applies(&e));
            entries.find_map(|(i, entry)| {
                let layer = entry.names.iter().find_map(|pattern| pattern.matches(name))?;
                Some((i, entry, if layer < 0 { entry.layer } else { layer }))
            })
        };
        with(name).or_else(|| with(name.strip_suffix(".0")?))
    }
}

fn point(name: &str) -> std::result::Result<Point, String> {
    Point::parse(name).ok_or_else(|| format!("`{name}` is no point (docs/trace-format.md lists them)"))
}

fn meaning(raw: &mut RawEntry) -> std::result::Result<Meaning, String> {
    let split = std::mem::take(&mut raw.split);
    let given = [raw.point.is_some(), !split.is_empty(), raw.role.is_some(), raw.unmapped.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err("expected exactly one of point, split, role and unmapped".to_owned());
    }
    if let Some(points) = raw.point.take() {
        let points: std::result::Result<Vec<Point>, String> = points.all().iter().map(|name| point(name)).collect();
        return points.map(Meaning::Points);
    }
    if let Some(why) = raw.unmapped.take() {
        return Ok(Meaning::Unmapped(why));
    }
    match raw.role.as_deref() {
        Some("tokens") => Ok(Meaning::Tokens),
        Some("positions") => Ok(Meaning::Positions),
        Some(other) => Err(format!("role = \"{other}\": expected tokens or positions")),
        None => {
            let parts: std::result::Result<Vec<_>, String> =
                split.into_iter().map(|part| Ok((point(&part.point)?, part.size))).collect();
            parts.map(Meaning::Split)
        }
    }
}

fn entry(mut raw: RawEntry) -> std::result::Result<Entry, String> {
    let meaning = meaning(&mut raw)?;
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
    let axes = words(raw.axes.unwrap_or_else(|| "tokens width".to_owned()));
    let count = |axis: &str| axes.iter().filter(|known| *known == axis).count();
    if axes.is_empty() || axes.iter().any(|axis| count(axis) > 1) || count("tokens") + count("keys") == 0 {
        return Err("axes: expected names, each once, among them tokens (or keys, of a cache)".to_owned());
    }
    let order = raw.order.map(words);
    if let Some(order) = &order {
        let mut sorted = order.clone();
        sorted.sort();
        let mut rest: Vec<String> = axes.iter().filter(|axis| *axis != "tokens").cloned().collect();
        rest.sort();
        if sorted != rest {
            return Err("order: expected the axes but tokens, each once".to_owned());
        }
    }
    let last_only = match raw.rows.as_deref() {
        None => false,
        Some("last") => true,
        Some(other) => return Err(format!("rows = \"{other}\": expected last")),
    };
    let names: std::result::Result<Vec<Pattern>, String> =
        raw.name.all().iter().map(|name| Pattern::parse(name)).collect();
    Ok(Entry { names: names?, meaning, axes, order, last_only, only: raw.only, layer: raw.layer.unwrap_or(-1) })
}
