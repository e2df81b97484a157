//! An evaluation order of a stage, as data: a stable id and a sentence.

use super::parts::Parts;
use super::sum::{Blocking, Rest, Sum, Tree};
use std::fmt;

/// How ranges of keys become one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Merge {
    /// Each range by itself, then range after range rescaled to the common maximum and added.
    InOrder,
    /// One running result, rescaled at each new maximum, that the next range adds to.
    Running,
    /// Each range by itself, all rescaled to the maximum of all at the end.
    AtEnd,
}

/// When the sum of the exponentials divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Normalise {
    /// The weighted values, at the end.
    Quotient,
    /// The weighted values times its reciprocal.
    Reciprocal,
    /// Each weight before it meets its value; only where all keys are one range.
    Weights,
}

/// Attention from its scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attend {
    /// The ranges.
    pub parts: Parts,
    /// How they become one.
    pub merge: Merge,
    /// Order of the exponentials' sum.
    pub sum: Sum,
    /// Order of the weighted values' sum.
    pub values: Sum,
    /// Whether ranges of two keys have a kernel of their own, which rounds both products.
    pub pairs: bool,
    /// The division.
    pub normalise: Normalise,
    /// Order of the scores' products in all ranges but the last, and in the last; none: the scores are recorded.
    pub scores: Option<(Sum, Sum)>,
}

/// Roundings of an RMS norm beside its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Norm {
    /// The mean by a product with 1/n, x times the factor, times the weight.
    ByReciprocal,
    /// The mean by a division.
    ByQuotient,
    /// The mean by a division, x divided by the root.
    BySquareRoot,
    /// As the first, the factor being applied to the weight first.
    WeightFirst,
}

/// How a soft cap divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cap {
    /// By the cap; also where there is none.
    Quotient,
    /// By a product with its reciprocal.
    Reciprocal,
}

/// Roundings of a pair of the rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Both products rounded, then added.
    Separate,
    /// The product with cos fused.
    FusedCos,
    /// The product with sin fused.
    FusedSin,
}

/// How activation(gate)·up is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// g/(1 + e⁻ᵍ), or ½g·(1 + tanh), times up.
    Plain,
    /// g·(1/(1 + e⁻ᵍ)), times up.
    Sigmoid,
    /// g·up first.
    ProductFirst,
}

/// An evaluation order of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// All of the stage in float64, rounded once.
    Double,
    /// Dot products, or weighted values.
    Dot(Sum, Cap),
    /// Scores: all ranges of keys but the last in one order, the last, which may be short, in another.
    Cut(Sum, Sum, Parts),
    /// RMS norm.
    Norm(Norm, Sum),
    /// Softmax of recorded scores.
    Softmax(Sum, Normalise),
    /// Attention.
    Attend(Attend),
    /// Rotary embedding.
    Turn(Turn),
    /// The MLP's activation.
    Gate(Gate),
}

impl Attend {
    /// Order of the weighted values of a range of so many keys.
    pub fn values_of(&self, keys: usize) -> Sum {
        if self.pairs && keys == 2 { Sum::running(false) } else { self.values }
    }
}

impl Order {
    /// Ranges of keys, where there are such.
    pub fn parts(&self) -> Option<Parts> {
        match self {
            Order::Attend(attend) => Some(attend.parts),
            _ => None,
        }
    }

    /// The order of its main sum, where that is what it is about.
    pub fn sum(&self) -> Option<Sum> {
        match self {
            Order::Dot(sum, _) | Order::Norm(_, sum) | Order::Softmax(sum, _) => Some(*sum),
            _ => None,
        }
    }

    /// Stable id.
    pub fn id(&self) -> String {
        match self {
            Order::Double => "f64".to_owned(),
            Order::Dot(sum, Cap::Quotient) => format!("dot({})", sum_id(sum)),
            Order::Dot(sum, Cap::Reciprocal) => format!("dot({},cap-by-reciprocal)", sum_id(sum)),
            Order::Cut(sum, last, parts) => format!("dot({},last={},{})", sum_id(sum), sum_id(last), parts.id()),
            Order::Norm(norm, sum) => format!("norm({},{})", norm.id(), sum_id(sum)),
            Order::Softmax(sum, normalise) => format!("softmax({},{})", sum_id(sum), normalise.id()),
            Order::Turn(turn) => format!("rope({})", turn.id()),
            Order::Gate(gate) => format!("gate({})", gate.id()),
            Order::Attend(a) => {
                let scores = a.scores.map_or_else(
                    || "recorded".to_owned(),
                    |(first, last)| {
                        if first == last { sum_id(&first) } else { format!("{}+{}", sum_id(&first), sum_id(&last)) }
                    },
                );
                format!(
                    "attention({},{},sum={},values={}{},{},scores={scores})",
                    a.parts.id(),
                    a.merge.id(),
                    sum_id(&a.sum),
                    sum_id(&a.values),
                    if a.pairs { "/pairs-plain" } else { "" },
                    a.normalise.id()
                )
            }
        }
    }
}

