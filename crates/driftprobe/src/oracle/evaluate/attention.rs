//! Attention from its recorded parts: scores, softmax, weighted values, or all at once.

use super::{Expectation, Task, running, sized};
use crate::oracle::arithmetic::Arithmetic;
use crate::oracle::float::Float;
use crate::oracle::judgement::Unjudged;
use crate::oracle::noise::{
    AttentionNoise, HeadInputs, attention_head, relative_rms, scores_variance, softmax_variance, weigh_variance,
};
use crate::oracle::stats::{Derivatives, Direction, Expected, Limits, is_masked};
use driftprobe_model::Config;
use driftprobe_model::reference::{self, AttentionShape, Cached, HeadScores, head_scores};

/// Position of a cache's first row, its last being that of position `pos`; 0 where it has more rows than that.
pub fn first_position(pos: usize, rows: usize) -> usize {
    (pos + 1).saturating_sub(rows)
}

/// The arithmetic of attention, as the contract has it.
pub fn noise(shape: &AttentionShape, arithmetic: &Arithmetic) -> Result<AttentionNoise, Unjudged> {
    let accumulate = arithmetic.accumulate()?;
    // q·k, and the scaling unless it is exact; dividing by the cap, tanh, and multiplying by it.
    let scaled = if shape.scale.log2().fract() == 0.0 { 1.0 } else { 2.0 };
    Ok(AttentionNoise {
        cu: relative_rms(accumulate),
        cu_values: relative_rms(arithmetic.value_sums()?.unwrap_or(accumulate)),
        cu_softmax: relative_rms(arithmetic.softmax()?),
        u: accumulate.unit_roundoff(),
        inputs: arithmetic.input_variance(),
        head_dim: shape.head_dim as f64,
        softcap: shape.softcap,
        scores: arithmetic.scores()?,
        score_roundings: if shape.softcap.is_some() { scaled + 3.0 } else { scaled },
        probs: arithmetic.probs()?,
    })
}

/// Cached rows `[kv_heads, rows, head_dim]`.
pub fn cached<'a>(shape: &AttentionShape, values: &'a [f64], pos: usize) -> Result<Cached<'a>, Unjudged> {
    let width = (shape.kv_heads * shape.head_dim).max(1);
    let rows = values.len() / width;
    sized("the cache", values.len(), rows * width)?;
    Ok(Cached { values, rows, first_pos: first_position(pos, rows) })
}

/// The recorded row's columns a head.
pub fn columns(shape: &AttentionShape, len: usize) -> Result<usize, Unjudged> {
    let columns = len / shape.heads.max(1);
    sized("the row", len, columns * shape.heads)?;
    Ok(columns)
}

fn all_scores(shape: &AttentionShape, task: &Task) -> Result<Vec<HeadScores>, Unjudged> {
    let q = task.sized(0, shape.heads * shape.head_dim)?;
    let k = cached(shape, task.input(1), task.pos)?;
    Ok((0..shape.heads).map(|head| head_scores(shape, q, &k, (head, task.pos))).collect())
}

/// Scores or probabilities `[heads, columns]`; columns past those known are hidden.
struct Columns {
    expected: Expected,
    columns: usize,
}

impl Columns {
    fn new(task: &Task, shape: &AttentionShape, limits: Limits) -> Result<Columns, Unjudged> {
        let columns = columns(shape, task.recorded_len)?;
        let output = task.arithmetic.output()?;
        let empty = Vec::with_capacity(task.recorded_len);
        let (y, variance) = (empty.clone(), empty);
        let derivatives =
            Derivatives { relative: task.arithmetic.elementwise()?.unit_roundoff(), ..Derivatives::default() };
        let cell = columns.max(1);
        let expected = Expected { y, variance, hidden: Vec::new(), cell, output, limits, derivatives };
        Ok(Columns { expected, columns })
    }

    /// Adds a head. `nothing` stands for a hidden column.
    fn push(&mut self, y: &[f64], variance: &[f64], (visible, nothing): (&[bool], f64)) {
        for column in 0..self.columns {
            let seen = visible.get(column).copied().unwrap_or(false);
            self.expected.hidden.push(!seen);
            self.expected.y.push(y.get(column).copied().filter(|_| seen).unwrap_or(nothing));
            self.expected.variance.push(variance.get(column).copied().filter(|_| seen).unwrap_or(0.0));
        }
    }
}

