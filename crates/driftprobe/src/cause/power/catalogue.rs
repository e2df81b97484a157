//! The bugs that are tried, in ordinary sizes, and those that no recorded point can show.

use super::PowerRow;
use crate::cause::bugs::{BUGS, Bug, Shown};
use crate::cause::linear::Narrowed;
use crate::cause::trial::{Trial, clean};
use crate::cause::{attention, exact, gate, linear, norm, rope, slot};
use crate::oracle::evaluate::Expectation;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use driftprobe_model::{Config, Model};
use driftprobe_trace::{Event, Phase, Point};
use std::collections::BTreeSet;

/// Of every stage but linear ones.
pub(super) fn ordinary<'a>(model: &'a Model, op: Op, cases: &[Case]) -> Vec<Trial<'a>> {
    let Some(first) = cases.first() else { return Vec::new() };
    match op {
        Op::Embed => exact::ordinary(model),
        Op::Add => exact::sums(),
        Op::Norm { .. } => {
            let mut all = norm::fixed(model);
            let other = if model.config.rms_norm_eps < 5e-6 { 1e-5 } else { 1e-6 };
            all.push(Trial::new("NORM_EPS", norm::epsilon(model, other)).with("epsilon", other));
            all
        }
        Op::Rope => {
            let mut all = rope::fixed(model, first.point);
            all.push(rope::offset(model, 1));
            all.push(Trial::new("ROPE_THETA", rope::theta(model, 1.01)).with("factor", 1.01));
            all.push(Trial::new("ROPE_SCALING", rope::scaling(model, 2.0)).with("factor", 2));
            all
        }
        Op::Gated => gate::trials(model),
        Op::KvWrite => cached(model),
        Op::Scores | Op::Softmax | Op::ScoresSoftmax | Op::Weigh | Op::Attention => attention::ordinary(model, first),
        Op::Copy | Op::Linear { .. } => Vec::new(),
    }
}

/// Of linear stages.
pub(super) fn linear<'a>(model: &'a Model, narrowed: &Narrowed) -> Vec<Trial<'a>> {
    let Some(first) = narrowed.cases.first() else { return Vec::new() };
    let mut all = linear::fixed(model, first, &narrowed.outputs);
    if model.config.num_hidden_layers > 1 && first.layer >= 0 {
        all.push(linear::other_layer(model, &narrowed.outputs, (1, false)));
    }
    all.push(linear::tail(model, &narrowed.outputs, 1));
    if first.point == Point::Logits {
        all.extend(linear::next_row(model, &narrowed.outputs));
        all.extend(linear::uncapped(model, first, &narrowed.outputs));
    }
    all
}

/// Of the slots whose source is recorded: squeezed through a smaller format, or empty.
fn cached(model: &Model) -> Vec<Trial<'_>> {
    let through = |id, change: fn(f64) -> f64| {
        let own = clean(model);
        let expect = Box::new(move |case: &Case| {
            let mut expectation = own(case)?;
            if let Expectation::Exact { candidates, .. } = &mut expectation {
                candidates.iter_mut().flatten().for_each(|x| *x = super::stored(case, change(*x)));
            }
            Ok(expectation)
        });
        Trial::new(id, expect)
    };
    let mut all = vec![through("KV_NOT_WRITTEN", |x| if x.is_nan() { x } else { 0.0 })];
    all.extend(slot::FORMATS.iter().map(|(name, round)| through("KV_PRECISION", *round).with("precision", name)));
    all
}

/// A sight of the future shows only in rows that have one.
pub(super) fn future(events: &[Event]) -> PowerRow {
    let places = || events.iter().filter(|e| (e.phase, e.point) == (Phase::Prefill, Point::AttnOut));
    let key = |e: &Event| (e.prompt_id.clone(), e.layer);
    let mut seen = BTreeSet::new();
    let several = places().any(|e| !seen.insert(key(e)));
    let unseen = match several {
        true => "shows in the rows before a prompt's last; how far was not tried",
        false => "a prompt's last row has no later key, and the rows before it are not recorded",
    };
    PowerRow {
        id: "MASK_SEES_FUTURE",
        parameters: Vec::new(),
        phase: Phase::Prefill,
        point: Point::AttnOut,
        rows: 0,
        seen: 0,
        effect: None,
        smallest: None,
        unseen: unseen.to_owned(),
    }
}

/// The bugs that this model can have and no row shows, with what would have to be recorded.
pub(super) fn unseen(config: &Config, phase: Phase, shown: &BTreeSet<&'static str>) -> Vec<PowerRow> {
    let row = |bug: &Bug, points: &[Point], unseen: String| {
        let point = points.first().copied().unwrap_or(Point::Logits);
        let (rows, seen, effect, smallest) = (0, 0, None, None);
        PowerRow { id: bug.id, parameters: Vec::new(), phase, point, rows, seen, effect, smallest, unseen }
    };
    let missing = |bug: &Bug| match bug.shown {
        Shown::At(points) if !shown.contains(bug.id) && (bug.applies)(config) => {
            let names = points.iter().map(|p| p.id()).collect::<Vec<_>>().join(" or ");
            Some(row(bug, points, format!("{names} is not recorded with what it is computed from")))
        }
        _ => None,
    };
    let not_here = |bug: &Bug| {
        let unseen = "a slot of an earlier position has no source among the recorded rows";
        (bug.shown == Shown::BySlots).then(|| row(bug, &[Point::KCache], unseen.to_owned()))
    };
    BUGS.iter().filter_map(missing).chain(BUGS.iter().filter_map(not_here)).collect()
}
