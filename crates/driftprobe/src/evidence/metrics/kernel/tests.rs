//! The vectorised tally against the scalar one, bit for bit.

use super::super::{Numbers, Scope, Tally, ulp_distance};
use super::{BLOCK, PIECE};
use driftprobe_trace::{Dtype, Row};
use proptest::prelude::*;

const DTYPES: [Dtype; 4] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16];

/// The same tally, one value after the other, read and measured by other code than the kernel's.
fn naive(dtype: Dtype, reference: &[u8], candidate: &[u8]) -> Tally {
    let size = dtype.size_bytes();
    let row = |bytes: &[u8]| Row::new(dtype, vec![(bytes.len() / size) as u64], bytes.to_vec()).unwrap();
    let (p, d) = (row(reference), row(candidate));
    let mut tally = Tally::default();
    for (at, bytes) in reference.chunks(size).zip(candidate.chunks(size)).enumerate() {
        let values = (p.value(at), d.value(at));
        tally.put(at as u64, values, bytes.0 != bytes.1, ulp_distance(dtype, values.0, values.1));
    }
    tally
}

/// Every bit of the numbers, all NaN being one.
fn bits(numbers: Option<Numbers>) -> Option<Vec<Option<u64>>> {
    let bits = |value: f64| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
    numbers.map(|n| {
        let reals = [Some(n.max_abs), n.rel_l2, n.cosine, n.nmse].map(|value| value.map(bits));
        let counts = [Some(n.compared), Some(n.differing), Some(n.max_abs_at), n.max_ulp];
        reals.into_iter().chain(counts).collect()
    })
}

fn same(dtype: Dtype, reference: &[u8], candidate: &[u8]) {
    let fast = Tally::of(dtype, reference, candidate).unwrap();
    let slow = naive(dtype, reference, candidate);
    let sums = |tally: &Tally| {
        let mut sums = tally.closed;
        sums.add(&tally.open);
        [sums.difference, sums.reference, sums.candidate, sums.product].map(|sum| (sum.is_nan(), sum.abs().to_bits()))
    };
    let (ours, theirs) = (sums(&fast), sums(&slow));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!(ours == theirs || ours.0 && theirs.0, "{dtype}: {ours:?} and {theirs:?}");
    }
    assert_eq!(bits(fast.finish(Scope::Whole)), bits(slow.finish(Scope::Whole)), "{dtype}");
}

/// Stored values that engines rarely give, and what lies next to them.
fn special(dtype: Dtype, pick: u64, noise: u64) -> Vec<u8> {
    let (width, mantissa) = match dtype {
        Dtype::F64 => (64, 52),
        Dtype::F32 => (32, 23),
        Dtype::F16 => (16, 10),
        Dtype::Bf16 => (16, 7),
    };
    let sign = 1u64 << (width - 1);
    let infinity = (sign - 1) >> mantissa << mantissa;
    let one = (infinity >> 1) & infinity;
    let bits = match pick % 12 {
        0 => 0,
        1 => sign,
        2 => infinity,
        3 => infinity | sign,
        4 => infinity | 1,
        5 => infinity | sign | (noise % (1 << mantissa)),
        6 => 1 + noise % 7,
        7 => sign | (noise % (1 << mantissa)),
        8 => infinity - 1,
        9 => sign | (infinity - 1),
        _ => one + noise % 16,
    };
    bits.to_le_bytes()[..width / 8].to_vec()
}

/// Lengths around those at which lanes, pieces and blocks end.
fn lengths() -> impl Strategy<Value = usize> {
    let edges = [0, 1, 7, 8, 9, PIECE - 1, PIECE, PIECE + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + PIECE + 3];
    prop_oneof![prop::sample::select(edges.to_vec()), 0..300usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bits_give_the_same(len in lengths(), seed in any::<u64>(), rare in 0u64..40) {
        for dtype in DTYPES {
            let size = dtype.size_bytes();
            let mut state = seed | 1;
            let mut random = || {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                state ^ state >> 29
            };
            let (mut p, mut d) = (Vec::new(), Vec::new());
            for _ in 0..len {
                let (pick, noise) = (random() >> 16, random());
                let value = match rare {
                    // Any bits at all, values of ordinary size, or among them some that are not.
                    0 => noise.to_le_bytes()[..size].to_vec(),
                    rare if pick % rare == 0 => special(dtype, pick >> 8, noise >> 7),
                    _ => special(dtype, 11, noise >> 9),
                };
                let other = match pick % 7 {
                    0 => special(dtype, noise >> 11, pick),
                    1 => random().to_le_bytes()[..size].to_vec(),
                    _ => special(dtype, 11, pick >> 3),
                };
                d.extend(if pick % 3 == 0 { value.clone() } else { other });
                p.extend(value);
            }
            same(dtype, &p, &d);
        }
    }
}

#[test]
fn where_the_largest_difference_stands_first() {
    let len = 2 * BLOCK + 200;
    for at in [0, 5, PIECE, BLOCK - 1, BLOCK, BLOCK + 700, len - 1] {
        let mut d = vec![1f32; len];
        // The same difference again further on, and a smaller one before.
        d[at..].iter_mut().step_by(3).for_each(|value| *value = 3.0);
        if at > 0 {
            d[at - 1] = 2.5;
        }
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let numbers = |d: &[f32]| {
            Tally::of(Dtype::F32, &bytes(&vec![1.0; len]), &bytes(d)).unwrap().finish(Scope::Whole).unwrap()
        };
        let got = numbers(&d);
        assert_eq!((got.max_abs, got.max_abs_at), (2.0, at as u64));
        // A NaN is the largest wherever it stands, and the first one is named.
        d[len - 1] = f32::NAN;
        d[len - 9] = f32::NAN;
        let got = numbers(&d);
        assert!(got.max_abs.is_nan() && got.max_ulp.is_none());
        assert_eq!(got.max_abs_at, len as u64 - 9);
    }
}

#[test]
fn the_halves_are_widened_as_the_half_crate_does_it() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let zeros = vec![0; all.len()];
    for dtype in [Dtype::F16, Dtype::Bf16] {
        for at in 0..all.len() / 2 {
            let range = at * 2..at * 2 + 2;
            let got = Tally::of(dtype, &zeros[range.clone()], &all[range.clone()]).unwrap();
            let value = Row::new(dtype, vec![1], all[range].to_vec()).unwrap().value(0);
            assert!(got.max_abs == value.abs() || got.max_abs.is_nan() && value.is_nan(), "{dtype} {at:#x}");
            assert_eq!(got.ulp_unknown, value.is_nan());
        }
    }
}

#[test]
fn rows_of_different_length_have_no_tally() {
    assert!(Tally::of(Dtype::F32, &[0; 8], &[0; 4]).is_none());
    assert!(Tally::of(Dtype::F32, &[], &[]).unwrap().finish(Scope::Whole).is_none());
}
