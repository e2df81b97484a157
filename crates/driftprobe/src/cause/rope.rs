//! Hypotheses of the rotary embedding.

mod positions;
mod rotation;

use super::fit::{distance, fit};
use super::trial::{Expect, Freedom, Trial, unchanged, with_config};
use crate::oracle::Float;
use crate::oracle::evaluate::evaluate;
use crate::oracle::replay::cases::Case;
use driftprobe_model::{Model, RopeScaling};
use driftprobe_trace::{ContractFields, Point};
pub(super) use positions::offset;

/// Largest factor of a scaling.
const SCALING_MAX: f64 = 512.0;

/// All of them, fitted to the rows.
pub(super) fn trials<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let Some(point) = cases.first().map(|c| c.point) else { return Vec::new() };
    let mut all = fixed(model, point);
    all.extend(rotation::trials(model));
    all.extend(positions::trials(model, cases));
    all.extend(thetas(model, cases));
    all.extend(scalings(model, cases));
    all
}

/// Those without a parameter to be fitted.
pub(super) fn fixed(model: &Model, point: Point) -> Vec<Trial<'_>> {
    let other = rotation::other(model.config.rope.layout);
    let layout = with_config(model, |c| c.rope.layout = other);
    let mut all = vec![Trial::new("ROPE_LAYOUT", layout).with("layout", other.id())];
    if point == Point::KPostRope {
        all.push(Trial::new("K_WITHOUT_ROPE", Box::new(move |case| unchanged(model, case))));
    }
    if model.config.rope.scaling != RopeScaling::None {
        let plain = with_config(model, |c| c.rope.scaling = RopeScaling::None);
        all.push(Trial::new("ROPE_SCALING", plain).with("scaling", "none"));
    }
    for format in [Float::F16, Float::Bf16] {
        let table: Expect<'_> = Box::new(move |case| {
            let mut task = case.task.clone();
            let coarse = ContractFields { rope_table: Some(format.to_string()), ..Default::default() };
            task.arithmetic = task.arithmetic.with(&coarse);
            evaluate(model, case.op, &task, case.layer_index())
        });
        all.push(Trial::new("ROPE_TABLE_PRECISION", table).with("precision", format));
    }
    all
}

/// At most three rows, and their first heads only: enough to choose a start by.
fn first_heads(model: &Model, cases: &[Case]) -> Vec<Case> {
    let width = model.config.head_dim;
    let mut few: Vec<Case> = cases.iter().rev().take(3).cloned().collect();
    for case in &mut few {
        case.recorded.truncate(width);
        case.task.inputs.iter_mut().for_each(|x| x.truncate(width));
        case.task.recorded_len = case.recorded.len();
    }
    few
}

/// The base, so many times as large.
pub(super) fn theta<'a>(model: &Model, factor: f64) -> Expect<'a> {
    with_config(model, |c| c.rope.theta *= factor)
}

fn thetas<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let few = first_heads(model, cases);
    let (make, own) = (|t: f64| theta(model, t.exp()), model.config.rope.theta);
    let round = |t: f64, digits: usize| (rounded(own * t.exp(), digits) / own).ln();
    let Some(t) = fit_finely((&few, cases), 9.3, (&make, &round)) else { return Vec::new() };
    let expect = make(t);
    let value = model.config.rope.theta * t.exp();
    vec![Trial::new("ROPE_THETA", expect).with("theta", significant(value)).freedom(Freedom::Fitted)]
}

/// Positions divided by a factor: in place of the model's own scaling where it has one.
pub(super) fn scaling<'a>(model: &Model, factor: f64) -> Expect<'a> {
    with_config(model, |c| c.rope.scaling = RopeScaling::Linear { factor })
}

fn scalings<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let few = first_heads(model, cases);
    let make = |t: f64| scaling(model, t.exp());
    // Whole factors are tried as they are: a coarse table of cos and sin hides by how little a fit misses them.
    let named = |factor: f64, freedom| {
        let trial = Trial::new("ROPE_SCALING", scaling(model, factor)).freedom(freedom);
        trial.with("scaling", "linear").with("factor", significant(factor))
    };
    let mut all: Vec<Trial<'_>> = [2.0, 4.0, 8.0].map(|factor| named(factor, Freedom::Fixed)).into();
    let round = |t: f64, digits: usize| rounded(t.exp(), digits).ln();
    let Some(t) = fit_finely((&few, cases), 4.2, (&make, &round)) else { return all };
    if t.abs() > SCALING_MAX.ln() {
        return all;
    }
    let nearest = t.exp().round();
    // A whole factor is what configs have.
    let is_whole = nearest >= 2.0 && (t.exp() / nearest - 1.0).abs() < 1e-4;
    let factor = if is_whole { nearest } else { t.exp() };
    let freedom = if is_whole { Freedom::Fixed } else { Freedom::Fitted };
    all.push(named(factor, freedom));
    all
}

/// A hypothesis by the logarithm of its parameter, and that logarithm where the parameter has so few digits only.
type Maker<'m, 'a> = (&'m dyn Fn(f64) -> Expect<'a>, &'m dyn Fn(f64, usize) -> f64);

/// A logarithm within ±`reach`: on a grid, on finer ones around the best, then by steps. A coarse table is the same over a
/// whole range of parameters and gives no slope: there the finest grid decides, and what has few digits.
fn fit_finely((few, cases): (&[Case], &[Case]), reach: f64, (make, round): Maker<'_, '_>) -> Option<f64> {
    let step = 0.02;
    let best = |middle: f64, (steps, step): (i32, f64)| {
        let grid = (-steps..=steps).map(|i| middle + f64::from(i) * step);
        let ranked = grid.map(|t| (distance(few, &make(t)), t)).filter(|(d, _)| d.is_finite());
        ranked.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, t)| t)
    };
    let rough = best(0.0, ((reach / step) as i32, step))?;
    let fine = best(rough, (100, step / 100.0))?;
    let finest = best(fine, (150, step / 10_000.0))?;
    let few_digits = (1..=4).flat_map(|digits| [finest, fine].map(|t| round(t, digits))).filter(|t| t.is_finite());
    let starts: Vec<f64> = [finest, fine, rough, 0.0].into_iter().chain(few_digits).collect();
    fit(cases, &starts, make)
}

/// To so many significant digits.
fn rounded(value: f64, digits: usize) -> f64 {
    format!("{value:.*e}", digits.saturating_sub(1)).parse().unwrap_or(value)
}

/// Six digits.
pub(super) fn significant(value: f64) -> String {
    let text = format!("{value:.5e}");
    text.parse::<f64>().map_or(text, |v| v.to_string())
}
