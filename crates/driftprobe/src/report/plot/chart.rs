//! What pictures share: text, marks, legends, and axes that count layers and decades.

use super::palette::{AXIS, Colour, DIM, GRID};
use super::{Canvas, Drawn};
use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{Cartesian2d, ChartBuilder, Circle, PathElement, Polygon, Rectangle, SVGBackend, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontFamily, FontStyle, IntoFont, TextStyle};
use std::ops::Range;

/// Size of the text of axes and legends in pixels.
pub const TEXT: f64 = 13.0;

/// A chart with two plain axes.
pub type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// How text is written: colour, size in pixels, and which of its points stands at the place given.
pub fn text(colour: Colour, size: f64, (h, v): (HPos, VPos)) -> TextStyle<'static> {
    // The SVG backend writes sizes divided by 1.24.
    (FontFamily::SansSerif, size * 1.24).into_font().color(&colour.rgb()).pos(Pos::new(h, v))
}

/// The same, bold.
pub fn bold(colour: Colour, size: f64, at: (HPos, VPos)) -> TextStyle<'static> {
    let style = text(colour, size, at);
    let font = style.font.style(FontStyle::Bold);
    TextStyle { font, ..text(colour, size, at) }
}

/// Writes.
pub fn write(canvas: &Canvas<'_>, text: &str, at: (i32, i32), style: TextStyle<'static>) -> Drawn {
    Ok(canvas.draw(&Text::new(text.to_owned(), at, style))?)
}

/// About how wide a text is, in pixels.
pub fn width(text: &str, size: f64) -> i32 {
    (text.chars().count() as f64 * size * 0.56).ceil() as i32
}

/// Shapes that tell series apart where colours do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Filled.
    Dot,
    /// Upward.
    Triangle,
    /// Filled.
    Square,
    /// Two strokes.
    Cross,
    /// A bar, for a band.
    Band,
}

/// Draws a mark around a place in pixels.
pub fn mark(canvas: &Canvas<'_>, shape: Mark, (x, y): (i32, i32), colour: Colour) -> Drawn {
    let fill = colour.rgb().filled();
    match shape {
        Mark::Dot => canvas.draw(&Circle::new((x, y), 4, fill))?,
        Mark::Square => canvas.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], fill))?,
        Mark::Band => {
            canvas.draw(&Rectangle::new([(x - 10, y - 6), (x + 10, y + 6)], colour.rgb().mix(0.45).filled()))?
        }
        Mark::Triangle => canvas.draw(&Polygon::new(vec![(x - 5, y + 4), (x + 5, y + 4), (x, y - 5)], fill))?,
        Mark::Cross => {
            for ends in [[(x - 4, y - 4), (x + 4, y + 4)], [(x - 4, y + 4), (x + 4, y - 4)]] {
                canvas.draw(&PathElement::new(ends, colour.rgb().stroke_width(2)))?;
            }
        }
    }
    Ok(())
}

/// A mark that stands where a chart's values say.
pub fn mark_at(chart: &Chart<'_, '_>, canvas: &Canvas<'_>, shape: Mark, at: (f64, f64), colour: Colour) -> Drawn {
    let (x, y) = chart.plotting_area().map_coordinate(&at);
    let (left, top) = canvas.get_pixel_range();
    mark(canvas, shape, (x - left.start, y - top.start), colour)
}

/// A legend in one line, from a place on.
pub fn legend(canvas: &Canvas<'_>, (mut x, y): (i32, i32), entries: &[(Mark, Colour, &str)]) -> Drawn {
    for (shape, colour, name) in entries {
        mark(canvas, *shape, (x + 10, y), *colour)?;
        write(canvas, name, (x + 24, y), text(DIM, TEXT, (HPos::Left, VPos::Center)))?;
        x += 24 + width(name, TEXT) + 18;
    }
    Ok(())
}

/// What an axis is: its name, its range, and how its values are written.
pub struct Axis<'a> {
    /// Its name.
    pub name: &'a str,
    /// From where to where.
    pub range: Range<f64>,
    /// About how many labels.
    pub labels: usize,
    /// A value's label; empty: none.
    pub label: &'a dyn Fn(&f64) -> String,
}

/// Draws axes and their grid; the horizontal axis has no lines of the grid.
pub fn axes<'a, 'b>(
    canvas: &'a Canvas<'b>,
    x: &Axis<'_>,
    y: &Axis<'_>,
) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(canvas)
        .margin_top(8)
        .margin_left(8)
        .margin_right(14)
        .x_label_area_size(46)
        .y_label_area_size(70)
        .build_cartesian_2d(x.range.clone(), y.range.clone())?;
    let labels = text(DIM, TEXT, (HPos::Center, VPos::Center));
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID.rgb())
        .light_line_style(GRID.rgb().mix(0.0))
        .axis_style(AXIS.rgb())
        .x_labels(x.labels)
        .y_labels(y.labels)
        .x_label_formatter(&x.label)
        .y_label_formatter(&y.label)
        .x_label_style(labels.clone())
        .y_label_style(labels.clone())
        .axis_desc_style(labels)
        .x_desc(x.name)
        .y_desc(y.name)
        .draw()?;
    Ok(chart)
}

/// The label of a whole number; others have none.
pub fn whole(value: &f64) -> String {
    if (value - value.round()).abs() < 1e-9 { format!("{}", value.round()) } else { String::new() }
}

/// The label of a decade: the value is a logarithm to the base 10.
pub fn decade(value: &f64) -> String {
    if (value - value.round()).abs() < 1e-9 { format!("1e{}", value.round()) } else { String::new() }
}

/// Decades that hold all positive values, at least two; `None` without any.
pub fn decades(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let logs = values.filter(|value| *value > 0.0 && value.is_finite()).map(f64::log10);
    let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), log| (low.min(log), high.max(log)));
    (low <= high).then(|| {
        let (low, high) = (low.floor(), high.ceil());
        if high - low < 2.0 { low - 1.0..high.max(low + 1.0) } else { low..high }
    })
}

/// A value on an axis of decades: what is 0 stands on its lower edge, what is beyond or no number on its upper one.
pub fn on_decades(value: f64, range: &Range<f64>) -> f64 {
    match value {
        0.0 => range.start,
        value if value.is_nan() => range.end,
        value => value.log10().clamp(range.start, range.end),
    }
}

/// A range of layers with room at both ends.
pub fn layers(all: impl Iterator<Item = i32>) -> Option<Range<f64>> {
    let (low, high) = all.fold((i32::MAX, i32::MIN), |(low, high), layer| (low.min(layer), high.max(layer)));
    (low <= high).then(|| f64::from(low) - 0.5..f64::from(high) + 0.5)
}
