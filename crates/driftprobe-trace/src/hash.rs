//! The two hashes of a row. Both are unsigned 64-bit integers from end to end.

use xxhash_rust::xxh3;

/// FNV-1a's offset basis as GRETA has it (a digit short of the published 14695981039346656037).
pub const GRETA_OFFSET_BASIS: u64 = 1_469_598_103_934_665_603;
/// FNV-1a's 64-bit prime.
const FNV_PRIME: u64 = 1_099_511_628_211;

/// xxh3-64 over bytes, seed 0.
pub fn xxh3_64(bytes: &[u8]) -> u64 {
    xxh3::xxh3_64(bytes)
}

/// xxh3-128 over bytes, seed 0.
pub fn xxh3_128(bytes: &[u8]) -> u128 {
    xxh3::xxh3_128(bytes)
}

/// xxh3-128 over bytes as `xxh3-128:` and 32 hexadecimal digits.
pub fn xxh3_128_text(bytes: &[u8]) -> String {
    format!("xxh3-128:{:032x}", xxh3_128(bytes))
}

/// FNV-1a that takes a whole 32-bit word a round, as GRETA does, not a byte: `h = (h ^ bits) * prime`. The caller gives
/// at most the first 256 values.
pub fn greta_fnv1a_256(values: impl Iterator<Item = f32>) -> u64 {
    values.fold(GRETA_OFFSET_BASIS, |h, v| (h ^ u64::from(v.to_bits())).wrapping_mul(FNV_PRIME))
}
