//! Rows out of a pass's tensors.

use crate::error::{ImportError, Result};
use crate::map::{Meaning, Sizes};
use crate::mapped::{Item, Layout, Mapped, layout};
use crate::tensor::{Kind, Tensor};
use driftprobe_trace::{Point, Row};

/// A score below this is masked.
const MASKED: f64 = -1e30;

/// A row with its place.
pub struct Cut {
    /// Its point.
    pub point: Point,
    /// Its layer.
    pub layer: i32,
    /// Its number in the pass.
    pub row: u64,
    /// Its values.
    pub values: Row,
}

fn refuse(item: &Item<'_>, shape: &[u64], what: String) -> ImportError {
    let hint = "a map of your own says what the tensor is (--map, docs/import.md)";
    ImportError::new(format!("{} of shape {shape:?}: {what}", item.named.origin.describe()), hint)
}

/// The rows of one tensor of a pass.
///
/// # Errors
/// If its shape is not that of its points by the model's config.
pub fn cut(
    pass: &Mapped<'_>,
    item: &Item<'_>,
    tensor: &Tensor,
    rows: &[u64],
    config: Option<&Sizes>,
) -> Result<Vec<Cut>> {
    let fail = |what: String| refuse(item, &tensor.shape, what);
    let mut cuts = Vec::new();
    let parts: Vec<(Point, Option<(u64, u64)>)> = match &item.entry.meaning {
        Meaning::Points(points) => points.iter().map(|point| (*point, None)).collect(),
        Meaning::Split(parts) => split(parts, tensor, config).map_err(fail)?,
        Meaning::Tokens | Meaning::Positions | Meaning::Unmapped(_) => vec![],
    };
    for (point, columns) in parts {
        let mut part = match columns {
            None => tensor.clone(),
            Some((from, width)) => tensor.columns(from, width).map_err(fail)?,
        };
        let layout = layout(item.entry, &part.shape).map_err(fail)?;
        part.shape.clone_from(&layout.shape);
        for row in rows {
            let Some(values) = one(pass, item, (&part, &layout), *row).map_err(fail)? else { continue };
            let values = as_row(values).map_err(fail)?;
            check(point, &values, config).map_err(fail)?;
            cuts.push(Cut { point, layer: item.layer, row: *row, values });
        }
    }
    Ok(cuts)
}

/// Makes a row of a tensor.
pub fn as_row(values: Tensor) -> std::result::Result<Row, String> {
    match values.kind {
        Kind::Float(dtype) => Row::new(dtype, values.shape, values.bytes).map_err(|e| e.to_string()),
        kind => Err(format!("its values are {kind}, a row's are floats")),
    }
}

/// A row has as many values as the model's config gives its point.
pub fn check(point: Point, values: &Row, config: Option<&Sizes>) -> std::result::Result<(), String> {
    match config.and_then(|config| config.row_elements(point)) {
        Some(expected) if expected != values.len() as u64 => {
            Err(format!("a row of `{point}` has {} values, by the model's config {expected}", values.len()))
        }
        _ => Ok(()),
    }
}

type Parts = Vec<(Point, Option<(u64, u64)>)>;

fn split(
    parts: &[(Point, crate::map::SizeName)],
    tensor: &Tensor,
    config: Option<&Sizes>,
) -> std::result::Result<Parts, String> {
    let none = Sizes::new(serde_json::Map::new());
    let config_or_none = config.unwrap_or(&none);
    let mut from = 0u64;
    let mut list = Vec::new();
    for (point, size) in parts {
        let width = config_or_none.columns(size).map_err(|what| match config {
            None => "a fused tensor is split by the model's config, and no --model is given".to_owned(),
            Some(_) => what,
        })?;
        list.push((*point, Some((from, width))));
        from = from.checked_add(width).ok_or("its parts are wider than can be counted")?;
    }
    match tensor.shape.last() {
        Some(all) if *all == from => Ok(list),
        _ => Err(format!("its parts have {from} columns together")),
    }
}

/// One token's row; nothing if the tensor holds the last token's only.
fn one(
    pass: &Mapped<'_>,
    item: &Item<'_>,
    (tensor, layout): (&Tensor, &Layout),
    row: u64,
) -> std::result::Result<Option<Tensor>, String> {
    let tokens = pass.tokens.unwrap_or(1);
    let size = |axis: Option<usize>| axis.and_then(|axis| layout.shape.get(axis)).copied();
    let at = match (layout.tokens, size(layout.tokens)) {
        (Some(axis), Some(held)) if held == tokens => Some((axis, row)),
        (Some(axis), Some(1)) if item.entry.last_only => {
            if row + 1 != tokens {
                return Ok(None);
            }
            Some((axis, 0))
        }
        (None, _) => None,
        _ => return Err("another number of tokens than the pass".to_owned()),
    };
    let cut = match (layout.keys, size(layout.keys)) {
        (Some(axis), Some(keys)) => {
            // The keys that a causal mask leaves to this token: those of later tokens of the pass are the last ones.
            let own = (keys + row + 1).checked_sub(tokens).ok_or("fewer keys than tokens")?;
            let all = tensor.slice(at, None, &layout.order)?;
            let visible = if layout.tokens.is_some() { visible(&all, keys, points_scores(item)) } else { own };
            Some((axis, own.max(visible)))
        }
        _ => None,
    };
    tensor.slice(at, cut, &layout.order).map(Some)
}

fn points_scores(item: &Item<'_>) -> bool {
    matches!(&item.entry.meaning, Meaning::Points(points) if points.contains(&Point::AttnScores))
}

/// One past the last key that is not masked, in a row of scores or probabilities whose last axis counts keys.
fn visible(row: &Tensor, keys: u64, scores: bool) -> u64 {
    let Ok(values) = as_row(row.clone()) else { return 0 };
    let masked = |value: f64| if scores { value < MASKED } else { value == 0.0 };
    let columns = values.values().enumerate().filter(|(_, value)| !masked(*value));
    columns.map(|(i, _)| i as u64 % keys.max(1) + 1).max().unwrap_or(0)
}
