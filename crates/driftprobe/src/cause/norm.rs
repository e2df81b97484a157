//! Hypotheses of the norms.

use super::fit::fit;
use super::rope::significant;
use super::trial::{Expect, Freedom, Trial, noisy_of, unchanged, with_config};
use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::judgement::Unjudged;
use crate::oracle::noise::relative_rms;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use driftprobe_model::reference::rms_norm;
use driftprobe_model::{Model, WeightId};

/// All of them, fitted to the rows.
pub(super) fn trials<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let mut all = fixed(model);
    let mut starts = vec![1e-6, 1e-5, 1e-3, 1e-8, 1e-12, 1e-2, 0.1, 1.0];
    starts.extend(with_few_digits(cases.iter().filter_map(|case| start(model, case))));
    all.extend(fitted(cases, &starts, &|t| epsilon(model, t)));
    let starts = with_few_digits(cases.iter().filter_map(|case| start_outside(model, case)));
    let outside = fitted(cases, &starts, &|t| outside(model, t));
    all.extend(outside.map(|trial| trial.with("place", "outside the root")));
    all.extend(other_weight(model, cases));
    all.push(Trial::new("NORM_SKIPPED", Box::new(move |case| unweighted(model, case))).with("part", "the weight"));
    all
}

/// The ε of least squares, and the one under which most values are exactly what is recorded.
fn fitted<'a>(
    cases: &[Case],
    starts: &[f64],
    make: &dyn Fn(f64) -> Expect<'a>,
) -> impl Iterator<Item = Trial<'a>> + use<'a> {
    let found: Vec<f64> = fit(cases, starts, make).into_iter().chain(sharpest(cases, starts, make)).collect();
    let one =
        |t: f64| Trial::new("NORM_EPS", make(t)).freedom(Freedom::Fitted).with("epsilon", significant(t.max(0.0)));
    found.into_iter().map(one).collect::<Vec<_>>().into_iter()
}

/// ε added to the root and not under it: for a row of mean square m as if ε² + 2ε√m stood under it.
fn outside<'a>(model: &'a Model, epsilon: f64) -> Expect<'a> {
    Box::new(move |case| {
        let x = case.task.input(0);
        // Heads are normed each by itself, and have an ε each.
        let Some(width) = width(model, case).filter(|width| *width == x.len()) else { return Err(Unjudged::NoPayload) };
        let root = (x.iter().map(|x| x * x).sum::<f64>() / width as f64).sqrt();
        let epsilon = epsilon.max(0.0);
        self::epsilon(model, epsilon * epsilon + 2.0 * epsilon * root)(case)
    })
}

/// Starts, and each with one digit and with two: where rounding hides the slope there is nothing to follow.
fn with_few_digits(starts: impl Iterator<Item = f64>) -> Vec<f64> {
    let digits = |t: f64, digits: usize| format!("{t:.digits$e}").parse::<f64>().unwrap_or(t);
    starts.flat_map(|t| [t, digits(t, 0), digits(t, 1)]).collect()
}

/// Of what lies near the best start the one under which most values are exactly what is recorded: where the row is rounded
/// before the weight, and again, there is no slope to follow.
fn sharpest<'a>(cases: &[Case], starts: &[f64], make: &dyn Fn(f64) -> Expect<'a>) -> Option<f64> {
    let equal = |t: f64| -> usize {
        let expect = make(t);
        let of = |case: &Case| match expect(case) {
            Ok(Expectation::Noisy(e)) => {
                e.y.iter().zip(&case.recorded).filter(|(y, recorded)| e.output.round(**y) == **recorded).count()
            }
            _ => 0,
        };
        cases.iter().map(of).sum()
    };
    // The first of the best.
    let best = |all: Vec<f64>| all.into_iter().map(|t| (equal(t), t)).reduce(|a, b| if b.0 > a.0 { b } else { a });
    let near = |t: f64, by: f64| (-30..=30).map(move |i| t * (1.0 + f64::from(i) * by)).collect::<Vec<f64>>();
    let (_, start) = best(starts.to_vec())?;
    let (_, rough) = best(near(start, 0.02))?;
    best(near(rough, 0.001)).map(|(_, t)| t)
}

