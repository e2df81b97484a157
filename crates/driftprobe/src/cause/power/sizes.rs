//! Faults that have a size, from nothing to one.

use crate::cause::trial::Expect;
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
    effect: Effect<'a>,
}

/// What a fault of a size makes of a row.
enum Effect<'a> {
    /// The row is computed with it.
    Computed(Box<dyn Fn(f64) -> Expect<'a> + Send + Sync + 'a>),
    /// It is seen from what the row should be.
    Altered(Box<dyn Fn(f64) -> Change + Send + Sync + 'a>),
}

/// Alters what is expected of a row.
type Change = Box<dyn Fn(&Case, &mut Expected)>;

impl Sized<'_> {
    /// The row `case` with the fault of this size, where `own` is what it should be.
    pub fn row(&self, size: f64, case: &Case, own: &Expectation) -> Option<Expectation> {
        match &self.effect {
            Effect::Computed(make) => make(size)(case).ok(),
            Effect::Altered(change) => {
                let mut altered = own.clone();
                if let Expectation::Noisy(expected) = &mut altered {
                    change(size)(case, expected);
                }
                Some(altered)
            }
        }
    }
}

/// Id of changes that have no name in the catalogue.
const UNNAMED: &str = crate::cause::UNEXPLAINED;

/// Of every stage.
pub(super) fn of(model: &Model, op: Op) -> Vec<Sized<'_>> {
    match op {
        Op::Rope => vec![
            computed("ROPE_THETA", "relative change of theta", |s| rope::theta(model, 1.0 + s)),
            altered("ROPE_POSITION_OFFSET", "positions", |s| turned(model, s)),
        ],
        Op::Norm { .. } => {
            let own = model.config.rms_norm_eps;
            vec![
                computed("NORM_EPS", "change of epsilon", move |s| norm::epsilon(model, own + s)),
                altered(UNNAMED, "relative change of the row", gain),
            ]
        }
        Op::Scores | Op::ScoresSoftmax => vec![scale(model)],
        Op::Attention => vec![scale(model), slot(model, 2)],
        Op::Weigh => vec![slot(model, 1)],
        Op::Gated => vec![altered(UNNAMED, "relative change of one element", element)],
        Op::Linear { .. } => vec![
            altered(UNNAMED, "relative change of the row", gain),
            altered(UNNAMED, "relative change of one element", element),
        ],
        Op::Softmax | Op::Embed | Op::Copy | Op::Add | Op::KvWrite => Vec::new(),
    }
}

fn scale(model: &Model) -> Sized<'_> {
    computed("SCALE_WRONG", "relative change of the scale", |s| attention::scale(model, 1.0 + s))
}

fn computed<'a>(
    id: &'static str,
    what: &'static str,
    make: impl Fn(f64) -> Expect<'a> + Send + Sync + 'a,
) -> Sized<'a> {
    Sized { id, what, effect: Effect::Computed(Box::new(make)) }
}

fn altered<'a>(id: &'static str, what: &'static str, change: impl Fn(f64) -> Change + Send + Sync + 'a) -> Sized<'a> {
    Sized { id, what, effect: Effect::Altered(Box::new(change)) }
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
fn turned(model: &Model, size: f64) -> Change {
    let width = model.config.head_dim;
    let frequencies = model.config.rope.frequencies(width);
    let layout = model.config.rope.layout;
    Box::new(move |_, expected| {
        for head in expected.y.chunks_exact_mut(width.max(1)) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (first, second) = pair(layout, width, i);
                let (sin, cos) = (size * frequency).sin_cos();
                if let (Some(a), Some(b)) = (head.get(first).copied(), head.get(second).copied()) {
                    (head[first], head[second]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
    })
}

/// The first key's value gets so much of the first head's weight that is not its own.
fn slot(model: &Model, values: usize) -> Sized<'_> {
    let width = model.config.head_dim;
    altered("KV_STALE_SLOT", "attention weight that another row gets", move |size| {
        Box::new(move |case, expected| {
            for (y, v) in expected.y.iter_mut().zip(case.task.input(values)).take(width) {
                *y += size * (v - *y);
            }
        })
    })
}
