//! Orders against the kernels that they stand for, and their symbols against what they give.

use super::attend::{self, Head, Softmaxed};
use super::catalogue;
use super::order::{Attend, Merge, Normalise};
use super::parts::{Parts, candidates, onset};
use super::sum::{Blocking, Rest, Sum, Tree};
use super::terms::{Numbers, Products};
use candle_core::{D, Device, Tensor};
use driftprobe_testkit::Dice;
use std::collections::BTreeMap;

fn random(dice: &mut Dice, count: usize) -> Vec<f32> {
    (0..count).map(|_| dice.normal() as f32).collect()
}

#[test]
fn a_sum_by_lanes_is_that_of_candle() {
    let mut dice = Dice(1);
    let lanes = Sum::vector(false, (4, 8), (Tree::Neighbours, Tree::HalvesThenNeighbours), Rest::OnTop);
    for count in [1, 31, 32, 33, 64, 100, 200] {
        let x = random(&mut dice, count);
        let sum = Tensor::from_vec(x.clone(), count, &Device::Cpu).unwrap().sum_keepdim(D::Minus1).unwrap();
        let sum: f32 = sum.to_vec1().unwrap()[0];
        let orders =
            [lanes, Sum::running(false), Sum::vector(false, (4, 4), (Tree::Neighbours, Tree::Neighbours), Rest::OnTop)];
        // Which of them depends on the machine's vector unit.
        assert!(orders.iter().any(|order| order.of(count, &Numbers(&x)) == sum), "{count} numbers");
    }
}

#[test]
fn a_fused_running_sum_is_that_of_a_matrix_product() {
    let mut dice = Dice(2);
    let (rows, count, columns) = (40, 90, 40);
    let (a, b) = (random(&mut dice, rows * count), random(&mut dice, count * columns));
    let of = |x: &[f32], shape| Tensor::from_vec(x.to_vec(), shape, &Device::Cpu).unwrap();
    let product = of(&a, (rows, count)).matmul(&of(&b, (count, columns))).unwrap().to_vec2::<f32>().unwrap();
    let fused = cfg!(not(target_arch = "x86_64")) || std::arch::is_x86_feature_detected!("fma");
    for (row, expected) in product.iter().enumerate() {
        for (column, expected) in expected.iter().enumerate() {
            let right: Vec<f32> = b.iter().skip(column).step_by(columns).copied().collect();
            let sum = Sum::running(fused).of(count, &Products(&a[row * count..(row + 1) * count], &right));
            assert_eq!(sum, *expected);
        }
    }
}

#[test]
fn every_order_adds_every_term_once() {
    for count in [0usize, 1, 2, 7, 16, 33, 100, 257, 1100] {
        let x: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let ones = vec![1f32; count];
        for order in catalogue::dots(count).into_iter().chain(catalogue::sums()).chain(catalogue::common(count)) {
            // Whole numbers below 2²⁴ are added without a rounding.
            assert_eq!(order.of(count, &Products(&ones, &x)), (count * count.saturating_sub(1) / 2) as f32, "{order}");
        }
    }
}

#[test]
fn orders_of_one_symbol_give_one_result_and_others_mostly_not() {
    let mut dice = Dice(3);
    for count in [8usize, 33, 64, 100] {
        let rows: Vec<(Vec<f32>, Vec<f32>)> =
            (0..24).map(|_| (random(&mut dice, count), random(&mut dice, count))).collect();
        let mut all: BTreeMap<u64, (Sum, Vec<f32>)> = BTreeMap::new();
        let vectors = [(1, 8), (2, 8), (4, 8), (1, 16)].into_iter();
        let rests = [Rest::Padded, Rest::OnTop, Rest::Aside];
        let lanes =
            vectors.flat_map(|shape| rests.map(|rest| Sum::vector(true, shape, (Tree::Halves, Tree::Halves), rest)));
        let blocks = [8, 16, 32].map(|size| Sum::running(false).in_blocks(Blocking::Every(size)));
        for order in lanes.chain(blocks).chain([Sum::running(true), Sum::running(false)]) {
            let results: Vec<f32> = rows.iter().map(|(a, b)| order.of(count, &Products(a, b))).collect();
            let symbol = order.symbol(count, 0..count, true);
            let (first, known) = all.entry(symbol).or_insert_with(|| (order, results.clone()));
            assert_eq!(known, &results, "{first} and {order} are one on {count} products");
        }
        let results: Vec<&Vec<f32>> = all.values().map(|(_, results)| results).collect();
        for (i, one) in results.iter().enumerate() {
            assert!(results[..i].iter().all(|other| other != one), "two symbols, one result, {count} products");
        }
    }
}

