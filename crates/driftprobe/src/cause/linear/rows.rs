//! Rows of the output matrix mistaken for others.

use super::{Narrowed, Outputs, clean};
use crate::cause::trial::Trial;
use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::replay::cases::Case;
use crate::oracle::stats::Expected;
use driftprobe_model::Model;

/// By how many rows all of them may be shifted.
const SHIFT_MAX: usize = 64;

/// A few that are mistaken for others, or all of them by the same number of rows.
pub(super) fn trials<'a>(model: &'a Model, narrowed: &Narrowed) -> Vec<Trial<'a>> {
    let mut all = misplaced(model, narrowed);
    all.extend(shifted(model, narrowed));
    all
}

/// Every row stands so many places further: as many as fit the first row best.
fn shifted<'a>(model: &'a Model, narrowed: &Narrowed) -> Option<Trial<'a>> {
    let (case, rows) = (narrowed.cases.first()?, model.config.vocab_size);
    let expected = whole(model, case)?;
    let distance = |by: usize| -> f64 {
        let one = |(recorded, j): (&f64, &usize)| {
            let from = (j + rows - by) % rows;
            let (Some(y), Some(variance)) = (expected.y.get(from), expected.variance.get(from)) else {
                return f64::NAN;
            };
            (recorded - y).powi(2) / (variance + expected.output.rounding_variance(*y))
        };
        case.recorded.iter().zip(&narrowed.outputs.0).map(one).sum()
    };
    let near = (1..=SHIFT_MAX.min(rows / 2)).flat_map(|by| [by, rows - by]);
    let best = near.map(|by| (distance(by), by)).filter(|(d, _)| d.is_finite());
    let (_, by) = best.min_by(|a, b| a.0.total_cmp(&b.0))?;
    let outputs = Outputs(narrowed.outputs.0.iter().map(|j| (j + rows - by) % rows).collect());
    let shift = if by <= rows / 2 { format!("+{by}") } else { format!("-{}", rows - by) };
    Some(Trial::new("LM_HEAD_ROW", clean(model, &outputs)).with("all rows", shift))
}

/// Every output of a row, whichever of them are judged.
fn whole(model: &Model, case: &Case) -> Option<Expected> {
    let mut task = case.task.clone();
    task.recorded_len = model.config.vocab_size;
    match evaluate(model, case.op, &task, case.layer_index()) {
        Ok(Expectation::Noisy(expected)) => Some(expected),
        _ => None,
    }
}

/// Few outputs are off: each is looked for among what the other outputs should have given.
fn misplaced<'a>(model: &'a Model, narrowed: &Narrowed) -> Vec<Trial<'a>> {
    let mut moved: Vec<(usize, usize)> = Vec::new();
    for out in &narrowed.misplaced {
        let Some(other) = other_row(model, narrowed, *out) else { return Vec::new() };
        moved.push((*out, other));
    }
    if moved.is_empty() {
        return Vec::new();
    }
    let tokens =
        |of: fn(&(usize, usize)) -> usize| moved.iter().map(|m| of(m).to_string()).collect::<Vec<_>>().join(", ");
    let (to, from) = (tokens(|m| m.0), tokens(|m| m.1));
    let outputs = narrowed.outputs.0.iter();
    let replaced = |j: &usize| moved.iter().find(|m| m.0 == *j).map_or(*j, |m| m.1);
    let expect = clean(model, &Outputs(outputs.map(replaced).collect()));
    vec![Trial::new("LM_HEAD_ROW", expect).with("token", to).with("row of", from)]
}

/// The output whose value this one has, in every row.
fn other_row(model: &Model, narrowed: &Narrowed, out: usize) -> Option<usize> {
    let at = narrowed.outputs.0.iter().position(|j| *j == out)?;
    let mut left: Option<Vec<usize>> = None;
    for case in narrowed.cases.iter().take(4) {
        let recorded = *case.recorded.get(at)?;
        let e = whole(model, case)?;
        let fits = |j: &usize| {
            let (Some(y), Some(variance)) = (e.y.get(*j), e.variance.get(*j)) else { return false };
            (recorded - y).abs() <= 6.0 * (variance + e.output.rounding_variance(*y)).sqrt()
        };
        left = Some(match left {
            None => (0..e.y.len()).filter(fits).collect(),
            Some(so_far) => so_far.into_iter().filter(fits).collect(),
        });
    }
    // Of several the nearest: a row is mistaken for its neighbour.
    left?.into_iter().filter(|j| *j != out).min_by_key(|j| j.abs_diff(out))
}

/// The first judged output with the row behind it.
pub(in crate::cause) fn next_row<'a>(model: &'a Model, outputs: &Outputs) -> Option<Trial<'a>> {
    let mut other = outputs.0.clone();
    let first = other.first_mut()?;
    let token = *first;
    *first = (token + 1) % model.config.vocab_size.max(1);
    let expect = clean(model, &Outputs(other));
    Some(Trial::new("LM_HEAD_ROW", expect).with("token", token).with("row of", token + 1))
}
