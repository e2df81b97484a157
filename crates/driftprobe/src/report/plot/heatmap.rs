//! The heat map as a picture: a cell's colour is its size in units of noise, its mark what it is, hatching what it inherited.

use super::chart::{TEXT, bold, text, width, write};
use super::heat::{Cell, HeatMap, Kind, heading, short};
use super::palette::{AXIS, BAD, BLANK, DIM, GRID, INK, STEPS, heat, text_on};
use super::{Canvas, Drawn, Picture, sketch};
use crate::analysis::Analysis;
use crate::report::recordings::recordings;
use plotters::prelude::{PathElement, Rectangle};
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

/// Pixels that names of points take.
const NAMES: i32 = 160;
/// Height of a row.
const ROW: i32 = 22;
/// Above the first row.
const TOP: i32 = 44;
/// Narrowest and widest columns.
const COLUMN: (i32, i32) = (22, 74);
/// Width in which columns share what is left, if they can.
const WIDTH: i32 = 760;
/// Columns from this width on have room for a number.
const NUMBERED: i32 = 46;

pub fn draw(analysis: &Analysis) -> Result<Picture, String> {
    let map = HeatMap::of(&recordings(analysis), 0);
    let map = map.ok_or_else(|| "No pair of rows was compared.".to_owned())?;
    let columns = map.columns.len() as i32;
    let column = ((WIDTH - NAMES - 20) / columns.max(1)).clamp(COLUMN.0, COLUMN.1);
    let kinds: Vec<Kind> = map.kinds().into_iter().rev().collect();
    let legend_at = TOP + map.points.len() as i32 * ROW + 22;
    let height = legend_at + 64 + kinds.len() as i32 * 22 + if map.columns.iter().any(|c| c.again) { 20 } else { 0 };
    let width = (NAMES + columns * column + 20).max(WIDTH);
    let says = map.says();
    sketch((width as u32, height as u32), says, |canvas| {
        cells(canvas, &map, column)?;
        legend(canvas, &map, (&kinds, legend_at))
    })
}

fn cells(canvas: &Canvas<'_>, map: &HeatMap, width: i32) -> Drawn {
    write(canvas, "layer", (NAMES - 8, TOP - 14), text(DIM, TEXT, (HPos::Right, VPos::Center)))?;
    for (number, column) in (0..).zip(&map.columns) {
        let at = (NAMES + number * width + width / 2, TOP - 14);
        write(canvas, &heading(column), at, text(DIM, TEXT, (HPos::Center, VPos::Center)))?;
    }
    for (number, point) in (0..).zip(&map.points) {
        let top = TOP + number * ROW;
        write(canvas, point.id(), (NAMES - 8, top + ROW / 2), text(INK, TEXT, (HPos::Right, VPos::Center)))?;
        for (number, column) in (0..).zip(&map.columns) {
            if let Some(cell) = map.cell(*point, column.layer) {
                one(canvas, (map, cell), (NAMES + number * width, top, width))?;
            }
        }
    }
    Ok(())
}

/// One cell at left, top, and of this width.
fn one(canvas: &Canvas<'_>, (map, cell): (&HeatMap, &Cell), (left, top, width): (i32, i32, i32)) -> Drawn {
    let step = cell.size.map(|size| map.unit.step(size));
    let (x0, y0, x1, y1) = (left + 1, top + 1, left + width - 1, top + ROW - 1);
    // A fault is light among what it has left behind it, and framed among what is light.
    let fault = cell.is_framed();
    let fill = step.filter(|_| !fault).map_or(BLANK, heat);
    canvas.draw(&Rectangle::new([(x0, y0), (x1, y1)], fill.rgb().filled()))?;
    let ink = if fault { BAD } else { text_on(step) };
    if cell.is_hatched(map.unit) {
        hatch(canvas, (x0, y0, x1, y1), ink)?;
    }
    if fault {
        for inset in 0..if cell.kind == Kind::Gap { 1 } else { 3 } {
            let corners = [(x0 + inset, y0 + inset), (x1 - inset, y1 - inset)];
            canvas.draw(&Rectangle::new(corners, BAD.rgb()))?;
        }
    } else if cell.size.is_none() {
        canvas.draw(&Rectangle::new([(x0, y0), (x1, y1)], GRID.rgb()))?;
    }
    let number = cell.size.filter(|_| width >= NUMBERED && cell.kind != Kind::Identical).map(short);
    let label = [Some(cell.kind.glyph().to_owned()), number].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let at = (left + width / 2, top + ROW / 2);
    let middle = (HPos::Center, VPos::Center);
    write(canvas, &label, at, if fault { bold(ink, TEXT, middle) } else { text(ink, TEXT - 1.0, middle) })
}

/// Slanted lines over a cell, but not over its text.
fn hatch(canvas: &Canvas<'_>, (x0, y0, x1, y1): (i32, i32, i32, i32), ink: super::palette::Colour) -> Drawn {
    for edge in [x0, x1 - 9] {
        for start in (edge..edge + 9).step_by(4) {
            let end = (start + (y1 - y0) / 3).min(x1);
            let line = [(start, y1 - 1), (end, y1 - 1 - (end - start))];
            canvas.draw(&PathElement::new(line, ink.rgb().mix(0.55)))?;
        }
    }
    Ok(())
}

fn legend(canvas: &Canvas<'_>, map: &HeatMap, (kinds, top): (&[Kind], i32)) -> Drawn {
    let left = (HPos::Left, VPos::Center);
    write(canvas, &format!("colour: {}", map.unit.short()), (12, top), text(DIM, TEXT, left))?;
    let mut x = 12;
    for step in 0..STEPS {
        let label = map.unit.label(step);
        let (y, wide) = (top + 14, 64);
        canvas.draw(&Rectangle::new([(x, y), (x + wide - 2, y + 22)], heat(step).rgb().filled()))?;
        canvas.draw(&Rectangle::new([(x, y), (x + wide - 2, y + 22)], AXIS.rgb().mix(0.5)))?;
        write(
            canvas,
            &label,
            (x + wide / 2, y + 11),
            text(text_on(Some(step)), TEXT - 1.0, (HPos::Center, VPos::Center)),
        )?;
        x += wide;
    }
    for (number, kind) in (0..).zip(kinds) {
        let (x, y) = (12, top + 58 + number * 22);
        let mark = if *kind >= Kind::Gap { bold(BAD, TEXT + 1.0, left) } else { bold(INK, TEXT + 1.0, left) };
        write(canvas, kind.glyph(), (x, y), mark)?;
        let hatched = if *kind == Kind::Inherited { ", beyond rounding: hatched" } else { "" };
        write(canvas, &format!("{}{hatched}", kind.in_words()), (x + 18, y), text(DIM, TEXT, left))?;
    }
    if map.columns.iter().any(|column| column.again) {
        let y = top + 58 + kinds.len() as i32 * 22;
        let note = "* recorded again, to look between layers: one prompt";
        debug_assert!(width(note, TEXT) < WIDTH);
        write(canvas, note, (12, y), text(DIM, TEXT, left))?;
    }
    Ok(())
}
