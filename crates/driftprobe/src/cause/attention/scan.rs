//! Hypotheses of attention with a number to be looked for: the window, the hidden keys, the parts of a softmax.

use super::reading::{Hidden, Reading, head};
use super::softmax::{Merge, Parts};
use super::{Trial, hiding, merged, noisy_of, window};
use crate::cause::trial::{Expect, Freedom};
use crate::oracle::evaluate::attention::cached;
use crate::oracle::evaluate::{Expectation, evaluate};
use crate::oracle::judgement::Unjudged;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use crate::oracle::stats::is_masked;
use driftprobe_model::Model;
use driftprobe_model::reference::AttentionShape;
use driftprobe_trace::Phase;

/// Windows that are tried in full.
const WINDOWS_TRIED: usize = 2;
/// Sizes of a part that are tried one by one.
const SIZES_MAX: usize = 64;
/// Hidden keys that are tried where scores are not recorded.
const HIDDEN_MAX: usize = 4;
/// Merges that are tried in full.
const MERGES_TRIED: usize = 2;

/// No window at all where the model has one, and the windows that fit the longest row best.
pub fn windows<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let mut all = Vec::new();
    if model.config.sliding_windows.iter().any(Option::is_some) {
        all.push(window(model, None));
    }
    let Some(case) = cases.iter().max_by_key(|c| c.task.pos) else { return all };
    let found = match case.op {
        Op::Attention => by_values(model, case),
        _ => by_mask(model, case),
    };
    all.extend(found.unwrap_or_default().into_iter().map(|keys| window(model, Some(keys))));
    all
}

/// As many keys as the first head's row shows, counted from its newest.
fn by_mask(model: &Model, case: &Case) -> Option<Vec<usize>> {
    let columns = case.recorded.len() / model.config.num_attention_heads.max(1);
    let row = case.recorded.get(..columns)?;
    let is_seen = |x: &&f64| if case.op == Op::Scores { !is_masked(**x) } else { **x > 0.0 };
    Some(vec![row.iter().rev().take_while(is_seen).count()])
}

/// Σ pⱼVⱼ/Σ pⱼ over the newest 1, 2, … keys of the first head, held against what is recorded.
fn by_values(model: &Model, case: &Case) -> Option<Vec<usize>> {
    let shape = AttentionShape::of(&model.config, case.layer_index());
    let expected = noisy_of(model, case).ok()?;
    let first = head(&shape, case, (0, &Reading::CLEAN)).ok()?;
    let v = cached(&shape, case.task.input(2), case.task.pos).ok()?;
    let width = shape.head_dim;
    let (mut sum, mut out) = (0.0, vec![0.0; width]);
    let mut ranked: Vec<(f64, usize)> = Vec::new();
    for (keys, row) in (1..).zip((0..v.rows).rev()) {
        let (weight, values) = (*first.weights.get(row)?, v.values.get(row * width..(row + 1) * width)?);
        sum += weight;
        out.iter_mut().zip(values).for_each(|(o, v)| *o += weight * v);
        let z = |(i, o): (usize, &f64)| {
            let (Some(recorded), Some(variance)) = (case.recorded.get(i), expected.variance.get(i)) else { return 0.0 };
            (recorded - o / sum).powi(2) / (variance + expected.output.rounding_variance(*o))
        };
        ranked.push((out.iter().enumerate().map(z).sum(), keys));
    }
    ranked.retain(|(d, _)| d.is_finite());
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    Some(ranked.into_iter().take(WINDOWS_TRIED).map(|(_, keys)| keys).collect())
}

