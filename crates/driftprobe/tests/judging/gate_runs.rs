//! Presets applied to runs: what passes, what fails and where, and everything that must not pass.

use crate::support::{Memory, clean, row_of};
use driftprobe::gate::apply::{Gated, apply};
use driftprobe::gate::{Measure, PRESETS, Preset, PresetResult};
use driftprobe::{Analysis, Options, Verdict, analyze};
use driftprobe_trace::{Phase, Point, Row};

fn analysed(memory: &Memory) -> Analysis {
    analyze(&memory.run, memory, Options::default())
}

fn gate(memory: &Memory, id: &str) -> PresetResult {
    let analysis = analysed(memory);
    let gated = Gated { analysis: &analysis, rows: memory, model: None, prompt: None };
    apply(&[Preset::by_id(id).unwrap()], gated).remove(0)
}

/// Presets that need no model.
fn of_values() -> impl Iterator<Item = &'static Preset> {
    PRESETS.iter().filter(|preset| preset.id != "flash-attn")
}

/// The index of a row of decode.
fn index_of(memory: &Memory, prompt: &str, point: Point, layer: i32, position: u64) -> usize {
    let is = |index: &usize| {
        let event = &memory.run.events[*index];
        (&*event.prompt_id, event.phase, event.point, event.layer, event.pos_id)
            == (prompt, Phase::Decode, point, layer, Some(position))
    };
    (0..memory.run.events.len()).find(is).unwrap()
}

fn moved(row: &Row, at: usize, by: f32) -> Row {
    let mut values: Vec<f32> = row.values().map(|value| value as f32).collect();
    values[at] += by;
    Row::from_f32(&values)
}

#[test]
fn equal_rows_pass_every_preset() {
    let memory = clean();
    for preset in of_values() {
        let result = gate(&memory, preset.id);
        assert_eq!(result.verdict, Verdict::Pass, "{}: {:?}", preset.id, result.reasons);
        assert!(result.checks.iter().all(|check| check.compared > 0 && check.failed == 0), "{}", preset.id);
    }
}

#[test]
fn a_difference_fails_and_its_place_is_named() {
    let mut memory = clean();
    let at = index_of(&memory, "p1", Point::MlpOut, 1, 3);
    memory.change(at, moved(&row_of("p1", Point::MlpOut, 1, 3), 2, 0.5));
    for id in ["torch-assert-close", "ggml-op", "sglang", "batch-invariant", "msprobe", "polygraphy", "rel-l2"] {
        let result = gate(&memory, id);
        assert_eq!(result.verdict, Verdict::Fail, "{id}");
        let failed: Vec<_> = result.checks.iter().filter(|check| check.failed > 0).collect();
        assert!(failed.iter().all(|check| check.failed == 1), "{id}: {failed:?}");
        assert_eq!(failed[0].at.as_deref(), Some("p1, position 3, layer 1, mlp_out"), "{id}");
    }
    // Presets of logits do not look there.
    for id in ["llama-logits", "guardrail", "top-1", "automodel-strict", "sglang-kl"] {
        assert_eq!(gate(&memory, id).verdict, Verdict::Pass, "{id}");
    }
}

#[test]
fn the_worst_is_the_one_furthest_beyond_its_own_limit() {
    let mut memory = clean();
    // ggml allows matrix products 5e-4 and norms and sums 1e-7: the smaller NMSE is the worse one.
    for (point, by) in [(Point::MlpOut, 0.1), (Point::ResidualPreAttn, 0.01)] {
        let at = index_of(&memory, "p0", point, 0, 1);
        memory.change(at, moved(&row_of("p0", point, 0, 1), 0, by));
    }
    let result = gate(&memory, "ggml-op");
    assert_eq!(result.checks[0].at.as_deref(), Some("p0, position 1, layer 0, residual_pre_attn"));
    assert_eq!(result.checks[0].limit.bound(), 1e-7);
}

#[test]
fn logits_that_differ_fail_presets_of_logits() {
    let mut memory = clean();
    let at = index_of(&memory, "p0", Point::Logits, -1, 2);
    let logits = row_of("p0", Point::Logits, -1, 2);
    memory.change(at, moved(&logits, (logits.logits_top().top1_id.unwrap() as usize + 1) % 8, 3.0));
    for id in ["llama-logits", "guardrail", "top-1", "automodel-relaxed", "sglang-kl"] {
        let result = gate(&memory, id);
        assert_eq!(result.verdict, Verdict::Fail, "{id}: {:?}", result.checks);
    }
    let named = gate(&memory, "guardrail").guardrail.unwrap();
    assert_eq!(named.id(), "FAIL_EQUIV");
}

