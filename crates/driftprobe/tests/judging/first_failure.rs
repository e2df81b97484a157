//! The first failure is by prompt, position, layer and point; never by how often a code stands.

use crate::support::{Memory, event, manifest, shaped};
use driftprobe::verdict::codes;
use driftprobe::{Analysis, Options, analyze};
use driftprobe_trace::{Event, Phase, Point, PointSet, Row};

/// A run of one prompt position at these layers and points, whose decode differs where `differs` says so.
fn run(prompts: &[(&str, &[u32])], layers: &[i32], points: &[Point], differs: impl Fn(&Event) -> bool) -> Memory {
    let mut memory = Memory::default();
    memory.run.manifest = Some(manifest(prompts, layers, points, 1));
    for (prompt, tokens) in prompts {
        let position = tokens.len() - 1;
        for &point in points {
            for &layer in if point.layered() { layers } else { &[-1] } {
                for phase in Phase::ALL {
                    let event = event(prompt, phase, point, layer, position as u64, tokens[position]);
                    let mut values: Vec<f32> = (0..6).map(|i| (i as f32 + point as usize as f32).cos()).collect();
                    if phase == Phase::Decode && differs(&event) {
                        values[1] += 0.25;
                    }
                    memory.record(event, Row::from_f32(&values));
                }
            }
        }
    }
    memory
}

fn judge(memory: &Memory) -> Analysis {
    analyze(&memory.run, memory, Options::default())
}

fn first(memory: &Memory) -> (String, i32, &'static str) {
    let first = judge(memory).verdict.first_failure.unwrap();
    (first.prompt_id.to_string(), first.layer, first.code)
}

#[test]
fn an_early_layer_precedes_an_early_point() {
    let points = [Point::QPreRope, Point::AttnOut];
    let memory = run(&[("p", &[1, 2])], &[0, 4, 8], &points, |event| match event.point {
        Point::AttnOut => event.layer == 0,
        _ => event.layer >= 4,
    });
    assert_eq!(first(&memory), ("p".to_owned(), 0, "ATTN_OUT_DRIFT"));
    assert_eq!(judge(&memory).codes, [("Q_PRE_ROPE_DRIFT", 2), ("ATTN_OUT_DRIFT", 1)]);
}

#[test]
fn embedding_comes_before_the_layers_and_logits_after() {
    let points = [Point::EmbedOut, Point::MlpOut, Point::FinalNormIn, Point::Logits];
    let memory = run(&[("p", &[1, 2])], &[0, 7], &points, |event| event.point != Point::EmbedOut && event.layer != 0);
    assert_eq!(first(&memory), ("p".to_owned(), 7, "MLP_OUT_DRIFT"));
    let memory = run(&[("p", &[1, 2])], &[0, 7], &points, |event| event.layer < 0);
    assert_eq!(first(&memory), ("p".to_owned(), -1, "EMBED_DRIFT"));
    let memory = run(&[("p", &[1, 2])], &[0, 7], &points, |event| event.layer < 0 && event.point != Point::EmbedOut);
    assert_eq!(first(&memory), ("p".to_owned(), -1, "FINAL_NORM_IN_DRIFT"));
}

#[test]
fn prompts_are_in_the_manifests_order() {
    let memory = run(&[("z", &[1, 2]), ("a", &[3, 4])], &[0], &[Point::MlpOut], |_| true);
    assert_eq!(first(&memory).0, "z");
    let mut memory = memory;
    memory.run.manifest = None;
    assert_eq!(first(&memory).0, "a");
}