pub fn scores(config: &Config, layer: usize, task: &Task) -> Result<Expectation, Unjudged> {
    let shape = AttentionShape::of(config, layer);
    let noise = noise(&shape, &task.arithmetic)?;
    let mut all = Columns::new(task, &shape, Limits::PLAIN)?;
    for head in all_scores(&shape, task)? {
        sized("the row's columns", all.columns.min(head.scores.len()), head.scores.len())?;
        let extra = (noise.score_roundings - 1.0).max(0.0);
        let variance = |(s, squares): (&f64, &f64)| {
            let stored = if noise.scores < Float::F32 { extra * noise.scores.rounding_variance(*s) } else { 0.0 };
            scores_variance(*s, *squares, &noise) + stored
        };
        let variance: Vec<f64> = head.scores.iter().zip(&head.squares).map(variance).collect();
        let visible: Vec<bool> = head.scores.iter().map(|s| s.is_finite()).collect();
        all.push(&head.scores, &variance, (&visible, f64::NEG_INFINITY));
    }
    // ∂s/∂ln scale of what is seen; under a soft cap times its slope.
    let slope =
        |s: &f64| if s.is_finite() { s * shape.softcap.map_or(1.0, |cap| 1.0 - (s / cap).powi(2)) } else { 0.0 };
    let along = all.expected.y.iter().map(slope).collect();
    all.expected.derivatives.directions.push((Direction::Temperature, along));
    Ok(Expectation::Noisy(all.expected))
}

pub fn softmax(config: &Config, layer: usize, task: &Task) -> Result<Expectation, Unjudged> {
    let shape = AttentionShape::of(config, layer);
    let noise = noise(&shape, &task.arithmetic)?;
    let columns = columns(&shape, task.input(0).len())?;
    let mut all = Columns::new(task, &shape, Limits::NORM)?;
    sized("the row's columns", all.columns, columns)?;
    for recorded in task.input(0).chunks(columns.max(1)) {
        // What stands in for −∞ in some engines is as good as it.
        let scores: Vec<f64> = recorded.iter().map(|s| if is_masked(*s) { f64::NEG_INFINITY } else { *s }).collect();
        let probs = reference::softmax(&scores);
        let variance = softmax_variance(&scores, &probs, &noise);
        let visible: Vec<bool> = scores.iter().map(|s| s.is_finite()).collect();
        all.push(&probs, &variance, (&visible, 0.0));
    }
    Ok(Expectation::Noisy(all.expected))
}

pub fn scores_softmax(config: &Config, layer: usize, task: &Task) -> Result<Expectation, Unjudged> {
    let shape = AttentionShape::of(config, layer);
    let noise = noise(&shape, &task.arithmetic)?;
    let mut all = Columns::new(task, &shape, Limits::NORM)?;
    for head in all_scores(&shape, task)? {
        sized("the row's columns", all.columns.min(head.scores.len()), head.scores.len())?;
        let probs = reference::softmax(&head.scores);
        let own = softmax_variance(&head.scores, &probs, &noise);
        let inherited = inherited_variance(&head, &probs, &noise);
        let variance: Vec<f64> = own.iter().zip(inherited).map(|(own, inherited)| own + inherited).collect();
        let visible: Vec<bool> = head.scores.iter().map(|s| s.is_finite()).collect();
        all.push(&probs, &variance, (&visible, 0.0));
    }
    Ok(Expectation::Noisy(all.expected))
}

/// What errors of the scores do to probabilities: p²(ρᵢ² + Σpⱼ²ρⱼ²), the second part by the sum that all are divided by;
/// ρ² = e^{2v}(eᵛ − 1), v a score's variance (log-normal, at most 8). 0 where a key is hidden.
pub fn inherited_variance(head: &HeadScores, probs: &[f64], noise: &AttentionNoise) -> Vec<f64> {
    let spread = |(s, squares): (&f64, &f64)| {
        let v = scores_variance(*s, *squares, noise) + noise.score_roundings * noise.scores.rounding_variance(*s);
        let v = v.min(8.0);
        if s.is_finite() { (2.0 * v).exp() * v.exp_m1() } else { 0.0 }
    };
    let spreads: Vec<f64> = head.scores.iter().zip(&head.squares).map(spread).collect();
    let shared: f64 = probs.iter().zip(&spreads).map(|(p, spread)| p * p * spread).sum();
    let one = |((p, spread), s): ((&f64, &f64), &f64)| if s.is_finite() { p * p * (spread + shared) } else { 0.0 };
    probs.iter().zip(&spreads).zip(&head.scores).map(one).collect()
}