#[test]
fn terms_that_are_hidden_alter_no_symbol() {
    let order = Sum::running(true);
    assert_eq!(order.symbol(40, 0..25, true), order.symbol(25, 0..25, true));
    let lanes = Sum::vector(false, (4, 8), (Tree::Neighbours, Tree::Halves), Rest::OnTop);
    // Past whole vectors the lanes are other ones.
    assert_ne!(lanes.symbol(64, 0..40, false), lanes.symbol(40, 0..40, false));
}

fn head(dice: &mut Dice, keys: usize, width: usize) -> Head {
    let values = (0..width).map(|_| random(dice, keys)).collect();
    Head { scores: vec![random(dice, keys)], seen: 0..keys, values }
}

fn attend(parts: Parts, merge: Merge) -> Attend {
    let (sum, values) = (Sum::running(false), Sum::running(true));
    Attend { parts, merge, sum, values, pairs: false, normalise: Normalise::Quotient, scores: None }
}

#[test]
fn every_way_over_the_keys_gives_attention() {
    let mut dice = Dice(4);
    let head = head(&mut dice, 37, 5);
    let scores = &head.scores[0];
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = scores.iter().map(|s| f64::from(s - max).exp()).collect();
    let total: f64 = exps.iter().sum();
    for parts in
        [Parts::Whole, Parts::Blocks(1), Parts::Blocks(8), Parts::Blocks(36), Parts::Split(3), Parts::Split(37)]
    {
        for merge in [Merge::InOrder, Merge::Running, Merge::AtEnd] {
            let order = attend(parts, merge);
            let softmaxed = Softmaxed::new(&order, &head, 37, (0, 0));
            for values in &head.values {
                let exact: f64 = exps.iter().zip(values).map(|(e, v)| e * f64::from(*v)).sum::<f64>() / total;
                let found = f64::from(softmaxed.channel(&order, values));
                assert!((found - exact).abs() < 1e-5, "{parts} {merge:?}: {found} for {exact}");
            }
        }
    }
}

#[test]
fn blocks_that_hold_the_row_are_the_whole_and_others_are_not() {
    let ranges = |parts| attend::symbols(&attend(parts, Merge::InOrder), &(0..20), (20, 8)).0;
    assert_eq!(ranges(Parts::Blocks(20)), ranges(Parts::Whole));
    assert_eq!(ranges(Parts::Split(4)), ranges(Parts::Blocks(5)));
    assert_ne!(ranges(Parts::Blocks(19)), ranges(Parts::Whole));
    assert_ne!(ranges(Parts::Blocks(6)), ranges(Parts::Blocks(7)));
    // In a window of four keys blocks before it do not count.
    let window = |parts| attend::symbols(&attend(parts, Merge::InOrder), &(16..20), (20, 8)).0;
    assert_eq!(window(Parts::Blocks(8)), window(Parts::Whole));
    assert_ne!(window(Parts::Blocks(6)), window(Parts::Whole));
}

#[test]
fn two_cuts_part_where_the_shorter_block_ends() {
    assert_eq!(onset(Parts::Blocks(64), Parts::Whole, 100), Some(65));
    assert_eq!(onset(Parts::Blocks(64), Parts::Whole, 64), None);
    assert_eq!(onset(Parts::Whole, Parts::Split(4), 100), Some(2));
    assert!(candidates(1).contains(&Parts::Whole) && !candidates(1).iter().any(|p| p.block().is_some()));
    assert!(candidates(300).contains(&Parts::Blocks(256)) && candidates(300).contains(&Parts::Split(128)));
}
