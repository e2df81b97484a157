//! Hypotheses of the matrices. Large matrices are judged by some of their outputs: those that are furthest off, and others
//! spread over all.

mod matrix;
mod places;
mod rows;
mod sums;

use super::trial::{Expect, Freedom, Trial};
use crate::oracle::evaluate::{Expectation, Layer, evaluate};
use crate::oracle::float::Float;
use crate::oracle::judgement::Unjudged;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use driftprobe_model::{Model, WeightId};
use driftprobe_trace::{ContractFields, Point};
pub(super) use matrix::{Outputs, gathered};
pub(super) use rows::next_row;
pub(super) use sums::tail;

/// Outputs that are judged of each row.
const OUTPUTS_MAX: usize = 256;
/// Outputs that are off and looked up among the other ones.
const MISPLACED_MAX: usize = 8;

/// Rows of a linear stage, reduced to some outputs.
pub(super) struct Narrowed {
    /// The rows, each with the values of `outputs` only.
    pub cases: Vec<Case>,
    /// Which outputs those are.
    pub outputs: Outputs,
    /// The outputs that are off in any row; empty: more than a few.
    pub misplaced: Vec<usize>,
}

/// Chooses the outputs by the rows themselves.
pub(super) fn narrow(model: &Model, cases: Vec<Case>) -> Narrowed {
    let width = cases.first().map_or(0, |c| c.recorded.len());
    let off = cases.iter().take(4).map(|case| off(model, case)).collect::<Vec<_>>();
    let mut worst: Vec<(f64, usize)> =
        (0..width).map(|j| (off.iter().filter_map(|z| z.get(j)).fold(0.0, |m: f64, z| m.max(*z)), j)).collect();
    worst.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let misplaced: Vec<usize> = worst.iter().filter(|(z, _)| *z > 8.0).map(|(_, j)| *j).collect();
    let misplaced = if misplaced.len() > MISPLACED_MAX { Vec::new() } else { misplaced };
    let mut outputs: Vec<usize> = if width <= OUTPUTS_MAX {
        (0..width).collect()
    } else {
        let spread = (0..OUTPUTS_MAX * 3 / 4).map(|i| i * width / (OUTPUTS_MAX * 3 / 4));
        worst.iter().take(OUTPUTS_MAX / 4).map(|(_, j)| *j).chain(spread).collect()
    };
    outputs.sort_unstable();
    outputs.dedup();
    let cases = cases.into_iter().map(|case| narrowed(case, &outputs)).collect();
    Narrowed { cases, outputs: Outputs(outputs), misplaced }
}

fn narrowed(mut case: Case, outputs: &[usize]) -> Case {
    case.recorded = outputs.iter().map(|j| case.recorded.get(*j).copied().unwrap_or(f64::NAN)).collect();
    case.task.recorded_len = case.recorded.len();
    case
}

/// |z| of every output.
fn off(model: &Model, case: &Case) -> Vec<f64> {
    let Ok(Expectation::Noisy(e)) = evaluate(model, case.op, &case.task, case.layer_index()) else { return Vec::new() };
    let expected = e.y.iter().zip(&e.variance);
    let z = |(recorded, (y, variance)): (&f64, (&f64, &f64))| {
        let z = (recorded - y).abs() / (variance + e.output.rounding_variance(*y)).sqrt();
        if z.is_finite() { z } else { f64::MAX }
    };
    case.recorded.iter().zip(expected).map(z).collect()
}

/// What is clean, of the outputs that are judged.
pub(super) fn clean<'a>(model: &'a Model, outputs: &Outputs) -> Expect<'a> {
    variant(model, outputs.clone(), |_| {})
}

/// A linear stage as a hypothesis has it.
pub(super) struct Parts {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub softcap: Option<f64>,
}

/// With other parts.
pub(super) fn variant<'a>(model: &'a Model, outputs: Outputs, change: impl Fn(&mut Parts) + 'a) -> Expect<'a> {
    Box::new(move |case| {
        let mut parts = parts(case)?;
        change(&mut parts);
        let weight = gathered(&model.weights.get(&parts.weight.name())?, &outputs)?;
        one(Layer { weight, bias: bias(model, &parts, &outputs)?, softcap: parts.softcap }, case)
    })
}

fn parts(case: &Case) -> Result<Parts, Unjudged> {
    match case.op {
        Op::Linear { weight, bias, softcap } => Ok(Parts { weight, bias, softcap }),
        _ => Err(Unjudged::NoPayload),
    }
}

fn bias(model: &Model, parts: &Parts, outputs: &Outputs) -> Result<Vec<f64>, Unjudged> {
    let Some(id) = parts.bias else { return Ok(Vec::new()) };
    let values = model.weights.get(&id.name())?.to_f32();
    Ok(outputs.0.iter().map(|j| values.get(*j).map_or(f64::NAN, |b| f64::from(*b))).collect())
}

