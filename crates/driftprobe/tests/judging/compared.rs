//! What two events prove of each other where no payload lies behind them: each rule by itself.

use crate::support::{Memory, event};
use driftprobe::evidence::{Bits, Comparison, HashRelation, Means, Side, compare};
use driftprobe_trace::{Dtype, Event, HashAlgo, LogitsTop, Phase, Point, Row, RowHash, RowStats, Sample};

use HashAlgo::{GretaFnv1a256, Xxh3_64};

/// A change to an event.
type Change<'a> = &'a dyn Fn(&mut Event);

/// Of two events of one row of so many values; `ours` is done to prefill's, `theirs` to decode's.
fn of(point: Point, [ours, theirs]: [Change<'_>; 2]) -> Comparison {
    let side = |phase: Phase, change: Change<'_>| {
        let mut event = event("p", phase, point, 1, 3, 7);
        (event.dtype, event.shape) = (Some(Dtype::F32), Some(vec![4096]));
        change(&mut event);
        event
    };
    let [prefill, decode] = [side(Phase::Prefill, ours), side(Phase::Decode, theirs)];
    let memory = Memory::default();
    compare(&Side::load(&prefill, &memory), &Side::load(&decode, &memory))
}

fn hash(algo: HashAlgo, value: u64) -> impl Fn(&mut Event) {
    move |event| event.hash = Some(RowHash { algo, value })
}

fn sample(at: u64, value: f64) -> Option<Sample> {
    Some(Sample { values: vec![0.5, value], idx: Some(vec![2, at]) })
}

/// Equal hashes beside another value in a sample at this index, or the same one.
fn beside_a_sample(algo: HashAlgo, at: u64, theirs: f64) -> Comparison {
    let with = |value: f64| {
        move |event: &mut Event| {
            hash(algo, 9)(event);
            event.sample = sample(at, value);
        }
    };
    of(Point::MlpOut, [&with(1.0), &with(theirs)])
}

#[test]
fn equal_hashes_beside_other_values_contradict_each_other_where_the_hash_covers_them() {
    let by_hash = Bits::Equal { by: Means::Hash };
    let whole = beside_a_sample(Xxh3_64, 4000, 1.0);
    assert_eq!((&whole.bits, whole.contradiction), (&by_hash, None));
    assert!(beside_a_sample(Xxh3_64, 4000, 2.0).contradiction.is_some());
    // GRETA's hash is over the first 256 values.
    let sampled = Bits::EqualAsSampled { by: Means::Hash, over: 256, of: Some(4096) };
    for at in [3, 255, 256, 4000] {
        let same = beside_a_sample(GretaFnv1a256, at, 1.0);
        assert_eq!((&same.bits, same.contradiction), (&sampled, None), "{at}");
        let other = beside_a_sample(GretaFnv1a256, at, 2.0);
        assert_eq!(other.contradiction.is_some(), at < 256, "{at}");
        assert_eq!(other.bits == Bits::Differ { by: Means::Sample }, at >= 256, "{at}: {:?}", other.bits);
    }
    // NaN in both is one value.
    let nan = |value: f64| {
        let with = move |event: &mut Event| (event.sample, event.hash) = (sample(300, value), None);
        of(Point::MlpOut, [&with, &with]).bits
    };
    assert_eq!(nan(f64::NAN), Bits::EqualAsSampled { by: Means::Sample, over: 2, of: Some(4096) });
}

#[test]
fn samples_are_compared_at_the_indices_that_both_have() {
    let found = |ours: (&[u64], &[f64]), theirs: (&[u64], &[f64])| {
        let with = |(at, values): (&[u64], &[f64])| {
            let sample = Some(Sample { values: values.to_vec(), idx: Some(at.to_vec()) });
            move |event: &mut Event| event.sample = sample.clone()
        };
        of(Point::MlpOut, [&with(ours), &with(theirs)]).bits
    };
    let equal = |over: u64| Bits::EqualAsSampled { by: Means::Sample, over, of: Some(4096) };
    let differ = Bits::Differ { by: Means::Sample };
    let ours: (&[u64], &[f64]) = (&[0, 2, 5], &[1.0, 2.0, 3.0]);
    assert_eq!(found(ours, ours), equal(3));
    assert_eq!(found(ours, (&[2, 5, 9], &[2.0, 3.0, 4.0])), equal(2));
    assert_eq!(found(ours, (&[2, 5, 9], &[1.0, 2.0, 3.0])), differ);
    assert_eq!(found(ours, (&[5, 0, 2], &[3.0, 1.0, 2.0])), equal(3));
    assert_eq!(found((&[5, 0, 2], &[3.0, 1.0, 2.0]), (&[5, 0, 2], &[3.0, 1.0, 2.0])), equal(3));
    // NaN is no other value.
    for (one, other) in [(f64::NAN, 1.0), (1.0, f64::NAN)] {
        assert_eq!(found((&[0], &[one]), (&[0], &[other])), differ);
    }
}

