//! A recorded row with all that its stage is computed from, in f32, ready to be computed again in any order.

use super::attend::{self, Head, Softmaxed};
use super::elementwise::{gate, norm, turn};
use super::order::{Attend, Cap, Normalise, Order};
use super::parts::Parts;
use super::sum::Sum;
use super::terms::{Numbers, Products, symbol};
use crate::oracle::Float;
use driftprobe_model::reference::{RopeTable, softcap};
use driftprobe_model::{Activation, RopeLayout, reference};
use std::ops::Range;
use std::sync::Arc;

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowName {
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The layer; −1 for unlayered points.
    pub layer: i32,
    /// Index of the token in the prompt.
    pub pos: u64,
}

/// A row and what it is computed from.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it stands.
    pub name: RowName,
    /// Tokens of its forward pass, if known.
    pub pass: Option<u64>,
    /// Format in which it is stored.
    pub store: Float,
    /// Its values.
    pub recorded: Vec<f64>,
    /// What it is computed from.
    pub stage: Stage,
}

/// What a row is computed from.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Dot products.
    Dots(Dots),
    /// Rows (or heads) to be normed.
    Norm {
        /// x, `[rows][width]`.
        x: Vec<Vec<f32>>,
        /// `[width]`.
        weight: Vec<f32>,
        /// ε.
        eps: f64,
    },
    /// Scores of each head.
    Softmax {
        /// `[heads][columns]`, −∞ where hidden.
        heads: Vec<Vec<f32>>,
        /// Keys seen.
        seen: Range<usize>,
        /// Keys of the pass.
        keys: usize,
    },
    /// Attention.
    Attend {
        /// The heads.
        heads: Vec<Head>,
        /// Keys of the pass.
        keys: usize,
        /// Orders by which each head's sets of scores were computed; empty: recorded.
        sets: Vec<Sum>,
        /// Products of a score.
        width: usize,
    },
    /// Pairs to be turned.
    Turn {
        /// x, `[heads × head_dim]`.
        x: Vec<f32>,
        /// The table.
        table: RopeTable,
        /// Which channels are a pair.
        layout: RopeLayout,
    },
    /// gate and up.
    Gate {
        /// The gate.
        gate: Vec<f32>,
        /// What it gates.
        up: Vec<f32>,
        /// The activation.
        activation: Activation,
    },
}

/// Dot products of vectors `left` with vectors `right`, all of `count` terms.
#[derive(Clone, Debug, Default)]
pub struct Dots {
    /// Vectors.
    pub left: Vec<Vec<f32>>,
    /// Vectors.
    pub right: Vec<Vec<f32>>,
    /// Each value that is computed: its place in the row, its vectors, and what is added at the end.
    pub cells: Vec<(usize, usize, usize, Option<f32>)>,
    /// Products of a sum.
    pub count: usize,
    /// Products that are not zero in any row: keys past a row's own are hidden from it.
    pub seen: Range<usize>,
    /// Factor on the sum.
    pub scale: Option<f64>,
    /// cap·tanh(y/cap).
    pub softcap: Option<f64>,
    /// Of scores and weighted values: which keys they are of.
    pub keys: Option<Keys>,
}

/// Keys of a row of attention.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Scores of a head.
    pub columns: usize,
    /// Keys of the pass, those hidden from the row included.
    pub pass: usize,
    /// Keys seen.
    pub seen: Range<usize>,
}

impl Keys {
    /// Where the last range of the pass begins.
    fn last(&self, parts: Parts) -> usize {
        let size = parts.size(self.pass);
        self.pass.saturating_sub(1) / size * size
    }
}

/// What came of computing a row by an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Values compared.
    pub compared: usize,
    /// Values that differ; of values that share a factor (those of a norm, of a head's softmax) one at most.
    pub differing: usize,
}

/// Compares until so many values differ.
struct Counter<'a> {
    row: &'a Row,
    most: usize,
    tally: Tally,
}

