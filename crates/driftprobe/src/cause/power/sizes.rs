//! Faults that have a size, from nothing to one.

use crate::cause::linear::{Outputs, clean as clean_linear};
use crate::cause::trial::{Expect, clean};
use crate::cause::{attention, norm, rope};
use crate::oracle::evaluate::Expectation;
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use crate::oracle::stats::Expected;
use driftprobe_model::{Model, reference::pair};

/// A fault that can be small.
pub(super) struct Sized<'a> {
    pub id: &'static str,
    /// What its size is.
    pub what: &'static str,
    /// The fault of a size.
    pub make: Box<dyn Fn(f64) -> Expect<'a> + 'a>,
}

/// Id of changes that have no name in the catalogue.
const UNNAMED: &str = crate::cause::UNEXPLAINED;

/// Of every stage but linear ones.
pub(super) fn of(model: &Model, op: Op) -> Vec<Sized<'_>> {
    match op {
        Op::Rope => vec![
            sized("ROPE_THETA", "relative change of theta", Box::new(|s| rope::theta(model, 1.0 + s))),
            sized("ROPE_POSITION_OFFSET", "positions", Box::new(|s| turned(model, s))),
        ],
        Op::Norm { .. } => {
            let own = model.config.rms_norm_eps;
            vec![
                sized("NORM_EPS", "change of epsilon", Box::new(move |s| norm::epsilon(model, own + s))),
                sized(UNNAMED, "relative change of the row", Box::new(|s| altered(clean(model), gain(s)))),
            ]
        }
        Op::Scores | Op::ScoresSoftmax => vec![scale(model)],
        Op::Attention => vec![scale(model), slot(model, 2)],
        Op::Weigh => vec![slot(model, 1)],
        Op::Gated => {
            vec![sized(UNNAMED, "relative change of one element", Box::new(|s| altered(clean(model), element(s))))]
        }
        Op::Linear { .. } | Op::Softmax | Op::Embed | Op::Copy | Op::Add | Op::KvWrite => Vec::new(),
    }
}

fn scale(model: &Model) -> Sized<'_> {
    let make = Box::new(|s: f64| attention::scale(model, 1.0 + s));
    Sized { id: "SCALE_WRONG", what: "relative change of the scale", make }
}

/// Of linear stages.
pub(super) fn linear<'a>(model: &'a Model, outputs: &Outputs) -> Vec<Sized<'a>> {
    let (own, other) = (outputs.clone(), outputs.clone());
    let row = Box::new(move |s: f64| altered(clean_linear(model, &own), gain(s)));
    let one = Box::new(move |s: f64| altered(clean_linear(model, &other), element(s)));
    vec![
        Sized { id: UNNAMED, what: "relative change of the row", make: row },
        Sized { id: UNNAMED, what: "relative change of one element", make: one },
    ]
}

fn sized<'a>(id: &'static str, what: &'static str, make: Box<dyn Fn(f64) -> Expect<'a> + 'a>) -> Sized<'a> {
    Sized { id, what, make }
}

/// Alters what is expected of a row.
type Change = Box<dyn Fn(&Case, &mut Expected)>;

fn altered(own: Expect<'_>, change: Change) -> Expect<'_> {
    Box::new(move |case| {
        let mut expectation = own(case)?;
        if let Expectation::Noisy(expected) = &mut expectation {
            change(case, expected);
        }
        Ok(expectation)
    })
}

fn gain(size: f64) -> Change {
    Box::new(move |_, expected| expected.y.iter_mut().for_each(|y| *y *= 1.0 + size))
}

/// The element of median size.
fn element(size: f64) -> Change {
    Box::new(move |_, expected| {
        let mut order: Vec<usize> = (0..expected.y.len()).collect();
        let of = |i: &usize| expected.y.get(*i).map_or(0.0, |y| y.abs());
        order.sort_by(|a, b| of(a).total_cmp(&of(b)));
        let middle = order.get(order.len() / 2).copied().unwrap_or(0);
        if let Some(y) = expected.y.get_mut(middle) {
            *y *= 1.0 + size;
        }
    })
}

/// Every pair turned by a part of what a position turns it.
fn turned(model: &Model, size: f64) -> Expect<'_> {
    let width = model.config.head_dim;
    let frequencies = model.config.rope.frequencies(width);
    let layout = model.config.rope.layout;
    let change: Change = Box::new(move |_, expected| {
        for head in expected.y.chunks_exact_mut(width.max(1)) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (first, second) = pair(layout, width, i);
                let (sin, cos) = (size * frequency).sin_cos();
                if let (Some(a), Some(b)) = (head.get(first).copied(), head.get(second).copied()) {
                    (head[first], head[second]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
    });
    altered(clean(model), change)
}

/// The first key's value gets so much of the first head's weight that is not its own.
fn slot(model: &Model, values: usize) -> Sized<'_> {
    let width = model.config.head_dim;
    let make = Box::new(move |size: f64| {
        let change: Change = Box::new(move |case, expected| {
            for (y, v) in expected.y.iter_mut().zip(case.task.input(values)).take(width) {
                *y += size * (v - *y);
            }
        });
        altered(clean(model), change)
    });
    Sized { id: "KV_STALE_SLOT", what: "attention weight that another row gets", make }
}
