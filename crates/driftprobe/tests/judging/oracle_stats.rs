//! The statistics at the sizes that they must find, and on clean rows, with the noise of a linear layer of 896 inputs.

use crate::oracle_support::Dice;
use driftprobe::oracle::Float;
use driftprobe::oracle::noise::{relative_rms, sum_variance};
use driftprobe::oracle::stats::{
    CELL_CHANNELS, Derivatives, Direction, Expected, Flag, Limits, ScoreTest, add_row, measure,
};

const WIDTH: usize = 896;
const FORMATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];

fn gauss(dice: &mut Dice) -> f64 {
    let mut uniform = || (dice.next() >> 11) as f64 / (1u64 << 53) as f64;
    let (a, b) = (uniform(), uniform());
    (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// A row of a linear layer, accumulated in f32 and stored in `output`; and what was recorded of it, `wrong` being done to
/// each value before it is stored.
fn row(dice: &mut Dice, output: Float, wrong: impl Fn(usize, f64) -> f64) -> (Expected, Vec<f64>) {
    let y: Vec<f64> = (0..WIDTH).map(|_| gauss(dice)).collect();
    let cu = relative_rms(Float::F32);
    let variance: Vec<f64> = y.iter().map(|y| sum_variance(WIDTH as f64, 1.0, *y, cu)).collect();
    let recorded = y.iter().zip(&variance).enumerate();
    let recorded = recorded.map(|(i, (y, a))| output.round(wrong(i, *y) + a.sqrt() * gauss(dice))).collect();
    let derivatives = Derivatives {
        directions: vec![(Direction::Gain, y.clone())],
        cell: 1,
        relative: Float::F32.unit_roundoff(),
        ..Default::default()
    };
    let limits = Limits::PLAIN;
    (Expected { y, variance, hidden: vec![], cell: CELL_CHANNELS, output, limits, derivatives }, recorded)
}

fn is_flagged(expected: &Expected, recorded: &[f64]) -> bool {
    let mut test = ScoreTest::default();
    add_row(&mut test, recorded, expected, &expected.y);
    !measure(recorded, expected).1.is_empty() || test.is_flagged()
}

/// How many of 100 rows are flagged.
fn found(output: Float, wrong: impl Fn(usize, f64) -> f64) -> usize {
    let mut dice = Dice(9);
    (0..100)
        .filter(|_| {
            let (expected, recorded) = row(&mut dice, output, &wrong);
            is_flagged(&expected, &recorded)
        })
        .count()
}

#[test]
fn forty_thousand_clean_cells_raise_no_alarm() {
    for output in FORMATS {
        let mut dice = Dice(1);
        let (mut cells, mut squares, mut all) = (0, 0.0, ScoreTest::default());
        while cells < 14_000 {
            let (expected, recorded) = row(&mut dice, output, |_, y| y);
            let (statistics, flags) = measure(&recorded, &expected);
            assert_eq!(flags, [], "{output}");
            assert!(!is_flagged(&expected, &recorded), "{output}: score");
            add_row(&mut all, &recorded, &expected, &expected.y);
            squares += statistics.rms * statistics.rms;
            cells += WIDTH / CELL_CHANNELS;
        }
        let rms = (squares / (cells * CELL_CHANNELS / WIDTH) as f64).sqrt();
        println!("{output}: {cells} cells, RMS z {rms:.3}, score over all rows {:.2}", all.score());
        assert!((0.9..1.1).contains(&rms) && !all.is_flagged());
    }
}

#[test]
fn a_gain_of_one_row_is_found_at_the_smallest_size_seen_in_the_prototype() {
    for (output, size) in [(Float::F32, 1e-6), (Float::F16, 2e-5), (Float::Bf16, 6e-5)] {
        let found = found(output, |_, y| y * (1.0 + size));
        println!("gain {size:e} of a row in {output}: {found} of 100");
        assert!(found >= 90, "{output}: {found}");
        // A thirtieth of it is within the noise.
        assert_eq!(found_at(output, size / 30.0), 0, "{output}");
    }
}

fn found_at(output: Float, size: f64) -> usize {
    found(output, |_, y| y * (1.0 + size))
}

#[test]
fn one_element_is_found_at_the_smallest_size_seen_in_the_prototype() {
    // Relative to an element of about 1; an ulp there is 1e-7, 1e-3, 8e-3, and rounding may take it back.
    for (output, size, least) in [(Float::F32, 6e-6, 60), (Float::F16, 6e-4, 50), (Float::Bf16, 3e-3, 25)] {
        let found = found(output, |i, y| if i == 500 { y + size * y.abs().max(1.0) } else { y });
        println!("one element off by {size:e} in {output}: {found} of 100");
        assert!(found >= least, "{output}: {found}");
    }
}

#[test]
fn a_cell_is_found_by_its_rms_where_no_element_stands_out() {
    let (expected, recorded) = row(&mut Dice(2), Float::Bf16, |_, y| y);
    let sigma = |i: usize| (expected.variance[i] + Float::Bf16.rounding_variance(expected.y[i])).sqrt();
    let mut moved = recorded.clone();
    for (i, value) in moved.iter_mut().enumerate().skip(64).take(32) {
        *value = expected.y[i] + 4.0 * sigma(i) * if i % 2 == 0 { 1.0 } else { -1.0 };
    }
    let flags = measure(&moved, &expected).1;
    assert!(matches!(flags[0], Flag::CellRms { cell: 2, z } if (z - 4.0).abs() < 1e-9), "{flags:?}");
}

#[test]
fn nan_infinity_and_wrong_masks_always_flag() {
    let (mut expected, recorded) = row(&mut Dice(3), Float::F32, |_, y| y);
    let with = |at: usize, value: f64| {
        let mut row = recorded.clone();
        row[at] = value;
        row
    };
    for value in [f64::NAN, f64::INFINITY] {
        assert_eq!(measure(&with(5, value), &expected).1[0], Flag::NonFinite { at: 5 });
    }
    // A visible element that the record masks, and a masked one that it shows.
    assert_eq!(measure(&with(5, f64::NEG_INFINITY), &expected).1[0], Flag::Mask { at: 5 });
    expected.hidden = (0..WIDTH).map(|i| i == 5).collect();
    expected.y[5] = f64::NEG_INFINITY;
    assert_eq!(measure(&with(5, 1.0), &expected).1[0], Flag::Mask { at: 5 });
    assert_eq!(measure(&with(5, f64::NAN), &expected).1[0], Flag::Mask { at: 5 });
    for masked in [f64::NEG_INFINITY, f64::from(f32::MIN)] {
        assert_eq!(measure(&with(5, masked), &expected).1, []);
    }
    // A reference that is itself NaN cannot pass anything.
    expected.y[9] = f64::NAN;
    assert!(!measure(&with(5, f64::NEG_INFINITY), &expected).1.is_empty());
}
