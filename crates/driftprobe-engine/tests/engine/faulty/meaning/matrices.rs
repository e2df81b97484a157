//! Norms, matrices, MLP, residual adds, and the model's ends.

use super::{POS, Shown, assert_close, assert_far, times};
use crate::faulty::sequence;
use crate::support::plain;
use driftprobe_engine::{QuantisedMatmul, Settings};
use driftprobe_trace::Point::*;
use half::f16;

const PATH: &str = "hf/llama";

fn normed(x: &[f64], weight: impl Fn(usize) -> f64, eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().enumerate().map(|(i, x)| x / (mean + eps).sqrt() * weight(i)).collect()
}

#[test]
fn norm_faults_norm_as_their_names_say() {
    for path in [PATH, "hf/gemma2"] {
        let clean = Shown::clean(path, &plain());
        let (eps, w) = (clean.config().rms_norm_eps, clean.own("input_layernorm.weight"));
        // Gemma means 1 + w.
        let one = f64::from(u8::from(clean.config().norm_weight_plus_one));
        let x = clean.get(ResidualPreAttn);
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let centred: Vec<f64> = x.iter().map(|x| x - mean).collect();
        let cases = [
            ("NORM_EPS:attn:0.5", normed(x, |i| one + w[i], 0.5)),
            ("NORM_WEIGHT_PLUS_ONE:attn", normed(x, |i| 1.0 - one + w[i], eps)),
            ("NORM_MEAN_SUBTRACTED:attn", normed(&centred, |i| one + w[i], eps)),
            ("NORM_SKIPPED:attn", x.to_vec()),
        ];
        for (fault, expected) in cases {
            let shown = Shown::faulty(path, &plain(), fault);
            assert_close(shown.get(AttnNormOut), &expected, fault);
            assert_far(shown.get(AttnNormOut), clean.get(AttnNormOut), fault);
        }
    }
}

#[test]
fn matrix_faults_multiply_as_their_names_say() {
    let shown = Shown::faulty(PATH, &plain(), "WEIGHT_TRANSPOSED:o");
    let (w, n) = (shown.own("self_attn.o_proj.weight"), shown.config().hidden_size);
    let by_column: Vec<f64> = (0..n * n).map(|i| w[i % n * n + i / n]).collect();
    assert_close(shown.get(AttnProjOut), &times(&by_column, shown.get(AttnOut)), "by columns");
    let shown = Shown::faulty(PATH, &plain(), "WEIGHT_OTHER_LAYER:down");
    let other = shown.weight("model.layers.1.mlp.down_proj.weight");
    assert_close(shown.get(MlpOut), &times(&other, shown.get(MlpAct)), "the other layer's");
    let shown = Shown::faulty(PATH, &plain(), "TAIL_DROPPED:up:3");
    let mut x = shown.get(FfnNormOut).to_vec();
    let n = x.len();
    x[n - 3..].fill(0.0);
    assert_close(shown.get(MlpUp), &times(&shown.own("mlp.up_proj.weight"), &x), "without a tail");
    let (shown, clean) = (Shown::faulty("hf/qwen2", &plain(), "BIAS_MISSING:v"), Shown::clean("hf/qwen2", &plain()));
    let product = times(&shown.own("self_attn.v_proj.weight"), shown.get(AttnNormOut));
    assert_close(shown.get(VProj), &product, "without a bias");
    assert_far(shown.get(VProj), clean.get(VProj), "without a bias");
    let bias = shown.own("self_attn.v_proj.bias");
    for (fault, times) in [("BIAS_REPEATED:v", 2.0), ("BIAS_REPEATED:v:8", 8.0)] {
        let shown = Shown::faulty("hf/qwen2", &plain(), fault);
        let expected: Vec<f64> = product.iter().zip(&bias).map(|(y, b)| y + times * b).collect();
        assert_close(shown.get(VProj), &expected, fault);
        assert_far(shown.get(VProj), clean.get(VProj), fault);
        assert_eq!(shown.get(KPreRope), clean.get(KPreRope), "{fault}: K's bias");
    }
}

#[test]
fn narrow_sums_stay_on_their_grid_and_within_their_limit() {
    let shown = Shown::faulty(PATH, &plain(), "ACCUMULATOR_SATURATED:gate");
    let exact = times(&shown.own("mlp.gate_proj.weight"), shown.get(FfnNormOut));
    let largest = exact.iter().fold(0.0f64, |m, e| m.max(e.abs()));
    for (found, exact) in shown.get(MlpGate).iter().zip(&exact) {
        assert_eq!(f16::from_f64(*found).to_f64(), *found);
        // Half a unit of f16 a product, of sums that may be larger on the way.
        assert!((found - exact).abs() <= shown.config().hidden_size as f64 * 4.0 * largest / 2048.0);
    }
    assert_far(shown.get(MlpGate), &exact, "f16");
    let limited = Shown::faulty(PATH, &plain(), "ACCUMULATOR_SATURATED:gate:0.0625");
    assert!(limited.get(MlpGate).iter().all(|y| y.abs() <= 0.0625));
}

