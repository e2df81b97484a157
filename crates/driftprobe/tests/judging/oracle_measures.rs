//! The statistics of a few values, against numbers that were computed by hand.

use driftprobe::oracle::Float;
use driftprobe::oracle::stats::{
    Derivatives, Direction, Element, Expected, Flag, Limits, RowStatistics, ScoreTest, add_row, exceeds, is_masked,
    measure,
};

/// A half-precision ulp of values from 1 to 2.
const ULP: f64 = 1.0 / 1024.0;

fn expected(y: &[f64], variance: &[f64], output: Float) -> Expected {
    let limits = Limits { rms: 1e9, max: 1e9, unrounded: 1e9 };
    let derivatives = Derivatives::default();
    Expected { y: y.to_vec(), variance: variance.to_vec(), hidden: vec![], cell: 2, output, limits, derivatives }
}

fn is_near(value: f64, expected: f64) -> bool {
    (value - expected).abs() <= 1e-9 * expected.abs().max(1.0)
}

#[test]
fn residuals_are_in_units_of_noise_by_element_cell_and_row() {
    // z is 1, -1, 0, 2.
    let (found, flags) =
        measure(&[2.0, 0.0, 3.0, 6.0], &expected(&[1.0, 2.0, 3.0, 4.0], &[1.0, 4.0, 1.0, 1.0], Float::F64));
    assert_eq!((flags, found.compared), (vec![], 4));
    assert!(is_near(found.rms, 1.5f64.sqrt()) && is_near(found.noise, (7.0f64 / 30.0).sqrt()), "{found:?}");
    assert!(found.cell.0 == 1 && is_near(found.cell.1, 2f64.sqrt()), "{found:?}");
    assert!(found.element.0 == 3 && is_near(found.element.1, 2.0), "{found:?}");
    assert!(found.unrounded.0 == 3 && is_near(found.unrounded.1, 2.0), "{found:?}");
    // The last cell may have fewer elements, and the first may be the largest.
    let (found, _) = measure(&[5.0, 1.0, 1.0, 1.0, 4.0], &expected(&[1.0; 5], &[1.0; 5], Float::F64));
    assert!(found.cell.0 == 2 && is_near(found.cell.1, 3.0), "{found:?}");
    assert!((found.compared, found.element.0) == (5, 0) && is_near(found.element.1, 4.0), "{found:?}");
    // What is exact is not off, whatever little it may vary; of nothing nothing is said.
    let (found, flags) = measure(&[1.0, 0.0], &expected(&[1.0, 0.0], &[0.0; 2], Float::F16));
    assert_eq!((flags, found.rms, found.element.1, found.unrounded.1), (vec![], 0.0, 0.0, 0.0));
    assert_eq!(measure(&[], &expected(&[], &[], Float::F16)), (RowStatistics::default(), vec![]));
    assert_eq!(measure(&[0.0], &expected(&[0.0], &[1.0], Float::F16)).0.noise, 0.0);
}

#[test]
fn what_storage_cannot_explain_is_what_lies_beyond_half_an_ulp() {
    let of = |steps: f64, variance: f64| measure(&[1.0 + steps * ULP], &expected(&[1.0], &[variance], Float::F16)).0;
    for steps in [0.5, -0.5, 0.25] {
        assert_eq!(of(steps, 0.0).unrounded.1, 0.0);
    }
    // Half an ulp of a rounding whose weight is 1e-8, beside its own size of an ulp.
    for steps in [1.0, -1.0] {
        let found = of(steps, 0.0);
        assert!(is_near(found.unrounded.1, 0.5 * 12f64.sqrt() * 1e4), "{found:?}");
        assert!(is_near(found.element.1, 12f64.sqrt()) && is_near(found.noise, ULP / 12f64.sqrt()), "{found:?}");
    }
    // With a variance of (ulp/2)² of the arithmetic itself: 1/4 + 1/12 = 1/3.
    let found = of(2.0, ULP * ULP / 4.0);
    assert!(is_near(found.element.1, 2.0 * 3f64.sqrt()), "{found:?}");
    assert!((found.unrounded.1 - 3.0).abs() < 1e-6 && found.unrounded.1 < 3.0, "{found:?}");
}