#[test]
fn nan_fails_every_preset_that_looks_there_even_on_both_sides() {
    let mut memory = clean();
    let nan = moved(&row_of("p0", Point::Logits, -1, 2), 3, f32::NAN);
    for phase in Phase::ALL {
        for index in memory.of(phase) {
            let event = &memory.run.events[index];
            if (&*event.prompt_id, event.point, event.pos_id) == ("p0", Point::Logits, Some(2)) {
                memory.change(index, nan.clone());
            }
        }
    }
    for preset in of_values() {
        let result = gate(&memory, preset.id);
        assert_eq!(result.verdict, Verdict::Fail, "{}", preset.id);
        assert!(result.checks.iter().any(|check| check.value.is_some_and(f64::is_nan)), "{}", preset.id);
    }
}

#[test]
fn nothing_compared_is_inconclusive() {
    let mut memory = clean();
    memory.run.events.clear();
    for preset in PRESETS {
        let result = gate(&memory, preset.id);
        assert_eq!(result.verdict, Verdict::Inconclusive, "{}", preset.id);
        assert!(result.checks.iter().all(|check| check.value.is_none() && check.compared == 0), "{}", preset.id);
    }
}

#[test]
fn presets_of_logits_on_a_run_without_logits_are_inconclusive() {
    let mut memory = clean();
    memory.run.events.retain(|event| event.point != Point::Logits);
    for id in ["llama-logits", "guardrail", "top-1", "automodel-relaxed", "sglang-kl", "sglang-kl-invariant"] {
        let result = gate(&memory, id);
        assert_eq!(result.verdict, Verdict::Inconclusive, "{id}");
        assert!(result.reasons[0].contains("no pair of rows of logits"), "{id}: {:?}", result.reasons);
    }
}

#[test]
fn a_row_without_payload_leaves_all_but_bit_equality_open() {
    let mut memory = clean();
    let at = index_of(&memory, "p0", Point::Logits, -1, 2);
    memory.run.events[at].payload = None;
    for preset in of_values() {
        let result = gate(&memory, preset.id);
        // Hashes of whole rows show bit equality.
        let expected = if preset.id == "batch-invariant" { Verdict::Pass } else { Verdict::Inconclusive };
        assert_eq!(result.verdict, expected, "{}: {:?}", preset.id, result.reasons);
    }
}

#[test]
fn what_blocks_a_pass_of_the_run_blocks_one_here() {
    type Change = fn(&mut Memory);
    let changes: [(&str, Change); 6] = [
        ("cut short", |memory| memory.run.manifest.as_mut().unwrap().complete = false),
        ("no manifest", |memory| memory.run.manifest = None),
        ("a partner is missing", |memory| drop(memory.run.events.pop())),
        ("one buffer for both", |memory| {
            let payload = memory.run.events[0].payload.clone();
            memory.run.events[1].payload = payload;
        }),
        ("weak keys", |memory| memory.run.events.iter_mut().for_each(|event| event.token_id = None)),
        ("zeros", |memory| {
            for index in 0..memory.run.events.len() {
                if memory.run.events[index].point == Point::AttnOut {
                    memory.change(index, Row::from_f32(&[0.0; 8]));
                }
            }
        }),
    ];
    for (what, change) in changes {
        let mut memory = clean();
        change(&mut memory);
        for preset in of_values() {
            let result = gate(&memory, preset.id);
            assert_eq!(result.verdict, Verdict::Inconclusive, "{what}, {}", preset.id);
        }
    }
}

#[test]
fn frozen_logits_pass_no_preset_of_spans() {
    let mut memory = clean();
    let one = row_of("p0", Point::Logits, -1, 1);
    for index in 0..memory.run.events.len() {
        if memory.run.events[index].point == Point::Logits {
            memory.change(index, one.clone());
        }
    }
    assert_eq!(gate(&memory, "guardrail").verdict, Verdict::Inconclusive);
}

#[test]
fn one_prompt_is_gated_by_itself() {
    let mut memory = clean();
    let at = index_of(&memory, "p1", Point::MlpOut, 1, 3);
    memory.change(at, moved(&row_of("p1", Point::MlpOut, 1, 3), 2, 0.5));
    let analysis = analysed(&memory);
    let of = |prompt| {
        let gated = Gated { analysis: &analysis, rows: &memory, model: None, prompt: Some(prompt) };
        apply(&[Preset::by_id("sglang").unwrap()], gated).remove(0).verdict
    };
    assert_eq!((of("p0"), of("p1"), of("p2")), (Verdict::Pass, Verdict::Fail, Verdict::Inconclusive));
}

#[test]
fn attention_without_a_model_is_inconclusive() {
    let result = gate(&clean(), "flash-attn");
    assert_eq!(result.verdict, Verdict::Inconclusive);
    assert_eq!(result.checks[0].measure, Measure::Attention);
    assert!(result.reasons[0].contains("--model"), "{:?}", result.reasons);
}
