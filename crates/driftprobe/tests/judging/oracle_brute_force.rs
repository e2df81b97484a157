//! The noise formulas against real low-precision arithmetic in many orders.
//!
//! z must be about 1 in the worst order, which is what the formulas describe, and never much more in any.

use crate::oracle_support::Dice;
use driftprobe::oracle::Float;
use driftprobe::oracle::noise::{
    AttentionNoise, HeadInputs, RotaryNoise, attention_head, gelu_variance, norm_variance, ordered_sum_variance,
    relative_rms, rope_variance, scores_variance, silu_variance, softcap_variance, softmax_variance, weigh_variance,
};
use driftprobe_model::RopeLayout;
use driftprobe_model::reference::{gelu_tanh, rms_norm, silu, softmax};
use half::{bf16, f16};

const RMS_MAX: f64 = 1.2;
const RMS_MIN: f64 = 0.3;

/// One operation of an arithmetic: the exact result, rounded.
type Rounding = fn(f64) -> f64;

const F32: (Float, Rounding) = (Float::F32, |x| f64::from(x as f32));
/// Sums of two f16 (bf16) and their products are exact in f32, or f64, so one conversion rounds correctly.
const F16: (Float, Rounding) = (Float::F16, |x| f16::from_f32(x as f32).to_f64());
const BF16: (Float, Rounding) = (Float::Bf16, |x| bf16::from_f32(x as f32).to_f64());

#[derive(Clone, Copy, Debug)]
enum Data {
    Gauss,
    /// Cubed: a kurtosis of 46.
    HeavyTailed,
    /// One value a thousand times the others, as massive activations and attention sinks are.
    Sink,
    /// Rising, then falling: partial sums far larger than the result.
    Hill,
}

const DATA: [Data; 4] = [Data::Gauss, Data::HeavyTailed, Data::Sink, Data::Hill];

fn values(dice: &mut Dice, data: Data, n: usize, round: Rounding) -> Vec<f64> {
    let outlier = dice.below(n);
    let one = |i: usize, dice: &mut Dice| match data {
        Data::Gauss => dice.normal(),
        Data::HeavyTailed => dice.normal().powi(3),
        Data::Sink => dice.normal() * if i == outlier { 1000.0 } else { 1.0 },
        Data::Hill => (dice.normal() * 0.2 + 1.0) * if i < n / 2 { 1.0 } else { -1.0 },
    };
    (0..n).map(|i| round(one(i, dice))).collect()
}

fn pairwise(values: &[f64], round: Rounding) -> f64 {
    match values {
        [] => 0.0,
        [one] => *one,
        _ => {
            let (left, right) = values.split_at(values.len() / 2);
            round(pairwise(left, round) + pairwise(right, round))
        }
    }
}

fn sequential(values: &[f64], round: Rounding) -> f64 {
    values.iter().fold(0.0, |sum, v| round(sum + v))
}

/// The orders of summing products, by name.
const ORDERS: [&str; 6] = ["sequential", "fused", "reversed", "pairwise", "lanes", "blocks"];

fn dot(order: &str, (x, w): (&[f64], &[f64]), round: Rounding) -> f64 {
    let products: Vec<f64> = x.iter().zip(w).map(|(x, w)| round(x * w)).collect();
    match order {
        "sequential" => sequential(&products, round),
        // x·w + sum in one rounding; the product is exact in f64, the sum nearly so.
        "fused" => x.iter().zip(w).fold(0.0, |sum, (x, w)| round(x * w + sum)),
        "reversed" => products.iter().rev().fold(0.0, |sum, v| round(sum + v)),
        "pairwise" => pairwise(&products, round),
        "lanes" => {
            let lane = |i| products.iter().skip(i).step_by(16).fold(0.0, |sum, v| round(sum + v));
            pairwise(&(0..16).map(lane).collect::<Vec<_>>(), round)
        }
        _ => sequential(&products.chunks(64).map(|b| sequential(b, round)).collect::<Vec<_>>(), round),
    }
}

/// z of many elements.
#[derive(Default)]
struct Z {
    squares: f64,
    count: usize,
    max: f64,
}

impl Z {
    fn add(&mut self, r: f64, variance: f64) {
        let z = if r == 0.0 { 0.0 } else { r / variance.sqrt() };
        assert!(!z.is_nan());
        self.squares += z * z;
        self.count += 1;
        self.max = self.max.max(z.abs());
    }

    fn rms(&self) -> f64 {
        (self.squares / self.count as f64).sqrt()
    }

    fn expect(&self, what: &str, (rms_min, rms_max, max): (f64, f64, f64)) {
        println!("| {what} | {} | {:.2} | {:.2} |", self.count, self.rms(), self.max);
        assert!(self.rms() >= rms_min && self.rms() <= rms_max, "{what}: RMS z {}", self.rms());
        assert!(self.max <= max, "{what}: |z| {}", self.max);
    }
}