#[test]
fn statistics_that_hang_on_no_order_show_a_difference_behind_what_is_equal() {
    let with = |algo: Option<HashAlgo>, ours: RowStats, theirs: RowStats| {
        let side = |stats: RowStats| {
            move |event: &mut Event| {
                event.hash = algo.map(|algo| RowHash { algo, value: 9 });
                event.sample = sample(300, 1.0);
                event.stats = stats;
            }
        };
        let found = of(Point::MlpOut, [&side(ours), &side(theirs)]);
        (found.bits, found.contradiction.is_some(), found.statistics.len())
    };
    let base = RowStats { min: Some(-2.0), max: Some(2.0), mean: Some(0.5), ..RowStats::default() };
    let others = [
        (RowStats { max: Some(3.0), ..base }, true),
        (RowStats { min: Some(-3.0), ..base }, true),
        (RowStats { mean: Some(0.5001), ..base }, false),
        (RowStats { max: None, ..base }, false),
        (base, false),
    ];
    for (other, shows) in others {
        let differs = usize::from(other != base && other.max.is_some());
        let (bits, contradicts, listed) = with(Some(Xxh3_64), base, other);
        assert_eq!((bits, contradicts, listed), (Bits::Equal { by: Means::Hash }, shows, differs), "{other:?}");
        for algo in [Some(GretaFnv1a256), None] {
            let (bits, contradicts, _) = with(algo, base, other);
            assert_eq!((bits == Bits::Differ { by: Means::Statistics }, contradicts), (shows, false), "{other:?}");
        }
    }
}

#[test]
fn an_infinity_in_one_sample_alone_is_told_but_for_scores_that_a_mask_hides() {
    let inf = f64::INFINITY;
    let found = |point: Point, ours: f64, theirs: f64| {
        let with = |value: f64| move |event: &mut Event| event.sample = sample(3, value);
        of(point, [&with(ours), &with(theirs)]).infinite_one_side
    };
    for (ours, theirs, expected) in
        [(inf, 1.0, true), (1.0, inf, true), (inf, -inf, true), (inf, inf, false), (1.0, 2.0, false), (1.0, 1.0, false)]
    {
        assert_eq!(found(Point::MlpOut, ours, theirs), expected, "{ours} {theirs}");
    }
    assert!(!found(Point::AttnScores, -inf, -inf));
    let counted = |ours: Option<u64>, theirs: Option<u64>| {
        let with = |inf: Option<u64>| move |event: &mut Event| event.stats.inf = inf;
        of(Point::MlpOut, [&with(ours), &with(theirs)]).infinite_one_side
    };
    assert!(counted(Some(1), Some(0)) && counted(Some(0), Some(2)));
    assert!(!counted(Some(1), Some(1)) && !counted(Some(1), None) && !counted(None, Some(1)) && !counted(None, None));
}

#[test]
fn hashes_of_other_algorithms_lengths_and_types_are_not_compared() {
    let same = hash(Xxh3_64, 9);
    let shaped = |shape: Option<Vec<u64>>, dtype: Option<Dtype>, value: u64| {
        move |event: &mut Event| {
            hash(Xxh3_64, value)(event);
            (event.shape, event.dtype) = (shape.clone(), dtype);
        }
    };
    let plain = Some(Dtype::F32);
    for (theirs, bits, relation) in [
        (shaped(Some(vec![4096]), plain, 9), Some(true), HashRelation::Match),
        (shaped(Some(vec![4096]), plain, 8), Some(false), HashRelation::Differ),
        (shaped(None, None, 9), Some(true), HashRelation::Match),
        (shaped(Some(vec![4095]), plain, 9), None, HashRelation::NotComparable),
        (shaped(Some(vec![0]), plain, 9), None, HashRelation::NotComparable),
        (shaped(Some(vec![4096]), Some(Dtype::F16), 9), None, HashRelation::NotComparable),
    ] {
        for found in [of(Point::MlpOut, [&same, &theirs]), of(Point::MlpOut, [&theirs, &same])] {
            let expected = match bits {
                Some(true) => matches!(found.bits, Bits::Equal { by: Means::Hash }),
                Some(false) => matches!(found.bits, Bits::Differ { by: Means::Hash }),
                None => matches!(found.bits, Bits::Incomparable { .. }),
            };
            assert!(expected && found.hash == relation, "{:?} {:?}", found.bits, found.hash);
        }
    }
    let none: Change<'_> = &|_| {};
    let why = |ours: Change<'_>, theirs: Change<'_>| {
        let found = of(Point::MlpOut, [ours, theirs]);
        let Bits::Incomparable { why } = found.bits else { panic!("{:?}", found.bits) };
        assert_eq!(found.hash, HashRelation::NotComparable);
        why
    };
    assert_eq!(why(none, none), "neither side recorded a hash");
    assert_eq!([why(&same, none), why(none, &same)], ["one side recorded no hash"; 2]);
    assert_eq!(why(&same, &hash(GretaFnv1a256, 9)), "hashes are by different algorithms");
}