/// As many of the first keys, or of the newest, as the last row hides where its scores are recorded; else a few.
pub fn hidden<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let Some(case) = cases.iter().max_by_key(|c| c.task.pos) else { return Vec::new() };
    let counts = |all: &mut dyn Iterator<Item = bool>| all.take_while(|seen| !seen).count();
    let (first, newest): (Vec<usize>, Vec<usize>) = match case.op {
        Op::Scores => {
            let columns = case.recorded.len() / model.config.num_attention_heads.max(1);
            let own = case.recorded.get(..columns.min(case.task.pos + 1)).unwrap_or_default();
            let seen = || own.iter().map(|score| is_shown(*score));
            (vec![counts(&mut seen())], vec![counts(&mut seen().rev())])
        }
        _ => ((2..=HIDDEN_MAX).collect(), (2..=HIDDEN_MAX).collect()),
    };
    let first = first.into_iter().filter(|keys| *keys > 1).map(Hidden::First);
    let newest = newest.into_iter().filter(|keys| *keys > 1).map(Hidden::Newest);
    first.chain(newest).map(|hidden| hiding(model, hidden)).collect()
}

/// The cuts that fit the longest row's heads best, for each way to merge wrongly.
pub fn merges<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let Some(case) = cases.iter().max_by_key(|c| c.task.pos) else { return Vec::new() };
    let config = &model.config;
    let rows = match case.op {
        Op::Softmax => case.task.input(0).len() / config.num_attention_heads.max(1),
        _ => case.task.input(1).len() / (config.num_key_value_heads * config.head_dim).max(1),
    };
    let mut sizes: Vec<usize> = (1..rows.min(SIZES_MAX)).collect();
    sizes.extend((2..=16).map(|parts| rows.div_ceil(parts)));
    sizes.extend((7..16).map(|bits| 1 << bits).filter(|size| *size < rows));
    sizes.sort_unstable();
    sizes.dedup();
    let cuts = sizes.iter().flat_map(|size| [Parts::Keys(*size), Parts::Cut(*size)]);
    let tried = cuts.flat_map(|parts| Merge::ALL.map(|way| (parts, way)));
    let one = std::slice::from_ref(case);
    let distance = |(parts, way)| (crate::cause::fit::distance(one, &merged(model, parts, way).expect), parts, way);
    let mut ranked: Vec<(f64, Parts, Merge)> = tried.map(distance).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    ranked.truncate(MERGES_TRIED);
    // Parts whose size follows from the number of keys, as split-k kernels have them.
    let few = (2..=8).filter(|parts| *parts < rows).flat_map(|parts| [Parts::Count(parts), Parts::Floor(parts)]);
    let few = few.flat_map(|parts| Merge::ALL.map(|way| (parts, way)));
    ranked.into_iter().map(|(_, parts, way)| (parts, way)).chain(few).map(|(p, way)| merged(model, p, way)).collect()
}

/// Keys behind the row's own: read from a later row's cache where that is recorded; else seen by what they take away from
/// the probabilities, one factor a head.
pub fn futures<'a>(model: &'a Model, (cases, phase): (&[Case], Phase)) -> Vec<Trial<'a>> {
    let mut all = Vec::new();
    if matches!(cases.first().map(|c| c.op), Some(Op::Attention | Op::ScoresSoftmax)) {
        let caches: Vec<Case> = cases.to_vec();
        for ahead in [1, 2, usize::MAX] {
            let known = caches.clone();
            let expect: Expect<'a> = Box::new(move |case| with_future(model, case, (&known, ahead)));
            let keys = if ahead == usize::MAX { "all".to_owned() } else { ahead.to_string() };
            all.push(Trial::new("MASK_SEES_FUTURE", expect).with("keys", keys));
        }
    }
    if matches!(cases.first().map(|c| c.op), Some(Op::Softmax | Op::ScoresSoftmax)) {
        let expect: Expect<'a> = Box::new(move |case| diluted(model, case));
        // A decoded row has no future: it is its sum that is another.
        let id = if phase == Phase::Prefill { "MASK_SEES_FUTURE" } else { "SOFTMAX_UNNORMALISED" };
        all.push(Trial::new(id, expect).freedom(Freedom::Fitted));
    }
    all
}

