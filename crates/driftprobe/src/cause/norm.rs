//! Hypotheses of the norms.

use super::fit::fit;
use super::rope::significant;
use super::trial::{Expect, Freedom, Trial, noisy_of, with_config};
use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::judgement::Unjudged;
use crate::oracle::noise::relative_rms;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use driftprobe_model::Model;

/// All of them, fitted to the rows.
pub(super) fn trials<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let mut all = fixed(model);
    let make = |t: f64| epsilon(model, t);
    let mut starts = vec![1e-6, 1e-5, 1e-3, 1e-8, 1e-12, 1e-2, 0.1, 1.0];
    starts.extend(cases.iter().filter_map(|case| start(model, case)));
    if let Some(t) = fit(cases, &starts, &make) {
        let trial = Trial::new("NORM_EPS", make(t)).freedom(Freedom::Fitted);
        all.push(trial.with("epsilon", significant(t.max(0.0))));
    }
    all
}

/// Those without a number to be fitted.
pub(super) fn fixed(model: &Model) -> Vec<Trial<'_>> {
    let plus_one = plus_one(model);
    vec![
        Trial::new("NORM_WEIGHT_PLUS_ONE", plus_one),
        Trial::new("NORM_MEAN_SUBTRACTED", Box::new(move |case| mean_subtracted(model, case))),
        Trial::new("NORM_SKIPPED", Box::new(move |case| skipped(model, case))),
    ]
}

/// Engines may hold 1 + w in f32: without the one, what is left of w has lost what that rounding took.
fn plus_one(model: &Model) -> Expect<'_> {
    let other = with_config(model, |c| c.norm_weight_plus_one = !c.norm_weight_plus_one);
    Box::new(move |case| {
        let cu = relative_rms(case.task.arithmetic.elementwise()?);
        let mut expectation = other(case)?;
        let clean = noisy_of(model, case)?;
        if let Expectation::Noisy(expected) = &mut expectation {
            // The two differ by the normed row itself, by which an error of the weight counts.
            for ((variance, y), clean) in expected.variance.iter_mut().zip(&expected.y).zip(&clean.y) {
                *variance += (cu * (clean - y)).powi(2);
            }
        }
        Ok(expectation)
    })
}

/// Another ε.
pub(super) fn epsilon<'a>(model: &Model, epsilon: f64) -> Expect<'a> {
    with_config(model, |c| c.rms_norm_eps = epsilon.max(0.0))
}

/// Values that are normed together.
fn width(model: &Model, case: &Case) -> Option<usize> {
    let Op::Norm { weight, .. } = case.op else { return None };
    model.weights.get(&weight.name()).ok().map(|w| w.cols().max(1))
}

/// ε from the gain of a row's (or head's) output: (m + ε₀)/g² − m, m being the mean square.
fn start(model: &Model, case: &Case) -> Option<f64> {
    let width = width(model, case)?;
    let expected = noisy_of(model, case).ok()?;
    let (x, y, recorded) = (case.task.input(0).get(..width)?, expected.y.get(..width)?, case.recorded.get(..width)?);
    let mean = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
    let up: f64 = recorded.iter().zip(y).map(|(r, y)| r * y).sum();
    let gain = up / y.iter().map(|y| y * y).sum::<f64>();
    let found = (mean + model.config.rms_norm_eps) / (gain * gain) - mean;
    (found.is_finite() && found > 0.0).then_some(found)
}

fn mean_subtracted(model: &Model, case: &Case) -> Result<Expectation, Unjudged> {
    let Some(width) = width(model, case) else { return Err(Unjudged::NoPayload) };
    let cu = relative_rms(case.task.arithmetic.elementwise()?);
    let mut task = case.task.clone();
    let mut off = Vec::new();
    for x in task.inputs.iter_mut().flat_map(|x| x.chunks_mut(width)) {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        x.iter_mut().for_each(|x| *x -= mean);
        // The mean's own rounding (a sum of n terms that may cancel, by n), and that of the difference.
        let rms = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
        off.extend(x.iter().map(|x| cu * (4.0 * mean.abs() + 2.0 * rms + x.abs())));
    }
    let mut expectation = evaluate(model, case.op, &task, case.layer_index())?;
    if let Expectation::Noisy(expected) = &mut expectation {
        let elements = expected.variance.iter_mut().zip(&expected.y).zip(task.input(0)).zip(off);
        for (((variance, y), x), off) in elements.filter(|((_, x), _)| **x != 0.0) {
            *variance += (y / x * off).powi(2);
        }
    }
    Ok(expectation)
}

fn skipped(model: &Model, case: &Case) -> Result<Expectation, Unjudged> {
    let mut expected = noisy_of(model, case)?;
    expected.y = case.task.input(0).to_vec();
    expected.variance = vec![0.0; expected.y.len()];
    Ok(Expectation::Noisy(expected))
}