fn one(layer: Layer, case: &Case) -> Result<Expectation, Unjudged> {
    let mut all = layer.evaluate(std::slice::from_ref(&case.task));
    all.pop().unwrap_or(Err(Unjudged::NoPayload))
}

/// All of them, fitted to the rows.
pub(super) fn trials<'a>(model: &'a Model, narrowed: &Narrowed) -> Vec<Trial<'a>> {
    let Some(first) = narrowed.cases.first() else { return Vec::new() };
    let mut all = fixed(model, first, &narrowed.outputs);
    all.extend(other_layers(model, narrowed));
    all.extend(other_bias(model, narrowed));
    all.extend(k_for_v(model, first, &narrowed.outputs));
    all.extend(sums::tails(model, narrowed));
    all.extend(sums::repeated(model, first, &narrowed.outputs, &sums::MORE_TIMES));
    all.extend(places::trials(model, narrowed));
    if first.point == Point::Logits {
        all.extend(rows::trials(model, narrowed));
    }
    all.extend(uncapped(model, first, &narrowed.outputs));
    all
}

/// Those that need no look at the rows.
pub(super) fn fixed<'a>(model: &'a Model, first: &Case, outputs: &Outputs) -> Vec<Trial<'a>> {
    let Ok(own) = parts(first) else { return Vec::new() };
    let mut all = vec![];
    if own.bias.is_some() {
        all.push(Trial::new("BIAS_MISSING", variant(model, outputs.clone(), |p| p.bias = None)));
        all.extend(sums::repeated(model, first, outputs, &[2]));
    }
    if matches!(own.weight, WeightId::Gate(_) | WeightId::Up(_)) {
        let swapped = variant(model, outputs.clone(), |p| (p.weight, p.bias) = swapped(p.weight, p.bias));
        all.push(Trial::new("GATE_UP_SWAPPED", swapped).with("place", "weights"));
    }
    if first.point == Point::Logits {
        let other = if own.weight == WeightId::Embed { WeightId::LmHead } else { WeightId::Embed };
        let shape = |id: WeightId| model.weights.describe(&id.name()).map(|(shape, _)| shape.to_vec());
        if shape(other).is_some() && shape(other) == shape(own.weight) {
            let expect = variant(model, outputs.clone(), move |p| p.weight = other);
            all.push(Trial::new("LM_HEAD_WEIGHT", expect).with("weight", other.name()));
        }
    }
    all.extend(matrix::trials(model, own.weight, outputs));
    all.extend(sums::narrow(model, outputs));
    all
}

fn swapped(weight: WeightId, bias: Option<WeightId>) -> (WeightId, Option<WeightId>) {
    match weight {
        WeightId::Gate(l) => (WeightId::Up(l), bias.map(|_| WeightId::UpBias(l))),
        WeightId::Up(l) => (WeightId::Gate(l), bias.map(|_| WeightId::GateBias(l))),
        _ => (weight, bias),
    }
}

/// The weight (and bias) of K for V's, or of V for K's.
fn k_for_v<'a>(model: &'a Model, first: &Case, outputs: &Outputs) -> Option<Trial<'a>> {
    let other = exchanged(parts(first).ok()?.weight)?;
    let both = variant(model, outputs.clone(), move |p| {
        p.bias = p.bias.and_then(|bias| exchanged(bias).or(Some(bias)));
        p.weight = exchanged(p.weight).unwrap_or(p.weight);
    });
    Some(Trial::new("KV_EXCHANGED", both).with("weight", other.name()))
}

/// K's for V's and V's for K's.
fn exchanged(weight: WeightId) -> Option<WeightId> {
    match weight {
        WeightId::KProj(l) => Some(WeightId::VProj(l)),
        WeightId::VProj(l) => Some(WeightId::KProj(l)),
        WeightId::KBias(l) => Some(WeightId::VBias(l)),
        WeightId::VBias(l) => Some(WeightId::KBias(l)),
        _ => None,
    }
}

/// The same matrix (and norm) of the layer so many further, around the end.
pub(super) fn further(weight: WeightId, by: usize, layers: usize) -> WeightId {
    use WeightId::*;
    let of = |l: usize| (l + by) % layers.max(1);
    match weight {
        Embed | Norm | LmHead => weight,
        InputNorm(l) => InputNorm(of(l)),
        QProj(l) => QProj(of(l)),
        KProj(l) => KProj(of(l)),
        VProj(l) => VProj(of(l)),
        QBias(l) => QBias(of(l)),
        KBias(l) => KBias(of(l)),
        VBias(l) => VBias(of(l)),
        QNorm(l) => QNorm(of(l)),
        KNorm(l) => KNorm(of(l)),
        OProj(l) => OProj(of(l)),
        OBias(l) => OBias(of(l)),
        PostAttentionNorm(l) => PostAttentionNorm(of(l)),
        PreFeedforwardNorm(l) => PreFeedforwardNorm(of(l)),
        Gate(l) => Gate(of(l)),
        Up(l) => Up(of(l)),
        Down(l) => Down(of(l)),
        GateBias(l) => GateBias(of(l)),
        UpBias(l) => UpBias(of(l)),
        DownBias(l) => DownBias(of(l)),
        PostFeedforwardNorm(l) => PostFeedforwardNorm(of(l)),
    }
}

