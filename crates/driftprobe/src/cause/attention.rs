//! Hypotheses of attention: mask, heads, scores, softmax.

mod heads;
mod reading;
mod scan;
mod softmax;

use super::fit::fit;
use super::rope::significant;
use super::trial::{Expect, Freedom, Trial, noisy_of, with_config};
use crate::oracle::evaluate::Expectation;
use crate::oracle::judgement::Unjudged;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use driftprobe_model::{Config, Model};
use driftprobe_trace::Phase;
pub(super) use heads::{listed, moved};
use reading::{Hidden, Reading, read};
use softmax::{Merge, Parts, Softmax};

/// All of them, fitted to the rows of a phase.
pub(super) fn trials<'a>(model: &'a Model, cases: &[Case], phase: Phase) -> Vec<Trial<'a>> {
    let Some(first) = cases.first() else { return Vec::new() };
    let mut all = fixed(model, first.op);
    if has_scores(first.op) {
        all.extend(scale_fitted(model, cases));
        all.extend(scan::windows(model, cases));
        all.extend(scan::hidden(model, cases));
        all.extend(scan::shown_futures(model, cases));
        all.extend(wider(model));
        all.extend(heads::queries(model, cases));
    }
    if first.op == Op::Softmax {
        all.extend(temperature_fitted(model, cases));
    } else {
        all.extend(heads::maps(model, cases));
    }
    all.extend(heads::swaps(model, cases));
    if has_softmax(first.op) {
        all.extend(scan::merges(model, cases));
    }
    if first.op != Op::Weigh {
        all.extend(scan::futures(model, (cases, phase)));
    }
    all
}

/// Those without a number to be fitted.
pub(super) fn fixed(model: &Model, op: Op) -> Vec<Trial<'_>> {
    let config = &model.config;
    let mut all = Vec::new();
    if has_scores(op) {
        if config.attention_scale != 1.0 {
            all.push(Trial::new("SCALE_MISSING", with_config(model, |c| c.attention_scale = 1.0)));
        }
        if config.attn_softcap.is_some() {
            let uncapped = with_config(model, |c| c.attn_softcap = None);
            all.push(Trial::new("SOFTCAP_MISSING", uncapped).with("cap", "attn"));
        }
        all.extend([Hidden::Newest(1), Hidden::First(1)].map(|hidden| hiding(model, hidden)));
    }
    if config.group() > 1 && config.num_key_value_heads > 1 && op != Op::Softmax {
        let map = (0..config.num_attention_heads).map(|h| h % config.num_key_value_heads).collect();
        all.extend(heads::mapped(model, (map, "repeated as a whole"), op));
    }
    if has_softmax(op) {
        let ways = [
            (Softmax::Undivided, "not"),
            (Softmax::Raw, "not, nor the maximum taken away"),
            (Softmax::OneMore, "by one more"),
            (Softmax::Ones, "over another axis"),
        ];
        all.extend(ways.map(|(softmax, divided)| {
            let reading = Reading { softmax, ..Reading::CLEAN };
            Trial::new("SOFTMAX_UNNORMALISED", reads(model, reading)).with("divided", divided)
        }));
    }
    if has_heads_out(op) {
        all.push(Trial::new("HEAD_LAYOUT", Box::new(move |case| laid_out(model, case))));
    }
    all
}

/// Those of [`fixed`], and the others in ordinary sizes.
pub(super) fn ordinary<'a>(model: &'a Model, first: &Case) -> Vec<Trial<'a>> {
    // Of each bug its plainest form.
    let mut all: Vec<Trial<'a>> = Vec::new();
    for trial in fixed(model, first.op) {
        if !all.iter().any(|t| t.id == trial.id) {
            let parameters = trial.parameters.into_iter().filter(|(name, _)| name == "cap").collect();
            all.push(Trial { parameters, ..trial });
        }
    }
    if has_scores(first.op) {
        all.push(Trial::new("SCALE_WRONG", scale(model, 1.01)).with("factor", 1.01));
        let seen = model.config.sliding_windows.iter().flatten().copied().min().unwrap_or(usize::MAX);
        let seen = seen.min(first.task.pos + 1);
        all.extend((seen > 1).then(|| window(model, Some(seen - 1))));
    }
    let heads = model.config.num_attention_heads;
    if has_heads_out(first.op) && heads > 1 {
        let order = [1, 0].into_iter().chain(2..heads).collect();
        all.push(Trial::new("HEAD_SWAP", heads::reordered(model, order)).with("heads", "0, 1"));
    }
    if first.op == Op::Attention {
        all.push(merged(model, Parts::Keys((first.task.pos + 1).div_ceil(2)), Merge::Output));
    }
    all
}

/// Keys that are not seen.
fn hiding(model: &Model, hidden: Hidden) -> Trial<'_> {
    let (id, keys) = match hidden {
        Hidden::Newest(keys) => ("MASK_MISSES_NEWEST", keys),
        Hidden::First(keys) => ("MASK_MISSES_FIRST", keys),
        Hidden::Nothing => ("MASK_MISSES_FIRST", 0),
    };
    let trial = Trial::new(id, reads(model, Reading { hidden, ..Reading::CLEAN }));
    if keys == 1 { trial } else { trial.with("keys", keys) }
}

