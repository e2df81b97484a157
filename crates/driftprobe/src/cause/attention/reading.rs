//! Attention read otherwise: other keys seen, other key heads, another softmax.

use super::softmax::Softmax;
use crate::cause::trial::noisy_of;
use crate::oracle::evaluate::Expectation;
use crate::oracle::evaluate::attention::{cached, columns, inherited_variance, noise};
use crate::oracle::judgement::Unjudged;
use crate::oracle::noise::{
    AttentionNoise, HeadInputs, attention_head, scores_variance, softmax_variance, weigh_variance,
};
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use driftprobe_model::Model;
use driftprobe_model::reference::{AttentionShape, Cached, HeadScores, head_scores, weigh};

/// Keys that are not seen; but a row sees one at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// None.
    Nothing,
    /// So many of the newest.
    Newest(usize),
    /// So many from position 0 on.
    First(usize),
}

/// Of which of its inputs attention mistakes the heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misread {
    /// Keys only.
    Keys,
    /// Values only.
    Values,
    /// Both.
    Both,
}

impl Misread {
    /// All of them.
    pub const ALL: [Misread; 3] = [Misread::Both, Misread::Keys, Misread::Values];
}

/// How attention reads its inputs.
#[derive(Clone, Debug)]
pub struct Reading {
    pub hidden: Hidden,
    /// The key head of each query head, and where that is read; none: groups of neighbours share one.
    pub heads: Option<(Vec<usize>, Misread)>,
    pub softmax: Softmax,
    /// What the scores are multiplied with before the softmax.
    pub factor: f64,
}

impl Reading {
    /// As it should be.
    pub const CLEAN: Reading = Reading { hidden: Hidden::Nothing, heads: None, softmax: Softmax::Right, factor: 1.0 };
}

/// One head's scores and weights.
pub struct Head {
    pub scores: HeadScores,
    /// What the values are multiplied with; probabilities if all is well.
    pub weights: Vec<f64>,
    /// Σ exp(s − max): what the weights have not been divided by, else 1.
    pub factor: f64,
    /// What errors of the scores do to the weights; empty where the scores are recorded.
    inherited: Vec<f64>,
}

/// What the row should be if attention reads so.
pub fn read(model: &Model, case: &Case, reading: &Reading) -> Result<Expectation, Unjudged> {
    let mut expected = noisy_of(model, case)?;
    let shape = AttentionShape::of(&model.config, case.layer_index());
    let noise = noise(&shape, &case.task.arithmetic)?;
    (expected.y, expected.variance) = (Vec::new(), Vec::new());
    let is_wide = matches!(case.op, Op::Weigh | Op::Attention);
    expected.hidden.clear();
    for number in 0..shape.heads {
        let mut head = head(&shape, case, (number, reading))?;
        if case.op == Op::ScoresSoftmax {
            head.inherited = inherited_variance(&head.scores, &head.weights, &noise);
        }
        if is_wide {
            let (y, variance) = weighed(&shape, case, (number, reading), &head, &noise)?;
            expected.y.extend(y);
            expected.variance.extend(variance);
        } else {
            let columns = columns(&shape, case.recorded.len())?;
            for column in 0..columns {
                let (y, variance, hidden) = cell(case.op, &head, column, (&noise, &reading.softmax));
                expected.y.push(y);
                expected.variance.push(variance);
                expected.hidden.push(hidden);
            }
        }
    }
    Ok(Expectation::Noisy(expected))
}

/// The key head that a query head reads.
fn kv_head(shape: &AttentionShape, head: usize, (reading, of): (&Reading, Misread)) -> usize {
    let mistaken = reading.heads.as_ref().filter(|(_, what)| [of, Misread::Both].contains(what));
    mistaken.and_then(|(heads, _)| heads.get(head)).copied().unwrap_or_else(|| shape.kv_head(head))
}

/// One key head's rows.
fn rows_of<'a>(shape: &AttentionShape, cache: &Cached<'a>, kv_head: usize) -> Cached<'a> {
    let size = cache.rows * shape.head_dim;
    Cached { values: cache.values.get(kv_head * size..(kv_head + 1) * size).unwrap_or_default(), ..*cache }
}

/// A head by itself.
fn alone(shape: &AttentionShape) -> AttentionShape {
    AttentionShape { heads: 1, kv_heads: 1, ..*shape }
}

