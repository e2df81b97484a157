//! Orders in which engines add up f32 terms: one running sum, lanes of a vector unit, blocks.

use super::terms::{Symbols, Terms};
use std::fmt;
use std::ops::Range;

/// In which order partial sums meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    /// ((0+1)+(2+3))+…
    Neighbours,
    /// The first half with the second, again and again: (0+2)+(1+3).
    Halves,
    /// The first half with the second once, then neighbours.
    HalvesThenNeighbours,
    /// One after the other.
    InOrder,
}

/// What becomes of the terms that fill no vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    /// Into the lanes, the vector filled up with zeros.
    Padded,
    /// One after the other onto the sum of all lanes.
    OnTop,
    /// A running sum of their own, added at the end.
    Aside,
}

/// How many terms share a sum before it is added to the sum of those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blocking {
    /// All of them.
    None,
    /// So many.
    Every(usize),
    /// As few blocks as there must be of at most so many, all of one size.
    Even(usize),
}

/// An order of summation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum {
    /// Whether a product and its addition share one rounding (fused multiply-add).
    pub fused: bool,
    /// Vectors of running sums.
    pub vectors: usize,
    /// Lanes of a vector; vectors × width is at most [`LANES_MAX`].
    pub width: usize,
    /// How the vectors are added up.
    pub across: Tree,
    /// Whether what fills one vector and not all is added to the sum of the vectors, a vector at a time.
    pub single: bool,
    /// How the lanes of one vector are added up.
    pub lanes: Tree,
    /// What fills no vector.
    pub rest: Rest,
    /// Blocks.
    pub blocking: Blocking,
}

/// Most running sums of an order.
pub const LANES_MAX: usize = 128;

impl Sum {
    /// One running sum.
    pub const fn running(fused: bool) -> Sum {
        Sum {
            fused,
            vectors: 1,
            width: 1,
            across: Tree::InOrder,
            single: false,
            lanes: Tree::InOrder,
            rest: Rest::OnTop,
            blocking: Blocking::None,
        }
    }

    /// The same in blocks.
    #[must_use]
    pub const fn in_blocks(self, blocking: Blocking) -> Sum {
        Sum { blocking, ..self }
    }

    /// Lanes of vectors.
    pub const fn vector(fused: bool, (vectors, width): (usize, usize), trees: (Tree, Tree), rest: Rest) -> Sum {
        Sum { fused, vectors, width, across: trees.0, single: false, lanes: trees.1, rest, blocking: Blocking::None }
    }

    /// Adds up `count` terms.
    pub fn of<T: Terms>(&self, count: usize, terms: &T) -> T::Sum {
        let size = match self.blocking {
            Blocking::None => count,
            Blocking::Every(most) => most,
            Blocking::Even(most) => count.div_ceil(count.div_ceil(most.max(1)).max(1)),
        };
        let mut total = terms.zero();
        for start in (0..count).step_by(size.max(1)) {
            let part = self.part(start..count.min(start + size.max(1)), terms);
            total = if start == 0 { part } else { terms.add(total, part) };
        }
        total
    }

    fn step<T: Terms>(&self, terms: &T, i: usize, sum: T::Sum) -> T::Sum {
        if self.fused { terms.fused(i, sum) } else { terms.add(sum, terms.term(i)) }
    }

    /// As [`Sum::of`], starting from a sum where the order is one running sum.
    pub fn onto<T: Terms>(&self, from: T::Sum, count: usize, terms: &T) -> T::Sum {
        if self.vectors * self.width == 1 && self.blocking == Blocking::None {
            return (0..count).fold(from, |sum, i| self.step(terms, i, sum));
        }
        terms.add(from, self.of(count, terms))
    }