/// Σ, Σ of squares, and Σ of the partial sums' squares, in f64.
fn exact_sums(x: &[f64], w: &[f64]) -> (f64, f64, f64) {
    x.iter().zip(w).map(|(x, w)| x * w).fold((0.0, 0.0, 0.0), |(s, q, p), v| (s + v, q + v * v, p + (s + v).powi(2)))
}

#[test]
fn a_sum_of_products_has_the_variance_of_the_worst_order() {
    for (float, round) in [F32, F16, BF16] {
        for data in DATA {
            for n in [16, 64, 256, 1024, 4096] {
                let mut dice = Dice(n as u64);
                let mut z: [Z; ORDERS.len()] = Default::default();
                for _ in 0..(100_000 / n).clamp(60, 500) {
                    let (x, w) = (values(&mut dice, data, n, round), values(&mut dice, Data::Gauss, n, round));
                    // A hill needs equal signs to be one.
                    let w = if matches!(data, Data::Hill) { w.iter().map(|w| w.abs()).collect() } else { w };
                    let (y, squares, partials) = exact_sums(&x, &w);
                    let own = ordered_sum_variance(n as f64, squares, (y, partials), relative_rms(float));
                    for (z, order) in z.iter_mut().zip(ORDERS) {
                        z.add(dot(order, (&x, &w), round) - y, own + float.rounding_variance(y));
                    }
                }
                for (z, order) in z.iter().zip(ORDERS) {
                    let rms_min = if order == "sequential" { RMS_MIN } else { 0.0 };
                    // Thousands of products stagnate in an accumulator of eight bits.
                    let rms_max = if float == Float::Bf16 && n > 1000 { 1.6 } else { 1.25 };
                    z.expect(&format!("{float} {data:?} {n} {order}"), (rms_min, rms_max, 10.0));
                }
            }
        }
    }
}

#[test]
fn a_norm_has_the_variance_of_a_sum_of_squares() {
    let (float, round) = F32;
    for data in DATA {
        for n in [16, 64, 256, 1024, 4096] {
            let mut dice = Dice(n as u64 + 1);
            let mut z = Z::default();
            for _ in 0..(200_000 / n).clamp(100, 1000) {
                let x = values(&mut dice, data, n, round);
                let w = values(&mut dice, Data::Gauss, n, round);
                let mean = round(dot("sequential", (&x, &x), round) / n as f64);
                let factor = round(1.0 / round(round(mean + 1e-6f32 as f64).sqrt()));
                let y = rms_norm(&x, &w, 1e-6f32 as f64);
                let variance = norm_variance(&x, &y, relative_rms(float));
                for ((x, w), (y, variance)) in x.iter().zip(&w).zip(y.iter().zip(&variance)) {
                    z.add(round(round(x * factor) * w) - y, variance + float.rounding_variance(*y));
                }
            }
            z.expect(&format!("norm {data:?} {n}"), (0.2, RMS_MAX, 12.0));
        }
    }
}

#[test]
fn a_rotation_has_the_variance_of_its_products_and_angles() {
    let (float, round) = F32;
    let head_dim = 64;
    let theta = 10_000.0f64;
    let frequencies: Vec<f64> = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64)).collect();
    // ggml multiplies its way up from θ₀, others take powers.
    let step = round(theta.powf(-2.0 / head_dim as f64));
    let multiplied: Vec<f64> =
        (0..head_dim / 2).scan(1.0, |f, _| Some(std::mem::replace(f, round(*f * step)))).collect();
    let powers: Vec<f64> = frequencies.iter().map(|f| round(*f)).collect();
    for (name, table) in [("powers", &powers), ("multiplied", &multiplied)] {
        for pos in [0u64, 1, 17, 300, 4095] {
            let mut dice = Dice(pos);
            let mut z = Z::default();
            for _ in 0..100 {
                let x = values(&mut dice, Data::HeavyTailed, head_dim, round);
                let half = head_dim / 2;
                let (mut y, mut low) = (vec![0.0; head_dim], vec![0.0; head_dim]);
                for i in 0..half {
                    let (sin, cos) = (pos as f64 * frequencies[i]).sin_cos();
                    (y[i], y[i + half]) = (x[i] * cos - x[i + half] * sin, x[i + half] * cos + x[i] * sin);
                    let (sin, cos) = round(pos as f64 * table[i]).sin_cos();
                    let (sin, cos) = (round(sin), round(cos));
                    low[i] = round(round(x[i] * cos) - round(x[i + half] * sin));
                    low[i + half] = round(round(x[i + half] * cos) + round(x[i] * sin));
                }
                let cu = relative_rms(float);
                let noise = RotaryNoise { pos, frequencies: &frequencies, layout: RopeLayout::Half, cu, cu_angle: cu };
                let variance = rope_variance(&x, &y, &noise);
                for ((low, y), variance) in low.iter().zip(&y).zip(variance) {
                    z.add(low - y, variance + float.rounding_variance(*y));
                }
            }
            z.expect(&format!("rope {name} position {pos}"), (0.0, RMS_MAX, 10.0));
        }
    }
}

