//! How fused attention splits the keys of a row into parts.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// A split of the keys into equal parts, of rows that see enough of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyParts {
    /// How many parts.
    pub parts: usize,
    /// Fewest keys, counted as below, of a row that is split.
    pub keys_min: usize,
    /// Keys are counted up to a multiple of this.
    pub multiple: usize,
}

impl KeyParts {
    /// All keys in one part.
    pub const WHOLE: KeyParts = KeyParts { parts: 1, keys_min: 0, multiple: 1 };

    /// The parts of a row at position `pos`, as positions, in order.
    pub fn of(&self, pos: usize) -> Vec<Range<usize>> {
        let multiple = self.multiple.max(1);
        let keys = (pos + 1).div_ceil(multiple) * multiple;
        if self.parts < 2 || keys < self.keys_min {
            return std::iter::once(0..pos + 1).collect();
        }
        let size = keys.div_ceil(self.parts).max(1);
        (0..=pos).step_by(size).map(|start| start..(start + size).min(pos + 1)).collect()
    }
}

/// `parts`, or `parts@keys/multiple`.
impl FromStr for KeyParts {
    type Err = ();
    fn from_str(s: &str) -> Result<KeyParts, ()> {
        let count = |s: &str| s.parse::<usize>().ok().filter(|n| *n > 0).ok_or(());
        let Some((parts, rest)) = s.split_once('@') else {
            return Ok(KeyParts { parts: count(s)?, ..KeyParts::WHOLE });
        };
        let (keys, multiple) = rest.split_once('/').unwrap_or((rest, "1"));
        Ok(KeyParts { parts: count(parts)?, keys_min: count(keys)?, multiple: count(multiple)? })
    }
}

impl fmt::Display for KeyParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.keys_min, self.multiple) {
            (0, 1) => write!(f, "{}", self.parts),
            (keys, multiple) => write!(f, "{}@{keys}/{multiple}", self.parts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_enough_keys_are_split_by_the_rounded_count() {
        let split: KeyParts = "2@512/256".parse().unwrap();
        let ends = |split: KeyParts, pos| split.of(pos).iter().map(|part| (part.start, part.end)).collect::<Vec<_>>();
        assert_eq!(ends(split, 255), [(0, 256)]);
        assert_eq!(split.of(256), [0..256, 256..257], "257 keys count as 512");
        assert_eq!(split.of(600), [0..384, 384..601]);
        assert_eq!("3".parse::<KeyParts>().unwrap().of(6), [0..3, 3..6, 6..7]);
        assert_eq!(ends(KeyParts::WHOLE, 5), [(0, 6)]);
    }

    #[test]
    fn names_are_read_back_and_nonsense_is_not() {
        for name in ["1", "4", "2@512/256"] {
            assert_eq!(name.parse::<KeyParts>().unwrap().to_string(), name);
        }
        assert!(["", "0", "2@", "2@0/1", "x@5/1", "2@5/0"].iter().all(|s| s.parse::<KeyParts>().is_err()));
    }
}
