//! How attention's keys are cut into ranges that have a softmax each.

use std::fmt;

/// Ranges of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Parts {
    /// All keys in one pass.
    Whole,
    /// So many keys at a time.
    Blocks(usize),
    /// So many ranges of equal size, rounded up.
    Split(usize),
}

impl Parts {
    /// The size of a range of `keys` keys.
    pub fn size(self, keys: usize) -> usize {
        match self {
            Parts::Whole => keys,
            Parts::Blocks(size) => size,
            Parts::Split(parts) => keys.div_ceil(parts.max(1)),
        }
        .clamp(1, keys.max(1))
    }

    /// Keys of a block, where the keys are cut into blocks.
    pub fn block(self) -> Option<usize> {
        if let Parts::Blocks(size) = self { Some(size) } else { None }
    }

    /// Stable id.
    pub fn id(self) -> String {
        match self {
            Parts::Whole => "whole".to_owned(),
            Parts::Blocks(size) => format!("blocks:{size}"),
            Parts::Split(parts) => format!("split:{parts}"),
        }
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Parts::Whole => write!(f, "one pass over the keys"),
            Parts::Blocks(1) => write!(f, "key by key"),
            Parts::Blocks(size) => write!(f, "blocks of {size} keys"),
            Parts::Split(parts) => write!(f, "{parts} parts"),
        }
    }
}

/// Block sizes up to which each is tried; of larger ones multiples of 16.
const EACH_UP_TO: usize = 256;
/// Counts of split parts that are tried.
const SPLITS_MAX: usize = 128;

/// What is tried where the longest row has so many keys. Blocks as long as that are the whole.
pub fn candidates(keys: usize) -> Vec<Parts> {
    let blocks = (1..keys).filter(|size| *size <= EACH_UP_TO || size.is_multiple_of(16)).map(Parts::Blocks);
    let splits = (2..=SPLITS_MAX.min(keys)).map(Parts::Split);
    std::iter::once(Parts::Whole).chain(blocks).chain(splits).collect()
}

/// The first number of keys, up to `most`, at which the two cut the keys differently.
pub fn onset(a: Parts, b: Parts, most: usize) -> Option<usize> {
    (1..=most).find(|keys| a.size(*keys) != b.size(*keys))
}
