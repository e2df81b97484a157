//! Drift over the values of a setting: of decode from prefill, and of each phase from the first value.

use super::chart::{Axis, Mark, axes, decade, decades, legend, mark_at, on_decades, whole};
use super::palette::{Colour, FIRST, FOURTH, SECOND, THIRD};
use super::{Canvas, Drawn, Picture, sketch};
use crate::report::sweep::sentences;
use crate::sweep::{Parting, Spread, Step, Sweep};
use driftprobe_trace::Phase;
use plotters::prelude::LineSeries;
use plotters::style::Color;
use std::ops::Range;

const WIDTH: u32 = 760;
/// Height of the picture over the values, and of each over the lengths of rows.
const HEIGHTS: [u32; 2] = [400, 300];
/// Values that the pictures over lengths tell apart.
const COLOURS: [(Mark, Colour); 4] =
    [(Mark::Dot, FIRST), (Mark::Triangle, SECOND), (Mark::Square, THIRD), (Mark::Cross, FOURTH)];
/// Values whose labels fit side by side; of more, every second, third … has one.
const LABELS_MAX: usize = 12;
/// Longest label.
const LABEL_CHARS_MAX: usize = 14;

/// A line of the picture: its name, how it is drawn, and what it shows of a value.
type Line = (&'static str, Mark, Colour, fn(&Step) -> Option<Spread>);

const LINES: [Line; 4] = [
    ("attn_out, decode from prefill", Mark::Dot, FIRST, |step| step.phases.attn_out),
    ("logits, decode from prefill", Mark::Triangle, SECOND, |step| step.phases.logits),
    ("logits, prefill from the first value's", Mark::Square, THIRD, |step| against(step, 0)?.logits),
    ("logits, decode from the first value's", Mark::Cross, FOURTH, |step| against(step, 1)?.logits),
];

fn against(step: &Step, phase: usize) -> Option<&Parting> {
    step.against_first.as_ref()?.get(phase)
}

/// Draws a sweep: largest relative L2 distances over the values, and, of each phase in which a value parts from the first one,
/// over the lengths of the rows. What is bit-equal stands on the lower edge.
///
/// # Errors
/// If no row differs: there is nothing to draw, and the sentence says so.
pub fn draw(sweep: &Sweep) -> Result<Picture, String> {
    let values = || LINES.iter().flat_map(|(.., of)| sweep.steps.iter().filter_map(of)).map(|spread| spread.max);
    let Some(range) = with_equal(values()) else {
        return Err("No row that was compared differs under any of the values.".to_owned());
    };
    let name = sweep.unit.map_or_else(|| sweep.axis.clone(), |unit| format!("{} ({unit})", sweep.axis));
    let says = format!("Largest relative L2 distances over {name}. {}.", sentences(sweep).join(". "));
    let parted: Vec<(Phase, Vec<Along<'_>>)> = Phase::ALL.into_iter().filter_map(|phase| along(sweep, phase)).collect();
    let height = HEIGHTS[0] + HEIGHTS[1] * parted.len() as u32;
    sketch((WIDTH, height), says, |canvas| {
        let (first, mut below) = canvas.split_vertically(HEIGHTS[0]);
        over_values(sweep, (&name, range), &first)?;
        for (phase, lines) in &parted {
            let (own, rest) = below.split_vertically(HEIGHTS[1]);
            over_lengths(sweep, (*phase, lines), &own)?;
            below = rest;
        }
        Ok(())
    })
}

/// Decades that hold the values, and one below for what is equal.
fn with_equal(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    decades(values).map(|range| range.start - 1.0..range.end)
}

/// The label of a decade, or of what is equal.
fn height(value: &f64, range: &Range<f64>) -> String {
    if (value - range.start).abs() < 1e-9 { "equal".to_owned() } else { decade(value) }
}

fn over_values(sweep: &Sweep, (name, range): (&str, Range<f64>), canvas: &Canvas<'_>) -> Drawn {
    let count = sweep.steps.len();
    let every = count.div_ceil(LABELS_MAX).max(1);
    let label = |x: &f64| {
        let at = x.round();
        let on = (x - at).abs() < 1e-6 && at >= 0.0 && (at as usize).is_multiple_of(every);
        let step = sweep.steps.get(at as usize).filter(|_| on);
        step.map_or_else(String::new, |step| step.value.chars().take(LABEL_CHARS_MAX).collect())
    };
    let (top, below) = canvas.split_vertically(58);
    let x = Axis { name, labels: count.max(2), label: &label, range: -0.4..count as f64 - 0.6 };
    let rise = |value: &f64| height(value, &range);
    let y = Axis { name: "largest relative L2 distance", labels: 9, label: &rise, range: range.clone() };
    let mut chart = axes(&below, &x, &y)?;
    let mut entries = vec![];
    for (name, shape, colour, of) in LINES {
        let places: Vec<(f64, f64)> = (sweep.steps.iter().enumerate())
            .filter_map(|(at, step)| Some((at as f64, on_decades(of(step)?.max, &range))))
            .collect();
        if places.is_empty() {
            continue;
        }
        chart.draw_series(LineSeries::new(places.clone(), colour.rgb().stroke_width(2)))?;
        for place in places {
            mark_at(&chart, &below, shape, place, colour)?;
        }
        entries.push((shape, colour, name));
    }
    let (upper, lower) = entries.split_at(entries.len().min(2));
    legend(&top, (64, 16), upper)?;
    legend(&top, (64, 40), lower)
}

/// A value, and how far its rows part from the first value's by their length.
type Along<'a> = (&'a Step, &'a [(u64, f64)]);

/// The values that part from the first in a phase, as far as they can be told apart; none if no rows of several lengths do.
fn along(sweep: &Sweep, phase: Phase) -> Option<(Phase, Vec<Along<'_>>)> {
    let phase_index = usize::from(phase == Phase::Decode);
    let lines = sweep.steps.iter().filter_map(|step| Some((step, against(step, phase_index)?.along.as_slice())));
    let lines: Vec<Along<'_>> = lines.filter(|(_, along)| along.len() > 1).take(COLOURS.len()).collect();
    (!lines.is_empty()).then_some((phase, lines))
}

fn over_lengths(sweep: &Sweep, (phase, lines): (Phase, &[Along<'_>]), canvas: &Canvas<'_>) -> Drawn {
    let all = || lines.iter().flat_map(|(_, along)| along.iter());
    let lengths = all().map(|(keys, _)| *keys as f64);
    let (low, high) = lengths.fold((f64::INFINITY, 0.0f64), |(low, high), keys| (low.min(keys), high.max(keys)));
    let Some(range) = with_equal(all().map(|(_, distance)| *distance)) else { return Ok(()) };
    let (top, below) = canvas.split_vertically(34);
    let across = format!("keys that a row of {phase} sees (kv_len)");
    let x = Axis { name: &across, labels: 12, label: &whole, range: low - 1.0..high + 1.0 };
    let rise = |value: &f64| height(value, &range);
    let from = sweep.steps.first().map_or("", |step| step.value.as_str());
    let name = format!("from {}", from.chars().take(LABEL_CHARS_MAX).collect::<String>());
    let y = Axis { name: &name, labels: 7, label: &rise, range: range.clone() };
    let mut chart = axes(&below, &x, &y)?;
    let names: Vec<String> = lines
        .iter()
        .map(|(step, _)| {
            let onset = against(step, usize::from(phase == Phase::Decode)).and_then(|one| one.onset);
            let place = onset.map_or_else(String::new, |onset| format!(" ({})", onset.point));
            step.value.chars().take(LABEL_CHARS_MAX).collect::<String>() + &place
        })
        .collect();
    let mut entries = vec![];
    for ((at, (_, along)), (shape, colour)) in lines.iter().enumerate().zip(COLOURS) {
        let places: Vec<(f64, f64)> =
            along.iter().map(|(keys, distance)| (*keys as f64, on_decades(*distance, &range))).collect();
        chart.draw_series(LineSeries::new(places.clone(), colour.rgb().stroke_width(2)))?;
        // The ends are marked, so that lines are told apart without colours.
        for place in places.first().into_iter().chain(places.last()) {
            mark_at(&chart, &below, shape, *place, colour)?;
        }
        entries.push((shape, colour, names.get(at).map_or("", String::as_str)));
    }
    legend(&top, (64, 16), &entries)
}
