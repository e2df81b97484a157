//! Arithmetics inside of products that a contract may leave out: each is found where a kernel has it, none where none has, and
//! none excuses a bug or what the contract rules out.

use crate::oracle_support::replaced::{Replaced, found, values};
use crate::oracle_support::{fixture, recording};
use driftprobe_engine::Settings;
use driftprobe_model::reference::{AttentionShape, linear};
use driftprobe_model::{Model, WeightId};
use driftprobe_trace::{Contract, ContractFields, Event, Phase, Point, Row, Run};
use half::f16;
use std::collections::BTreeMap;

/// What a kernel of one query row does.
#[derive(Clone, Copy)]
struct Kernel {
    f16_q: bool,
    q8_q: bool,
    f16_kv: bool,
    f16_sums: bool,
    parts: usize,
    /// Bugs: the newest key is not seen; the scale is off.
    misses_newest: bool,
    scale: f32,
}

const PLAIN: Kernel =
    Kernel { f16_q: false, q8_q: false, f16_kv: false, f16_sums: false, parts: 1, misses_newest: false, scale: 1.0 };
const ONE_ROW: Kernel = Kernel { f16_q: true, f16_sums: true, ..PLAIN };

fn to_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// A block of 32: integers of max/127, the scale in f16.
fn q8_0(block: &mut [f32]) {
    let scale = block.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    block.iter_mut().for_each(|x| *x = (*x * inverse).round() * to_f16(scale));
}

impl Kernel {
    /// One head: q `[width]`, k and v rows.
    fn attend(&self, q: &[f32], (k, v): (&[&[f32]], &[&[f32]]), scale: f32) -> Vec<f32> {
        let mut q = q.to_vec();
        if self.q8_q {
            q.chunks_mut(32).for_each(q8_0);
        }
        let q: Vec<f32> = q.iter().map(|x| if self.f16_q { to_f16(*x) } else { *x }).collect();
        let cached = |x: f32| if self.f16_kv { to_f16(x) } else { x };
        let keys = k.len() - usize::from(self.misses_newest);
        let size = k.len().div_ceil(self.parts);
        let (mut top, mut total, mut out) = (f32::NEG_INFINITY, 0f32, vec![0f32; q.len()]);
        for start in (0..k.len()).step_by(size) {
            let (mut max, mut sum, mut own) = (f32::NEG_INFINITY, 0f32, vec![0f32; q.len()]);
            for at in start..(start + size).min(keys) {
                let dot: f32 = q.iter().zip(k[at]).map(|(q, k)| q * cached(*k)).sum();
                let (score, mut old, mut new) = (dot * scale * self.scale, 1f32, 1f32);
                if score > max {
                    (old, max) = ((max - score).exp(), score);
                } else {
                    new = (score - max).exp();
                }
                for (o, v) in own.iter_mut().zip(v[at]) {
                    let store = |x: f32| if self.f16_sums { to_f16(x) } else { x };
                    *o = store(cached(*v).mul_add(new, store(*o * old)));
                }
                sum = sum * old + new;
            }
            let merged = top.max(max);
            let (old, new) = ((top - merged).exp(), (max - merged).exp());
            out.iter_mut().zip(&own).for_each(|(o, own)| *o = *o * old + own * new);
            (top, total) = (merged, total * old + sum * new);
        }
        out.iter().map(|o| o / total).collect()
    }
}

fn attended<'a>(model: &Model, run: &'a Run, kernel: Kernel, layers: impl Fn(i32) -> bool) -> Replaced<'a> {
    let shape = AttentionShape::of(&model.config, 0);
    let mut rows = BTreeMap::new();
    let wanted = |e: &&Event| e.phase == Phase::Decode && e.point == Point::AttnOut && layers(e.layer);
    for event in run.events.iter().filter(wanted) {
        let [q, k, v] = [Point::QPostRope, Point::KCache, Point::VCache].map(|point| values(run, event, point));
        let count = k.len() / (shape.kv_heads * shape.head_dim);
        let mut out = Vec::new();
        for (head, q) in q.chunks(shape.head_dim).enumerate() {
            let of = shape.kv_head(head) * count * shape.head_dim;
            let head_rows = |all: &'_ [f32]| -> Vec<Vec<f32>> {
                all[of..of + count * shape.head_dim].chunks(shape.head_dim).map(<[f32]>::to_vec).collect()
            };
            let (k, v) = (head_rows(&k), head_rows(&v));
            let slices = |rows: &'_ [Vec<f32>]| -> Vec<Vec<f32>> { rows.to_vec() };
            let (k, v) = (slices(&k), slices(&v));
            let k: Vec<&[f32]> = k.iter().map(Vec::as_slice).collect();
            let v: Vec<&[f32]> = v.iter().map(Vec::as_slice).collect();
            out.extend(kernel.attend(q, (&k, &v), shape.scale as f32));
        }
        let key = (event.phase, event.point, event.layer, event.pos_id.unwrap_or_default());
        rows.insert(key, Row::from_f32(&out));
    }
    Replaced { run, rows }
}

/// Says how activations and cache are stored, and nothing of what happens inside of a stage.
fn silent() -> Contract {
    let f32 = || Some("f32".to_owned());
    let flat = ContractFields { activations: f32(), residual: f32(), kv_cache: f32(), ..ContractFields::default() };
    Contract { flat, ..Contract::default() }
}

