//! The vectorised program of a [`Tally`]: one pass over the bytes of two rows of one storage type.
//!
//! Written so that the compiler makes vectors of it: fixed numbers of lanes, no branch within a block. It is compiled for
//! several instruction sets, of which the machine's best is taken; none fuses products into sums, so that all give the
//! same bits. What needs no place in the loop is read off its sums: Σd² is NaN if and only if a difference is, and a row's
//! Σx² if and only if one of its values is. Where the largest difference stands is looked up in its block at the end.

#[cfg(test)]
mod tests;

use super::tally::{BLOCK, Four, LANES, Lanes, Tally, difference};
use driftprobe_trace::Dtype;
use pulp::{Arch, NullaryFnOnce};

/// Values whose bits are compared before the same values' sums are taken: few enough that the memory is read at an even pace.
const PIECE: usize = 128;

/// How a value is stored in `N` bytes.
trait Stored<const N: usize> {
    /// A count of representable values.
    type Ulps: Copy + Default + Ord + Into<u64>;

    /// The value.
    fn wide(bytes: [u8; N]) -> f64;

    /// How many representable values two are apart, ±0 being one; any number if one of them is NaN.
    fn ulps(one: [u8; N], other: [u8; N]) -> Self::Ulps;
}

struct F64;
struct F32;
struct F16;
struct Bf16;

impl Stored<8> for F64 {
    type Ulps = u64;

    #[inline(always)]
    fn wide(bytes: [u8; 8]) -> f64 {
        f64::from_le_bytes(bytes)
    }

    #[inline(always)]
    fn ulps(one: [u8; 8], other: [u8; 8]) -> u64 {
        let ordinal = |bytes| {
            let bits = i64::from_le_bytes(bytes);
            let sign = bits >> 63;
            ((bits & i64::MAX) ^ sign).wrapping_sub(sign)
        };
        let (one, other) = (ordinal(one), ordinal(other));
        (one.max(other) as u64).wrapping_sub(one.min(other) as u64)
    }
}

impl Stored<4> for F32 {
    type Ulps = u32;

    #[inline(always)]
    fn wide(bytes: [u8; 4]) -> f64 {
        f64::from(f32::from_le_bytes(bytes))
    }

    #[inline(always)]
    fn ulps(one: [u8; 4], other: [u8; 4]) -> u32 {
        let ordinal = |bytes| {
            let bits = i32::from_le_bytes(bytes);
            let sign = bits >> 31;
            ((bits & i32::MAX) ^ sign).wrapping_sub(sign)
        };
        let (one, other) = (ordinal(one), ordinal(other));
        (one.max(other) as u32).wrapping_sub(one.min(other) as u32)
    }
}

/// The distance of both 16-bit types.
#[inline(always)]
fn ulps16(one: [u8; 2], other: [u8; 2]) -> u32 {
    let ordinal = |bytes| {
        let bits = i32::from(i16::from_le_bytes(bytes));
        let sign = bits >> 31;
        ((bits & 0x7fff) ^ sign) - sign
    };
    ordinal(one).abs_diff(ordinal(other))
}

impl Stored<2> for F16 {
    type Ulps = u32;

    /// Moved into the places of an f32, whose exponent's bias is larger by 112: exact for subnormal values too.
    #[inline(always)]
    fn wide(bytes: [u8; 2]) -> f64 {
        let bits = u32::from(u16::from_le_bytes(bytes));
        let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
        let scaled = (f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)).to_bits();
        let beyond = 0x7f80_0000 | magnitude << 13;
        f64::from(f32::from_bits(sign | if magnitude >= 0x7c00 { beyond } else { scaled }))
    }

    #[inline(always)]
    fn ulps(one: [u8; 2], other: [u8; 2]) -> u32 {
        ulps16(one, other)
    }
}

impl Stored<2> for Bf16 {
    type Ulps = u32;

    #[inline(always)]
    fn wide(bytes: [u8; 2]) -> f64 {
        f64::from(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
    }

    #[inline(always)]
    fn ulps(one: [u8; 2], other: [u8; 2]) -> u32 {
        ulps16(one, other)
    }
}

/// The tally of two rows of equal length.
pub(super) fn tally(dtype: Dtype, reference: &[u8], candidate: &[u8]) -> Tally {
    let arch = Arch::new();
    match dtype {
        Dtype::F64 => arch.dispatch(Rows::<8, F64>::of(reference, candidate)),
        Dtype::F32 => arch.dispatch(Rows::<4, F32>::of(reference, candidate)),
        Dtype::F16 => arch.dispatch(Rows::<2, F16>::of(reference, candidate)),
        Dtype::Bf16 => arch.dispatch(Rows::<2, Bf16>::of(reference, candidate)),
    }
}

/// Two rows, value by value.
struct Rows<'a, const N: usize, S> {
    reference: &'a [[u8; N]],
    candidate: &'a [[u8; N]],
    stored: std::marker::PhantomData<S>,
}

