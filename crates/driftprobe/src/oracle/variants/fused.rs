//! Variants of attention in one kernel: what it makes of Q and of cached rows, how it keeps its sums, how it splits the keys.

use super::{Variant, with};
use crate::oracle::float::Float;
use crate::oracle::key_parts::KeyParts;

/// Types to which kernels bring Q before it meets the keys: that of the keys' dot product.
const OF_Q: [&str; 3] = ["f16", "bf16", "q8_0"];

/// Numbers of parts that are tried: threads of ordinary machines.
const PARTS: [usize; 13] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];

/// Keys from which a kernel splits them, counted up to a multiple; and at once.
const SPLIT_FROM: [(usize, usize); 2] = [(512, 256), (0, 1)];

/// Q as the kernel multiplies it.
pub fn inputs() -> Vec<Variant> {
    OF_Q.map(|name| emulated("inputs", name, &format!("Q is rounded to {name} before it meets the keys"))).to_vec()
}

/// Cached rows as the kernel multiplies them.
pub fn kv_read() -> Vec<Variant> {
    let one = |f: Float| emulated("kv_read", f.id(), &format!("cached K and V are rounded to {f} before the products"));
    vec![one(Float::F16), one(Float::Bf16)]
}

/// All of it, those that assume least first.
pub fn all() -> Vec<Variant> {
    let (q, kv) = (inputs(), kv_read());
    let sums = vec![emulated("value_sums", "f16", "the sum of weighted values is accumulated in f16, key by key")];
    let pairs = |a: &[Variant], b: &[Variant]| -> Vec<Variant> {
        a.iter().flat_map(|a| b.iter().map(move |b| with(a, b))).collect()
    };
    let (q_kv, q_sums, kv_sums) = (pairs(&q, &kv), pairs(&q, &sums), pairs(&kv, &sums));
    let all_three = pairs(&q_kv, &sums);
    let split: Vec<Variant> =
        [&sums, &q_sums, &kv_sums, &all_three].into_iter().flat_map(|of| pairs(of, &parts())).collect();
    [q, kv, sums, q_kv, q_sums, kv_sums, all_three, split].concat()
}

fn parts() -> Vec<Variant> {
    let one = |(keys_min, multiple): (usize, usize), parts: usize| {
        let from = if keys_min > 0 {
            format!(" from {keys_min} keys on (counted up to a multiple of {multiple})")
        } else {
            String::new()
        };
        let name = KeyParts { parts, keys_min, multiple }.to_string();
        emulated(
            "key_parts",
            &name,
            &format!("the keys are split into {parts} parts{from}, each with a sum of its own"),
        )
    };
    SPLIT_FROM.into_iter().flat_map(|from| PARTS.into_iter().map(move |parts| one(from, parts))).collect()
}

fn emulated(name: &str, value: &str, says: &str) -> Variant {
    super::named(name, value, &[says], false)
}