fn accumulates_f32() -> Contract {
    let mut contract = silent();
    contract.flat.accumulate = Some("f32".to_owned());
    contract
}

#[test]
fn each_kernel_is_found_as_what_it_is() {
    let cases = [
        ("hf/llama", Kernel { f16_q: true, ..PLAIN }, "inputs=f16"),
        ("hf/qwen3", Kernel { q8_q: true, ..PLAIN }, "inputs=q8_0"),
        ("hf/llama", Kernel { f16_kv: true, ..PLAIN }, "kv_read=f16"),
        ("hf/llama", Kernel { f16_sums: true, ..PLAIN }, "value_sums=f16"),
        ("hf/llama", Kernel { f16_kv: true, f16_q: true, ..PLAIN }, "inputs=f16,kv_read=f16"),
        ("hf/llama", ONE_ROW, "inputs=f16,value_sums=f16"),
        ("hf/llama", Kernel { f16_kv: true, ..ONE_ROW }, "inputs=f16,kv_read=f16,value_sums=f16"),
        ("hf/llama", Kernel { parts: 3, ..ONE_ROW }, "inputs=f16,value_sums=f16,key_parts=3"),
    ];
    for (name, kernel, id) in cases {
        let model = fixture(name);
        let recording = recording(&model, Settings::default(), &[24], 2);
        let rows = attended(&model, &recording.run, kernel, |_| true);
        let (variants, faults) = found(&model, &rows, &silent(), Point::AttnOut);
        assert_eq!((variants, faults), (vec![id.to_owned()], 0), "{name}");
        let (variants, faults) = found(&model, &rows, &accumulates_f32(), Point::AttnOut);
        assert!(variants.is_empty() && faults > 0, "{id} where f32 is declared: {variants:?}");
    }
}

#[test]
fn a_plain_kernel_shows_nothing_undeclared() {
    let model = fixture("hf/llama");
    let recording = recording(&model, Settings::default(), &[24], 2);
    let untouched = Replaced { run: &recording.run, rows: BTreeMap::new() };
    for rows in [untouched, attended(&model, &recording.run, PLAIN, |_| true)] {
        assert_eq!(found(&model, &rows, &silent(), Point::AttnOut), (vec![], 0));
        assert_eq!(found(&model, &rows, &silent(), Point::MlpOut), (vec![], 0));
    }
}

#[test]
fn no_bug_is_excused_by_a_coarse_kernel() {
    let model = fixture("hf/llama");
    let recording = recording(&model, Settings::default(), &[24], 2);
    let bugs = [
        ("the newest key is not seen", Kernel { misses_newest: true, ..ONE_ROW }),
        ("the scale is off by a percent", Kernel { scale: 1.01, ..ONE_ROW }),
        ("the scale is off by a thousandth", Kernel { scale: 1.001, ..ONE_ROW }),
    ];
    for (what, kernel) in bugs {
        let rows = attended(&model, &recording.run, kernel, |_| true);
        let (variants, faults) = found(&model, &rows, &silent(), Point::AttnOut);
        assert!(variants.is_empty() && faults > 0, "{what}: {variants:?}");
    }
    // What one layer of several does is no arithmetic of the engine.
    let rows = attended(&model, &recording.run, ONE_ROW, |layer| layer == 1);
    let (variants, faults) = found(&model, &rows, &silent(), Point::AttnOut);
    assert!(variants.is_empty() && faults > 0, "one layer: {variants:?}");
}

#[test]
fn activations_that_take_the_type_of_f16_weights_are_found_and_another_rounding_is_not() {
    let model = fixture("hf/llama-f16");
    let recording = recording(&model, Settings::default(), &[24], 2);
    let product = |round: fn(f64) -> f64| {
        let mut rows = BTreeMap::new();
        let wanted = |e: &&Event| e.phase == Phase::Decode && e.point == Point::MlpOut;
        for event in recording.run.events.iter().filter(wanted) {
            let x: Vec<f64> =
                values(&recording.run, event, Point::MlpAct).iter().map(|x| round(f64::from(*x))).collect();
            let weight = model.weights.get(&WeightId::Down(event.layer as usize).name()).unwrap();
            let sums: Vec<f32> =
                linear(&weight, 0..weight.rows(), &x).unwrap().sums.iter().map(|y| *y as f32).collect();
            let key = (event.phase, event.point, event.layer, event.pos_id.unwrap_or_default());
            rows.insert(key, Row::from_f32(&sums));
        }
        Replaced { run: &recording.run, rows }
    };
    let f16 = product(|x| half::f16::from_f64(x).to_f64());
    assert_eq!(found(&model, &f16, &silent(), Point::MlpOut), (vec!["activation_quant=f16".to_owned()], 0));
    let (variants, faults) = found(&model, &f16, &accumulates_f32(), Point::MlpOut);
    assert!(variants.is_empty() && faults > 0, "{variants:?}");
    // A thousandth too large is no rounding.
    let (variants, faults) = found(&model, &product(|x| x * 1.001), &silent(), Point::MlpOut);
    assert!(variants.is_empty() && faults > 0, "{variants:?}");
}
