//! Orders of rounding that other engines have, here eager PyTorch's in bf16, built operation by operation with `half`.

use super::*;
use crate::oracle::stats::{Flag, measure};
use driftprobe_trace::{Contract, ContractFields, Dtype, Phase, Point};
use half::bf16;

fn low(x: f64) -> f64 {
    bf16::from_f32(x as f32).to_f64()
}

/// Pseudo-random values on the grid of bf16.
fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..n).map(|_| low(next() * 8.0 * next())).collect()
}

fn contract(point: Point, table: Option<&str>, rounding: Option<usize>) -> Contract {
    let bf16 = || "bf16".to_owned();
    let mut contract = Contract {
        flat: ContractFields {
            activations: Some(bf16()),
            accumulate: Some("f32".to_owned()),
            rope_table: table.map(str::to_owned),
            ..Default::default()
        },
        ..Default::default()
    };
    let rounding = rounding.map(|n| vec![bf16(); n]);
    contract.by_point.insert(point.id().to_owned(), ContractFields { rounding, ..Default::default() });
    contract
}

fn flags(
    model: &Model,
    op: Op,
    (point, contract): (Point, &Contract),
    inputs: &[Vec<f64>],
    recorded: &[f64],
) -> Vec<Flag> {
    let task = Task {
        inputs: inputs.to_vec(),
        others: vec![],
        pos: 300,
        pos_id: 300,
        token: None,
        recorded_len: recorded.len(),
        arithmetic: Arithmetic::resolve(Some(contract), Phase::Prefill, point, Dtype::Bf16),
    };
    match evaluate(model, op, &task, 0).unwrap() {
        Expectation::Noisy(expected) => measure(recorded, &expected).1,
        Expectation::Exact { .. } => panic!("not exact"),
    }
}

#[test]
fn a_norm_that_rounds_before_its_weight_is_clean_if_the_contract_says_so() {
    let model = Model::demo().unwrap();
    let point = Point::AttnNormOut;
    let op = Op::Norm { weight: WeightId::InputNorm(0), per_head: false };
    let weight = model.weights.get(&WeightId::InputNorm(0).name()).unwrap().to_f32();
    let mut undeclared = 0;
    for seed in 0..50 {
        let x = values(weight.len(), seed);
        let mean = x.iter().map(|x| (x * x) as f32).sum::<f32>() / x.len() as f32;
        let factor = 1.0 / (mean + model.config.rms_norm_eps as f32).sqrt();
        let recorded: Vec<f64> =
            x.iter().zip(&weight).map(|(x, w)| low(low(f64::from(*x as f32 * factor)) * f64::from(*w))).collect();
        let declared = contract(point, None, Some(2));
        assert_eq!(flags(&model, op, (point, &declared), std::slice::from_ref(&x), &recorded), [], "{seed}");
        let plain = contract(point, None, None);
        undeclared += usize::from(!flags(&model, op, (point, &plain), std::slice::from_ref(&x), &recorded).is_empty());
    }
    assert!(undeclared > 40, "{undeclared}");
}

#[test]
fn a_rotation_in_bf16_is_clean_if_the_contract_says_so() {
    let model = Model::demo().unwrap();
    let c = &model.config;
    let point = Point::QPostRope;
    let (head_dim, half) = (c.head_dim, c.head_dim / 2);
    for seed in 0..50 {
        let x = values(c.num_attention_heads * head_dim, seed);
        let mut recorded = x.clone();
        for (head, turned) in x.chunks(head_dim).zip(recorded.chunks_mut(head_dim)) {
            for (i, f) in c.rope.inv_freq(head_dim).iter().enumerate() {
                let angle = 300f32 * f;
                let (cos, sin) = (low(f64::from(angle.cos())), low(f64::from(angle.sin())));
                turned[i] = low(low(head[i] * cos) - low(head[i + half] * sin));
                turned[i + half] = low(low(head[i + half] * cos) + low(head[i] * sin));
            }
        }
        let declared = contract(point, Some("bf16"), Some(2));
        assert_eq!(flags(&model, Op::Rope, (point, &declared), std::slice::from_ref(&x), &recorded), [], "{seed}");
        for other in [contract(point, Some("f32"), Some(2)), contract(point, Some("bf16"), None)] {
            assert!(!flags(&model, Op::Rope, (point, &other), std::slice::from_ref(&x), &recorded).is_empty());
        }
    }
}

#[test]
fn an_activation_that_is_stored_before_the_product_is_clean_if_the_contract_says_so() {
    let model = Model::demo().unwrap();
    let point = Point::MlpAct;
    for seed in 0..50 {
        let (gate, up) = (values(176, seed), values(176, seed + 1000));
        let silu = |g: f64| (g as f32) / (1.0 + (-g as f32).exp());
        let recorded: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| low(low(f64::from(silu(*g))) * u)).collect();
        let inputs = [gate, up];
        let declared = contract(point, None, Some(2));
        assert_eq!(flags(&model, Op::Gated, (point, &declared), &inputs, &recorded), [], "{seed}");
        let plain = contract(point, None, None);
        assert!(!flags(&model, Op::Gated, (point, &plain), &inputs, &recorded).is_empty());
    }
}

#[test]
fn a_format_that_is_not_known_is_not_guessed() {
    let model = Model::demo().unwrap();
    let mut claimed = contract(Point::MlpAct, None, None);
    claimed.flat.accumulate = Some("fp4_e2m1".to_owned());
    let task = Task {
        inputs: vec![vec![1.0; 4], vec![1.0; 4]],
        others: vec![],
        pos: 0,
        pos_id: 0,
        token: None,
        recorded_len: 4,
        arithmetic: Arithmetic::resolve(Some(&claimed), Phase::Decode, Point::MlpAct, Dtype::F32),
    };
    let why = evaluate(&model, Op::Gated, &task, 0).unwrap_err().to_string();
    assert_eq!(why, "the contract says accumulate is \"fp4_e2m1\", which the oracle cannot compute");
}

#[test]
fn rows_of_another_shape_are_refused_and_nothing_panics() {
    let model = Model::demo().unwrap();
    let claimed = contract(Point::MlpAct, None, None);
    let ops = [
        Op::Copy,
        Op::Add,
        Op::Norm { weight: WeightId::Norm, per_head: false },
        Op::Linear { weight: WeightId::QProj(0), bias: None, softcap: None },
        Op::Rope,
        Op::KvWrite,
        Op::Scores,
        Op::Softmax,
        Op::ScoresSoftmax,
        Op::Weigh,
        Op::Attention,
        Op::Gated,
    ];
    for op in ops {
        for lengths in [[0, 0, 0], [7, 7, 7], [64, 7, 64], [64, 64, 0], [176, 64, 32]] {
            let task = Task {
                inputs: lengths.iter().map(|n| vec![1.0; *n]).collect(),
                others: vec![(3, vec![1.0; 5])],
                pos: 2,
                pos_id: 2,
                token: Some(1),
                recorded_len: 13,
                arithmetic: Arithmetic::resolve(Some(&claimed), Phase::Decode, Point::MlpAct, Dtype::F32),
            };
            assert!(matches!(evaluate(&model, op, &task, 0), Err(Unjudged::Shape { .. })), "{op:?} {lengths:?}");
        }
    }
}
