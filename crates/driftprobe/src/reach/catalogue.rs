//! The orders of summation that are tried: what kernels of engines are known to do, and what lies near it.

use super::sum::{Blocking, Rest, Sum, Tree};
use std::collections::BTreeSet;

/// Vectors × lanes of the kernels: SSE and NEON have 4 lanes, AVX 8, AVX-512 and unrolled code 16 and more.
/// Few lanes first: where a sum is so short that orders are one, the simplest gives the name.
const SHAPES: [(usize, usize); 14] = [
    (1, 4),
    (1, 8),
    (2, 4),
    (1, 16),
    (2, 8),
    (4, 4),
    (1, 32),
    (2, 16),
    (4, 8),
    (8, 4),
    (1, 64),
    (4, 16),
    (8, 8),
    (8, 16),
];
const TREES: [Tree; 4] = [Tree::Neighbours, Tree::Halves, Tree::HalvesThenNeighbours, Tree::InOrder];
/// Sizes of blocks along the sum, as matrix kernels have them.
const BLOCKS: [usize; 8] = [32, 64, 128, 256, 320, 384, 512, 1024];

/// Orders in which a dot product's terms may be added, those of one running sum first; orders that are the same on `count`
/// products stand once.
pub fn dots(count: usize) -> Vec<Sum> {
    let mut all = vec![Sum::running(true), Sum::running(false)];
    for fused in [false, true] {
        for size in BLOCKS.into_iter().filter(|size| *size < count) {
            all.push(Sum::running(fused).in_blocks(Blocking::Every(size)));
            all.push(Sum::running(fused).in_blocks(Blocking::Even(size)));
        }
        if count > 1024 {
            // Kernels of a few rows cut long sums.
            let few = Sum::vector(fused, (1, 8), (Tree::InOrder, Tree::Halves), Rest::Padded);
            all.push(few.in_blocks(Blocking::Every(1024)));
        }
    }
    all.extend(
        SHAPES.into_iter().flat_map(|shape| [false, true].into_iter().flat_map(move |fused| vectors(fused, shape))),
    );
    let mut seen = BTreeSet::new();
    all.retain(|sum| seen.insert(sum.symbol(count, 0..count, true)));
    all
}

fn vectors(fused: bool, (vectors, width): (usize, usize)) -> Vec<Sum> {
    let mut all = Vec::new();
    let across: &[Tree] = if vectors > 1 { &TREES } else { &[Tree::InOrder] };
    for lanes in TREES {
        for across in across {
            for rest in [Rest::OnTop, Rest::Aside, Rest::Padded] {
                all.push(Sum::vector(fused, (vectors, width), (*across, lanes), rest));
            }
        }
    }
    let singles: Vec<Sum> = all.iter().filter(|_| vectors > 1).map(|sum| Sum { single: true, ..*sum }).collect();
    all.into_iter().chain(singles).collect()
}

/// Orders in which the exponentials of a softmax may be added.
pub fn sums() -> Vec<Sum> {
    let vector = |shape, trees, rest| Sum::vector(false, shape, trees, rest);
    use Tree::{Halves, HalvesThenNeighbours, InOrder, Neighbours};
    vec![
        Sum::running(false),
        vector((4, 8), (Neighbours, HalvesThenNeighbours), Rest::OnTop),
        vector((4, 4), (Neighbours, Neighbours), Rest::OnTop),
        vector((1, 8), (InOrder, HalvesThenNeighbours), Rest::OnTop),
        vector((1, 8), (InOrder, Halves), Rest::OnTop),
        vector((1, 4), (InOrder, Neighbours), Rest::OnTop),
        vector((1, 16), (InOrder, Neighbours), Rest::OnTop),
        vector((1, 16), (InOrder, Halves), Rest::OnTop),
        vector((1, 32), (InOrder, Halves), Rest::Padded),
    ]
}

/// Orders in which weighted values may be added.
pub fn values(keys: usize) -> Vec<Sum> {
    let mut all = vec![Sum::running(true), Sum::running(false)];
    for size in [256, 512, 1024].into_iter().filter(|size| *size < keys) {
        all.push(Sum::running(true).in_blocks(Blocking::Every(size)));
        all.push(Sum::running(true).in_blocks(Blocking::Even(size)));
    }
    all
}

/// Orders of the scores' dot products, where the scores themselves are not recorded: those of common kernels alone, since
/// each of them multiplies all else that is tried.
pub fn common(count: usize) -> Vec<Sum> {
    use Tree::{Halves, InOrder, Neighbours};
    let mut all = vec![
        Sum::running(true),
        Sum::running(false),
        Sum::vector(true, (1, 8), (InOrder, Halves), Rest::Padded),
        Sum::vector(false, (1, 16), (InOrder, Neighbours), Rest::Aside),
        Sum { single: true, ..Sum::vector(true, (8, 8), (Neighbours, InOrder), Rest::OnTop) },
        Sum::vector(true, (4, 8), (Halves, Halves), Rest::OnTop),
    ];
    let mut seen = BTreeSet::new();
    all.retain(|sum| seen.insert(sum.symbol(count, 0..count, true)));
    all
}