impl<'a, const N: usize, S: Stored<N>> Rows<'a, N, S> {
    fn of(reference: &'a [u8], candidate: &'a [u8]) -> Self {
        let (reference, candidate) = (reference.as_chunks().0, candidate.as_chunks().0);
        Rows { reference, candidate, stored: std::marker::PhantomData }
    }
}

impl<const N: usize, S: Stored<N>> NullaryFnOnce for Rows<'_, N, S> {
    type Output = Tally;

    #[inline(always)]
    fn call(self) -> Tally {
        let mut tally = Tally { compared: self.reference.len() as u64, ..Tally::default() };
        let mut largest = None;
        for (number, (p, d)) in self.reference.chunks(BLOCK).zip(self.candidate.chunks(BLOCK)).enumerate() {
            let block = Block::of::<N, S>(p, d);
            tally.closed.add(&block.sums);
            tally.differing += u64::from(block.differing);
            tally.ulp = tally.ulp.max(block.ulps);
            let max = block.largest();
            if !tally.max_abs.is_nan() && !(max <= tally.max_abs) {
                tally.max_abs = max;
                largest = Some((number * BLOCK, p, d));
            }
        }
        // A sum of squares is NaN only where a value is.
        tally.ulp_unknown = tally.closed.reference.is_nan() || tally.closed.candidate.is_nan();
        if let Some((start, p, d)) = largest {
            tally.max_abs_at = (start + place_of::<N, S>(tally.max_abs, p, d)) as u64;
        }
        tally
    }
}

/// Where in a block a difference stands first.
fn place_of<const N: usize, S: Stored<N>>(wanted: f64, p: &[[u8; N]], d: &[[u8; N]]) -> usize {
    let is = |(p, d): (&[u8; N], &[u8; N])| {
        let found = difference(S::wide(*p), S::wide(*d));
        found == wanted || found.is_nan() && wanted.is_nan()
    };
    p.iter().zip(d).position(is).unwrap_or_default()
}

/// What a block comes to.
#[derive(Default)]
struct Block {
    sums: Four<Lanes>,
    /// Largest difference of each lane that is not NaN.
    max: Lanes,
    differing: u32,
    ulps: u64,
}

impl Block {
    #[inline(always)]
    fn of<const N: usize, S: Stored<N>>(p: &[[u8; N]], d: &[[u8; N]]) -> Block {
        let mut block = Block::default();
        let (whole_p, rest_p) = p.as_chunks::<PIECE>();
        let (whole_d, rest_d) = d.as_chunks::<PIECE>();
        for (p, d) in whole_p.iter().zip(whole_d) {
            block.add::<N, S>(p, d);
        }
        if !rest_p.is_empty() {
            // Zeros add nothing to any sum, equal no difference, and are no distance apart.
            let mut padded = [[[0; N]; PIECE]; 2];
            for (to, from) in padded.iter_mut().zip([rest_p, rest_d]) {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = *from;
                }
            }
            let [p, d] = &padded;
            block.add::<N, S>(p, d);
        }
        block
    }

    #[inline(always)]
    fn add<const N: usize, S: Stored<N>>(&mut self, p: &[[u8; N]; PIECE], d: &[[u8; N]; PIECE]) {
        let (mut differing, mut ulps) = (0, S::Ulps::default());
        for (p, d) in p.iter().zip(d) {
            differing += u32::from(p != d);
            ulps = ulps.max(S::ulps(*p, *d));
        }
        self.differing += differing;
        self.ulps = self.ulps.max(ulps.into());
        let Four { difference: dd, reference: pp, candidate: cc, product: pc } = &mut self.sums;
        for (p, d) in p.as_chunks::<LANES>().0.iter().zip(d.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                let (reference, candidate) = (S::wide(p[lane]), S::wide(d[lane]));
                let difference = difference(reference, candidate);
                self.max[lane] = if difference > self.max[lane] { difference } else { self.max[lane] };
                dd[lane] += difference * difference;
                pp[lane] += reference * reference;
                cc[lane] += candidate * candidate;
                pc[lane] += reference * candidate;
            }
        }
    }

    /// The largest difference; NaN if one is.
    #[inline(never)]
    fn largest(&self) -> f64 {
        match self.sums.difference.iter().any(|sum| sum.is_nan()) {
            true => f64::NAN,
            false => self.max.iter().fold(0.0, |largest, max| if *max > largest { *max } else { largest }),
        }
    }
}
