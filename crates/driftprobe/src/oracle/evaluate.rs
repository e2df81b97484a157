//! What a stage should have given, from its recorded inputs: value and variance, or the exact values.

pub mod attention;
mod exact;
mod inputs;
mod linear;
mod running;
#[cfg(test)]
mod tests;

pub use inputs::as_read;
pub use linear::{Layer, Spread, linear};

use super::arithmetic::Arithmetic;
use super::float::Float;
use super::judgement::Unjudged;
use super::noise::{self, RotaryNoise, relative_rms};
use super::stage::Op;
use super::stats::{CELL_CHANNELS, Derivatives, Direction, Expected, Limits};
use driftprobe_model::reference::{self, RopePrecision, RopeTable, norm_weight, pair, rotate_heads};
use driftprobe_model::{Activation, Config, Model, WeightId};

/// One row to be judged.
#[derive(Clone, Debug)]
pub struct Task {
    /// The stage's inputs, in the order of its way.
    pub inputs: Vec<Vec<f64>>,
    /// For a write to the cache: the rows of other positions of the same phase.
    pub others: Vec<(usize, Vec<f64>)>,
    /// Index of the token in the prompt.
    pub pos: usize,
    /// Position that the rotary embedding was given.
    pub pos_id: u64,
    /// The token fed.
    pub token: Option<u32>,
    /// Values of the recorded row.
    pub recorded_len: usize,
    /// The stage's arithmetic.
    pub arithmetic: Arithmetic,
}

impl Task {
    pub fn input(&self, i: usize) -> &[f64] {
        self.inputs.get(i).map_or(&[], Vec::as_slice)
    }

    /// The input, if it has the length that it should have.
    fn sized(&self, i: usize, expected: usize) -> Result<&[f64], Unjudged> {
        let input = self.input(i);
        sized(format!("input {}", i + 1), input.len(), expected)?;
        Ok(input)
    }
}

fn sized(what: impl Into<String>, found: usize, expected: usize) -> Result<(), Unjudged> {
    if found == expected { Ok(()) } else { Err(Unjudged::Shape { what: what.into(), found, expected }) }
}

/// What a row should be.
#[derive(Clone, Debug)]
pub enum Expectation {
    /// One of these, exactly; only the elements of `judged` (empty: all).
    Exact {
        /// What the legitimate orders of rounding give.
        candidates: Vec<Vec<f64>>,
        /// Which elements are known.
        judged: Vec<bool>,
    },
    /// This, within noise.
    Noisy(Expected),
}

/// Evaluates every stage but linear ones, which take many rows at once.
///
/// # Errors
/// Says why nothing can be said.
pub fn evaluate(model: &Model, op: Op, task: &Task, layer: usize) -> Result<Expectation, Unjudged> {
    match op {
        Op::Embed => exact::embed(model, task),
        Op::Copy => exact::copy(task),
        Op::Add => exact::add(task),
        Op::KvWrite => exact::kv_write(&model.config, task),
        Op::Norm { weight, per_head } => norm(model, task, weight, per_head),
        Op::Rope => rope(model, task),
        Op::Gated => gated(model.config.activation, task),
        Op::Scores => attention::scores(&model.config, layer, task),
        Op::Softmax => attention::softmax(&model.config, layer, task),
        Op::ScoresSoftmax => attention::scores_softmax(&model.config, layer, task),
        Op::Weigh => attention::weigh(&model.config, layer, task),
        Op::Attention => attention::attention(&model.config, layer, task),
        Op::Linear { weight, bias, softcap } => {
            let many = linear(model, (weight, bias, softcap), std::slice::from_ref(task));
            many.into_iter().next().unwrap_or(Err(Unjudged::NoPayload))
        }
    }
}