pub fn head(shape: &AttentionShape, case: &Case, (number, reading): (usize, &Reading)) -> Result<Head, Unjudged> {
    let recorded = |columns: usize| case.task.input(0).chunks(columns.max(1)).nth(number).unwrap_or_default().to_vec();
    let mut scores = match case.op {
        Op::Weigh => {
            let weights = recorded(columns(shape, case.task.input(0).len())?);
            let none = vec![0.0; weights.len()];
            return Ok(Head {
                scores: HeadScores { scores: none.clone(), squares: none },
                weights,
                factor: 1.0,
                inherited: vec![],
            });
        }
        Op::Softmax => {
            let scores = recorded(columns(shape, case.task.input(0).len())?);
            HeadScores { squares: vec![0.0; scores.len()], scores }
        }
        _ => {
            let q = case.task.input(0).get(number * shape.head_dim..(number + 1) * shape.head_dim).unwrap_or_default();
            let k = cached(shape, case.task.input(1), case.task.pos)?;
            let k = rows_of(shape, &k, kv_head(shape, number, (reading, Misread::Keys)));
            head_scores(&alone(shape), q, &k, (0, case.task.pos))
        }
    };
    hide(&mut scores, case.task.pos, reading.hidden);
    scores.scores.iter_mut().for_each(|s| *s *= reading.factor);
    let (weights, factor) = reading.softmax.weights(&scores.scores);
    Ok(Head { scores, weights, factor, inherited: vec![] })
}

fn hide(scores: &mut HeadScores, pos: usize, hidden: Hidden) {
    let rows = scores.scores.len();
    let first = (pos + 1).saturating_sub(rows);
    let range = match hidden {
        Hidden::Nothing => 0..0,
        Hidden::Newest(keys) => rows.saturating_sub(keys).max(1)..rows,
        Hidden::First(keys) => 0..keys.saturating_sub(first).min(rows.saturating_sub(1)),
    };
    if let Some(scores) = scores.scores.get_mut(range).filter(|_| pos > 0) {
        scores.fill(f64::NEG_INFINITY);
    }
}

/// Output and variance of one head.
fn weighed(
    shape: &AttentionShape,
    case: &Case,
    (number, reading): (usize, &Reading),
    head: &Head,
    noise: &AttentionNoise,
) -> Result<(Vec<f64>, Vec<f64>), Unjudged> {
    let values = if case.op == Op::Weigh { 1 } else { 2 };
    let v = cached(shape, case.task.input(values), case.task.pos)?;
    let (v, one) = (rows_of(shape, &v, kv_head(shape, number, (reading, Misread::Values))), alone(shape));
    let out = weigh(&one, &head.weights, &v, 0);
    let rows = v.rows_of(&one, 0);
    if case.op == Op::Weigh {
        let inputs = HeadInputs { scores: &[], squares: &[], probs: &head.weights, out: &out };
        let variance = weigh_variance(&inputs, rows, noise);
        return Ok((out, variance));
    }
    // As of the normalised head, by the square of the factor.
    let probs: Vec<f64> = head.weights.iter().map(|w| w / head.factor).collect();
    let normalised: Vec<f64> = out.iter().map(|o| o / head.factor).collect();
    let inputs =
        HeadInputs { scores: &head.scores.scores, squares: &head.scores.squares, probs: &probs, out: &normalised };
    let variance = attention_head(&inputs, rows, noise).iter().map(|v| v * head.factor.powi(2)).collect();
    Ok((out, variance))
}

/// Value, variance, and whether it is hidden, of one score or probability.
fn cell(op: Op, head: &Head, column: usize, (noise, kind): (&AttentionNoise, &Softmax)) -> (f64, f64, bool) {
    let score = head.scores.scores.get(column).copied().unwrap_or(f64::NEG_INFINITY);
    let square = head.scores.squares.get(column).copied().unwrap_or(0.0);
    let seen = score.is_finite();
    if op == Op::Scores {
        let stored = noise.score_roundings * noise.scores.rounding_variance(score);
        let stored = if noise.scores < crate::oracle::Float::F32 { stored } else { 0.0 };
        let variance = if seen { scores_variance(score, square, noise) + stored } else { 0.0 };
        return (score, variance, !seen);
    }
    let weight = head.weights.get(column).copied().unwrap_or(0.0);
    let own = softmax_variance(&head.scores.scores, &head.weights, noise).get(column).copied().unwrap_or(0.0);
    let own = own + kind.variance(weight, score, noise.cu_softmax);
    if op == Op::Softmax {
        return (weight, own, !seen);
    }
    let inherited = head.inherited.get(column).copied().unwrap_or(0.0);
    if seen { (weight, own + inherited, false) } else { (0.0, 0.0, true) }
}
