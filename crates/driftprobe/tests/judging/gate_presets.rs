//! Every preset's measure against torch's and numpy's (fixtures/gate_values.py), and at its edges by hand.

use driftprobe::gate::attention::{Errors, Inputs};
use driftprobe::gate::measure::{Rows, of_rows};
use driftprobe::gate::span::{Span, SpanRow};
use driftprobe::gate::{Measure, PRESETS, Preset};
use driftprobe_model::reference::AttentionShape;
use driftprobe_trace::{Dtype, Point};
use serde_json::Value;
use std::path::Path;

fn values() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gate/values.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect()
}

fn near(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-9 * expected.abs() + 1e-15
}

fn dtype(case: &Value) -> Dtype {
    Dtype::parse(case["dtype"].as_str().unwrap()).unwrap()
}

#[test]
fn measures_of_rows_are_torchs_and_numpys() {
    let named = [
        ("ggml-op", "value", Measure::Nmse),
        ("llama-logits", "value", Measure::MseOverVariance),
        ("sglang", "value", Measure::Unlikeness),
        ("batch-invariant", "value", Measure::Differing),
        ("msprobe", "cosine", Measure::Cosine),
        ("msprobe", "max", Measure::MaxAbs),
        ("cosine", "value", Measure::Cosine),
        ("rel-l2", "value", Measure::RelL2),
    ];
    let mut told = [[0; 2]; 3];
    for case in values()["rows"].as_array().unwrap() {
        let (p, d, expected) = (numbers(&case["p"]), numbers(&case["d"]), &case["expected"]);
        for (preset, key, measure) in named {
            let (found, expected) = (of_rows(measure, dtype(case), &p, &d), expected[preset][key].as_f64().unwrap());
            // What is left of 1 after taking nearly 1 away has the rounding of 1.
            let near = near(found, expected) || (found - expected).abs() < 1e-15 * p.len() as f64;
            assert!(near, "{} {preset}: {found}, expected {expected}", case["name"]);
        }
        for (number, preset) in ["torch-assert-close", "polygraphy", "top-1"].into_iter().enumerate() {
            let rows = Rows::new(dtype(case), &p, &d);
            let passes = !Preset::by_id(preset).unwrap().fails(Point::Logits, &rows).unwrap();
            assert_eq!(Some(passes), expected[preset]["pass"].as_bool(), "{} {preset}", case["name"]);
            told[number][usize::from(passes)] += 1;
        }
    }
    assert!(told.iter().all(|[fails, passes]| *fails > 0 && *passes > 0), "each of both: {told:?}");
}

#[test]
fn measures_of_spans_are_torchs_and_numpys() {
    for case in values()["spans"].as_array().unwrap() {
        let (p, d) = (case["p"].as_array().unwrap(), case["d"].as_array().unwrap());
        let mut span = Span::new(Some(20 * 37));
        for (at, (p, d)) in p.iter().zip(d).enumerate() {
            let next = case["next"][at].as_u64().map(|next| next as u32);
            span.add(SpanRow { prefill: &numbers(p), decode: &numbers(d), next, place: "there" });
        }
        let measures = [
            ("p99", Measure::SpanP99Abs),
            ("max", Measure::SpanMaxAbs),
            ("top1", Measure::SpanTop1),
            ("mean_kl", Measure::SpanMeanKl),
            ("p95_kl", Measure::SpanP95Kl),
            ("cosine", Measure::SpanCosine),
            ("k3", Measure::SpanK3),
        ];
        for (key, measure) in measures {
            let (found, expected) = (span.measure(measure).unwrap().0, case["expected"][key].as_f64().unwrap());
            assert!(near(found, expected), "{} {key}: {found}, expected {expected}", case["name"]);
        }
    }
}

#[test]
fn the_error_of_attention_is_torchs_and_its_own_unfused_one_passes() {
    for case in values()["attention"].as_array().unwrap() {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let head_dim = size("head_dim");
        let shape = AttentionShape {
            heads: size("heads"),
            kv_heads: size("kv_heads"),
            head_dim,
            scale: (head_dim as f64).powf(-0.5),
            softcap: None,
            window: None,
        };
        let [q, k, v, out] = ["q", "k", "v", "out"].map(|key| numbers(&case[key]));
        let inputs = Inputs { q: &q, k: &k, v: &v, pos: 8 };
        let mut errors = Errors::default();
        assert!(errors.add(&shape, &out, dtype(case), &inputs));
        let torchs = case["error"].as_f64().unwrap();
        // torch's scale is of its own type; 1e-12 is what that leaves of float64.
        assert!((errors.out - torchs).abs() <= 1e-12, "{errors:?} {torchs}");
        // Two unfused attentions of one type need not round alike, but each is near the other.
        assert!(errors.plain > torchs / 2.0 && errors.plain < torchs * 2.0, "{errors:?} {torchs}");
        assert!(errors.share() <= 1.0);
        let off: Vec<f64> = out.iter().map(|o| o + 4.0 * errors.plain + 3e-5).collect();
        let mut errors = Errors::default();
        errors.add(&shape, &off, dtype(case), &inputs);
        assert!(errors.share() > 1.0, "{errors:?}");
    }
}

