//! Sums that are cut short, kept in too small a format, or given their bias more than once.

use super::{Narrowed, Outputs, coarse, gathered, one, parts};
use crate::cause::trial::{Expect, Freedom, Trial};
use crate::oracle::evaluate::{Expectation, Layer};
use crate::oracle::float::Float;
use crate::oracle::judgement::Unjudged;
use crate::oracle::replay::cases::Case;
use driftprobe_model::Model;

/// Lengths of the tail that are tried in full.
const TAILS_TRIED: usize = 3;
/// Outputs by which the length is chosen.
const TAIL_OUTPUTS: usize = 8;

/// The last `columns` inputs left out of the sums.
pub(in crate::cause) fn tail<'a>(model: &'a Model, outputs: &Outputs, columns: usize) -> Trial<'a> {
    let clean = super::clean(model, outputs);
    let expect: Expect<'a> = Box::new(move |case| {
        let mut case = case.clone();
        for x in case.task.inputs.iter_mut().take(1) {
            let kept = x.len().saturating_sub(columns);
            x.iter_mut().skip(kept).for_each(|x| *x = 0.0);
        }
        clean(&case)
    });
    Trial::new("TAIL_DROPPED", expect).with("columns", columns)
}

/// The lengths that fit the first rows best: y(k) is the sum without its last k products.
pub(super) fn tails<'a>(model: &'a Model, narrowed: &Narrowed) -> Vec<Trial<'a>> {
    let Some(cols) = narrowed.cases.first().map(|c| c.task.input(0).len()) else { return Vec::new() };
    let mut distances = vec![0.0; cols];
    for case in narrowed.cases.iter().take(2) {
        let Some(found) = without_tails(model, narrowed, case) else { return Vec::new() };
        distances.iter_mut().zip(found).for_each(|(d, f)| *d += f);
    }
    let mut ranked: Vec<(f64, usize)> = distances.into_iter().zip(1..).collect();
    // What is left of a sum that has lost more than half of its products is no tail's loss.
    ranked.truncate(cols / 2);
    ranked.retain(|(d, _)| d.is_finite());
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    ranked.iter().take(TAILS_TRIED).map(|(_, columns)| tail(model, &narrowed.outputs, *columns)).collect()
}

/// Σz² of some outputs without their last 1, 2, … products.
fn without_tails(model: &Model, narrowed: &Narrowed, case: &Case) -> Option<Vec<f64>> {
    let step = (narrowed.outputs.0.len() / TAIL_OUTPUTS).max(1);
    let chosen: Vec<usize> = (0..narrowed.outputs.0.len()).step_by(step).collect();
    let Ok(Expectation::Noisy(expected)) = super::clean(model, &narrowed.outputs)(case) else { return None };
    let weight = model.weights.get(&parts(case).ok()?.weight.name()).ok()?;
    let mut row = vec![0f32; weight.cols()];
    let mut distances = vec![0.0; weight.cols()];
    for at in chosen {
        let out = *narrowed.outputs.0.get(at)?;
        weight.dequantise_rows(out..out + 1, &mut row);
        let (y, variance) = (*expected.y.get(at)?, *expected.variance.get(at)?);
        let total = variance + expected.output.rounding_variance(y);
        let mut left = case.recorded.get(at)? - y;
        let products = row.iter().zip(case.task.input(0)).rev();
        for ((w, x), distance) in products.zip(distances.iter_mut()) {
            left += f64::from(*w) * x;
            *distance += left * left / total;
        }
    }
    Some(distances)
}

/// Sums kept in f16: product by product in the order of the inputs, and in any order.
pub(super) fn narrow<'a>(model: &'a Model, outputs: &Outputs) -> Vec<Trial<'a>> {
    let own = outputs.clone();
    let in_order: Expect<'a> = Box::new(move |case| sequential(model, &own, case));
    vec![
        Trial::new("ACCUMULATOR_SATURATED", in_order).with("accumulator", "f16").freedom(Freedom::Fitted),
        coarse(model, outputs, Float::F16),
    ]
}

/// Largest finite f16.
const F16_MAX: f64 = 65504.0;

fn sequential(model: &Model, outputs: &Outputs, case: &Case) -> Result<Expectation, Unjudged> {
    let parts = parts(case)?;
    let weight = gathered(&model.weights.get(&parts.weight.name())?, outputs)?;
    let layer = Layer { bias: super::bias(model, &parts, outputs)?, softcap: parts.softcap, weight };
    let (weight, bias) = (layer.weight.clone(), layer.bias.clone());
    let Expectation::Noisy(mut expected) = one(layer, case)? else { return Err(Unjudged::NoPayload) };
    let mut row = vec![0f32; weight.cols()];
    for (out, y) in expected.y.iter_mut().enumerate() {
        weight.dequantise_rows(out..out + 1, &mut row);
        let products = row.iter().zip(case.task.input(0));
        let sum = products.fold(0f64, |sum, (w, x)| {
            let product = f64::from((f64::from(*w) * x) as f32);
            Float::F16.round(Float::F32.round(sum + product).clamp(-F16_MAX, F16_MAX))
        });
        *y = sum + bias.get(out).copied().unwrap_or(0.0);
        if let Some(cap) = parts.softcap {
            *y = driftprobe_model::reference::softcap(*y, cap);
        }
    }
    Ok(Expectation::Noisy(expected))
}

/// How often the bias is tried besides twice: once by each rank that holds a part of the sum.
pub(super) const MORE_TIMES: [u32; 4] = [3, 4, 8, 16];

/// The bias added so often: by a kernel and again behind it, or by each part of a sum; none where the stage has no bias.
pub(super) fn repeated<'a>(model: &'a Model, first: &Case, outputs: &Outputs, times: &[u32]) -> Vec<Trial<'a>> {
    let has_bias = parts(first).is_ok_and(|own| own.bias.is_some());
    let trial = |times: &u32| {
        let (outputs, times) = (outputs.clone(), *times);
        let expect: Expect<'a> = Box::new(move |case| with_bias(model, &outputs, case, times));
        Trial::new("BIAS_REPEATED", expect).with("times", times)
    };
    times.iter().filter(|_| has_bias).map(trial).collect()
}

/// x·Wᵀ + times·b. Each result on the way there may have been stored: as many roundings more, to the format of the last.
fn with_bias(model: &Model, outputs: &Outputs, case: &Case, times: u32) -> Result<Expectation, Unjudged> {
    let parts = parts(case)?;
    let weight = gathered(&model.weights.get(&parts.weight.name())?, outputs)?;
    let once = super::bias(model, &parts, outputs)?;
    let bias = once.iter().map(|b| f64::from(times) * b).collect();
    let mut expectation = one(Layer { weight, bias, softcap: parts.softcap }, case)?;
    if let Expectation::Noisy(expected) = &mut expectation {
        let before = expected.y.iter().zip(&once).map(|(y, b)| expected.output.rounding_variance(y - b));
        let more = f64::from(times.saturating_sub(1));
        expected.variance.iter_mut().zip(before).for_each(|(variance, rounding)| *variance += more * rounding);
    }
    Ok(expectation)
}
