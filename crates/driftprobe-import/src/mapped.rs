//! A pass by its map: which tensor is which point, how many tokens the pass fed, and what it says of them.

use crate::error::{ImportError, Result};
use crate::load::Loader;
use crate::map::{Entry, Flags, Map, Meaning};
use crate::report::Unmapped;
use crate::source::{Named, Pass};
use driftprobe_trace::{Phase, Point};
use std::collections::BTreeMap;

/// A tensor and its entry in the map.
pub struct Item<'m> {
    /// The tensor.
    pub named: Named,
    /// Its entry.
    pub entry: &'m Entry,
    /// Its layer.
    pub layer: i32,
}

/// A pass, mapped.
pub struct Mapped<'m> {
    /// What the dump calls it.
    pub label: String,
    /// Its phase, if told.
    pub phase: Option<Phase>,
    /// Tensors of all its tokens.
    pub items: Vec<Item<'m>>,
    /// Rows whose place is told.
    pub fixed: Vec<Named>,
    /// How many tokens it fed; none if it holds loose rows only.
    pub tokens: Option<u64>,
    /// Their ids.
    pub ids: Option<Vec<u32>>,
    /// Their positions.
    pub positions: Option<Vec<u64>>,
    /// The whole sequence up to here.
    pub sequence: Option<Vec<u32>>,
}

/// Where the tokens are in a shape.
pub struct Layout {
    /// The axis of tokens, if there is one.
    pub tokens: Option<usize>,
    /// The axis of keys, if there is one.
    pub keys: Option<usize>,
    /// The axes of a row, in its order.
    pub order: Vec<usize>,
    /// The shape, with axes before the named ones.
    pub shape: Vec<u64>,
}

/// Holds a shape against an entry's axes. Axes before them must have one index: a batch of one.
pub fn layout(entry: &Entry, shape: &[u64]) -> std::result::Result<Layout, String> {
    let mut shape = shape.to_vec();
    if entry.last_only && shape.len() + 1 == entry.axes.len() {
        // The last token's row alone.
        shape.insert(0, 1);
    }
    let names = entry.axes.join(" ");
    let Some(lead) = shape.len().checked_sub(entry.axes.len()) else {
        return Err(format!("has fewer axes than the map's `{names}`"));
    };
    if shape.iter().take(lead).any(|size| *size != 1) {
        return Err(format!("has more than one sequence or axis before the map's `{names}`"));
    }
    let at = |name: &str| entry.axes.iter().position(|axis| axis == name).map(|at| at + lead);
    let names: Vec<&String> = match &entry.order {
        Some(order) => order.iter().collect(),
        None => entry.axes.iter().filter(|axis| *axis != "tokens").collect(),
    };
    let order = names.into_iter().filter_map(|name| at(name)).collect();
    Ok(Layout { tokens: at("tokens"), keys: at("keys"), order, shape })
}

/// What is asked of a map for all passes.
pub struct Mapping<'m> {
    /// The map.
    pub map: &'m Map,
    /// The model's flags.
    pub flags: Flags,
}

impl<'m> Mapping<'m> {
    /// Maps one pass; what is left over goes to `unmapped`.
    ///
    /// # Errors
    /// If its tensors do not agree about the number of tokens, or do not have the map's axes.
    pub fn pass(&self, pass: Pass, loader: &mut Loader, unmapped: &mut Vec<Unmapped>) -> Result<Mapped<'m>> {
        let mut mapped = Mapped {
            label: pass.label,
            phase: pass.phase,
            items: vec![],
            fixed: vec![],
            tokens: None,
            ids: None,
            positions: None,
            sequence: pass.sequence,
        };
        let mut taken: Vec<(usize, Item<'m>)> = Vec::new();
        for named in pass.tensors {
            if named.fixed.is_some() {
                mapped.fixed.push(named);
                continue;
            }
            let found = self.map.find(&named.name, &self.flags);
            match found.map(|(place, entry, layer)| (place, entry, layer, &entry.meaning)) {
                None => unmapped.push(Unmapped::new(&named.name, "no entry in the map")),
                Some((_, _, _, Meaning::Unmapped(why))) => unmapped.push(Unmapped::new(&named.name, why)),
                Some((_, _, _, Meaning::Tokens)) => mapped.ids = Some(ids(&named, loader)?),
                Some((_, _, _, Meaning::Positions)) => mapped.positions = Some(integers(&named, loader)?),
                Some((place, entry, layer, _)) => taken.push((place, Item { named, entry, layer })),
            }
        }
        mapped.items = once_each(taken, unmapped);
        mapped.tokens = count(&mapped, loader)?;
        Ok(mapped)
    }
}

