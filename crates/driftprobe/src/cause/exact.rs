//! Hypotheses of stages without freedom: the embedding and the residual adds.

use super::trial::{Freedom, Trial};
use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::float::Float;
use crate::oracle::judgement::Unjudged;
use crate::oracle::replay::cases::Case;
use driftprobe_model::{Model, Weight, WeightId};

/// A sum of the stream and the branch, in a format.
type Sum = fn(f64, f64, Float) -> f64;

/// Of a residual add: x is the stream, b the branch.
pub(super) fn sums<'a>() -> Vec<Trial<'a>> {
    let ways: [(&'static str, &str, Sum); 6] = [
        ("RESIDUAL_DROPPED", "only the branch", |_, b, _| b),
        ("RESIDUAL_DROPPED", "only the stream", |x, _, _| x),
        ("RESIDUAL_DOUBLED", "the stream twice", |x, b, f| f.round(f.round(x + b) + x)),
        ("RESIDUAL_DOUBLED", "the stream twice", |x, b, f| f.round(f.round(2.0 * x) + b)),
        ("RESIDUAL_DOUBLED", "the branch twice", |x, b, f| f.round(f.round(x + b) + b)),
        ("RESIDUAL_DOUBLED", "the branch twice", |x, b, f| f.round(x + f.round(2.0 * b))),
    ];
    let trial = |(id, what, way): (&'static str, &str, Sum)| {
        Trial::new(id, Box::new(move |case| combined(case, way))).with("is", what)
    };
    ways.into_iter().map(trial).collect()
}

/// Both orders of rounding: in f32 and then in the storage format, and in the storage format after each sum.
fn combined(case: &Case, way: Sum) -> Result<Expectation, Unjudged> {
    let output = case.task.arithmetic.output()?;
    let pairs = || case.task.input(0).iter().zip(case.task.input(1));
    let through = |format: Float| pairs().map(|(x, b)| output.round(way(*x, *b, format))).collect();
    let candidates = vec![through(output.max(Float::F32)), through(output)];
    Ok(Expectation::Exact { candidates, judged: Vec::new() })
}

/// Of the embedding, for these rows.
pub(super) fn embeddings<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let mut all = vec![scale(model)];
    all.extend(scale_fitted(model, cases));
    all.extend(other_rows(model, cases));
    all
}

/// Of the embedding, in ordinary sizes.
pub(super) fn ordinary(model: &Model) -> Vec<Trial<'_>> {
    vec![scale(model), next_row(model)]
}

/// The model's factor left out; √hidden where it has none.
fn scale(model: &Model) -> Trial<'_> {
    let root = (model.config.hidden_size as f64).sqrt();
    scaled(model, if model.config.embed_scale.is_some() { None } else { Some(root) })
}

/// With this factor, or none.
fn scaled(model: &Model, factor: Option<f64>) -> Trial<'_> {
    let mut config = model.config.clone();
    config.embed_scale = factor;
    let other = model.with_config(config);
    let expect = Box::new(move |case: &Case| evaluate(&other, case.op, &case.task, case.layer_index()));
    Trial::new("EMBED_SCALE", expect).with("factor", factor.map_or("none".to_owned(), |f| f.to_string()))
}

/// The factor that the first rows show: as it is, and where it has few digits only.
fn scale_fitted<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let (mut up, mut down) = (0.0, 0.0);
    for case in cases {
        let Ok(Expectation::Exact { candidates, .. }) = evaluate(model, case.op, &case.task, case.layer_index()) else {
            return Vec::new();
        };
        let Some(own) = candidates.first() else { return Vec::new() };
        for (recorded, own) in case.recorded.iter().zip(own) {
            (up, down) = (up + recorded * own, down + own * own);
        }
    }
    let factor = up / down * model.config.embed_scale.unwrap_or(1.0);
    if !(factor.is_finite() && factor != 0.0) {
        return Vec::new();
    }
    let width = model.config.hidden_size as f64;
    let known = [width.sqrt(), 1.0 / width.sqrt(), width, 1.0 / width].into_iter();
    let known = known.filter(|known| (factor / known - 1.0).abs() < 0.01);
    let digits = (1..=4).filter_map(|digits| format!("{factor:.digits$e}").parse::<f64>().ok());
    let mut tried: Vec<f64> = known.chain(digits).chain([factor]).collect();
    tried.dedup();
    tried.into_iter().map(|factor| scaled(model, Some(factor)).freedom(Freedom::Fitted)).collect()
}

/// The row of the next token.
fn next_row(model: &Model) -> Trial<'_> {
    let vocab = u32::try_from(model.config.vocab_size).unwrap_or(u32::MAX).max(1);
    let expect = Box::new(move |case: &Case| {
        let mut task = case.task.clone();
        task.token = task.token.map(|t| (t + 1) % vocab);
        evaluate(model, case.op, &task, case.layer_index())
    });
    Trial::new("EMBED_ROW", expect).with("offset", "+1")
}

/// Every row that is wrong is the row of another token: all of them so many ids further, or each of its own.
fn other_rows<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let Ok(weight) = model.weights.get(&WeightId::Embed.name()) else { return Vec::new() };
    let mut found: Vec<(Option<u32>, u32)> = Vec::new();
    for case in cases {
        let Some(token) = found_row(model, &weight, case) else { return Vec::new() };
        found.push((case.task.token, token));
    }
    let vocab = u64::try_from(model.config.vocab_size).unwrap_or(u64::MAX);
    let offset =
        |(fed, is): &(Option<u32>, u32)| fed.map(|fed| (u64::from(*is) + vocab - u64::from(fed)) % vocab.max(1));
    let first = found.first().and_then(offset);
    let common = first.filter(|o| found.iter().all(|f| offset(f) == Some(*o)));
    let rows = found.iter().map(|(_, is)| is.to_string()).collect::<Vec<_>>().join(", ");
    let map: Vec<(Option<u32>, u32)> = found;
    let expect = Box::new(move |case: &Case| {
        let mut task = case.task.clone();
        let other = |fed: u32| map.iter().find(|(f, _)| *f == Some(fed)).map_or(fed, |(_, is)| *is);
        task.token = task.token.map(other);
        evaluate(model, case.op, &task, case.layer_index())
    });
    let trial = Trial::new("EMBED_ROW", expect);
    vec![match common {
        Some(offset) => trial.with("offset", format!("+{offset}")),
        None => trial.with("rows", rows),
    }]
}

/// The token whose row this is: its own if that fits.
fn found_row(model: &Model, weight: &Weight, case: &Case) -> Option<u32> {
    let is_row = |token: u32| {
        let mut task = case.task.clone();
        task.token = Some(token);
        let expectation = evaluate(model, case.op, &task, case.layer_index());
        matches!(expectation, Ok(Expectation::Exact { candidates, .. }) if candidates.contains(&case.recorded))
    };
    let own = case.task.token.filter(|t| is_row(*t));
    own.or_else(|| {
        (0..u32::try_from(weight.rows()).unwrap_or(u32::MAX)).find(|t| may_be(weight, *t, case) && is_row(*t))
    })
}

/// Whether the row's signs are those recorded: cheap, and wrong rows seldom pass.
fn may_be(weight: &Weight, token: u32, case: &Case) -> bool {
    let mut row = vec![0f32; weight.cols()];
    let token = token as usize;
    weight.dequantise_rows(token..token + 1, &mut row);
    row.iter().zip(&case.recorded).all(|(w, r)| f64::from(*w) * r >= 0.0)
}
