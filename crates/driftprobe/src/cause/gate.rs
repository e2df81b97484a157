//! Hypotheses of the MLP's activation.

use super::trial::{Trial, noisy_of};
use crate::oracle::Float;
use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::judgement::Unjudged;
use crate::oracle::noise::relative_rms;
use crate::oracle::replay::cases::Case;
use driftprobe_model::reference::{gelu_tanh, silu};
use driftprobe_model::{Activation, Model};
use std::f64::consts::PI;

/// A name, the function, and whether its results cancel (1 − something) for negative arguments.
type Named = (&'static str, fn(f64) -> f64, bool);

const ACTIVATIONS: &[Named] = &[
    ("silu", silu, false),
    ("gelu_tanh", gelu_tanh, true),
    ("gelu", gelu, true),
    ("relu", |x| x.max(0.0), false),
    ("sigmoid", |x| 1.0 / (1.0 + (-x).exp()), false),
    ("identity", |x| x, false),
    ("tanh", f64::tanh, false),
    ("relu_squared", |x| x.max(0.0).powi(2), false),
    ("quick_gelu", |x| x / (1.0 + (-1.702 * x).exp()), false),
];

/// All of them.
pub(super) fn trials(model: &Model) -> Vec<Trial<'_>> {
    let swapped = Trial::new("GATE_UP_SWAPPED", Box::new(move |case| exchanged(model, case)));
    let of_product = Trial::new("ACTIVATION_OF_PRODUCT", Box::new(move |case| of_product(model, case)));
    let mut all = vec![swapped.with("place", "activation"), of_product];
    let (own, _) = own(model);
    for named in ACTIVATIONS.iter().filter(|(name, ..)| *name != own) {
        let expect = Box::new(move |case: &Case| activated(model, case, *named));
        all.push(Trial::new("ACTIVATION_WRONG", expect).with("activation", named.0));
    }
    all
}

/// The model's activation: its name and the function.
fn own(model: &Model) -> (&'static str, fn(f64) -> f64) {
    match model.config.activation {
        Activation::Silu => ("silu", silu),
        Activation::GeluTanh => ("gelu_tanh", gelu_tanh),
    }
}

/// f(g·up), in place of f(g)·up. The product p has a rounding of its own, by which f moves with |f′| < 1.13; then as of any
/// activation: (cuy)²(6 + p²/2), and (p·cu)² where it cancels.
fn of_product(model: &Model, case: &Case) -> Result<Expectation, Unjudged> {
    let mut expected = noisy_of(model, case)?;
    let cu = relative_rms(case.task.arithmetic.elementwise()?);
    let inner = case.task.arithmetic.inner()?.filter(|format| *format < Float::F32);
    let (_, function) = own(model);
    let one = |(g, up): (&f64, &f64)| {
        let product = inner.map_or(g * up, |format| format.round(g * up));
        let y = function(product);
        let own = (cu * y).powi(2) * (6.0 + product * product / 2.0) + 2.0 * (1.13 * cu * product).powi(2);
        (y, own + 1.5e-36f64.powi(2))
    };
    (expected.y, expected.variance) = case.task.input(0).iter().zip(case.task.input(1)).map(one).unzip();
    Ok(Expectation::Noisy(expected))
}

fn exchanged(model: &Model, case: &Case) -> Result<Expectation, Unjudged> {
    let mut task = case.task.clone();
    task.inputs.reverse();
    evaluate(model, case.op, &task, case.layer_index())
}

/// Noise as of any activation of a few roundings: (cuy)²(6 + g²/2), and where it cancels (½g·up·cu)²·4 besides.
fn activated(model: &Model, case: &Case, (_, function, cancels): Named) -> Result<Expectation, Unjudged> {
    let mut expected = noisy_of(model, case)?;
    let cu = relative_rms(case.task.arithmetic.elementwise()?);
    let inputs = case.task.input(0).iter().zip(case.task.input(1));
    let inner = case.task.arithmetic.inner()?.filter(|format| *format < Float::F32);
    let one = |(g, up): (&f64, &f64)| {
        let activated = function(*g);
        let cancelled = if cancels { (g * cu).powi(2) } else { 0.0 };
        let own = (cu * activated).powi(2) * (6.0 + g * g / 2.0) + cancelled + 1.5e-36f64.powi(2);
        let Some(format) = inner else { return (activated * up, own * up * up) };
        // The activation is rounded before it is multiplied.
        let (rounded, doubt) = format.round_doubtful(activated, 4.0 * own.sqrt());
        (rounded * up, (doubt * up).powi(2) + (cu * rounded * up).powi(2))
    };
    (expected.y, expected.variance) = inputs.map(one).unzip();
    Ok(Expectation::Noisy(expected))
}

/// ½x(1 + erf(x/√2)).
fn gelu(x: f64) -> f64 {
    let z = x.abs() / 2f64.sqrt();
    let upper = if x < 0.0 { erfc(z) } else { 2.0 - erfc(z) };
    0.5 * x * upper
}

/// 1 − erf(z) for z ≥ 0: the series of erf (Abramowitz and Stegun 7.1.6) below 3, the continued fraction 7.1.14 above.
fn erfc(z: f64) -> f64 {
    let factor = (-z * z).exp() / PI.sqrt();
    if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= 2.0 * z * z / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - 2.0 * factor * sum;
    }
    let fraction = (1..=60).rev().fold(0.0, |tail, n| f64::from(n) / 2.0 / (z + tail));
    factor / (z + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_that_of_the_tables() {
        // Abramowitz and Stegun, table 7.1, and erfc(4) of table 7.2's continued fraction (DLMF 7.23).
        let table = [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)];
        table.into_iter().for_each(|(z, erf)| assert!((1.0 - erfc(z) - erf).abs() < 1e-10, "{z}"));
        assert!((erfc(4.0) / 1.541_725_790_028e-8 - 1.0).abs() < 1e-10);
        assert!((erfc(3.0 - 1e-12) / erfc(3.0) - 1.0).abs() < 1e-9);
        assert!((gelu(1.0) - 0.841_344_746_068_5).abs() < 1e-12 && gelu(-30.0).abs() < 1e-100);
    }
}