/// Whether the stage divides by a sum over the keys.
fn has_softmax(op: Op) -> bool {
    matches!(op, Op::Softmax | Op::ScoresSoftmax | Op::Attention)
}

/// Whether the stage computes scores.
fn has_scores(op: Op) -> bool {
    matches!(op, Op::Scores | Op::ScoresSoftmax | Op::Attention)
}

/// Whether the stage gives a result for each head.
fn has_heads_out(op: Op) -> bool {
    matches!(op, Op::Weigh | Op::Attention)
}

fn reads(model: &Model, reading: Reading) -> Expect<'_> {
    Box::new(move |case| read(model, case, &reading))
}

/// The scale, so many times as large.
pub(super) fn scale<'a>(model: &Model, factor: f64) -> Expect<'a> {
    with_config(model, |c| c.attention_scale *= factor)
}

fn scale_fitted<'a>(model: &'a Model, cases: &[Case]) -> Option<Trial<'a>> {
    let config = &model.config;
    let make = |t: f64| scale(model, t.exp());
    let scales =
        [1.0, (config.head_dim as f64).powf(-0.5), 1.0 / config.head_dim as f64, config.attention_scale.powi(2)];
    let near = [0.0, 0.01, -0.01, 0.1, -0.1, 0.5, -0.5];
    let starts: Vec<f64> =
        scales.iter().map(|s| (s / config.attention_scale).ln()).chain(near).chain(slope(model, cases)).collect();
    let t = fit(cases, &starts, &make)?;
    let value = significant(config.attention_scale * t.exp());
    let trial = Trial::new("SCALE_WRONG", make(t)).freedom(Freedom::Fitted);
    Some(trial.with("scale", value).with("factor", significant(t.exp())))
}

/// Scores that are recorded and then multiplied before the softmax.
fn temperature_fitted<'a>(model: &'a Model, cases: &[Case]) -> Option<Trial<'a>> {
    let make = |t: f64| reads(model, Reading { factor: t.exp(), ..Reading::CLEAN });
    let t = fit(cases, &[0.01, -0.01, 0.1, -0.1, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0], &make)?;
    Some(Trial::new("SCALE_WRONG", make(t)).freedom(Freedom::Fitted).with("factor", significant(t.exp())))
}

/// ln of the factor between recorded scores and those expected.
fn slope(model: &Model, cases: &[Case]) -> Option<f64> {
    let case = cases.iter().rev().find(|c| c.op == Op::Scores)?;
    let expected = noisy_of(model, case).ok()?;
    let pairs = case.recorded.iter().zip(&expected.y).filter(|(r, y)| r.is_finite() && y.is_finite());
    let (up, down) = pairs.fold((0.0, 0.0), |(up, down), (r, y)| (up + r * y, down + y * y));
    let t = (up / down).ln();
    t.is_finite().then_some(t)
}

/// The window of every layer.
pub(super) fn window<'a>(model: &'a Model, keys: Option<usize>) -> Trial<'a> {
    let narrower = |config: &mut Config| {
        for own in &mut config.sliding_windows {
            *own = keys.map(|keys| own.map_or(keys, |w| w.min(keys)));
        }
    };
    let value = keys.map_or("none".to_owned(), |k| k.to_string());
    Trial::new("MASK_WINDOW", with_config(model, narrower)).with("keys", value)
}

/// A window that is one key too wide, where there are windows: the usual slip of < for ≤.
fn wider(model: &Model) -> Option<Trial<'_>> {
    let narrowest = model.config.sliding_windows.iter().flatten().min()?;
    let by_one = with_config(model, |config| config.sliding_windows.iter_mut().flatten().for_each(|w| *w += 1));
    Some(Trial::new("MASK_WINDOW", by_one).with("keys", narrowest + 1))
}

/// `[head_dim, heads]` for `[heads, head_dim]`.
fn laid_out(model: &Model, case: &Case) -> Result<Expectation, Unjudged> {
    let mut expected = noisy_of(model, case)?;
    let (heads, width) = (model.config.num_attention_heads, model.config.head_dim);
    let turn = |x: &[f64]| {
        let at = |i: usize| x.get(i % heads * width + i / heads).copied().unwrap_or(f64::NAN);
        (0..x.len()).map(at).collect()
    };
    (expected.y, expected.variance) = (turn(&expected.y), turn(&expected.variance));
    Ok(Expectation::Noisy(expected))
}

/// A softmax in parts that are put together wrongly.
fn merged(model: &Model, parts: Parts, merge: Merge) -> Trial<'_> {
    let reading = Reading { softmax: Softmax::Merged(parts, merge), ..Reading::CLEAN };
    let trial = Trial::new("SOFTMAX_MERGE", reads(model, reading));
    let trial = match parts {
        Parts::Keys(keys) => trial.with("keys a part", keys),
        Parts::Cut(key) => trial.with("cut before key", key),
        Parts::Count(parts) | Parts::Floor(parts) => trial.with("parts", parts),
    };
    trial.with("not rescaled", merge.name())
}
