//! File names from prompt ids. An id is data from a user: any text, of any length; two ids never share a file.

use crate::hash::xxh3_64;
use std::collections::BTreeSet;

/// Longest part of a name that comes from an id, in bytes.
const STEM_BYTES_MAX: usize = 100;

/// Names that were given out.
#[derive(Default)]
pub struct FileNames(BTreeSet<String>);

impl FileNames {
    /// A file name for `id` with this suffix that was not given out before, also where a file system ignores case.
    pub fn unique(&mut self, id: &str, suffix: &str) -> String {
        let stem = safe_stem(id);
        let mut name = format!("{stem}{suffix}");
        let mut n = 1u64;
        while !self.0.insert(name.to_lowercase()) {
            n += 1;
            name = format!("{stem}~{n}{suffix}");
        }
        name
    }

    /// `key`, or `key~2`, `key~3` … if it was given out before.
    pub fn unique_key(&mut self, key: String) -> String {
        let mut name = key.clone();
        let mut n = 1u64;
        while !self.0.insert(name.clone()) {
            n += 1;
            name = format!("{key}~{n}");
        }
        name
    }
}

/// Letters, digits, `-`, `_` and inner dots stay as they are; other bytes become `%XX`; what is too long is cut and
/// told apart by its hash.
fn safe_stem(id: &str) -> String {
    let mut stem = String::with_capacity(id.len());
    for (i, b) in id.bytes().enumerate() {
        let plain = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_') || (b == b'.' && i > 0);
        if plain {
            stem.push(char::from(b));
        } else {
            stem.push_str(&format!("%{b:02X}"));
        }
    }
    if stem.is_empty() {
        return "%".to_owned();
    }
    if stem.len() > STEM_BYTES_MAX {
        stem.truncate(STEM_BYTES_MAX - 17);
        stem.push_str(&format!("~{:016x}", xxh3_64(id.as_bytes())));
    }
    stem
}