impl Merge {
    /// Stable id.
    pub const fn id(self) -> &'static str {
        match self {
            Merge::InOrder => "merged",
            Merge::Running => "running",
            Merge::AtEnd => "at-end",
        }
    }
}

impl Normalise {
    /// Stable id.
    pub const fn id(self) -> &'static str {
        match self {
            Normalise::Quotient => "quotient",
            Normalise::Reciprocal => "reciprocal",
            Normalise::Weights => "weights",
        }
    }
}

impl Norm {
    /// Stable id.
    pub const fn id(self) -> &'static str {
        match self {
            Norm::ByReciprocal => "mean-by-reciprocal",
            Norm::ByQuotient => "mean-by-quotient",
            Norm::BySquareRoot => "by-square-root",
            Norm::WeightFirst => "weight-first",
        }
    }
}

impl Turn {
    /// Stable id.
    pub const fn id(self) -> &'static str {
        match self {
            Turn::Separate => "separate",
            Turn::FusedCos => "fused-cos",
            Turn::FusedSin => "fused-sin",
        }
    }
}

impl Gate {
    /// Stable id.
    pub const fn id(self) -> &'static str {
        match self {
            Gate::Plain => "plain",
            Gate::Sigmoid => "sigmoid",
            Gate::ProductFirst => "product-first",
        }
    }
}

/// `fma,4x8,neighbours/halves,on-top,every:512`.
fn sum_id(sum: &Sum) -> String {
    let mut id = if sum.fused { "fma".to_owned() } else { "plain".to_owned() };
    if sum.vectors * sum.width > 1 {
        let tree = |tree| match tree {
            Tree::Neighbours => "neighbours",
            Tree::Halves => "halves",
            Tree::HalvesThenNeighbours => "halves-neighbours",
            Tree::InOrder => "in-order",
        };
        let rest = match sum.rest {
            Rest::Padded => "padded",
            Rest::OnTop => "on-top",
            Rest::Aside => "aside",
        };
        let single = if sum.single { "/single" } else { "" };
        id += &format!(":{}x{}:{}/{}{single}:{rest}", sum.vectors, sum.width, tree(sum.across), tree(sum.lanes));
    }
    match sum.blocking {
        Blocking::None => id,
        Blocking::Every(size) => id + &format!(":every-{size}"),
        Blocking::Even(size) => id + &format!(":even-{size}"),
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Double => write!(f, "in float64, rounded once"),
            Order::Dot(sum, _) => write!(f, "{sum}"),
            Order::Cut(sum, last, parts) => write!(f, "{sum}; of the last of {parts} {last}"),
            Order::Norm(norm, sum) => write!(f, "{sum}; {}", norm.id().replace('-', " ")),
            Order::Softmax(sum, _) => write!(f, "exponentials in {sum}"),
            Order::Turn(Turn::Separate) => write!(f, "products rounded, then added"),
            Order::Turn(Turn::FusedCos) => write!(f, "the product with cos fused"),
            Order::Turn(Turn::FusedSin) => write!(f, "the product with sin fused"),
            Order::Gate(Gate::Plain) => write!(f, "the activation rounded, then times up"),
            Order::Gate(Gate::Sigmoid) => write!(f, "gate times its sigmoid, then times up"),
            Order::Gate(Gate::ProductFirst) => write!(f, "gate times up first"),
            Order::Attend(attend) => write!(f, "{attend}"),
        }
    }
}

impl fmt::Display for Attend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let merge = match (self.parts, self.merge) {
            (Parts::Whole, _) => "",
            (_, Merge::InOrder) => ", merged in order",
            (_, Merge::Running) => ", one running result",
            (_, Merge::AtEnd) => ", merged at the end",
        };
        write!(f, "{}{merge}; exponentials in {}; values in {}", self.parts, self.sum, self.values)
    }
}
