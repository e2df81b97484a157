//! A product that is stored before its bias is added: found where a kernel does it, not found where none does, and no bug is
//! excused by it.

use crate::oracle_support::replaced::{Replaced, found, values};
use crate::oracle_support::{fixture, recording};
use driftprobe_engine::{Settings, Storage};
use driftprobe_model::reference::linear;
use driftprobe_model::{Model, WeightId};
use driftprobe_trace::{Contract, ContractFields, Dtype, Phase, Point, Row, Run};
use half::bf16;
use std::collections::BTreeMap;

/// How a kernel ends a product with a bias.
#[derive(Clone, Copy)]
struct End {
    /// The product is rounded to bf16 first.
    stores: bool,
    /// Bugs: so many times the bias; a gain of the product.
    biases: f64,
    gain: f64,
}

const FUSED: End = End { stores: false, biases: 1.0, gain: 1.0 };
const STORED: End = End { stores: true, ..FUSED };

fn to_bf16(x: f64) -> f64 {
    bf16::from_f64(x).to_f64()
}

/// The run with the Q of decode as such a kernel would have given it.
fn projected<'a>(model: &Model, run: &'a Run, end: End) -> Replaced<'a> {
    let mut rows = BTreeMap::new();
    for event in &run.events {
        if (event.phase, event.point) != (Phase::Decode, Point::QPreRope) {
            continue;
        }
        let layer = event.layer as usize;
        let weight = model.weights.get(&WeightId::QProj(layer).name()).unwrap();
        let bias = model.weights.get(&WeightId::QBias(layer).name()).unwrap().to_f32();
        let x: Vec<f64> = values(run, event, Point::AttnNormOut).iter().map(|x| f64::from(*x)).collect();
        let sums = linear(&weight, 0..weight.rows(), &x).unwrap().sums;
        let end = |(sum, bias): (&f64, &f32)| {
            // Sums are f32's.
            let sum = f64::from((sum * end.gain) as f32);
            let product = if end.stores { to_bf16(sum) } else { sum };
            bf16::from_f64(product + end.biases * f64::from(*bias))
        };
        let out: Vec<u8> = sums.iter().zip(&bias).flat_map(|all| end(all).to_le_bytes()).collect();
        let key = (event.phase, event.point, event.layer, event.pos_id.unwrap_or_default());
        rows.insert(key, Row::new(Dtype::Bf16, vec![sums.len() as u64], out).unwrap());
    }
    assert!(!rows.is_empty());
    Replaced { run, rows }
}

/// Says how rows are stored and sums are kept, and nothing of what happens between a product and its bias.
fn silent() -> Contract {
    let some = |name: &str| Some(name.to_owned());
    let flat = ContractFields {
        activations: some("bf16"),
        residual: some("bf16"),
        kv_cache: some("bf16"),
        accumulate: some("f32"),
        ..ContractFields::default()
    };
    Contract { flat, ..Contract::default() }
}

/// What is found of Q in decode, and how many of its rows are left at fault.
fn of_q(end: End, contract: &Contract) -> (Vec<String>, usize) {
    let model = fixture("hf/qwen2");
    let settings = Settings { storage: Storage::Bf16, kv_cache: Storage::Bf16, ..Settings::default() };
    let recording = recording(&model, settings, &[24], 2);
    let rows = projected(&model, &recording.run, end);
    found(&model, &rows, contract, Point::QPreRope)
}

#[test]
fn a_product_that_is_stored_before_its_bias_is_found_and_no_fault() {
    assert_eq!(of_q(STORED, &silent()), (vec!["rounding=bf16,bf16".to_owned()], 0));
    let mut declared = silent();
    let twice = ContractFields { rounding: Some(vec!["bf16".to_owned(); 2]), ..ContractFields::default() };
    declared.by_point.insert(Point::QPreRope.id().to_owned(), twice);
    assert_eq!(of_q(STORED, &declared), (vec![], 0), "declared");
    assert_eq!(of_q(FUSED, &declared), (vec!["rounding=f32,bf16".to_owned()], 0), "declared, and not so");
}

#[test]
fn a_bias_in_one_kernel_with_its_product_shows_nothing_undeclared() {
    assert_eq!(of_q(FUSED, &silent()), (vec![], 0));
}

#[test]
fn no_bug_is_excused_by_a_product_that_is_stored() {
    let bugs = [
        ("the bias is added twice", End { biases: 2.0, ..STORED }),
        ("no bias", End { biases: 0.0, ..STORED }),
        ("a gain of a percent", End { gain: 1.01, ..STORED }),
    ];
    for (what, end) in bugs {
        let (variants, faults) = of_q(end, &silent());
        assert!(variants.is_empty() && faults > 0, "{what}: {variants:?}");
    }
}