impl Counter<'_> {
    /// Whether to go on.
    fn add(&mut self, at: usize, value: f64) -> bool {
        let stored = self.row.store.round(value);
        self.tally.compared += 1;
        // Comparing numbers, not bits: −0 and 0 are one, and NaN is never reproduced.
        if !(self.row.recorded.get(at).is_some_and(|recorded| *recorded == stored)) {
            self.tally.differing += 1;
        }
        self.tally.differing < self.most
    }

    fn all(&mut self, values: &[f32], from: usize) -> bool {
        values.iter().enumerate().all(|(i, y)| self.add(from + i, f64::from(*y)))
    }

    /// Values that share one factor: of them all no more than one error is seen.
    fn together(&mut self, values: impl Iterator<Item = f64>, from: usize) -> bool {
        let before = (self.tally.differing, std::mem::replace(&mut self.most, usize::MAX));
        for (i, y) in values.enumerate() {
            self.add(from + i, y);
        }
        self.most = before.1;
        self.tally.differing = before.0 + usize::from(self.tally.differing > before.0);
        self.tally.differing < self.most
    }

    fn all_double(&mut self, values: &[f64], from: usize) -> bool {
        values.iter().enumerate().all(|(i, y)| self.add(from + i, *y))
    }
}

impl Row {
    /// Computes the row by an order and counts the values that are not as recorded, up to `most`. An order of another kind of
    /// stage reproduces nothing.
    pub fn run(&self, order: &Order, most: usize) -> Tally {
        let mut counter = Counter { row: self, most: most.max(1), tally: Tally::default() };
        match (&self.stage, order) {
            (Stage::Dots(dots), Order::Dot(..) | Order::Cut(..) | Order::Double) => dots.run(order, &mut counter),
            (Stage::Norm { x, weight, eps }, order) => {
                let mut at = 0;
                for x in x {
                    let go_on = match order {
                        Order::Norm(kind, sum) => {
                            let y = norm(x, weight, *eps, (*kind, sum));
                            counter.together(y.into_iter().map(f64::from), at)
                        }
                        _ => {
                            let y = reference::rms_norm(&double(x), &double(weight), *eps);
                            counter.together(y.into_iter(), at)
                        }
                    };
                    if !go_on {
                        break;
                    }
                    at += x.len();
                }
            }
            (Stage::Softmax { heads, keys, .. }, order) => softmax(heads, *keys, order, &mut counter),
            (Stage::Attend { heads, keys, sets, .. }, order) => attention(heads, (*keys, sets), order, &mut counter),
            (Stage::Turn { x, table, layout }, order) => {
                match order {
                    Order::Turn(kind) => counter.all(&turn(x, table, *layout, *kind), 0),
                    _ => counter.all_double(&reference::rotate_heads(&double(x), *layout, table), 0),
                };
            }
            (Stage::Gate { gate: g, up, activation }, order) => {
                match order {
                    Order::Gate(kind) => counter.all(&gate(g, up, *activation, *kind), 0),
                    _ => counter.all_double(&reference::gated(*activation, &double(g), &double(up)), 0),
                };
            }
            _ => counter.tally = Tally { compared: 0, differing: counter.most },
        }
        counter.tally
    }

    /// Symbols of an order on this row: of what it is mainly about (the ranges of keys, the main sum), and of all of it.
    pub fn symbols(&self, order: &Order) -> (u64, u64) {
        let of = |tag: u64, detail: u64| (symbol(&[tag, detail]), symbol(&[tag, detail]));
        match (&self.stage, order) {
            (_, Order::Double) => of(10, 0),
            (Stage::Dots(dots), Order::Dot(sum, cap)) => {
                let main = sum.symbol(dots.count, dots.seen.clone(), true);
                (main, symbol(&[11, main, *cap as u64]))
            }
            (Stage::Dots(dots), Order::Cut(sum, last, parts)) => {
                let Some(keys) = &dots.keys else { return of(16, 0) };
                let start = keys.last(*parts);
                let [sum, last] = [sum, last].map(|sum| sum.symbol(dots.count, dots.seen.clone(), true));
                let main = match () {
                    () if start >= keys.seen.end => sum,
                    () if start <= keys.seen.start => last,
                    () => symbol(&[17, sum, last, start as u64]),
                };
                (main, symbol(&[11, main, 0]))
            }
            (Stage::Norm { weight, .. }, Order::Norm(kind, sum)) => {
                let main = sum.symbol(weight.len(), 0..weight.len(), true);
                (main, symbol(&[12, main, *kind as u64]))
            }
            (Stage::Softmax { seen, keys, .. }, Order::Softmax(sum, kind)) => {
                let main = sum.symbol(*keys, seen.clone(), false);
                (main, symbol(&[13, main, *kind as u64]))
            }
            (Stage::Attend { heads, keys, width, .. }, Order::Attend(order)) => {
                let seen = heads.first().map_or(0..0, |head| head.seen.clone());
                attend::symbols(order, &seen, (*keys, *width))
            }
            (_, Order::Turn(kind)) => of(14, *kind as u64),
            (_, Order::Gate(kind)) => of(15, *kind as u64),
            _ => of(16, 0),
        }
    }

