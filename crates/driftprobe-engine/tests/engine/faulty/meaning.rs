//! What each fault does is what its name says: the value at the point where it acts, by a float64 formula from the values
//! shown before it.

mod attention;
mod cache;
mod matrices;

use super::{TOKENS, faulty, open, sequence, subject};
use crate::support::{everything, plain, tapped, values};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings};
use driftprobe_model::{Config, Model};
use driftprobe_trace::{Phase, Point};
use std::collections::BTreeMap;

/// The row that is looked at.
const POS: usize = TOKENS - 1;
/// The layer that is hit.
const LAYER: i32 = 0;

/// Everything that a prefill shows.
struct Shown {
    rows: BTreeMap<(Point, i32, usize), Vec<f64>>,
    model: Model,
}

impl Shown {
    fn of(engine: &dyn Engine, model: Model) -> Shown {
        let tokens = sequence(engine.vocab());
        let (_, rows) = tapped(engine, Phase::Prefill, &tokens, (&everything(engine), 0..TOKENS));
        Shown { rows: rows.iter().map(|r| ((r.point, r.layer, r.pos), values(r))).collect(), model }
    }

    /// The clean engine's.
    fn clean(path: &str, settings: &Settings) -> Shown {
        let model = open(path);
        let engine = EmbeddedEngine::new(&model, settings.clone()).unwrap();
        Shown::of(&engine, model)
    }

    /// An engine's with this fault in the prefill of the layer.
    fn faulty(path: &str, settings: &Settings, fault: &str) -> Shown {
        let model = open(path);
        let subject = subject(&model, settings);
        let fault = format!("{fault}@prefill:layer{LAYER}").parse().unwrap();
        Shown::of(&faulty(&subject, &fault), open(path))
    }

    /// As [`Shown::faulty`], with a fault that is not in a layer.
    fn faulty_end(path: &str, fault: &str) -> Shown {
        let (model, settings) = (open(path), plain());
        let fault = format!("{fault}@prefill").parse().unwrap();
        Shown::of(&faulty(&subject(&model, &settings), &fault), open(path))
    }

    fn at(&self, point: Point, pos: usize) -> &[f64] {
        let layer = if point.layered() { LAYER } else { -1 };
        &self.rows[&(point, layer, pos)]
    }

    fn get(&self, point: Point) -> &[f64] {
        self.at(point, POS)
    }

    fn config(&self) -> &Config {
        &self.model.config
    }

    fn weight(&self, name: &str) -> Vec<f64> {
        let weight = self.model.weights.get(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        weight.to_f32().into_iter().map(f64::from).collect()
    }

    /// A tensor of the layer.
    fn own(&self, name: &str) -> Vec<f64> {
        self.weight(&format!("model.layers.{LAYER}.{name}"))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// W·x, W being `[outputs, inputs]`.
fn times(weight: &[f64], x: &[f64]) -> Vec<f64> {
    weight.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
}

/// Equal but for what f32 rounds: 2⁻¹⁷ of the largest value.
fn assert_close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().filter(|e| e.is_finite()).fold(0.0f64, |m, e| m.max(e.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f == e || (f - e).abs() <= scale / 131_072.0, "{what}: {f} at {i}, expected {e}");
    }
}

/// Not equal by far more than that.
fn assert_far(found: &[f64], clean: &[f64], what: &str) {
    let scale = clean.iter().filter(|e| e.is_finite()).fold(0.0f64, |m, e| m.max(e.abs()));
    assert!(found.iter().zip(clean).any(|(f, c)| f != c && (f - c).abs() > scale / 10_000.0), "{what}: not seen");
}