fn norm(model: &Model, task: &Task, id: WeightId, per_head: bool) -> Result<Expectation, Unjudged> {
    let c = &model.config;
    let weight = norm_weight(&model.weights.get(&id.name())?, c.norm_weight_plus_one);
    let x = task.input(0);
    let whole = if per_head { x.len() / weight.len().max(1) * weight.len() } else { weight.len() };
    let x = task.sized(0, whole)?;
    let cu = relative_rms(task.arithmetic.elementwise()?);
    let inner = task.arithmetic.inner()?;
    let (mut y, mut variance) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
    for x in x.chunks(weight.len().max(1)) {
        let normed = reference::rms_norm(x, &weight, c.rms_norm_eps);
        let own = noise::norm_variance(x, &normed, cu);
        match inner.filter(|f| *f < Float::F32) {
            None => {
                y.extend(normed);
                variance.extend(own);
            }
            Some(format) => {
                // x·factor is rounded before it meets the weight.
                for ((y_one, a), w) in normed.iter().zip(own).zip(&weight) {
                    let before = if *w == 0.0 { 0.0 } else { y_one / w };
                    let (rounded, doubt) = format.round_doubtful(before, 4.0 * (a.sqrt() / w.abs()).max(0.0));
                    y.push(rounded * w);
                    variance.push((doubt * w).powi(2) + (cu * y_one).powi(2));
                }
            }
        }
    }
    let cell = if per_head { weight.len() } else { CELL_CHANNELS };
    let mut expectation = noisy(task, y, variance, (cell, Limits::NORM))?;
    if let Expectation::Noisy(expected) = &mut expectation {
        // The row (or head) shares one factor.
        expected.derivatives.cell = weight.len();
    }
    Ok(expectation)
}

fn rope(model: &Model, task: &Task) -> Result<Expectation, Unjudged> {
    let c = &model.config;
    let x = task.input(0);
    let x = task.sized(0, x.len() / c.head_dim * c.head_dim)?;
    let format = task.arithmetic.rope_table()?;
    let frequencies = c.rope.frequencies(c.head_dim);
    let mut table = RopeTable::new(c, task.pos_id, RopePrecision::F64);
    let cu = relative_rms(task.arithmetic.elementwise()?);
    let angles = RotaryNoise {
        pos: task.pos_id,
        frequencies: &frequencies,
        layout: c.rope.layout,
        cu,
        // Even a coarse table is made from f32 angles.
        cu_angle: relative_rms(format.max(Float::F32)),
    };
    let doubts = if format < Float::F32 { round_table(&mut table, task.pos_id, &frequencies, format) } else { vec![] };
    let inner = task.arithmetic.inner()?.filter(|f| *f < Float::F32);
    let y = match inner {
        None => rotate_heads(x, c.rope.layout, &table),
        Some(format) => rotate_rounding(x, &table, (c.rope.layout, format)),
    };
    let mut variance = if format < Float::F32 {
        noise::rope_variance(x, &y, &RotaryNoise { cu_angle: 0.0, ..angles })
    } else {
        noise::rope_variance(x, &y, &angles)
    };
    add_doubts(&mut variance, x, &doubts, c.rope.layout);
    let directions = vec![
        (
            Direction::Theta,
            along_angles(&y, c, |i, frequency| -2.0 * i as f64 / c.head_dim as f64 * task.pos_id as f64 * frequency),
        ),
        (Direction::Position, along_angles(&y, c, |_, frequency| frequency)),
    ];
    let mut expectation = noisy(task, y, variance, (c.head_dim, Limits::ROPE))?;
    if let Expectation::Noisy(expected) = &mut expectation {
        expected.derivatives.directions = directions;
        expected.derivatives.shared_by_all = true;
    }
    Ok(expectation)
}

/// ∂y/∂parameter where the angle of pair i moves by `slope(i, θᵢ)`: ∓y′·slope.
fn along_angles(y: &[f64], config: &Config, slope: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    let head_dim = config.head_dim;
    let frequencies = config.rope.frequencies(head_dim);
    let mut out = vec![0.0; y.len()];
    for (y, out) in y.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
        for (i, frequency) in frequencies.iter().enumerate() {
            let (first, second) = pair(config.rope.layout, head_dim, i);
            let slope = slope(i, *frequency);
            (out[first], out[second]) = (-y[second] * slope, y[first] * slope);
        }
    }
    out
}