#[test]
fn what_was_not_recorded_in_between_is_named() {
    let points = [Point::ResidualPreAttn, Point::MlpOut];
    let memory = run(&[("p", &[1, 2])], &[0, 2, 5], &points, |event| event.layer == 5);
    let got = judge(&memory);
    let first = got.verdict.first_failure.as_ref().unwrap();
    assert_eq!((first.layer, first.point, first.skipped_layers), (5, Point::ResidualPreAttn, Some((3, 4))));
    assert!(first.not_compared.contains(&(2, Point::ResidualPostMlp)));
    assert_eq!(got.pairs[first.last_equal.unwrap()].prefill.layer, 2);
    assert!(got.advice.recommendations[0].contains("layers 3 … 4"), "{:?}", got.advice.recommendations);
    // Nothing lies between neighbours.
    let memory = run(&[("p", &[1, 2])], &[0, 1], &[Point::MlpGate, Point::MlpUp], |event| event.point == Point::MlpUp);
    let first = judge(&memory).verdict.first_failure.unwrap();
    assert_eq!((first.not_compared, first.skipped_layers), (vec![], None));
}

#[test]
fn the_codes_of_the_seeds_stand_in_their_order() {
    let seeds = [
        "TRACE_OFFSET",
        "EMBED_DRIFT",
        "RESIDUAL_PRE_ATTN_DRIFT",
        "ATTN_NORM_DRIFT",
        "Q_PRE_ROPE_DRIFT",
        "ROPE_DRIFT",
        "ATTN_OUT_DRIFT",
        "RESIDUAL_POST_ATTN_DRIFT",
        "FFN_NORM_DRIFT",
        "MLP_OUT_DRIFT",
        "RESIDUAL_POST_MLP_DRIFT",
        "LOGITS_DRIFT",
    ];
    let ours: Vec<&str> = codes().filter(|code| seeds.contains(code)).collect();
    assert_eq!(ours, seeds);
}

#[test]
fn a_point_is_coded_as_it_is_spelled() {
    let mut memory = run(&[("p", &[1, 2])], &[0], &[Point::ResidualPreAttn], |_| true);
    assert_eq!(first(&memory).2, "RESIDUAL_PRE_ATTN_DRIFT");
    for event in &mut memory.run.events {
        event.point_spelling = "x_in".into();
    }
    assert_eq!(first(&memory).2, "X_IN_DRIFT");
}

/// Caches of `[1, 3, 2]`; decode's differ at `position`.
fn caches(position: Option<usize>) -> Memory {
    let points = [Point::QPostRope, Point::KCache, Point::VCache, Point::AttnOut];
    let mut memory = run(&[("p", &[1, 2, 3])], &[0], &points, |event| event.point == Point::AttnOut);
    for index in 0..memory.run.events.len() {
        let (point, phase) = (memory.run.events[index].point, memory.run.events[index].phase);
        if point.is_cache() {
            let mut values = [0.5, 1.5, -2.5, 3.0, 4.0, 0.1];
            if let (Some(position), Phase::Decode, Point::KCache) = (position, phase, point) {
                values[2 * position] += 1.0;
            }
            memory.change(index, shaped(&[1, 3, 2], &values));
        }
    }
    memory
}

#[test]
fn equal_inputs_of_attention_clear_the_cache() {
    let got = judge(&caches(None));
    assert!(got.advice.recommendations[0].contains("made by the attention computation itself"));
    let mut memory = caches(None);
    memory.run.events.retain(|event| event.point != Point::QPostRope);
    let manifest = memory.run.manifest.as_mut().unwrap();
    manifest.points = Some(PointSet::Both(vec![Point::KCache, Point::VCache, Point::AttnOut]));
    let got = judge(&memory);
    assert!(got.advice.recommendations[0].contains("`k_cache` rows 0 … 2 of that layer are bit-equal"));
    assert!(!got.advice.recommendations.iter().any(|one| one.contains("computation itself")));
}

#[test]
fn a_stale_slot_is_named_by_position() {
    let got = judge(&caches(Some(1)));
    let first = got.verdict.first_failure.as_ref().unwrap();
    assert_eq!((first.point, first.code), (Point::KCache, "K_CACHE_DRIFT"));
    let cache = got.pairs[first.pair.unwrap()].cache.unwrap();
    assert_eq!((cache.positions, cache.equal, cache.first_differing, cache.last_differing), (3, 2, Some(1), Some(1)));
    let advice = &got.advice.recommendations[0];
    assert!(advice.contains("1 of 3 positions differ, the first is 1"), "{advice}");
}