    /// Keys that the row sees, where it is one of attention.
    pub fn keys(&self) -> Option<usize> {
        match &self.stage {
            Stage::Attend { heads, .. } => heads.first().map(|head| head.seen.end),
            Stage::Softmax { seen, .. } => Some(seen.end),
            Stage::Dots(dots) => dots.keys.as_ref().map(|keys| keys.seen.end),
            _ => None,
        }
    }
}

fn double(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

impl Dots {
    fn run(&self, order: &Order, counter: &mut Counter<'_>) {
        for (at, left, right, bias) in &self.cells {
            let (Some(left), Some(right)) = (self.left.get(*left), self.right.get(*right)) else { continue };
            let plain = match (order, &self.keys) {
                (Order::Dot(sum, cap), _) => Some((sum, *cap)),
                (Order::Cut(sum, last, parts), Some(keys)) => {
                    let is_last = at % keys.columns.max(1) >= keys.last(*parts);
                    Some((if is_last { last } else { sum }, Cap::Quotient))
                }
                _ => None,
            };
            let value = match plain {
                Some((sum, cap)) => {
                    let mut y = sum.of(self.count, &Products(left, right));
                    y = self.scale.map_or(y, |scale| y * scale as f32);
                    y = bias.map_or(y, |bias| y + bias);
                    f64::from(self.softcap.map_or(y, |own| cap.apply(y, own as f32)))
                }
                None => {
                    let y: f64 = left.iter().zip(right).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let y = y * self.scale.unwrap_or(1.0) + f64::from(bias.unwrap_or(0.0));
                    self.softcap.map_or(y, |cap| softcap(y, cap))
                }
            };
            if !counter.add(*at, value) {
                return;
            }
        }
    }
}

fn softmax(heads: &[Vec<f32>], keys: usize, order: &Order, counter: &mut Counter<'_>) {
    let mut at = 0;
    for scores in heads {
        let go_on = match order {
            Order::Softmax(sum, normalise) => {
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let exps: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
                let total = sum.of(keys, &Numbers(&exps));
                let one = |e: &f32| if *normalise == Normalise::Reciprocal { e * (1.0 / total) } else { e / total };
                counter.together(exps.iter().map(one).map(f64::from), at)
            }
            _ => counter.together(reference::softmax(&double(scores)).into_iter(), at),
        };
        if !go_on {
            return;
        }
        at += scores.len();
    }
}

fn attention(heads: &[Head], (keys, sets): (usize, &[Sum]), order: &Order, counter: &mut Counter<'_>) {
    let mut at = 0;
    for head in heads {
        let go_on = match order {
            Order::Attend(order) => {
                let softmaxed = Softmaxed::new(order, head, keys, which(order, sets));
                let mut channels = head.values.iter().enumerate();
                channels.all(|(i, values)| counter.add(at + i, f64::from(softmaxed.channel(order, values))))
            }
            _ => {
                let probs = reference::softmax(&double(head.scores.first().map_or(&[], Vec::as_slice)));
                let channel = |values: &Vec<f32>| probs.iter().zip(values).map(|(p, v)| p * f64::from(*v)).sum::<f64>();
                counter.all_double(&head.values.iter().map(channel).collect::<Vec<f64>>(), at)
            }
        };
        if !go_on {
            return;
        }
        at += head.values.len();
    }
}

/// The sets of scores that an order takes.
fn which(order: &Attend, sets: &[Sum]) -> attend::Sets {
    let at = |sum: Sum| sets.iter().position(|one| *one == sum).unwrap_or(0);
    order.scores.map_or((0, 0), |(first, last)| (at(first), at(last)))
}
