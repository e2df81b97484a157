//! Quantised weights multiplied as integers, against a plain emulation: activations quantised to Q8_0 by hand, times the
//! dequantised weights, in float64.

use crate::support::blocks::Format;
use crate::support::{bits, engine, everything, logits, plain, tapped, tokens, values, worst_row};
use driftprobe_engine::{EmbeddedEngine, Engine, QuantisedMatmul, Settings, TappedRow};
use driftprobe_model::{Model, WeightId};
use driftprobe_trace::{Phase, Point};
use half::f16;

const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 39];

/// What a matrix is multiplied with, and where the product is shown.
const PRODUCTS: [(Point, WeightId, Point); 7] = [
    (Point::AttnNormOut, WeightId::QProj(0), Point::QPreRope),
    (Point::AttnNormOut, WeightId::KProj(0), Point::KPreRope),
    (Point::AttnNormOut, WeightId::VProj(0), Point::VProj),
    (Point::AttnOut, WeightId::OProj(0), Point::AttnProjOut),
    (Point::FfnNormOut, WeightId::Gate(0), Point::MlpGate),
    (Point::MlpAct, WeightId::Down(0), Point::MlpOut),
    (Point::FinalNormOut, WeightId::LmHead, Point::Logits),
];

fn with(format: Format, quantised_matmul: QuantisedMatmul) -> (Model, EmbeddedEngine) {
    let model = format.model();
    let engine = EmbeddedEngine::new(&model, Settings { quantised_matmul, ..plain() }).unwrap();
    (model, engine)
}

/// Activations as Q8_0 holds them: in each block of 32 a step d = max/127, kept as f16, and x/d rounded.
fn quantised(x: &[f64]) -> Vec<f64> {
    let block = |x: &[f64]| {
        let step = x.iter().fold(0f32, |max, v| max.max(v.abs() as f32)) / 127.0;
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        let held = f16::from_f32(step).to_f64();
        x.iter().map(|v| f64::from((*v as f32 * inverse).round()) * held).collect::<Vec<f64>>()
    };
    x.chunks(32).flat_map(block).collect()
}

/// The largest error of any product, in units of 64·2⁻²⁴ of the sum of its terms' magnitudes.
fn worst(model: &Model, rows: &[TappedRow], activations: impl Fn(&[f64]) -> Vec<f64>) -> f64 {
    let mut worst: f64 = 0.0;
    for (from, id, to) in PRODUCTS {
        let weight = model.weights.get(&id.name()).unwrap();
        assert!(weight.cols() >= 64, "{} has one block a row", weight.name());
        let (cols, weight) = (weight.cols(), weight.to_f32());
        for pos in 0..TOKENS.len() {
            let at = |point| values(rows.iter().find(|r| r.point == point && r.pos == pos).unwrap());
            let x = activations(&at(from));
            for (found, row) in at(to).into_iter().zip(weight.chunks(cols)) {
                let terms = || row.iter().zip(&x).map(|(w, x)| f64::from(*w) * x);
                let bound = 64.0 / f64::from(1 << 24) * terms().map(f64::abs).sum::<f64>();
                let error = (found - terms().sum::<f64>()).abs() / bound;
                worst = if error.is_nan() { error } else { worst.max(error) };
            }
        }
    }
    worst
}

#[test]
fn integer_products_are_those_of_quantised_activations() {
    for format in [Format::Q8_0, Format::Q4_0, Format::Q5_0] {
        let (model, engine) = with(format, QuantisedMatmul::Integer);
        for phase in Phase::ALL {
            let (_, rows) = tapped(&engine, phase, &TOKENS, (&everything(&engine), 0..TOKENS.len()));
            let (emulated, unquantised) = (worst(&model, &rows, quantised), worst(&model, &rows, <[f64]>::to_vec));
            assert!(emulated <= 1.0, "{format:?}, {phase}: {emulated}");
            assert!(unquantised > 100.0, "{format:?}, {phase}: not quantised at all: {unquantised}");
        }
    }
}