fn heads(task: &Task, shape: &AttentionShape, (y, variance): (Vec<f64>, Vec<f64>)) -> Result<Expectation, Unjudged> {
    super::noisy(task, y, variance, (shape.head_dim, Limits::ATTENTION))
}

pub fn weigh(config: &Config, layer: usize, task: &Task) -> Result<Expectation, Unjudged> {
    let shape = AttentionShape::of(config, layer);
    let noise = noise(&shape, &task.arithmetic)?;
    let v = cached(&shape, task.input(1), task.pos)?;
    let columns = columns(&shape, task.input(0).len())?;
    let (mut y, mut variance) = (Vec::new(), Vec::new());
    for (head, probs) in task.input(0).chunks(columns.max(1)).enumerate() {
        let unread: f64 = probs.iter().skip(v.rows).map(|p| p.abs()).sum();
        if !(unread == 0.0) || columns < v.rows {
            return Err(Unjudged::Shape { what: "the cache".to_owned(), found: v.rows, expected: columns });
        }
        let out = reference::weigh(&shape, probs, &v, head);
        let inputs = HeadInputs { scores: &[], squares: &[], probs, out: &out };
        variance.extend(weigh_variance(&inputs, v.rows_of(&shape, head), &noise));
        y.extend(out);
    }
    heads(task, &shape, (y, variance))
}

pub fn attention(config: &Config, layer: usize, task: &Task) -> Result<Expectation, Unjudged> {
    let shape = AttentionShape::of(config, layer);
    let noise = noise(&shape, &task.arithmetic)?;
    let v = cached(&shape, task.input(2), task.pos)?;
    sized("the values", task.input(2).len(), task.input(1).len())?;
    let running = task.arithmetic.value_sums()?.filter(|format| *format < Float::F32);
    let parts = task.arithmetic.key_parts()?;
    let (mut y, mut variance, mut along) = (Vec::new(), Vec::new(), Vec::new());
    for (head, scores) in all_scores(&shape, task)?.into_iter().enumerate() {
        let probs = reference::softmax(&scores.scores);
        let out = reference::weigh(&shape, &probs, &v, head);
        let inputs = HeadInputs { scores: &scores.scores, squares: &scores.squares, probs: &probs, out: &out };
        along.extend(along_temperature(&inputs, v.rows_of(&shape, head), shape.softcap));
        let (out, own) = match running {
            None => (out.clone(), attention_head(&inputs, v.rows_of(&shape, head), &noise)),
            Some(format) => running::attend((&scores, task.pos), v.rows_of(&shape, head), (format, parts), &noise),
        };
        variance.extend(own);
        y.extend(out);
    }
    let mut expectation = heads(task, &shape, (y, variance))?;
    if let Expectation::Noisy(expected) = &mut expectation {
        expected.derivatives.directions.push((Direction::Temperature, along));
    }
    Ok(expectation)
}

/// ∂o/∂ln scale = Σⱼ pⱼs′ⱼ(Vⱼ − o), s′ being the score, under a soft cap times its slope.
fn along_temperature<'v>(
    inputs: &HeadInputs<'_>,
    v: impl Iterator<Item = &'v [f64]>,
    softcap: Option<f64>,
) -> Vec<f64> {
    let mut along = vec![0.0; inputs.out.len()];
    for ((s, p), row) in inputs.scores.iter().zip(inputs.probs).zip(v).filter(|((s, _), _)| s.is_finite()) {
        let moved = s * softcap.map_or(1.0, |cap| 1.0 - (s / cap).powi(2));
        for ((along, o), v) in along.iter_mut().zip(inputs.out).zip(row) {
            *along += p * moved * (v - o);
        }
    }
    along
}
