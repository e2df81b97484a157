//! Memory over events, drawn.

use super::{Cost, Taken};
use anyhow::{Result, anyhow};
use plotters::prelude::{ChartBuilder, Circle, IntoDrawingArea, IntoLogRange, LineSeries, SVGBackend};
use plotters::style::{BLACK, Color, RGBColor, WHITE};
use std::path::Path;

const SIZE: (u32, u32) = (760, 400);
const BY_PROMPT: RGBColor = RGBColor(0, 90, 181);
const WHOLE: RGBColor = RGBColor(220, 50, 32);

/// Draws both ways of judging, on decades.
pub fn draw(all: &[Taken], path: &Path) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| anyhow!("drawing {}: {e}", path.display());
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let events = |pick: fn(f64, f64) -> f64, start: f64| all.iter().map(|one| one.events as f64).fold(start, pick);
    let range = events(f64::min, f64::INFINITY) / 1.5..events(f64::max, 0.0) * 1.5;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(range.log_scale(), (10.0..10_000.0).log_scale())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("events of the run")
        .y_desc("peak resident memory, MB")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()
        .map_err(|e| failed(&e))?;
    type Pick = fn(&Taken) -> Option<Cost>;
    let lines: [(&str, RGBColor, Pick); 2] =
        [("analyze --by-prompt", BY_PROMPT, |one| Some(one.by_prompt)), ("analyze", WHOLE, |one| one.whole)];
    for (name, colour, pick) in lines {
        let at = |one: &Taken| Some((one.events as f64, pick(one)?.rss_bytes as f64 / 1e6));
        let points: Vec<(f64, f64)> = all.iter().filter_map(at).collect();
        chart.draw_series(points.iter().map(|at| Circle::new(*at, 4, colour.filled()))).map_err(|e| failed(&e))?;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))
            .map_err(|e| failed(&e))?
            .label(name)
            .legend(move |(x, y)| plotters::element::PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.3)).draw().map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))?;
    Ok(())
}