#[test]
fn dequantised_products_are_those_of_the_activations_themselves() {
    for format in Format::ALL {
        let (model, engine) = with(format, QuantisedMatmul::Dequantise);
        for phase in Phase::ALL {
            let (_, rows) = tapped(&engine, phase, &TOKENS, (&everything(&engine), 0..TOKENS.len()));
            let unquantised = worst(&model, &rows, <[f64]>::to_vec);
            assert!(unquantised <= 1.0, "{format:?}, {phase}: {unquantised}");
        }
    }
}

/// The rows of these points, as bytes, in order of position.
fn shown(engine: &EmbeddedEngine, phase: Phase, tokens: &[u32], points: &[Point]) -> Vec<(Point, usize, Vec<u8>)> {
    let (_, rows) = tapped(engine, phase, tokens, (&everything(engine), 0..tokens.len()));
    let rows = rows.into_iter().filter(|r| points.contains(&r.point) && r.layer <= 0);
    let mut rows: Vec<_> = rows.map(|r| (r.point, r.pos, r.bytes)).collect();
    rows.sort();
    rows
}

#[test]
fn integer_products_of_equal_rows_are_bit_equal_in_both_phases() {
    // Before the first attention both phases have the same inputs.
    let first = [Point::EmbedOut, Point::AttnNormOut, Point::QPreRope, Point::KPreRope, Point::VProj];
    let both = |engine: &EmbeddedEngine, tokens: &[u32], points: &[Point]| {
        let (p, d) = (shown(engine, Phase::Prefill, tokens, points), shown(engine, Phase::Decode, tokens, points));
        assert_eq!((p.len(), d.len()), (tokens.len() * points.len(), tokens.len() * points.len()));
        p == d
    };
    for format in Format::ALL {
        let (_, integer) = with(format, QuantisedMatmul::Integer);
        let (_, floats) = with(format, QuantisedMatmul::Dequantise);
        assert!(both(&integer, &TOKENS, &first), "{format:?}");
        assert!(!both(&floats, &TOKENS, &first), "{format:?}: GEMM and dot products sum in another order");
        // Scores are products of floats in any case, but with one token, attention weighs a single row by one: everything
        // else is equal to the end.
        let whole: Vec<Point> =
            integer.points(Phase::Prefill).into_iter().filter(|p| *p != Point::AttnScores).collect();
        assert!(both(&integer, &TOKENS[..1], &whole), "{format:?}");
        assert!(!both(&floats, &TOKENS[..1], &whole), "{format:?}");
    }
}

/// How far the integer path is from the dequantised one; asserts that they are two.
fn distance(name: &str, integer: &EmbeddedEngine, floats: &EmbeddedEngine, tokens: &[u32]) {
    for phase in Phase::ALL {
        let (found, exact) = (logits(integer, phase, tokens), logits(floats, phase, tokens));
        let error = worst_row(&found, &exact, tokens.len());
        // Eight bits of activation leave about a part in a hundred; a wrong block layout leaves nothing.
        assert!(error < 0.1, "{name}, {phase}: {error}");
        assert!(bits(&found) != bits(&exact), "{name}, {phase}: the same bits");
    }
}

#[test]
fn integer_products_of_every_format_stay_near_the_dequantised_ones() {
    for format in Format::ALL {
        let with = |matmul| with(format, matmul).1;
        distance(&format!("{format:?}"), &with(QuantisedMatmul::Integer), &with(QuantisedMatmul::Dequantise), &TOKENS);
    }
    for format in ["q4_0", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"] {
        let path = format!("gguf/llama-{format}.gguf");
        let with = |quantised_matmul| engine(&path, &Settings { quantised_matmul, ..plain() });
        distance(&path, &with(QuantisedMatmul::Integer), &with(QuantisedMatmul::Dequantise), &tokens(&path));
    }
}

#[test]
fn an_odd_number_of_blocks_that_the_integer_kernels_cannot_take_is_dequantised() {
    for format in ["q4_1", "q5_0", "q5_1"] {
        let path = format!("gguf/llama-{format}.gguf");
        for phase in Phase::ALL {
            let of = |quantised_matmul| {
                let engine = engine(&path, &Settings { quantised_matmul, ..plain() });
                bits(&logits(&engine, phase, &tokens(&path)))
            };
            assert!(of(QuantisedMatmul::Integer) == of(QuantisedMatmul::Dequantise), "{format}, {phase}");
        }
    }
}