/// Rows of one value at the edge of a preset's limit, by hand: (preset, point, p, what passes, what does not).
#[test]
fn at_the_edge_each_preset_of_pairs_turns() {
    use Point::*;
    // p = (1, 0): NMSE is the square of the second value of d; the first is equal.
    let second = |x: f64| vec![1.0, x];
    let f32 = Dtype::F32;
    type Edge = (&'static str, Point, Dtype, Vec<f64>, Vec<f64>, Vec<f64>);
    let cases: [Edge; 13] = [
        ("ggml-op", AttnNormOut, f32, second(0.0), second(3.16e-4), second(3.17e-4)),
        ("ggml-op", MlpOut, f32, second(0.0), second(2.236e-2), second(2.237e-2)),
        ("ggml-op", QPostRope, f32, second(0.0), second(3.162e-2), second(3.163e-2)),
        ("ggml-op", AttnProbs, f32, second(0.0), second(0.9999e-3), second(1.0001e-3)),
        // Of |p| = 1 torch allows 1e-5 + 1.3e-6 in f32, 1e-5 + 1.6e-2 in bf16, 1e-5 + 1e-3 in f16.
        ("torch-assert-close", MlpOut, f32, vec![1.0], vec![1.0 + 1.129e-5], vec![1.0 + 1.131e-5]),
        ("torch-assert-close", MlpOut, Dtype::Bf16, vec![1.0], vec![1.016], vec![1.0161]),
        ("torch-assert-close", MlpOut, Dtype::F16, vec![1.0], vec![1.001], vec![1.0011]),
        // 1 − 2xy/(x² + y²) of p = 1 and d = 1 + e is e²/2 up to higher orders.
        ("sglang", MlpOut, f32, vec![1.0], vec![1.0457], vec![1.0468]),
        ("polygraphy", MlpOut, f32, vec![100.0], vec![100.0009], vec![100.0011]),
        ("polygraphy", MlpOut, f32, vec![0.01], vec![0.0100099], vec![0.0100101]),
        ("msprobe", MlpOut, f32, vec![1.0], vec![1.000999], vec![1.001001]),
        // The cosine of (1, 0) and (1, x) is 1/√(1 + x²): 0.999 at x = 0.044766.
        ("cosine", MlpOut, f32, second(0.0), second(0.0447), second(0.0449)),
        // var of (0, 2) is 1: MSE/var is half the square of what one value is off.
        ("llama-logits", Logits, f32, vec![0.0, 2.0], vec![0.0, 2.1414], vec![0.0, 2.1415]),
    ];
    for (id, point, dtype, p, passes, fails) in cases {
        let preset = Preset::by_id(id).unwrap();
        let failing = |d: &[f64]| preset.fails(point, &Rows::new(dtype, &p, d)).unwrap();
        assert!(!failing(&passes), "{id} {point} {passes:?}");
        assert!(failing(&fails), "{id} {point} {fails:?}");
    }
    // msprobe's other condition: a small row at a right angle is near, and points elsewhere.
    let turned = Rows::new(f32, &[1e-4, 0.0], &[0.0, 1e-4]);
    assert_eq!(Preset::by_id("msprobe").unwrap().fails(MlpOut, &turned), Some(true));
}

#[test]
fn nan_infinities_on_one_side_nothing_and_other_lengths_fail_every_preset_of_pairs() {
    let of_pairs = PRESETS.iter().filter(|preset| preset.takes(Point::Logits));
    let wrong: [(&[f64], &[f64]); 7] = [
        (&[f64::NAN, 1.0], &[f64::NAN, 1.0]),
        (&[1.0, 2.0], &[1.0, f64::NAN]),
        (&[f64::NAN, 2.0], &[1.0, 2.0]),
        (&[1.0, f64::INFINITY], &[1.0, 2.0]),
        (&[1.0, f64::INFINITY], &[1.0, f64::NEG_INFINITY]),
        (&[], &[]),
        (&[1.0, 2.0], &[1.0]),
    ];
    let mut asked = 0;
    for preset in of_pairs {
        for (p, d) in wrong {
            if let Some(fails) = preset.fails(Point::Logits, &Rows::new(Dtype::F32, p, d)) {
                assert!(fails, "{} {p:?} {d:?}", preset.id);
                asked += 1;
            }
        }
        // The same infinity at the same place is equal.
        let (p, d) = ([1.0, 3.0, f64::NEG_INFINITY], [1.0, 3.0, f64::NEG_INFINITY]);
        assert_ne!(preset.fails(Point::Logits, &Rows::new(Dtype::F32, &p, &d)), Some(true), "{}", preset.id);
    }
    assert!(asked >= 7 * 10);
}

#[test]
fn a_row_of_zeros_against_another_fails_where_there_is_a_ratio() {
    let (zero, other) = ([0.0, 0.0], [0.5, 0.25]);
    for id in ["ggml-op", "llama-logits", "sglang", "msprobe", "cosine", "rel-l2", "polygraphy", "torch-assert-close"] {
        for (p, d) in [(&zero, &other), (&other, &zero)] {
            let fails = Preset::by_id(id).unwrap().fails(Point::Logits, &Rows::new(Dtype::F32, p, d));
            assert_eq!(fails, Some(true), "{id} {p:?} {d:?}");
        }
    }
}