/// √(m + ε) − √m, ε as [`start`] finds it.
fn start_outside(model: &Model, case: &Case) -> Option<f64> {
    let width = width(model, case)?;
    let mean = case.task.input(0).get(..width)?.iter().map(|x| x * x).sum::<f64>() / width as f64;
    Some((mean + start(model, case)?).sqrt() - mean.sqrt())
}

/// The norms of a layer.
const KINDS: [fn(usize) -> WeightId; 6] = [
    WeightId::InputNorm,
    WeightId::PostAttentionNorm,
    WeightId::PreFeedforwardNorm,
    WeightId::PostFeedforwardNorm,
    WeightId::QNorm,
    WeightId::KNorm,
];

/// Another norm's weight of the same width, taken the same way in every layer: which norm's, so many layers further; none:
/// the last one's. The one that fits the first row best.
fn other_weight<'a>(model: &'a Model, cases: &[Case]) -> Option<Trial<'a>> {
    let one = cases.get(..1)?;
    let Op::Norm { weight: own, .. } = one.first()?.op else { return None };
    let (cols, layers) = (model.weights.get(&own.name()).ok()?.cols(), model.config.num_hidden_layers);
    let of_layers = (0..KINDS.len()).flat_map(|kind| (0..layers).map(move |by| Some((kind, by))));
    let id = |way: Option<(usize, usize)>| other_norm(way, one.first().map_or(0, Case::layer_index), layers);
    let fits = |way: &Option<(usize, usize)>| {
        let id = id(*way);
        id != own && model.weights.get(&id.name()).is_ok_and(|weight| weight.cols() == cols)
    };
    let distance = |way| super::fit::distance(one, &weighted(model, way));
    let best = of_layers.chain([None]).filter(fits).map(|way| (distance(way), way));
    let (_, way) = best.min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(Trial::new("WEIGHT_OTHER_LAYER", weighted(model, way)).with("weight", id(way).name()))
}

fn other_norm(way: Option<(usize, usize)>, layer: usize, layers: usize) -> WeightId {
    let of = |(kind, by): (usize, usize)| Some(KINDS.get(kind)?((layer + by) % layers.max(1)));
    way.and_then(of).unwrap_or(WeightId::Norm)
}

fn weighted<'a>(model: &'a Model, way: Option<(usize, usize)>) -> Expect<'a> {
    Box::new(move |case| {
        let Op::Norm { per_head, .. } = case.op else { return Err(Unjudged::NoPayload) };
        let weight = other_norm(way, case.layer_index(), model.config.num_hidden_layers);
        evaluate(model, Op::Norm { weight, per_head }, &case.task, case.layer_index())
    })
}

/// The normed row, not multiplied by any weight.
fn unweighted(model: &Model, case: &Case) -> Result<Expectation, Unjudged> {
    let Some(width) = width(model, case) else { return Err(Unjudged::NoPayload) };
    let mut expected = noisy_of(model, case)?;
    let cu = relative_rms(case.task.arithmetic.elementwise()?);
    let inner = case.task.arithmetic.inner()?;
    let ones = vec![1.0; width];
    expected.y = case.task.input(0).chunks(width).flat_map(|x| rms_norm(x, &ones, model.config.rms_norm_eps)).collect();
    expected.y.iter_mut().for_each(|y| *y = inner.map_or(*y, |format| format.round(*y)));
    expected.variance = expected.y.iter().map(|y| (cu * y).powi(2) * (3.0 + width as f64 / 4.0)).collect();
    Ok(Expectation::Noisy(expected))
}

/// Those without a number to be fitted.
pub(super) fn fixed(model: &Model) -> Vec<Trial<'_>> {
    let plus_one = plus_one(model);
    vec![
        Trial::new("NORM_WEIGHT_PLUS_ONE", plus_one),
        Trial::new("NORM_MEAN_SUBTRACTED", Box::new(move |case| mean_subtracted(model, case))),
        Trial::new("NORM_SKIPPED", Box::new(move |case| unchanged(model, case))),
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