/// The matrix of another layer, with the own bias or with that layer's.
pub(super) fn other_layer<'a>(model: &'a Model, outputs: &Outputs, (by, bias): (usize, bool)) -> Trial<'a> {
    let layers = model.config.num_hidden_layers;
    let expect = variant(model, outputs.clone(), move |p| {
        p.weight = further(p.weight, by, layers);
        if bias {
            p.bias = p.bias.map(|b| further(b, by, layers));
        }
    });
    let back = layers - by;
    let offset = if by <= back { format!("+{by}") } else { format!("-{back}") };
    let trial = Trial::new("WEIGHT_OTHER_LAYER", expect).with("layer", offset);
    if bias { trial.with("bias", "too") } else { trial }
}

fn other_layers<'a>(model: &'a Model, narrowed: &Narrowed) -> Vec<Trial<'a>> {
    let layered = narrowed.cases.first().is_some_and(|c| c.layer >= 0);
    let layers = if layered { model.config.num_hidden_layers } else { 0 };
    // One row and few outputs tell which layer's it is.
    let few = Outputs(narrowed.outputs.0.iter().copied().take(32).collect());
    let case: Vec<Case> = narrowed.cases.iter().take(1).map(|c| first_outputs(c, few.0.len())).collect();
    let has_bias = narrowed.cases.first().is_some_and(|c| parts(c).is_ok_and(|p| p.bias.is_some()));
    let ways = [false, true].into_iter().filter(|bias| !bias || has_bias);
    let tried = ways.flat_map(|bias| (1..layers).map(move |by| (by, bias)));
    let distance = |way| super::fit::distance(&case, &other_layer(model, &few, way).expect);
    let best = tried.map(|way| (distance(way), way)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, way)| other_layer(model, &narrowed.outputs, way)).into_iter().collect()
}

/// The own matrix with the bias of another layer: of the one that fits the first row best.
fn other_bias<'a>(model: &'a Model, narrowed: &Narrowed) -> Option<Trial<'a>> {
    let first = narrowed.cases.first().filter(|c| parts(c).is_ok_and(|p| p.bias.is_some()))?;
    let layers = model.config.num_hidden_layers;
    let of = |by: usize, outputs: &Outputs| {
        variant(model, outputs.clone(), move |p| p.bias = p.bias.map(|b| further(b, by, layers)))
    };
    let one = std::slice::from_ref(first);
    let best = (1..layers).map(|by| (super::fit::distance(one, &of(by, &narrowed.outputs)), by));
    let (_, by) = best.min_by(|a, b| a.0.total_cmp(&b.0))?;
    let trial = Trial::new("WEIGHT_OTHER_LAYER", of(by, &narrowed.outputs));
    Some(trial.with("layer", format!("+{by}")).with("of", "the bias"))
}

fn first_outputs(case: &Case, count: usize) -> Case {
    let mut case = case.clone();
    case.recorded.truncate(count);
    case.task.recorded_len = case.recorded.len();
    case
}

/// Without the soft cap, if there is one.
pub(super) fn uncapped<'a>(model: &'a Model, first: &Case, outputs: &Outputs) -> Option<Trial<'a>> {
    parts(first).ok()?.softcap?;
    let expect = variant(model, outputs.clone(), |p| p.softcap = None);
    Some(Trial::new("SOFTCAP_MISSING", expect).with("cap", "logits"))
}

/// With a coarser accumulator than declared: as loose as such sums are.
pub(super) fn coarse<'a>(model: &'a Model, outputs: &Outputs, format: Float) -> Trial<'a> {
    let outputs = outputs.clone();
    let expect: Expect<'a> = Box::new(move |case| {
        let parts = parts(case)?;
        let weight = gathered(&model.weights.get(&parts.weight.name())?, &outputs)?;
        let mut case = case.clone();
        let coarse = ContractFields { accumulate: Some(format.to_string()), ..Default::default() };
        case.task.arithmetic = case.task.arithmetic.with(&coarse);
        one(Layer { weight, bias: bias(model, &parts, &outputs)?, softcap: parts.softcap }, &case)
    });
    Trial::new("ACCUMULATOR_SATURATED", expect).with("accumulator", format).freedom(Freedom::Loose)
}
