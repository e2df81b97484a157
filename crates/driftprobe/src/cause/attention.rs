//! Hypotheses of attention: mask, heads, scores, softmax.

mod reading;
mod scan;

use super::fit::fit;
use super::rope::significant;
use super::trial::{Expect, Freedom, Trial, noisy_of, with_config};
use crate::oracle::evaluate::Expectation;
use crate::oracle::judgement::Unjudged;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use driftprobe_model::{Config, Model};
use reading::{Hidden, Merge, Reading, read};

/// All of them, fitted to the rows.
pub(super) fn trials<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let Some(first) = cases.first() else { return Vec::new() };
    let mut all = fixed(model, first.op);
    if has_scores(first.op) {
        all.extend(scale_fitted(model, cases));
        all.extend(scan::windows(model, cases));
        all.extend(scan::shown_futures(model, cases));
        all.extend(wider(model));
    }
    if has_heads_out(first.op) {
        all.extend(scan::swaps(model, cases));
    }
    if first.op == Op::Attention {
        all.extend(scan::merges(model, cases));
    }
    if first.op != Op::Weigh {
        all.extend(scan::futures(model, cases));
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
        let hiding = |id, hidden| Trial::new(id, reads(model, Reading { hidden, ..Reading::CLEAN }));
        all.push(hiding("MASK_MISSES_NEWEST", Hidden::Newest));
        all.push(hiding("MASK_MISSES_FIRST", Hidden::First));
    }
    if config.group() > 1 && config.num_key_value_heads > 1 && op != Op::Softmax {
        all.push(Trial::new("GQA_MAP", reads(model, Reading { modulo: true, ..Reading::CLEAN })));
    }
    if matches!(op, Op::Softmax | Op::ScoresSoftmax | Op::Attention) {
        let reading = Reading { unnormalised: true, ..Reading::CLEAN };
        all.push(Trial::new("SOFTMAX_UNNORMALISED", reads(model, reading)));
    }
    if has_heads_out(op) {
        all.push(Trial::new("HEAD_LAYOUT", Box::new(move |case| laid_out(model, case))));
    }
    all
}

/// Those of [`fixed`], and the others in ordinary sizes.
pub(super) fn ordinary<'a>(model: &'a Model, first: &Case) -> Vec<Trial<'a>> {
    let mut all = fixed(model, first.op);
    if has_scores(first.op) {
        all.push(Trial::new("SCALE_WRONG", scale(model, 1.01)).with("factor", 1.01));
        let seen = model.config.sliding_windows.iter().flatten().copied().min().unwrap_or(usize::MAX);
        let seen = seen.min(first.task.pos + 1);
        all.extend((seen > 1).then(|| window(model, Some(seen - 1))));
    }
    let heads = model.config.num_attention_heads;
    if has_heads_out(first.op) && heads > 1 {
        let order = [1, 0].into_iter().chain(2..heads).collect();
        all.push(Trial::new("HEAD_SWAP", reordered(model, order)).with("heads", "0, 1"));
    }
    if first.op == Op::Attention {
        all.push(merged(model, (first.task.pos + 1).div_ceil(2), Merge::Output));
    }
    all
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

/// Heads in another order: head `order[h]` in the place of head h.
pub(super) fn reordered<'a>(model: &'a Model, order: Vec<usize>) -> Expect<'a> {
    let width = model.config.head_dim;
    Box::new(move |case| {
        let mut expected = noisy_of(model, case)?;
        let head = |x: &[f64], h: usize| x.get(h * width..(h + 1) * width).unwrap_or_default().to_vec();
        let turn = |x: &[f64]| order.iter().flat_map(|h| head(x, *h)).collect();
        (expected.y, expected.variance) = (turn(&expected.y), turn(&expected.variance));
        Ok(Expectation::Noisy(expected))
    })
}

/// A softmax over blocks of this many keys whose parts are put together wrongly.
fn merged<'a>(model: &'a Model, keys: usize, merge: Merge) -> Trial<'a> {
    let reading = Reading { merge: Some((keys, merge)), ..Reading::CLEAN };
    let what = match merge {
        Merge::Output => "the output",
        Merge::Sum => "the sum",
        Merge::Both => "both",
    };
    Trial::new("SOFTMAX_MERGE", reads(model, reading)).with("keys a part", keys).with("not rescaled", what)
}