#[test]
fn activations_and_caps_have_the_variance_of_their_steps() {
    let float = Float::F32;
    let cu = relative_rms(float);
    let mut dice = Dice(5);
    let (mut s, mut g, mut c) = (Z::default(), Z::default(), Z::default());
    for _ in 0..20_000 {
        let spread = [1.0, 5.0, 40.0][dice.below(3)];
        let (x, up) = ((dice.normal() * spread) as f32, (dice.normal() * 3.0) as f32);
        let (x64, up64) = (f64::from(x), f64::from(up));
        let y = silu(x64) * up64;
        s.add(f64::from(x / (1.0 + (-x).exp()) * up) - y, silu_variance(x64, up64, y, cu) + float.rounding_variance(y));
        let y = gelu_tanh(x64) * up64;
        let low = 0.5 * x * (1.0 + (0.797_884_6 * x * (1.0 + 0.044715 * x * x)).tanh()) * up;
        g.add(f64::from(low) - y, gelu_variance(x64, up64, y, cu) + float.rounding_variance(y));
        let y = 30.0 * (x64 / 30.0).tanh();
        c.add(f64::from((x / 30.0).tanh() * 30.0) - y, softcap_variance(y, 30.0, 0.0, cu) + float.rounding_variance(y));
    }
    s.expect("silu", (RMS_MIN, RMS_MAX, 10.0));
    g.expect("gelu", (0.2, RMS_MAX, 10.0));
    c.expect("softcap", (RMS_MIN, RMS_MAX, 10.0));
}

/// One head in float64 and in an order of f32.
struct Head {
    q: Vec<f64>,
    k: Vec<Vec<f64>>,
    v: Vec<Vec<f64>>,
    scale: f64,
}

impl Head {
    /// Keys that share a direction with the query, and one that the query attends to above all.
    fn random(dice: &mut Dice, (keys, width): (usize, usize), sharpness: f64, sink: f64) -> Head {
        let round = F32.1;
        let q: Vec<f64> = values(dice, Data::Gauss, width, round).iter().map(|q| round(q * sharpness)).collect();
        let mut k: Vec<Vec<f64>> = (0..keys).map(|_| values(dice, Data::Gauss, width, round)).collect();
        // Half of the channels have a common sign.
        let biased = |(c, v): (usize, f64)| round(if c % 2 == 0 { v } else { v + 3.0 });
        let row = |dice: &mut Dice| {
            values(dice, Data::HeavyTailed, width, round).into_iter().enumerate().map(biased).collect()
        };
        let v: Vec<Vec<f64>> = (0..keys).map(|_| row(dice)).collect();
        let length: f64 = q.iter().map(|q| q * q).sum();
        k[0] = q.iter().map(|q| round(q / length * sink * (width as f64).sqrt())).collect();
        Head { q, k, v, scale: 1.0 / (width as f64).sqrt() }
    }

    fn exact(&self) -> (Vec<f64>, Vec<f64>) {
        let sums = self.k.iter().map(|k| exact_sums(&self.q, k));
        sums.map(|(s, q, _)| (s * self.scale, q * self.scale * self.scale)).unzip()
    }

    fn weigh(&self, p: &[f64]) -> Vec<f64> {
        (0..self.q.len()).map(|c| p.iter().zip(&self.v).map(|(p, v)| p * v[c]).sum()).collect()
    }

    /// f32, `parts` ranges of keys with running maxima; probabilities rounded by `stored` where they meet V.
    fn low(&self, order: &str, parts: usize, stored: Rounding) -> Vec<f64> {
        let round = F32.1;
        let scale = round(self.scale);
        let score = |k: &Vec<f64>| round(dot(order, (&self.q, k), round) * scale);
        let (mut max, mut sum, mut out) = (f64::NEG_INFINITY, 0.0, vec![0.0; self.q.len()]);
        let part = self.k.len().div_ceil(parts);
        for (k, v) in self.k.chunks(part).zip(self.v.chunks(part)) {
            let scores: Vec<f64> = k.iter().map(score).collect();
            let new = scores.iter().copied().fold(max, f64::max);
            let old = round(round(max - new).exp());
            let exps: Vec<f64> = scores.iter().map(|s| f64::from(round(s - new) as f32).exp()).map(round).collect();
            sum = round(round(sum * old) + sequential(&exps, round));
            for (c, out) in out.iter_mut().enumerate() {
                let products: Vec<f64> = exps.iter().zip(v).map(|(e, v)| round(stored(*e) * v[c])).collect();
                *out = round(round(*out * old) + sequential(&products, round));
            }
            max = new;
        }
        out.iter().map(|o| round(o / sum)).collect()
    }
}