#[test]
fn each_limit_flags_above_itself_and_not_at_it() {
    let of = |limits: Limits| {
        let expected = Expected { limits, ..expected(&[1.0, 1.0], &[1.0, 1.0], Float::F64) };
        measure(&[3.0, 3.0], &expected).1
    };
    let none = Limits { rms: 1e9, max: 1e9, unrounded: 1e9 };
    assert_eq!(of(Limits { rms: 2.0, max: 2.0, unrounded: 2.0 }), []);
    assert!(matches!(of(Limits { rms: 1.9, ..none })[..], [Flag::CellRms { cell: 0, .. }]));
    assert!(matches!(of(Limits { max: 1.9, ..none })[..], [Flag::Element { at: 0, .. }]));
    assert!(matches!(of(Limits { unrounded: 1.9, ..none })[..], [Flag::Unrounded { at: 0, .. }]));
    assert!(exceeds(2.0, 1.0) && exceeds(f64::NAN, 1.0) && !exceeds(1.0, 1.0) && !exceeds(0.0, 1.0));
}

#[test]
fn nan_is_larger_than_all_that_comes_before_and_behind_it() {
    for at in 0..3 {
        let mut y = [1.0, 1.0, 1.0];
        y[at] = f64::NAN;
        let limits = Limits { rms: 100.0, max: 100.0, unrounded: 100.0 };
        let (found, flags) = measure(&[9.0, 3.0, 9.0], &Expected { limits, ..expected(&y, &[1.0; 3], Float::F64) });
        assert!(found.element.0 == at && found.element.1.is_nan() && found.rms.is_nan(), "{found:?}");
        assert!(found.cell.0 == at / 2 && found.cell.1.is_nan(), "{found:?}");
        assert_eq!(flags.len(), 3, "{flags:?}");
    }
}

#[test]
fn what_the_mask_hides_is_compared_as_hidden_and_counts_for_nothing() {
    let hidden = |y: f64, recorded: f64, output: Float| {
        let expected = Expected { hidden: vec![false, true], ..expected(&[1.0, y], &[1.0; 2], output) };
        let (found, flags) = measure(&[2.0, recorded], &expected);
        assert!(found.compared == 1 && is_near(found.rms, 1.0) && is_near(found.cell.1, 1.0), "{found:?}");
        assert!(found.element.0 == 0 && is_near(found.noise, 1.0), "{found:?}");
        assert!(flags.is_empty() || flags == [Flag::Mask { at: 1 }], "{flags:?}");
        flags.is_empty()
    };
    let masked = f64::NEG_INFINITY;
    // A probability is 0, a score −∞ or almost the least number of its type, or what engines write.
    assert!(hidden(0.0, 0.0, Float::F64) && !hidden(0.0, 1e-30, Float::F64) && !hidden(0.0, masked, Float::F64));
    for score in [masked, f64::MIN, -1e9, -3e38] {
        assert!(hidden(masked, score, Float::F64) && is_masked(score), "{score}");
    }
    for score in [-1e9 + 1.0, 0.0, 1e9, f64::INFINITY, f64::NAN] {
        assert!(!hidden(masked, score, Float::F64) && !is_masked(score), "{score}");
    }
    // Of a row of 8-bit numbers, whose least is −448.
    let in_8_bits = |score: f64| {
        let y = [64.0, masked];
        let expected = Expected { hidden: vec![false, true], ..expected(&y, &[1.0; 2], Float::E4M3) };
        measure(&[64.0, score], &expected).1.is_empty()
    };
    assert!(in_8_bits(-448.0) && in_8_bits(-444.0) && !in_8_bits(-440.0) && !in_8_bits(448.0));
    // Only the first of such faults is told, and each by what it is.
    let row = |recorded: [f64; 3]| measure(&recorded, &expected(&[1.0; 3], &[1.0; 3], Float::F64)).1;
    assert_eq!(row([1.0, f64::NAN, masked]), [Flag::NonFinite { at: 1 }]);
    assert_eq!(row([1.0, masked, f64::INFINITY]), [Flag::Mask { at: 1 }]);
}

fn element(residual: f64, derivative: f64, (variance, total): (f64, f64), shared: f64) -> Element {
    Element { residual, derivative, variance, total, shared }
}

