//! Scores and probabilities whose statistics are known by other means.

use super::*;
use crate::testing::{Memory, event, shaped};
use driftprobe_model::Model;
use std::path::Path;

fn statistics(memory: &Memory, config: Option<&Config>) -> AttentionStatistics {
    let events: Vec<&Event> = memory.run.events.iter().collect();
    let all = of(&events, memory, config);
    assert_eq!(all.len(), 1);
    all[0].clone()
}

fn record(memory: &mut Memory, point: Point, (shape, values): (&[u64], &[f32])) {
    let last = 3;
    memory.record(event("p", Phase::Decode, point, 0, last, 1), shaped(shape, values));
}

#[test]
fn a_uniform_row_over_n_keys_has_an_entropy_of_ln_n() {
    let mut memory = Memory::default();
    record(&mut memory, Point::AttnProbs, (&[2, 4], &[0.25; 8]));
    record(&mut memory, Point::AttnScores, (&[2, 4], &[1.5; 8]));
    let got = statistics(&memory, None);
    let Measured::Recorded(after) = got.after else { panic!("{got:?}") };
    assert!((after.entropy - 4f64.ln()).abs() < 1e-15, "{after:?}");
    assert_eq!((after.first_mass, after.values.min, after.values.max, after.values.mean), (0.25, 0.25, 0.25, 0.25));
    let before = Distribution { min: 1.5, max: 1.5, mean: 1.5, values: 8 };
    assert_eq!(got.before, Measured::Recorded(before));
}

#[test]
fn a_sink_holds_all_the_mass_and_leaves_no_entropy() {
    let mut memory = Memory::default();
    let sink: Vec<f32> = [1.0, 0.0, 0.0, 0.0].repeat(2);
    // A column after the row's own position belongs to nobody.
    let wide: Vec<f32> = sink.chunks(4).flat_map(|head| head.iter().copied().chain([9.0])).collect();
    for (shape, values) in [([2, 4], &sink), ([2, 5], &wide)] {
        let mut memory = memory.clone();
        record(&mut memory, Point::AttnProbs, (&shape, values));
        let got = statistics(&memory, None);
        let after = got.after.value().unwrap();
        assert_eq!((after.first_mass, after.entropy, after.values.values), (1.0, 0.0, 8));
    }
    record(&mut memory, Point::AttnScores, (&[1, 4], &[f32::NEG_INFINITY, -2.0, 1.0, f32::MIN]));
    let got = statistics(&memory, None);
    let before = got.before.value().unwrap();
    assert_eq!((before.min, before.max, before.mean, before.values), (-2.0, 1.0, -0.5, 2));
    // Fused: softmax of what is visible, e^-3 to 1.
    let Measured::Computed(after) = got.after else { panic!("{got:?}") };
    let p = 1.0 / (1.0 + (-3f64).exp());
    assert!((after.values.max - p).abs() < 1e-15 && after.values.values == 2 && after.first_mass == 0.0);
    assert!((after.entropy + p * p.ln() + (1.0 - p) * (1.0 - p).ln()).abs() < 1e-15);
}

#[test]
fn without_scores_they_are_computed_from_queries_and_keys_if_there_is_a_model() {
    let model = Model::open(Path::new("DEMO")).unwrap();
    let config = &model.config;
    let (heads, kv_heads, width) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    let mut memory = Memory::default();
    let q = vec![1.0f32; heads * width];
    // Each key is its position everywhere: the score is scale · width · position in every head.
    let k: Vec<f32> = (0..kv_heads).flat_map(|_| (0..4).flat_map(|pos| vec![pos as f32; width])).collect();
    record(&mut memory, Point::QPostRope, (&[heads as u64, width as u64], &q));
    record(&mut memory, Point::KCache, (&[kv_heads as u64, 4, width as u64], &k));
    let got = statistics(&memory, Some(config));
    let step = config.attention_scale * width as f64;
    let Measured::Computed(before) = got.before else { panic!("{got:?}") };
    assert!((before.max - 3.0 * step).abs() < 1e-12 && before.min == 0.0 && before.values == 4 * heads as u64);
    let sum: f64 = (0..4).map(|pos| (step * f64::from(pos)).exp()).sum();
    let Measured::Computed(after) = got.after else { panic!("{got:?}") };
    assert!((after.first_mass - 1.0 / sum).abs() < 1e-15);
    let blind = statistics(&memory, None);
    assert_eq!(blind.before.value(), None);
    assert!(blind.before.source().contains("no model was given"), "{}", blind.before.source());
}

#[test]
fn a_nan_shows_in_every_number() {
    let mut memory = Memory::default();
    record(&mut memory, Point::AttnScores, (&[1, 4], &[f32::NAN, 1.0, 2.0, 3.0]));
    let got = statistics(&memory, None);
    let before = got.before.value().unwrap();
    assert!(before.min.is_nan() && before.max.is_nan() && before.mean.is_nan());
}