#[test]
fn neighbours_scales_are_those_of_the_next_block() {
    for quantised_matmul in [QuantisedMatmul::Dequantise, QuantisedMatmul::Integer] {
        let settings = Settings { quantised_matmul, ..plain() };
        let shown = Shown::faulty("gguf/llama-q8_0.gguf", &settings, "QUANT_SCALE:up");
        let weight = shown.model.weights.get("model.layers.0.mlp.up_proj.weight").unwrap();
        // Q8_0: a scale and 32 codes.
        let blocks: Vec<(f64, &[u8])> =
            weight.bytes().chunks_exact(34).map(|b| (f16::from_le_bytes([b[0], b[1]]).to_f64(), &b[2..])).collect();
        let scale = |i: usize| blocks[if i + 1 < blocks.len() { i + 1 } else { i - 1 }].0;
        let values = blocks.iter().enumerate().flat_map(|(i, (_, codes))| codes.iter().map(move |c| (i, *c as i8)));
        let values: Vec<f64> = values.map(|(i, code)| scale(i) * f64::from(code)).collect();
        let (expected, found) = (times(&values, shown.get(FfnNormOut)), shown.get(MlpUp));
        if quantised_matmul == QuantisedMatmul::Dequantise {
            assert_close(found, &expected, "dequantised");
        } else {
            // Activations in eight bits: half a code of 127 each, and they add up at random.
            let largest = expected.iter().fold(0.0f64, |m, e| m.max(e.abs()));
            found.iter().zip(&expected).for_each(|(f, e)| assert!((f - e).abs() <= largest / 40.0, "{f}, {e}"));
        }
    }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[test]
fn mlp_and_residual_faults_are_wired_as_their_names_say() {
    let clean = Shown::clean(PATH, &plain());
    let shown = Shown::faulty(PATH, &plain(), "GATE_UP_SWAPPED:weights");
    assert_eq!((shown.get(MlpGate), shown.get(MlpUp)), (clean.get(MlpUp), clean.get(MlpGate)));
    let shown = Shown::faulty(PATH, &plain(), "GATE_UP_SWAPPED:activation");
    let each = |f: fn(f64, f64) -> f64| -> Vec<f64> {
        clean.get(MlpGate).iter().zip(clean.get(MlpUp)).map(|(g, u)| f(*g, *u)).collect()
    };
    assert_close(shown.get(MlpAct), &each(|g, u| silu(u) * g), "exchanged");
    let tanh = |g: f64| 0.5 * g * (1.0 + (0.797_884_560_802_865_4 * (g + 0.044_715 * g * g * g)).tanh());
    let cases = [
        ("ACTIVATION_WRONG:relu", each(|g, u| g.max(0.0) * u)),
        ("ACTIVATION_WRONG:sigmoid", each(|g, u| u / (1.0 + (-g).exp()))),
        (
            "ACTIVATION_WRONG:gelu_tanh",
            clean.get(MlpGate).iter().zip(clean.get(MlpUp)).map(|(g, u)| tanh(*g) * u).collect(),
        ),
    ];
    for (fault, expected) in cases {
        assert_close(Shown::faulty(PATH, &plain(), fault).get(MlpAct), &expected, fault);
    }
    let shown = Shown::faulty(PATH, &plain(), "RESIDUAL_DROPPED:attn");
    assert_eq!(shown.get(ResidualPostAttn), clean.get(AttnProjOut));
    let shown = Shown::faulty(PATH, &plain(), "RESIDUAL_DOUBLED:mlp");
    let doubled: Vec<f64> =
        clean.get(ResidualPostAttn).iter().zip(clean.get(MlpOut)).map(|(x, b)| 2.0 * x + b).collect();
    assert_close(shown.get(ResidualPostMlp), &doubled, "doubled");
    assert_eq!(shown.get(ResidualPostAttn), clean.get(ResidualPostAttn), "the other add is right");
}

#[test]
fn faults_of_the_ends_take_the_rows_that_they_name() {
    let clean = Shown::clean(PATH, &plain());
    let hidden = clean.config().hidden_size;
    let embedding = clean.weight("model.embed_tokens.weight");
    let scaled: Vec<f64> = clean.get(EmbedOut).iter().map(|x| x * (hidden as f64).sqrt()).collect();
    assert_close(Shown::faulty_end(PATH, "EMBED_SCALE").get(EmbedOut), &scaled, "scaled");
    let gemma = Shown::faulty_end("hf/gemma2", "EMBED_SCALE");
    let token = sequence(gemma.config().vocab_size)[POS] as usize;
    let row = gemma.config().hidden_size;
    let unscaled = gemma.weight("model.embed_tokens.weight")[token * row..(token + 1) * row].to_vec();
    assert_eq!(gemma.get(EmbedOut), unscaled);
    let token = (sequence(clean.config().vocab_size)[POS] as usize + 1) % clean.config().vocab_size;
    let next = Shown::faulty_end(PATH, "EMBED_ROW");
    assert_eq!(next.get(EmbedOut), &embedding[token * hidden..(token + 1) * hidden]);
    let last = clean.config().vocab_size - 1;
    for (row, from) in [(3, 4), (last, 0)] {
        let shown = Shown::faulty_end(PATH, &format!("LM_HEAD_ROW:{row}"));
        let mut expected = clean.get(Logits).to_vec();
        expected[row] = expected[from];
        assert_eq!(shown.get(Logits), expected);
    }
    let shown = Shown::faulty_end(PATH, "LM_HEAD_WEIGHT");
    assert_close(shown.get(Logits), &times(&embedding, clean.get(FinalNormOut)), "the embedding");
    let gemma_clean = Shown::clean("hf/gemma2", &plain());
    let uncapped = Shown::faulty_end("hf/gemma2", "SOFTCAP_MISSING:logits");
    let cap = gemma_clean.config().final_softcap.unwrap();
    let capped: Vec<f64> = uncapped.get(Logits).iter().map(|l| (l / cap).tanh() * cap).collect();
    assert_close(gemma_clean.get(Logits), &capped, "uncapped");
}