fn attention_noise(width: usize, probs: Float) -> AttentionNoise {
    let cu = relative_rms(Float::F32);
    AttentionNoise {
        cu_values: cu,
        inputs: 0.0,
        cu,
        cu_softmax: cu,
        u: Float::F32.unit_roundoff(),
        head_dim: width as f64,
        softcap: None,
        scores: Float::F32,
        score_roundings: 1.0,
        probs,
    }
}

#[test]
fn attention_has_the_variance_of_its_scores_and_sums() {
    let float = Float::F32;
    for (keys, width, sharpness, sink) in [
        (16, 16, 1.0, 0.0),
        (64, 64, 1.0, 10.0),
        (300, 64, 4.0, 0.0),
        (300, 64, 1.0, 25.0),
        (1000, 32, 1.0, 16.0),
        (1000, 32, 1.0, 20.0),
    ] {
        for (probs, stored) in [(Float::F32, F32.1), (Float::Bf16, BF16.1)] {
            let mut dice = Dice(keys as u64);
            let noise = attention_noise(width, probs);
            let mut z: [Z; 4] = Default::default();
            for _ in 0..(20_000 / keys).clamp(20, 200) {
                let head = Head::random(&mut dice, (keys, width), sharpness, sink);
                let (scores, squares) = head.exact();
                let p = softmax(&scores);
                let out = head.weigh(&p);
                let inputs = HeadInputs { scores: &scores, squares: &squares, probs: &p, out: &out };
                let variance = attention_head(&inputs, head.v.iter().map(Vec::as_slice), &noise);
                for (z, (order, parts)) in
                    z.iter_mut().zip([("sequential", 1), ("lanes", 1), ("lanes", 4), ("fused", 7)])
                {
                    for ((low, y), a) in head.low(order, parts, stored).iter().zip(&out).zip(&variance) {
                        z.add(low - y, a + float.rounding_variance(*y));
                    }
                }
            }
            for (z, way) in z.iter().zip(["sequential", "lanes", "split in 4", "split in 7, fused"]) {
                let what = format!("attention {keys}×{width}, sharpness {sharpness}, sink {sink}, P in {probs}, {way}");
                // Behind a sink of e²⁵ nothing is left to round: its own weight is 1, and additions change no bit.
                let rms_min = if sink < 15.0 && way == "sequential" { 0.25 } else { 0.0 };
                z.expect(&what, (rms_min, RMS_MAX, 10.0));
            }
        }
    }
}

#[test]
fn scores_probabilities_and_weighted_values_have_their_own_variances() {
    let (float, round) = F32;
    let (mut s, mut p, mut o) = (Z::default(), Z::default(), Z::default());
    let mut dice = Dice(3);
    for (keys, width, sharpness, sink) in [(16, 16, 1.0, 0.0), (64, 64, 1.0, 20.0), (500, 64, 4.0, 0.0)] {
        let noise = attention_noise(width, Float::F32);
        for _ in 0..40 {
            let head = Head::random(&mut dice, (keys, width), sharpness, sink);
            let (scores, squares) = head.exact();
            let low = head.k.iter().map(|k| round(dot("sequential", (&head.q, k), round) * round(head.scale)));
            let low: Vec<f64> = low.collect();
            for ((low, y), squares) in low.iter().zip(&scores).zip(&squares) {
                s.add(low - y, scores_variance(*y, *squares, &noise) + float.rounding_variance(*y));
            }
            let max = low.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exps: Vec<f64> = low.iter().map(|s| round(round(s - max).exp())).collect();
            let sum = sequential(&exps, round);
            let probs: Vec<f64> = exps.iter().map(|e| round(e / sum)).collect();
            let exact = softmax(&low);
            for ((low, y), a) in probs.iter().zip(&exact).zip(softmax_variance(&low, &exact, &noise)) {
                p.add(low - y, a + float.rounding_variance(*y));
            }
            let out = head.weigh(&probs);
            let inputs = HeadInputs { scores: &[], squares: &[], probs: &probs, out: &out };
            let variance = weigh_variance(&inputs, head.v.iter().map(Vec::as_slice), &noise);
            for (c, (y, a)) in out.iter().zip(variance).enumerate() {
                let products: Vec<f64> = probs.iter().zip(&head.v).map(|(p, v)| round(p * v[c])).collect();
                o.add(sequential(&products, round) - y, a + float.rounding_variance(*y));
            }
        }
    }
    s.expect("scores", (RMS_MIN, RMS_MAX, 10.0));
    p.expect("probabilities", (0.2, RMS_MAX, 12.0));
    o.expect("weighted values", (0.2, RMS_MAX, 10.0));
}