/// Rounds a table; gives for each pair by how much cos and sin may be off because f32 angles straddle a tie.
fn round_table(table: &mut RopeTable, pos: u64, frequencies: &[f64], format: Float) -> Vec<(f64, f64)> {
    let u = Float::F32.unit_roundoff();
    let entries = table.cos.iter_mut().zip(table.sin.iter_mut()).zip(frequencies).enumerate();
    let round = |(i, ((cos, sin), frequency)): (usize, ((&mut f64, &mut f64), &f64))| {
        let error = u * (2.0 + pos as f64 * frequency * (2.0 + i as f64).sqrt());
        let (c, c_doubt) = format.round_doubtful(*cos, error);
        let (s, s_doubt) = format.round_doubtful(*sin, error);
        (*cos, *sin) = (c, s);
        (c_doubt, s_doubt)
    };
    entries.map(round).collect()
}

/// As [`rotate_heads`], each product rounded before the sum, as eager PyTorch does in 16-bit formats.
fn rotate_rounding(x: &[f64], table: &RopeTable, (layout, format): (driftprobe_model::RopeLayout, Float)) -> Vec<f64> {
    let head_dim = table.cos.len() * 2;
    let mut out = x.to_vec();
    for (x, y) in x.chunks_exact(head_dim.max(1)).zip(out.chunks_exact_mut(head_dim.max(1))) {
        for (i, (cos, sin)) in table.cos.iter().zip(&table.sin).enumerate() {
            let (first, second) = pair(layout, head_dim, i);
            y[first] = format.round(x[first] * cos) - format.round(x[second] * sin);
            y[second] = format.round(x[second] * cos) + format.round(x[first] * sin);
        }
    }
    out
}

fn add_doubts(variance: &mut [f64], x: &[f64], doubts: &[(f64, f64)], layout: driftprobe_model::RopeLayout) {
    let head_dim = doubts.len() * 2;
    if head_dim == 0 {
        return;
    }
    for (x, variance) in x.chunks_exact(head_dim).zip(variance.chunks_exact_mut(head_dim)) {
        for (i, (cos, sin)) in doubts.iter().enumerate() {
            let (first, second) = pair(layout, head_dim, i);
            variance[first] += (cos * x[first]).powi(2) + (sin * x[second]).powi(2);
            variance[second] += (cos * x[second]).powi(2) + (sin * x[first]).powi(2);
        }
    }
}

fn gated(activation: Activation, task: &Task) -> Result<Expectation, Unjudged> {
    let gate = task.input(0);
    let up = task.sized(1, gate.len())?;
    let cu = relative_rms(task.arithmetic.elementwise()?);
    let inner = task.arithmetic.inner()?.filter(|f| *f < Float::F32);
    type Variance = fn(f64, f64, f64, f64) -> f64;
    let (act, variance): (fn(f64) -> f64, Variance) = match activation {
        Activation::Silu => (reference::silu, noise::silu_variance),
        Activation::GeluTanh => (reference::gelu_tanh, noise::gelu_variance),
    };
    let one = |(g, u): (&f64, &f64)| {
        let activated = act(*g);
        let own = variance(*g, *u, activated * u, cu);
        let Some(format) = inner else { return (activated * u, own) };
        let (rounded, doubt) = format.round_doubtful(activated, 4.0 * variance(*g, 1.0, activated, cu).sqrt());
        (rounded * u, (doubt * u).powi(2) + (cu * rounded * u).powi(2))
    };
    let (y, variance) = gate.iter().zip(up).map(one).unzip();
    independent(noisy(task, y, variance, (CELL_CHANNELS, Limits::PLAIN))?)
}

/// Marks a stage whose elements' errors have no cause in common.
fn independent(mut expectation: Expectation) -> Result<Expectation, Unjudged> {
    if let Expectation::Noisy(expected) = &mut expectation {
        expected.derivatives.cell = 1;
    }
    Ok(expectation)
}

fn noisy(
    task: &Task,
    y: Vec<f64>,
    variance: Vec<f64>,
    (cell, limits): (usize, Limits),
) -> Result<Expectation, Unjudged> {
    sized("the row", task.recorded_len, y.len())?;
    let output = task.arithmetic.output()?;
    let derivatives = Derivatives {
        directions: vec![(Direction::Gain, y.clone())],
        relative: task.arithmetic.elementwise()?.unit_roundoff(),
        ..Derivatives::default()
    };
    Ok(Expectation::Noisy(Expected { y, variance, hidden: Vec::new(), cell, output, limits, derivatives }))
}