#[test]
fn a_cell_is_one_vote_and_what_could_be_common_to_it_counts_against_it() {
    // p = 2·3/5 − 1·1/2 = 0.7; common: 3·2/5 + 1·1/2 = 1.7; the same in every row: 3·0.5/5 + 1·1/2 = 0.8.
    let first = [element(2.0, 3.0, (4.0, 5.0), 0.5), element(1.0, -1.0, (1.0, 2.0), 1.0)];
    // p = −4·2/8 = −1; common: 2·1/8 = 0.25; 2·0.4/8 = 0.1.
    let second = [element(-4.0, 2.0, (1.0, 8.0), 0.4)];
    let mut one = ScoreTest::default();
    one.add(first.into_iter());
    assert!(is_near(one.score(), 0.7 / (0.49f64 + 2.89 + 0.64).sqrt()) && one.cells() == 1, "{}", one.score());
    let mut other = ScoreTest::default();
    other.add(second.into_iter());
    assert!(is_near(other.score(), 1.0 / (1.0f64 + 0.0625 + 0.01).sqrt()), "{}", other.score());
    let both = 0.3 / (0.49f64 + 2.89 + 1.0 + 0.0625 + 0.81).sqrt();
    let mut merged = one;
    merged.merge(&other);
    one.add(second.into_iter());
    for test in [one, merged] {
        assert!(is_near(test.score(), both) && test.cells() == 2 && !test.is_flagged(), "{}", test.score());
    }
    // What must be exact and is says nothing; what must be and is not is no rounding.
    let exact = |residual: f64| {
        let mut test = ScoreTest::default();
        test.add([element(residual, 1.0, (0.0, 0.0), 1.0)].into_iter());
        test
    };
    assert!(exact(0.0).score() == 0.0 && !exact(0.0).is_flagged());
    assert!(exact(1e-300).score().is_nan() && exact(1e-300).is_flagged());
}

/// The score of a row of four elements, each of residual 1 and variance 1, by what is said of its derivatives.
fn row_score(derivatives: Derivatives, cell: usize, hidden: &[bool], recorded: &[f64; 4]) -> (f64, usize) {
    let y = [2.0, -2.0, 2.0, -2.0];
    let recorded: Vec<f64> = y.iter().zip(recorded).map(|(y, off)| y + off).collect();
    let expected = Expected { hidden: hidden.to_vec(), cell, derivatives, ..expected(&y, &[1.0; 4], Float::F64) };
    let mut test = ScoreTest::default();
    add_row(&mut test, &recorded, &expected, &[1.0, 1.0, 1.0, 2.0]);
    (test.score(), test.cells())
}

#[test]
fn a_row_votes_by_the_cells_of_its_derivative_and_hidden_elements_not_at_all() {
    let plain = |cell| Derivatives { directions: vec![(Direction::Gain, vec![])], cell, ..Derivatives::default() };
    let ones = [1.0; 4];
    let near = |(score, cells): (f64, usize), (sum, squares, all): (f64, f64, usize)| {
        assert!(is_near(score, sum / f64::sqrt(squares)) && cells == all, "{score} {cells}");
    };
    // Cells of one: p and common are 1, 1, 1, 2. Of two: 2 and 3. Of all: 5.
    near(row_score(plain(1), 4, &[], &ones), (5.0, 14.0, 4));
    near(row_score(plain(0), 2, &[], &ones), (5.0, 26.0, 2));
    near(row_score(plain(2), 4, &[], &ones), (5.0, 26.0, 2));
    near(row_score(plain(0), 0, &[], &ones), (5.0, 50.0, 1));
    // Residuals that cancel, and those that the mask hides.
    near(row_score(plain(2), 4, &[], &[1.0, -1.0, 1.0, 1.0]), (3.0, 22.0, 2));
    near(row_score(plain(2), 4, &[false, false, false, true], &ones), (3.0, 10.0, 2));
    let not_finite = [1.0, 1.0, 1.0, f64::NAN];
    near(row_score(plain(2), 4, &[false, false, false, true], &not_finite), (3.0, 10.0, 2));
    for off in [f64::NAN, f64::INFINITY] {
        assert_eq!(row_score(plain(2), 4, &[], &[1.0, off, 1.0, 1.0]), (0.0, 0), "a fault by itself");
    }
    // What is the same in every row adds up over all of them: σ, or a part of y; |d| is 5 in all.
    near(row_score(Derivatives { shared_by_all: true, ..plain(1) }, 4, &[], &ones), (5.0, 14.0 + 25.0, 4));
    near(row_score(Derivatives { relative: 0.25, ..plain(1) }, 4, &[], &ones), (5.0, 14.0 + 6.25, 4));
    near(
        row_score(Derivatives { relative: 0.25, shared_by_all: true, ..plain(1) }, 4, &[], &ones),
        (5.0, 14.0 + 56.25, 4),
    );
}