/// Scores that show keys behind a row's own: what is shown there is taken as it is, since only the mask is at fault.
pub(super) fn shown_futures<'a>(model: &'a Model, cases: &[Case]) -> Vec<Trial<'a>> {
    let heads = model.config.num_attention_heads.max(1);
    let shows = |case: &Case| {
        let columns = case.recorded.len() / heads;
        case.op == Op::Scores
            && case
                .recorded
                .chunks(columns.max(1))
                .any(|head| head.iter().skip(case.task.pos + 1).any(|s| is_shown(*s)))
    };
    if !cases.iter().any(shows) {
        return Vec::new();
    }
    let expect: Expect<'a> = Box::new(move |case| {
        let mut expected = noisy_of(model, case)?;
        let columns = (case.recorded.len() / heads).max(1);
        for (at, recorded) in case.recorded.iter().enumerate() {
            let shown = at % columns > case.task.pos && is_shown(*recorded);
            if let (true, Some(hidden), Some(y), Some(variance)) =
                (shown, expected.hidden.get_mut(at), expected.y.get_mut(at), expected.variance.get_mut(at))
            {
                (*hidden, *y, *variance) = (false, *recorded, recorded * recorded);
            }
        }
        Ok(Expectation::Noisy(expected))
    });
    vec![Trial::new("MASK_SEES_FUTURE", expect)]
}

/// Whether a score is one, and not what stands for a hidden key.
fn is_shown(score: f64) -> bool {
    score.is_finite() && !is_masked(score)
}

/// The row as it is at the position so many further: with its own cache if that goes so far, else with that of the row
/// recorded there, if there is one.
fn with_future(model: &Model, case: &Case, (known, ahead): (&[Case], usize)) -> Result<Expectation, Unjudged> {
    let alike = |c: &&Case| c.prompt_id == case.prompt_id && c.layer == case.layer;
    let last = known.iter().filter(alike).map(|c| c.task.pos).max().unwrap_or(case.task.pos);
    let width = (model.config.num_key_value_heads * model.config.head_dim).max(1);
    let held = case.task.input(1).len() / width;
    let pos = case.task.pos.saturating_add(ahead).min(last.max(held.saturating_sub(1)));
    let other = known.iter().filter(alike).find(|c| c.task.pos == pos);
    let source = if held > pos { case } else { other.ok_or(Unjudged::NoPayload)? };
    let mut task = case.task.clone();
    task.inputs.truncate(1);
    let caches = source.task.inputs.iter().skip(1);
    task.inputs.extend(
        caches.map(|rows| first_rows(rows, (model.config.num_key_value_heads, model.config.head_dim), pos + 1)),
    );
    task.pos = pos;
    // The window's other end stays.
    let mut config = model.config.clone();
    config.sliding_windows.iter_mut().flatten().for_each(|w| *w += pos - case.task.pos);
    evaluate(&model.with_config(config), case.op, &task, case.layer_index())
}

/// Of a cache `[kv_heads, rows, head_dim]` the first rows, where it has more.
fn first_rows(cache: &[f64], (heads, width): (usize, usize), rows: usize) -> Vec<f64> {
    let of_head = cache.chunks(cache.len().div_ceil(heads.max(1)).max(1));
    of_head.flat_map(|head| head.iter().take(rows * width)).copied().collect()
}

/// Every head's probabilities by one factor below 1.
fn diluted(model: &Model, case: &Case) -> Result<Expectation, Unjudged> {
    let mut expected = noisy_of(model, case)?;
    let columns = (expected.y.len() / model.config.num_attention_heads.max(1)).max(1);
    let heads = expected.y.chunks_mut(columns).zip(expected.variance.chunks_mut(columns));
    for ((y, variance), recorded) in heads.zip(case.recorded.chunks(columns)) {
        let (up, down) = y.iter().zip(recorded).fold((0.0, 0.0), |(u, d), (y, r)| (u + y * r, d + y * y));
        let factor = (up / down).clamp(0.0, 1.0);
        y.iter_mut().for_each(|y| *y *= factor);
        variance.iter_mut().for_each(|v| *v *= factor * factor);
    }
    Ok(Expectation::Noisy(expected))
}
