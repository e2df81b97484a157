//! Log-probabilities: probabilities by decode against those by prefill, and how the log ratio is spread.

use super::chart::{Axis, Mark, TEXT, axes, mark_at, text, write};
use super::palette::{AXIS, BAD, DIM, FIRST, NOISE};
use super::{Canvas, Drawn, Picture, sketch};
use crate::logprobs::{Judged, Pair};
use crate::report::format::brief;
use plotters::prelude::{LineSeries, Rectangle};
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

const SIZE: (u32, u32) = (960, 420);
/// Points that are drawn; of more tokens the worst, and every n-th.
const POINTS_MAX: usize = 4000;
/// Of these the worst.
const WORST: usize = 500;
/// Bars on either side of 0.
const BARS: usize = 20;
/// Ratios within which trainers let a token count.
const INSIDE: std::ops::RangeInclusive<f64> = 0.5..=2.0;

/// Draws both parts.
///
/// # Errors
/// If no token was compared.
pub fn draw(judged: &Judged) -> Result<Picture, String> {
    let pairs = &judged.mismatch.pairs;
    if pairs.is_empty() {
        return Err("No token was compared.".to_owned());
    }
    let m = &judged.mismatch.metrics;
    let points = points(judged);
    let thinned = if points.len() < pairs.len() { format!(" ({} drawn)", points.len()) } else { String::new() };
    let says = format!(
        "Probabilities of {} tokens{thinned} by decode against those by prefill, and how the log ratio Δ is spread: mean of \
         its size {}, largest {}, k3 {}.",
        pairs.len(),
        brief(m.mean_abs_delta),
        brief(m.max_abs_delta),
        brief(m.k3)
    );
    sketch(SIZE, says, |canvas| {
        let (top, below) = canvas.split_vertically(30);
        let note = format!("{} tokens{thinned}; red: ratio outside of 0.5 to 2", pairs.len());
        write(&top, &note, (78, 18), text(DIM, TEXT, (HPos::Left, VPos::Center)))?;
        let (left, right) = below.split_horizontally(470);
        scatter(&left, &points)?;
        histogram(&right, pairs, m.max_abs_delta)
    })
}

/// All pairs, or the worst of them and every n-th.
fn points(judged: &Judged) -> Vec<&Pair> {
    let pairs = &judged.mismatch.pairs;
    if pairs.len() <= POINTS_MAX {
        return pairs.iter().collect();
    }
    let every = pairs.len().div_ceil(POINTS_MAX - WORST);
    // The worst come last, so that nothing lies over them.
    pairs.iter().step_by(every).chain(judged.mismatch.worst(WORST).into_iter().rev()).collect()
}

fn scatter(canvas: &Canvas<'_>, points: &[&Pair]) -> Drawn {
    let tenths = |value: &f64| format!("{value:.1}");
    let axis = |name| Axis { name, labels: 6, label: &tenths, range: 0.0..1.0 };
    let mut chart = axes(canvas, &axis("p by prefill"), &axis("p by decode"))?;
    chart.draw_series(LineSeries::new([(0.0, 0.0), (1.0, 1.0)], AXIS.rgb()))?;
    for pair in points {
        let at = (pair.prefill.exp().min(1.0), pair.decode.exp().min(1.0));
        let colour = if INSIDE.contains(&pair.delta().exp()) { FIRST } else { BAD };
        mark_at(&chart, canvas, Mark::Dot, at, colour)?;
    }
    Ok(())
}

fn histogram(canvas: &Canvas<'_>, pairs: &[Pair], largest: f64) -> Drawn {
    let reach = if largest > 0.0 && largest.is_finite() { largest } else { 1.0 };
    let width = reach / BARS as f64;
    let mut counts = [0u64; 2 * BARS];
    for pair in pairs {
        let at = ((pair.delta() + reach) / width).floor().clamp(0.0, (2 * BARS - 1) as f64) as usize;
        if let Some(count) = counts.get_mut(at) {
            *count += 1;
        }
    }
    let highest = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let size = |value: &f64| if value.abs() < reach * 1e-9 { "0".to_owned() } else { format!("{value:.1e}") };
    let whole = |value: &f64| format!("{value:.0}");
    let x = Axis { name: "Δ = ln p(decode) − ln p(prefill)", labels: 5, label: &size, range: -reach..reach };
    let y = Axis { name: "tokens", labels: 6, label: &whole, range: 0.0..highest * 1.05 };
    let chart = axes(canvas, &x, &y)?;
    for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let from = -reach + at as f64 * width;
        let bar = [(from, 0.0), (from + width, *count as f64)];
        chart.plotting_area().draw(&Rectangle::new(bar, NOISE.rgb().filled()))?;
        chart.plotting_area().draw(&Rectangle::new(bar, FIRST.rgb()))?;
    }
    Ok(())
}