/// The points of an entry.
pub fn points(entry: &Entry) -> Vec<Point> {
    match &entry.meaning {
        Meaning::Points(points) => points.clone(),
        Meaning::Split(parts) => parts.iter().map(|(point, _)| *point).collect(),
        Meaning::Tokens | Meaning::Positions | Meaning::Unmapped(_) => vec![],
    }
}

/// Of several tensors of one point, those of the map's first entry; several of one name are none.
fn once_each<'m>(taken: Vec<(usize, Item<'m>)>, unmapped: &mut Vec<Unmapped>) -> Vec<Item<'m>> {
    let mut best: BTreeMap<(i32, Point), (usize, usize)> = BTreeMap::new();
    for (place, item) in &taken {
        for point in points(item.entry) {
            let (first, count) = best.entry((item.layer, point)).or_insert((*place, 0));
            match (*place).cmp(first) {
                std::cmp::Ordering::Less => (*first, *count) = (*place, 1),
                std::cmp::Ordering::Equal => *count += 1,
                std::cmp::Ordering::Greater => {}
            }
        }
    }
    let mut kept = Vec::new();
    for (place, item) in taken {
        let of = |point: &Point| best.get(&(item.layer, *point)).copied().unwrap_or((place, 1));
        let points = points(item.entry);
        if points.iter().any(|point| of(point) == (place, 1)) {
            kept.push(item);
        } else if points.iter().any(|point| of(point).0 == place) {
            unmapped.push(Unmapped::new(
                &item.named.name,
                "several tensors of one pass have this meaning: which one is not told",
            ));
        } else {
            unmapped.push(Unmapped::new(&item.named.name, "another tensor gives this point"));
        }
    }
    kept
}

fn integers(named: &Named, loader: &mut Loader) -> Result<Vec<u64>> {
    let tensor = loader.load(&named.origin)?;
    let refuse = |what: String| {
        let hint = "token ids and positions are integers from 0; correct the map's role";
        ImportError::new(format!("{} (shape {:?}): {what}", named.origin.describe(), tensor.shape), hint)
    };
    let values = tensor.integers().ok_or_else(|| refuse(format!("values of type {}", tensor.kind)))?;
    let value = |value: i64| u64::try_from(value).map_err(|_| refuse(format!("the value {value}")));
    values.into_iter().map(value).collect()
}

fn ids(named: &Named, loader: &mut Loader) -> Result<Vec<u32>> {
    let id = |id: u64| {
        let hint = "correct the map's role = \"tokens\"";
        u32::try_from(id).map_err(|_| ImportError::new(format!("{}: token id {id}", named.origin.describe()), hint))
    };
    integers(named, loader)?.into_iter().map(id).collect()
}

/// How many tokens a pass fed, on which all of its tensors must agree.
fn count(mapped: &Mapped<'_>, loader: &mut Loader) -> Result<Option<u64>> {
    let mut known: Option<(u64, String)> =
        mapped.ids.as_ref().map(|ids| (ids.len() as u64, "its token ids".to_owned()));
    if let Some(positions) = &mapped.positions {
        agree(&mut known, positions.len() as u64, || "its positions".to_owned(), &mapped.label)?;
    }
    let mut last_only = 0;
    for item in &mapped.items {
        let shape = loader.shape(&item.named.origin)?;
        let what = || format!("{} of shape {shape:?}", item.named.origin.describe());
        let layout = layout(item.entry, &shape).map_err(|why| {
            let hint = "give the tensor's axes in a map of your own (docs/import.md), and dump one sequence at a time";
            ImportError::new(format!("{} {why}", what()), hint)
        })?;
        let Some(tokens) = layout.tokens.and_then(|axis| layout.shape.get(axis)).copied() else { continue };
        if item.entry.last_only && tokens == 1 {
            last_only += 1;
            continue;
        }
        agree(&mut known, tokens, what, &mapped.label)?;
    }
    Ok(known.map(|(tokens, _)| tokens).or((last_only > 0).then_some(1)))
}

fn agree(known: &mut Option<(u64, String)>, tokens: u64, what: impl Fn() -> String, label: &str) -> Result<()> {
    match known {
        Some((count, first)) if *count != tokens => {
            let what = format!("{label}: {} has {tokens} tokens, {first} has {count}", what());
            Err(ImportError::new(what, "a map of your own can say which axis counts tokens (docs/import.md)"))
        }
        Some(_) => Ok(()),
        None => {
            *known = Some((tokens, what()));
            Ok(())
        }
    }
}
