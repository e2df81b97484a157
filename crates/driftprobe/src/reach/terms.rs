//! What a sum is made of: f32 values, or symbols that tell whether two orders are the same on a row.

/// The products or numbers that an order of summation adds up.
pub trait Terms {
    /// A partial sum.
    type Sum: Copy;
    /// Nothing added yet.
    fn zero(&self) -> Self::Sum;
    /// The term `i`, rounded; past the end zero.
    fn term(&self, i: usize) -> Self::Sum;
    /// The term `i` added to a sum with one rounding.
    fn fused(&self, i: usize, sum: Self::Sum) -> Self::Sum;
    /// Two partial sums added.
    fn add(&self, a: Self::Sum, b: Self::Sum) -> Self::Sum;
}

/// Products of f32 values.
pub struct Products<'a>(pub &'a [f32], pub &'a [f32]);

impl Terms for Products<'_> {
    type Sum = f32;
    fn zero(&self) -> f32 {
        0.0
    }
    fn term(&self, i: usize) -> f32 {
        match (self.0.get(i), self.1.get(i)) {
            (Some(a), Some(b)) => a * b,
            _ => 0.0,
        }
    }
    fn fused(&self, i: usize, sum: f32) -> f32 {
        match (self.0.get(i), self.1.get(i)) {
            (Some(a), Some(b)) => a.mul_add(*b, sum),
            _ => sum,
        }
    }
    fn add(&self, a: f32, b: f32) -> f32 {
        a + b
    }
}

/// f32 numbers.
pub struct Numbers<'a>(pub &'a [f32]);

impl Terms for Numbers<'_> {
    type Sum = f32;
    fn zero(&self) -> f32 {
        0.0
    }
    fn term(&self, i: usize) -> f32 {
        self.0.get(i).copied().unwrap_or(0.0)
    }
    fn fused(&self, i: usize, sum: f32) -> f32 {
        self.term(i) + sum
    }
    fn add(&self, a: f32, b: f32) -> f32 {
        a + b
    }
}

/// Symbols: which terms are added to which, whatever their values. Terms outside of `seen` are zero and alter nothing, as
/// do hidden keys. Two orders with the same symbol round alike on every row of this length.
pub struct Symbols {
    /// Terms that are not zero.
    pub seen: std::ops::Range<usize>,
    /// Whether a fused addition is another than a plain one: not where numbers are added, no products.
    pub products: bool,
}

/// The symbol of nothing.
const NOTHING: u64 = 0;

/// A symbol of others, in this order.
pub fn symbol(parts: &[u64]) -> u64 {
    // FNV-1a over the words, with a finaliser, so that one bit of difference reaches all.
    let mixed = parts.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, part| {
        let mut hash = (hash ^ part).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
        hash.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (hash >> 32)
    });
    mixed.max(1)
}

impl Terms for Symbols {
    type Sum = u64;
    fn zero(&self) -> u64 {
        NOTHING
    }
    fn term(&self, i: usize) -> u64 {
        if self.seen.contains(&i) { symbol(&[1, (i - self.seen.start) as u64]) } else { NOTHING }
    }
    fn fused(&self, i: usize, sum: u64) -> u64 {
        match (self.term(i), sum) {
            (term, NOTHING) => term,
            (NOTHING, sum) => sum,
            (term, sum) if self.products => symbol(&[2, term, sum]),
            (term, sum) => self.add(term, sum),
        }
    }
    fn add(&self, a: u64, b: u64) -> u64 {
        match (a, b) {
            (NOTHING, other) | (other, NOTHING) => other,
            (a, b) => symbol(&[3, a.min(b), a.max(b)]),
        }
    }
}
