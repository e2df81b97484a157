//! Attention before and after softmax, layer by layer, in both phases.

use super::chart::{Axis, Mark, TEXT, axes, bold, layers, legend, mark_at, whole, write};
use super::palette::{Colour, FIRST, INK, SECOND};
use super::{Canvas, Drawn, Picture, sketch};
use crate::analysis::Analysis;
use crate::judge::kv::AttentionStatistics;
use crate::report::format::brief;
use driftprobe_trace::Phase;
use plotters::prelude::{LineSeries, PathElement};
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};
use std::ops::Range;

const SIZE: (u32, u32) = (960, 340);
/// How far the phases stand apart, in layers.
const BESIDE: f64 = 0.12;
/// How each phase is drawn.
const STYLES: [(Phase, Mark, Colour, f64); 2] =
    [(Phase::Prefill, Mark::Dot, FIRST, -BESIDE), (Phase::Decode, Mark::Triangle, SECOND, BESIDE)];

/// One value, or smallest, middle and largest.
type Values = [f64; 3];

/// A part of the picture: its title, and what it shows of a layer.
type Panel = (&'static str, fn(&AttentionStatistics) -> Option<Values>);

const PANELS: [Panel; 3] = [
    ("scores before softmax (min, mean, max)", |s| s.before.value().map(|of| [of.min, of.mean, of.max])),
    ("entropy after softmax (nats)", |s| s.after.value().map(|of| [of.entropy; 3])),
    ("mass on token 0 after softmax", |s| s.after.value().map(|of| [of.first_mass; 3])),
];

pub fn draw(analysis: &Analysis) -> Result<Picture, String> {
    let all = &analysis.attention.statistics;
    let measured = |s: &&AttentionStatistics| s.before.value().is_some() || s.after.value().is_some();
    let Some(across) = layers(all.iter().filter(measured).map(|s| s.layer)) else {
        return Err("Nothing of attention was recorded: record `attn_scores` and `attn_probs`, or `q_post_rope` and \
                    `k_cache`."
            .to_owned());
    };
    let says = all.iter().filter(measured).map(|s| {
        let entropy = s.after.value().map_or_else(String::new, |of| format!(", entropy {}", brief(of.entropy)));
        let mean = s.before.value().map_or_else(String::new, |of| format!(", mean score {}", brief(of.mean)));
        format!("layer {} {}{mean}{entropy}", s.layer, s.phase)
    });
    let says = format!("Attention by layer and phase: {}.", says.collect::<Vec<_>>().join("; "));
    sketch(SIZE, says, |canvas| {
        let (top, below) = canvas.split_vertically(32);
        legend(&top, (64, 16), &[(Mark::Dot, FIRST, "prefill"), (Mark::Triangle, SECOND, "decode")])?;
        for (part, panel) in below.split_evenly((1, PANELS.len())).iter().zip(&PANELS) {
            self::panel(part, panel, (all, &across))?;
        }
        Ok(())
    })
}

fn panel(part: &Canvas<'_>, (title, of): &Panel, (all, across): (&[AttentionStatistics], &Range<f64>)) -> Drawn {
    let (top, below) = part.split_vertically(24);
    write(&top, title, (66, 12), bold(INK, TEXT - 1.0, (HPos::Left, VPos::Center)))?;
    let values = all.iter().filter_map(of).flatten().filter(|value| value.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let room = if high > low { (high - low) * 0.08 } else { high.abs().max(1.0) * 0.1 };
    let x = Axis { name: "layer", labels: 9, label: &whole, range: across.clone() };
    let y = Axis { name: "", labels: 6, label: &|value| brief(*value), range: low - room..high + room };
    let mut chart = axes(&below, &x, &y)?;
    for (phase, shape, colour, beside) in STYLES {
        let of_phase = all.iter().filter(|s| s.phase == phase);
        let places: Vec<(f64, Values)> = of_phase
            .filter_map(|s| Some((f64::from(s.layer) + beside, of(s)?)))
            .filter(|(_, v)| v.iter().all(|v| v.is_finite()))
            .collect();
        chart
            .draw_series(LineSeries::new(places.iter().map(|(x, [_, mean, _])| (*x, *mean)), colour.rgb().mix(0.6)))?;
        for (x, [least, mean, most]) in places {
            chart.plotting_area().draw(&PathElement::new([(x, least), (x, most)], colour.rgb().stroke_width(2)))?;
            mark_at(&chart, &below, shape, (x, mean), colour)?;
        }
    }
    Ok(())
}
