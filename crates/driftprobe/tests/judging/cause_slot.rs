//! A wrong row of the cache, and its name.

use driftprobe::cause::{Foreign, Freedom, Part, SlotName, WrongSlot, name_slot};
use std::sync::Arc;

const WIDTH: usize = 16;

/// Rows without a value in common.
fn rows(seed: u64, count: usize) -> Vec<Option<Vec<f64>>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0) as f32)
    };
    (0..count).map(|_| Some((0..WIDTH).map(|_| next()).collect())).collect()
}

struct Bench {
    expected: Vec<Option<Vec<f64>>>,
    other: Vec<Option<Vec<f64>>>,
    cache: Vec<Option<Vec<f64>>>,
    foreign: Vec<Foreign>,
    newest: bool,
}

impl Bench {
    fn new() -> Bench {
        let (expected, other) = (rows(1, 9), rows(2, 9));
        Bench { cache: expected.clone(), expected, other, foreign: vec![(Arc::from("p1"), rows(3, 9))], newest: false }
    }

    /// Names slot 5 when it holds this row.
    fn name(&mut self, row: Vec<f64>, tolerance: f64) -> Vec<SlotName> {
        self.cache[5] = Some(row.clone());
        name_slot(&WrongSlot {
            part: Part::K,
            slot: 5,
            newest: self.newest,
            recorded: &row,
            expected: &self.expected,
            expected_other: &self.other,
            cache: &self.cache,
            foreign: &self.foreign,
            tolerance,
        })
    }

    fn ids(&mut self, row: Vec<f64>) -> Vec<&'static str> {
        self.name(row, 0.0).iter().map(|n| n.id).collect()
    }

    fn own(&self, slot: usize) -> Vec<f64> {
        self.expected[slot].clone().unwrap()
    }
}

#[test]
fn a_row_that_is_another_is_named_by_which() {
    let mut bench = Bench::new();
    assert_eq!(bench.ids(vec![0.0; WIDTH]), ["KV_NOT_WRITTEN"]);
    let (other, neighbour, own) = (bench.other[5].clone().unwrap(), bench.own(4), bench.own(5));
    assert_eq!(bench.ids(other), ["KV_EXCHANGED"]);
    let named = bench.name(neighbour.clone(), 0.0);
    assert_eq!(named[0].id, "KV_DUPLICATED_SLOT");
    assert!(named[0].parameters.contains(&("holds slot".to_owned(), "4".to_owned())));
    bench.cache[4] = Some(own.clone());
    assert_eq!(bench.ids(neighbour), ["KV_SWAPPED_SLOTS"]);
    let squeezed = own.iter().map(|x| half::bf16::from_f64(*x).to_f64()).collect();
    let named = bench.name(squeezed, 0.0);
    assert_eq!((named[0].id, named[0].parameters[0].1.as_str()), ("KV_PRECISION", "bf16"));
}

/// Within what a simulated row leaves open, a row with one wrong value is as near to a squeezed row as to itself.
#[test]
fn one_value_that_is_a_little_off_is_no_matter_of_precision() {
    let mut bench = Bench::new();
    let own = bench.own(5);
    let squeezed: Vec<f64> = own.iter().map(|x| half::f16::from_f64(*x).to_f64()).collect();
    let named = bench.name(squeezed, 1e-4);
    assert_eq!((named[0].id, named[0].parameters[0].1.as_str()), ("KV_PRECISION", "f16"));
    let mut one = own;
    one[7] *= 1.0003;
    let named: Vec<&str> = bench.name(one, 1e-3).iter().map(|name| name.id).collect();
    assert!(!named.contains(&"KV_PRECISION"), "{named:?}");
}

#[test]
fn a_row_of_another_sequence_is_found_where_that_is_recorded_and_else_a_tie() {
    let mut bench = Bench::new();
    let (stale, foreign) = (bench.foreign[0].1[5].clone().unwrap(), bench.foreign[0].1[7].clone().unwrap());
    // At its own position it may be that sequence's, or what it has left there.
    assert_eq!(bench.ids(stale.clone()), ["KV_FOREIGN_ROW", "KV_STALE_SLOT"]);
    assert_eq!(bench.ids(foreign), ["KV_FOREIGN_ROW"]);
    bench.foreign.clear();
    let tie = bench.name(stale, 0.0);
    assert_eq!(tie.iter().map(|n| n.id).collect::<Vec<_>>(), ["KV_STALE_SLOT", "KV_FOREIGN_ROW"]);
    assert!(tie.iter().all(|n| n.freedom == Freedom::Loose));
}

/// Where sources of earlier rows are not recorded, what stands where tells a copy from an exchange.
#[test]
fn an_exchange_leaves_the_own_row_in_the_other_place_and_a_copy_leaves_it_nowhere() {
    let mut bench = Bench::new();
    let (own, neighbour, third) = (bench.own(5), bench.own(4), bench.own(3));
    bench.expected[3] = None;
    bench.expected[4] = None;
    bench.newest = true;
    assert_eq!(bench.ids(neighbour.clone()), ["KV_DUPLICATED_SLOT", "KV_STALE_SLOT"]);
    bench.newest = false;
    assert_eq!(bench.ids(neighbour.clone()), ["KV_DUPLICATED_SLOT"]);
    bench.cache[4] = Some(own.clone());
    assert_eq!(bench.ids(neighbour), ["KV_SWAPPED_SLOTS"]);
    // Three rows, each in the place of the next.
    bench.expected[4] = Some(third.clone());
    assert_eq!(bench.ids(rows(9, 1)[0].clone().unwrap()), ["KV_SWAPPED_SLOTS"]);
    // The row behind it stands twice, and its own in the place before: a copy, again and again.
    let next = bench.own(6);
    bench.newest = true;
    assert_eq!(bench.ids(next), ["KV_DUPLICATED_SLOT"]);
}

/// What a slot that is itself wrong holds is no evidence that a row was copied from there.
#[test]
fn two_slots_with_the_same_strange_row_are_not_copies_of_each_other() {
    let mut bench = Bench::new();
    let foreign = bench.foreign[0].1[7].clone().unwrap();
    bench.cache[4] = Some(foreign.clone());
    assert_eq!(bench.ids(foreign), ["KV_FOREIGN_ROW"]);
}

#[test]
fn what_is_no_row_at_all_has_no_name() {
    let mut bench = Bench::new();
    let mut one = bench.own(5);
    one[3] += 0.5;
    assert!(bench.ids(one).is_empty());
    let large = bench.own(5).iter().map(|x| x * 100.0).collect();
    assert!(bench.ids(large).is_empty());
    assert!(bench.ids(vec![1e9; WIDTH]).is_empty());
}

/// Where what a row should be is known to some noise only.
#[test]
fn equal_is_what_lies_within_the_tolerance() {
    let mut bench = Bench::new();
    let near: Vec<f64> = bench.own(3).iter().map(|x| x * (1.0 + 1e-4)).collect();
    bench.cache[3] = None;
    assert_eq!(bench.name(near.clone(), 1e-3)[0].id, "KV_DUPLICATED_SLOT");
    assert_ne!(bench.name(near, 1e-6)[0].id, "KV_DUPLICATED_SLOT");
}
