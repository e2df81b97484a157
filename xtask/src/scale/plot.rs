//! Memory over events, drawn.

use super::rows::Judged;
use super::{Cost, Taken};
use anyhow::{Result, anyhow};
use plotters::prelude::{ChartBuilder, Circle, IntoDrawingArea, IntoLogRange, LineSeries, SVGBackend};
use plotters::style::{BLACK, Color, RGBColor, WHITE};
use std::path::Path;

const SIZE: (u32, u32) = (760, 400);
const BY_PROMPT: RGBColor = RGBColor(0, 90, 181);
const WHOLE: RGBColor = RGBColor(220, 50, 32);

/// A line: its name, its colour, and where its points lie.
type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

/// Draws both ways of judging, on decades.
pub fn draw(all: &[Taken], path: &Path) -> Result<()> {
    type Pick = fn(&Taken) -> Option<Cost>;
    let points = |pick: Pick| -> Vec<(f64, f64)> {
        let at = |one: &Taken| Some((one.events as f64, pick(one)?.rss_bytes as f64 / 1e6));
        all.iter().filter_map(at).collect()
    };
    let lines = [
        ("analyze --by-prompt", BY_PROMPT, points(|one| Some(one.by_prompt))),
        ("analyze", WHOLE, points(|one| one.whole)),
    ];
    lines_on_decades(&lines, "events of the run", path)
}

/// Draws the memory over the bytes of payloads, on decades.
pub fn volume(all: &[(u64, Judged)], path: &Path) -> Result<()> {
    let points = all.iter().map(|(bytes, judged)| (*bytes as f64 / 1e9, judged.rss_bytes as f64 / 1e6)).collect();
    lines_on_decades(&[("judged by prompt", BY_PROMPT, points)], "payloads, GB", path)
}

fn lines_on_decades(lines: &[Line<'_>], over: &str, path: &Path) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| anyhow!("drawing {}: {e}", path.display());
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let across = |pick: fn(f64, f64) -> f64, start: f64| {
        lines.iter().flat_map(|(_, _, points)| points).map(|(x, _)| *x).fold(start, pick)
    };
    let range = across(f64::min, f64::INFINITY) / 1.5..across(f64::max, 0.0) * 1.5;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(range.log_scale(), (10.0..10_000.0).log_scale())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc(over)
        .y_desc("peak resident memory, MB")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()
        .map_err(|e| failed(&e))?;
    for (name, colour, points) in lines {
        let colour = *colour;
        chart.draw_series(points.iter().map(|at| Circle::new(*at, 4, colour.filled()))).map_err(|e| failed(&e))?;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))
            .map_err(|e| failed(&e))?
            .label(*name)
            .legend(move |(x, y)| plotters::element::PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.3)).draw().map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))?;
    Ok(())
}
