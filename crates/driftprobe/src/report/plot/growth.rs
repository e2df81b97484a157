//! Drift of the residual stream over the layers, as observed in each mode, with the band of Monte Carlo draws.

use super::chart::{Axis, Mark, axes, decade, decades, layers, legend, mark_at, on_decades, whole};
use super::palette::{Colour, FIRST, NOISE, SECOND};
use super::{Picture, sketch};
use crate::analysis::Analysis;
use crate::report::format::brief;
use crate::simulate::PlaceDrift;
use crate::verdict::hypotheses::modes;
use driftprobe_trace::Point;
use plotters::prelude::{LineSeries, Polygon};
use plotters::style::Color;

const SIZE: (u32, u32) = (760, 380);
/// Points that stand for the residual stream, the best first.
const STREAM: [Point; 5] =
    [Point::ResidualPostMlp, Point::ResidualPreAttn, Point::ResidualPostAttn, Point::MlpOut, Point::AttnOut];
const STYLES: [(Mark, Colour); 2] = [(Mark::Dot, FIRST), (Mark::Triangle, SECOND)];

/// A mode and its places at one point, by layer.
type Series<'a> = (&'static str, Vec<&'a PlaceDrift>);

pub fn draw(analysis: &Analysis) -> Result<Picture, String> {
    let all = modes(analysis);
    let drifts: Vec<_> = (all.iter())
        .filter_map(|(mode, one)| Some((*mode, &one.examination.as_ref()?.study.end_to_end.as_ref()?.places)))
        .collect();
    let of = |point: Point| -> Vec<Series<'_>> {
        let places = |places: &'_ &Vec<PlaceDrift>| places.iter().filter(|place| place.point == point).count();
        let series = drifts.iter().filter(|(_, all)| places(all) > 0);
        series.map(|(mode, all)| (*mode, all.iter().filter(|place| place.point == point).collect())).collect()
    };
    let found = STREAM.into_iter().map(|point| (point, of(point))).find(|(_, series)| !series.is_empty());
    let Some((point, series)) = found else {
        return Err(why_not(analysis));
    };
    let places = || series.iter().flat_map(|(_, places)| places.iter().copied());
    let values = places().flat_map(|place| [place.observed, place.drawn[0], place.drawn[1]]);
    let (Some(x), Some(y)) = (layers(places().map(|place| place.layer)), decades(values)) else {
        return Err("No row of the residual stream differs, observed or drawn.".to_owned());
    };
    let says = says(point, &series);
    sketch(SIZE, says, |canvas| {
        let (top, below) = canvas.split_vertically(34);
        let across = format!("layer (after {point})");
        let x = Axis { name: &across, labels: 16, label: &whole, range: x };
        let y = Axis { name: "RMS difference, relative", labels: 9, label: &decade, range: y };
        let mut chart = axes(&below, &x, &y)?;
        let log = |value: f64| on_decades(value, &y.range);
        let at = |place: &&PlaceDrift| f64::from(place.layer);
        if let Some((_, drawn)) = series.first() {
            let upper = drawn.iter().map(|place| (at(place), log(place.drawn[1])));
            let lower = drawn.iter().rev().map(|place| (at(place), log(place.drawn[0])));
            let band: Vec<(f64, f64)> = upper.chain(lower).collect();
            chart.plotting_area().draw(&Polygon::new(band, NOISE.rgb().mix(0.45).filled()))?;
            let mean = drawn.iter().map(|place| (at(place), log(place.expected)));
            chart.draw_series(LineSeries::new(mean, NOISE.rgb().stroke_width(2)))?;
        }
        let mut entries = vec![(Mark::Band, NOISE, "draws of rounding (smallest to largest)")];
        for ((mode, places), (shape, colour)) in series.iter().zip(STYLES) {
            let line: Vec<(f64, f64)> = places.iter().map(|place| (at(place), log(place.observed))).collect();
            chart.draw_series(LineSeries::new(line.clone(), colour.rgb().stroke_width(2)))?;
            for place in line {
                mark_at(&chart, &below, shape, place, colour)?;
            }
            entries.push((shape, colour, *mode));
        }
        legend(&top, (64, 18), &entries)
    })
}

fn why_not(analysis: &Analysis) -> String {
    match &analysis.examination {
        None => "Not measured: what rounding makes of the prompts is drawn with the model (`--model`).",
        Some(examination) if examination.study.end_to_end.is_some() => {
            "Nothing of the residual stream was recorded: record `residual_post_mlp` in both phases."
        }
        Some(_) => "Not measured: no row of a prompt that was simulated from its tokens differs.",
    }
    .to_owned()
}

fn says(point: Point, series: &[Series<'_>]) -> String {
    let of_mode = |(mode, places): &Series<'_>| {
        let ends = places.first().zip(places.last());
        ends.map_or_else(String::new, |(first, last)| {
            format!(
                "{mode} {} at layer {} and {} at layer {} (draws {} and {})",
                brief(first.observed),
                first.layer,
                brief(last.observed),
                last.layer,
                brief(first.expected),
                brief(last.expected)
            )
        })
    };
    let all: Vec<String> = series.iter().map(of_mode).collect();
    format!("Relative RMS difference of the phases at {point} by layer: {}.", all.join("; "))
}