#[test]
fn a_hash_of_the_first_values_proves_rows_that_are_known_to_be_no_longer() {
    let found = |lengths: [Option<u64>; 2]| {
        let with = |length: Option<u64>| {
            move |event: &mut Event| {
                hash(GretaFnv1a256, 9)(event);
                event.shape = length.map(|length| vec![length]);
            }
        };
        of(Point::MlpOut, [&with(lengths[0]), &with(lengths[1])]).bits
    };
    let sampled = |over: u64, of: Option<u64>| Bits::EqualAsSampled { by: Means::Hash, over, of };
    assert_eq!(found([Some(256); 2]), Bits::Equal { by: Means::Hash });
    assert_eq!(found([Some(257); 2]), sampled(256, Some(257)));
    assert_eq!(found([Some(8), None]), sampled(8, Some(8)));
    assert_eq!(found([None, Some(8)]), sampled(8, Some(8)));
    assert_eq!(found([None, None]), sampled(256, None));
}

#[test]
fn next_tokens_are_those_of_logits_alone_and_their_lead_is_what_is_recorded_or_follows() {
    let top = |gap: Option<f64>| {
        let logits =
            LogitsTop { top1_id: Some(5), top1_logit: Some(3.0), top2_logit: Some(1.0), gap, ..LogitsTop::default() };
        move |event: &mut Event| event.logits = Some(logits)
    };
    let found = of(Point::Logits, [&top(None), &top(Some(0.25))]).logits.unwrap();
    assert_eq!((found.top1, found.gap, found.kl), ([Some(5); 2], [Some(2.0), Some(0.25)], None));
    assert!(of(Point::MlpOut, [&top(None), &top(None)]).logits.is_none());
    // Of rows by the rows, where the events say nothing; of another length without a divergence.
    let rows = |lengths: [usize; 2], told: Option<LogitsTop>| {
        let mut memory = Memory::default();
        for (phase, length) in Phase::ALL.into_iter().zip(lengths) {
            let values: Vec<f32> = (0..length).map(|at| at as f32).collect();
            memory.record(event("p", phase, Point::Logits, -1, 3, 7), Row::from_f32(&values));
        }
        memory.run.events.iter_mut().for_each(|event| event.logits = told);
        let [ours, theirs] = [0, 1].map(|at| Side::load(&memory.run.events[at], &memory));
        compare(&ours, &theirs).logits.unwrap()
    };
    let same = rows([4, 4], None);
    assert_eq!((same.top1, same.gap, same.kl), ([Some(3); 2], [Some(1.0); 2], Some(0.0)));
    let other = rows([4, 5], None);
    assert_eq!((other.top1, other.kl), ([Some(3), Some(4)], None));
    // What an event says of its largest logits goes before its row, and what it does not say is the row's.
    let told = |top1_id: Option<u32>| rows([4, 4], Some(LogitsTop { top1_id, ..LogitsTop::default() })).top1;
    assert_eq!([told(Some(1)), told(None)], [[Some(1); 2], [Some(3); 2]]);
}

#[test]
fn rows_without_a_value_have_no_bits_that_could_be_equal() {
    let empty = |event: &mut Event| {
        event.shape = Some(vec![0]);
        hash(Xxh3_64, 9)(event);
    };
    let full = hash(Xxh3_64, 9);
    let pairs: [[Change<'_>; 2]; 3] = [[&empty, &empty], [&empty, &full], [&full, &empty]];
    for changes in pairs {
        let found = of(Point::MlpOut, changes);
        assert!(matches!(found.bits, Bits::Incomparable { .. }), "{:?}", found.bits);
        assert_eq!(found.hash, HashRelation::NotComparable);
    }
}
