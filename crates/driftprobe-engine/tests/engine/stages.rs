//! Every stage against its float64 twin, from the inputs that the engine showed: both phases, every family, every kernel
//! and storage type.

use crate::support::twin::Twin;
use crate::support::{FAMILIES, blocked, chunked, engine, everything, model, plain, split_k, stored, tapped, tokens};
use driftprobe_engine::{Engine, Settings, Storage};
use driftprobe_trace::{Phase, Point};
use std::collections::BTreeMap;

/// The worst error of every point, in units of what is allowed. `spoil` changes what was shown before it is judged.
fn worst(path: &str, settings: &Settings, phase: Phase, spoil: impl Fn(&mut Twin<'_>)) -> BTreeMap<Point, f64> {
    let (model, engine, tokens) = (model(path), engine(path, settings), tokens(path));
    let (_, rows) = tapped(&engine, phase, &tokens, (&everything(&engine), 0..tokens.len()));
    let mut twin = Twin::new(&model, settings, &rows);
    spoil(&mut twin);
    for (pos, token) in tokens.iter().enumerate() {
        twin.ends(*token, pos);
        (0..engine.layers()).for_each(|l| twin.layer(l, pos));
    }
    twin.worst
}

fn assert_clean(path: &str, settings: &Settings, phase: Phase) {
    let worst = worst(path, settings, phase, |_| {});
    let points = engine(path, settings).points(phase);
    assert!(worst.keys().eq(points.iter()), "{path}, {phase}: compared {worst:?}");
    let bad: Vec<_> = worst.iter().filter(|(_, w)| w.is_nan() || **w > 1.0).collect();
    assert!(bad.is_empty(), "{path}, {phase}, {settings:?}: {bad:?}");
}

#[test]
fn every_stage_is_its_formula() {
    for path in FAMILIES.into_iter().chain(["hf/llama-rope-yarn", "gguf/llama-f32.gguf"]) {
        for phase in Phase::ALL {
            assert_clean(path, &plain(), phase);
        }
    }
}

#[test]
fn every_kernel_is_the_formula() {
    for path in ["hf/mistral", "hf/gemma2", "hf/llama"] {
        assert_clean(path, &blocked(5), Phase::Prefill);
        assert_clean(path, &chunked(7), Phase::Prefill);
        assert_clean(path, &split_k(3), Phase::Decode);
    }
}

#[test]
fn every_stage_is_its_formula_in_sixteen_bit_storage() {
    for path in FAMILIES {
        for (storage, cache) in
            [(Storage::F16, Storage::F16), (Storage::Bf16, Storage::Bf16), (Storage::F32, Storage::F16)]
        {
            for phase in Phase::ALL {
                assert_clean(path, &stored(storage, cache), phase);
            }
        }
    }
}

#[test]
fn the_twin_notices_a_small_error_of_any_stage() {
    for point in engine("hf/qwen3", &plain()).points(Phase::Prefill) {
        let layer = if point.layered() { 1 } else { -1 };
        let worst = worst("hf/qwen3", &plain(), Phase::Prefill, |twin| twin.spoil(point, layer, 9, 3));
        assert!(worst[&point] > 1.0, "{point}: {worst:?}");
    }
}

#[test]
fn the_twin_notices_a_cache_of_another_type() {
    let (path, wrong) = ("hf/llama", stored(Storage::F32, Storage::F16));
    let (model, engine, tokens) = (model(path), engine(path, &plain()), tokens(path));
    let (_, rows) = tapped(&engine, Phase::Decode, &tokens, (&everything(&engine), 0..tokens.len()));
    let mut twin = Twin::new(&model, &wrong, &rows);
    twin.layer(0, 5);
    assert!(twin.worst[&Point::KCache] > 1.0 && twin.worst[&Point::VCache] > 1.0);
}