    fn part<T: Terms>(&self, range: Range<usize>, terms: &T) -> T::Sum {
        let lanes = self.vectors * self.width;
        if lanes <= 1 || lanes > LANES_MAX {
            return range.fold(terms.zero(), |sum, i| self.step(terms, i, sum));
        }
        let mut sums = [terms.zero(); LANES_MAX];
        let padded = self.rest == Rest::Padded && !self.single;
        let whole = if padded { range.len() } else { range.len() / lanes * lanes };
        let mut at = range.start;
        while at < range.start + whole {
            for (i, sum) in (at..range.start + whole).zip(sums.iter_mut().take(lanes)) {
                *sum = self.step(terms, i, *sum);
            }
            at += lanes;
        }
        for lane in 0..self.width {
            let mut column = [terms.zero(); LANES_MAX];
            let own = sums.iter().skip(lane).step_by(self.width).take(self.vectors);
            column.iter_mut().zip(own).for_each(|(to, from)| *to = *from);
            let total = merge(&mut column, self.vectors, self.across, terms);
            if let Some(sum) = sums.get_mut(lane) {
                *sum = total;
            }
        }
        if self.single {
            let end = if self.rest == Rest::Padded { range.end } else { range.end - (range.end - at) % self.width };
            while at < end {
                for (i, sum) in (at..end).zip(sums.iter_mut().take(self.width)) {
                    *sum = self.step(terms, i, *sum);
                }
                at = end.min(at + self.width);
            }
        }
        let total = merge(&mut sums, self.width, self.lanes, terms);
        let rest = at.min(range.end)..range.end;
        match self.rest {
            Rest::Padded => total,
            Rest::OnTop => rest.fold(total, |sum, i| self.step(terms, i, sum)),
            Rest::Aside => terms.add(total, rest.fold(terms.zero(), |sum, i| self.step(terms, i, sum))),
        }
    }

    /// What this order is on `count` terms of which those in `seen` are not zero.
    pub fn symbol(&self, count: usize, seen: Range<usize>, products: bool) -> u64 {
        self.of(count, &Symbols { seen, products })
    }
}

/// Adds up the first `count` partial sums.
fn merge<T: Terms>(sums: &mut [T::Sum; LANES_MAX], count: usize, tree: Tree, terms: &T) -> T::Sum {
    let mut count = count.min(LANES_MAX);
    let mut tree = tree;
    while count > 1 {
        let half = count.div_ceil(2);
        match tree {
            Tree::InOrder => {
                let (first, rest) = sums.split_at(1);
                let start = first.first().copied().unwrap_or_else(|| terms.zero());
                return rest.iter().take(count - 1).fold(start, |a, b| terms.add(a, *b));
            }
            Tree::Halves | Tree::HalvesThenNeighbours => {
                let (low, high) = sums.split_at_mut(half);
                low.iter_mut().zip(high.iter().take(count - half)).for_each(|(a, b)| *a = terms.add(*a, *b));
                if tree == Tree::HalvesThenNeighbours {
                    tree = Tree::Neighbours;
                }
            }
            Tree::Neighbours => {
                for i in 0..half {
                    let a = sums.get(2 * i).copied().unwrap_or_else(|| terms.zero());
                    let b = sums.get(2 * i + 1).copied().filter(|_| 2 * i + 1 < count);
                    if let Some(to) = sums.get_mut(i) {
                        *to = b.map_or(a, |b| terms.add(a, b));
                    }
                }
            }
        }
        count = half;
    }
    sums.first().copied().unwrap_or_else(|| terms.zero())
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = self.vectors * self.width;
        match lanes {
            0 | 1 => write!(f, "one running sum")?,
            _ if self.vectors == 1 => write!(f, "{lanes} running sums ({})", words(self.lanes))?,
            _ => write!(
                f,
                "{lanes} running sums ({} vectors {}, {} lanes {})",
                self.vectors,
                words(self.across),
                self.width,
                words(self.lanes)
            )?,
        }
        if self.fused {
            write!(f, ", fused multiply-adds")?;
        }
        match self.blocking {
            Blocking::None => Ok(()),
            Blocking::Every(size) => write!(f, ", in blocks of {size}"),
            Blocking::Even(size) => write!(f, ", in equal blocks of at most {size}"),
        }
    }
}

fn words(tree: Tree) -> &'static str {
    match tree {
        Tree::Neighbours => "by neighbours",
        Tree::Halves => "by halves",
        Tree::HalvesThenNeighbours => "by halves, then by neighbours",
        Tree::InOrder => "in order",
    }
}
