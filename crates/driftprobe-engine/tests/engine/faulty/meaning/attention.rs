//! Rotary embedding, mask, heads and scores.

use super::{POS, Shown, assert_close, assert_far, dot};
use crate::support::{blocked, plain};
use driftprobe_trace::Point::{
    AttnOut, AttnProbs, AttnScores, KCache, KPostRope, KPreRope, QPostRope, QPreRope, VCache,
};
use half::bf16;

const PATH: &str = "hf/llama";

/// x `[heads, width]` turned by an angle a pair; halves, or neighbours.
fn turned(x: &[f64], width: usize, halves: bool, angle: impl Fn(usize) -> (f64, f64)) -> Vec<f64> {
    let mut out = x.to_vec();
    for (head, row) in out.chunks_exact_mut(width).enumerate() {
        let x = &x[head * width..(head + 1) * width];
        for i in 0..width / 2 {
            let (a, b) = if halves { (i, i + width / 2) } else { (2 * i, 2 * i + 1) };
            let (cos, sin) = angle(i);
            (row[a], row[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
        }
    }
    out
}

#[test]
fn rotary_faults_turn_as_their_names_say() {
    let clean = Shown::clean(PATH, &plain());
    let (width, theta) = (clean.config().head_dim, clean.config().rope.theta);
    let angle = move |pos: f64, theta: f64, i: usize| pos * theta.powf(-2.0 * i as f64 / width as f64);
    let pos = POS as f64;
    let exact = |a: f64| (a.cos(), a.sin());
    let coarse = |a: f64| (bf16::from_f64(a.cos()).to_f64(), bf16::from_f64(a.sin()).to_f64());
    type Angle<'a> = Box<dyn Fn(usize) -> (f64, f64) + 'a>;
    let cases: Vec<(&str, bool, Angle<'_>)> = vec![
        ("ROPE_POSITION_OFFSET:+1", true, Box::new(|i| exact(angle(pos + 1.0, theta, i)))),
        ("ROPE_POSITION_OFFSET:-20", true, Box::new(|i| exact(angle(pos - 20.0, theta, i)))),
        ("ROPE_THETA:2", true, Box::new(|i| exact(angle(pos, 2.0 * theta, i)))),
        ("ROPE_LAYOUT", false, Box::new(|i| exact(angle(pos, theta, i)))),
        ("ROPE_SCALING:4", true, Box::new(|i| exact(angle(pos / 4.0, theta, i)))),
        ("ROPE_TABLE_PRECISION:bf16", true, Box::new(|i| coarse(angle(pos, theta, i)))),
    ];
    for (fault, halves, angle) in cases {
        let shown = Shown::faulty(PATH, &plain(), fault);
        for (before, after) in [(QPreRope, QPostRope), (KPreRope, KPostRope)] {
            assert_close(shown.get(after), &turned(shown.get(before), width, halves, &angle), fault);
            assert_far(shown.get(after), clean.get(after), fault);
        }
    }
    let shown = Shown::faulty(PATH, &plain(), "K_WITHOUT_ROPE");
    assert_eq!(shown.get(KPostRope), shown.get(KPreRope));
    assert_eq!(shown.get(QPostRope), clean.get(QPostRope));
    let scaled = Shown::faulty("hf/llama-rope-linear", &plain(), "ROPE_SCALING");
    let (width, theta) = (scaled.config().head_dim, scaled.config().rope.theta);
    let plain = turned(scaled.get(QPreRope), width, true, |i| exact(pos * theta.powf(-2.0 * i as f64 / width as f64)));
    assert_close(scaled.get(QPostRope), &plain, "a scaling left out");
}

/// q·k of a head with each key of the cache as it was read, by the key head that `map` gives.
fn products(shown: &Shown, map: impl Fn(usize) -> usize) -> Vec<Vec<f64>> {
    let c = shown.config();
    let (q, k) = (shown.get(QPostRope).chunks_exact(c.head_dim), shown.get(KCache));
    let head = |(h, q)| {
        let keys = k.chunks_exact(k.len() / c.num_key_value_heads).nth(map(h)).unwrap();
        keys.chunks_exact(c.head_dim).map(|k| dot(q, k)).collect()
    };
    q.enumerate().map(head).collect()
}

fn own_scores(shown: &Shown, factor: f64) -> Vec<f64> {
    let group = shown.config().group();
    products(shown, |h| h / group).concat().into_iter().map(|s| s * factor).collect()
}

#[test]
fn mask_faults_hide_and_show_the_keys_that_they_name() {
    type Hides = fn(usize) -> bool;
    let cases: [(&str, Hides); 3] = [
        ("MASK_MISSES_NEWEST", |key| key == POS),
        ("MASK_MISSES_FIRST", |key| key == 0),
        ("MASK_WINDOW:4", |key| key + 4 <= POS),
    ];
    let clean = Shown::clean(PATH, &plain());
    for settings in [plain(), blocked(5)] {
        for (fault, hidden) in cases {
            let shown = Shown::faulty(PATH, &settings, fault);
            let expected = clean.get(AttnScores).iter().enumerate();
            let expected: Vec<f64> =
                expected.map(|(i, s)| if hidden(i % (POS + 1)) { f64::NEG_INFINITY } else { *s }).collect();
            assert_close(shown.get(AttnScores), &expected, fault);
            assert!(shown.get(AttnOut).iter().all(|o| o.is_finite()));
        }
    }
}

#[test]
fn a_row_that_sees_the_future_gives_it_its_share() {
    let shown = Shown::faulty(PATH, &plain(), "MASK_SEES_FUTURE:1");
    let (pos, c) = (POS - 1, shown.config());
    // The last row's cache has the key behind this row's.
    let (q, k) = (shown.at(QPostRope, pos), shown.get(KCache));
    for (h, q) in q.chunks_exact(c.head_dim).enumerate() {
        let keys = k.chunks_exact(k.len() / c.num_key_value_heads).nth(h / c.group()).unwrap();
        let exps: Vec<f64> = keys.chunks_exact(c.head_dim).map(|k| (dot(q, k) * c.attention_scale).exp()).collect();
        let sum: f64 = exps.iter().sum();
        let probs: Vec<f64> = exps[..=pos].iter().map(|e| e / sum).collect();
        assert_close(&shown.at(AttnProbs, pos)[h * (pos + 1)..(h + 1) * (pos + 1)], &probs, "probabilities");
    }
}

/// `[heads, head_dim]` of what the weights `[heads, keys]` make of V.
fn weighed(shown: &Shown, weights: &[f64]) -> Vec<f64> {
    let c = shown.config();
    let v = shown.get(VCache);
    let head = |(h, weights): (usize, &[f64])| {
        let rows = v.chunks_exact(v.len() / c.num_key_value_heads).nth(h / c.group()).unwrap();
        (0..c.head_dim)
            .map(|i| dot(weights, &rows.iter().skip(i).step_by(c.head_dim).copied().collect::<Vec<_>>()))
            .collect()
    };
    weights.chunks_exact(POS + 1).enumerate().map(head).collect::<Vec<Vec<f64>>>().concat()
}

#[test]
fn score_faults_scale_cap_and_divide_as_their_names_say() {
    let scale = |shown: &Shown| shown.config().attention_scale;
    let shown = Shown::faulty(PATH, &plain(), "SCALE_MISSING");
    assert_close(shown.get(AttnScores), &own_scores(&shown, 1.0), "no scale");
    let shown = Shown::faulty(PATH, &plain(), "SCALE_WRONG:1.5");
    assert_close(shown.get(AttnScores), &own_scores(&shown, 1.5 * scale(&shown)), "another scale");
    let shown = Shown::faulty("hf/gemma2", &plain(), "SOFTCAP_MISSING:attn");
    let mut expected = own_scores(&shown, scale(&shown));
    for (i, score) in expected.iter_mut().enumerate() {
        if i % (POS + 1) + 8 <= POS {
            *score = f64::NEG_INFINITY;
        }
    }
    assert_close(shown.get(AttnScores), &expected, "no cap");
    let shown = Shown::faulty(PATH, &plain(), "SOFTMAX_UNNORMALISED");
    let scores = shown.get(AttnScores).chunks_exact(POS + 1);
    let exps = |row: &[f64]| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter().map(|s| (s - max).exp()).collect::<Vec<f64>>()
    };
    let exps = scores.map(exps).collect::<Vec<_>>().concat();
    assert_close(shown.get(AttnProbs), &exps, "exponentials");
    assert_close(shown.get(AttnOut), &weighed(&shown, &exps), "their sum");
}

#[test]
fn a_merge_without_rescaling_keeps_what_each_part_had_against_its_own_maximum() {
    const BLOCK: usize = 4;
    let shown = Shown::faulty(PATH, &blocked(BLOCK), "SOFTMAX_MERGE");
    let weights = |row: &[f64]| {
        let (mut max, mut sum, mut weights) = (f64::NEG_INFINITY, 0.0, Vec::new());
        for part in row.chunks(BLOCK) {
            let new = part.iter().copied().fold(max, f64::max);
            sum = sum * (max - new).exp() + part.iter().map(|s| (s - new).exp()).sum::<f64>();
            weights.extend(part.iter().map(|s| (s - new).exp()));
            max = new;
        }
        weights.iter().map(|w| w / sum).collect::<Vec<f64>>()
    };
    let weights = shown.get(AttnScores).chunks_exact(POS + 1).map(weights).collect::<Vec<_>>().concat();
    assert_close(shown.get(AttnOut), &weighed(&shown, &weights), "the output");
    assert_far(shown.get(AttnOut), Shown::clean(PATH, &blocked(BLOCK)).get(AttnOut), "the output");
}

#[test]
fn head_faults_move_the_heads_that_they_name() {
    let clean = Shown::clean(PATH, &plain());
    let c = clean.config();
    let (heads, width) = (c.num_attention_heads, c.head_dim);
    let shown = Shown::faulty(PATH, &plain(), "GQA_MAP");
    let scores = products(&shown, |h| h % c.num_key_value_heads).concat();
    let scores: Vec<f64> = scores.into_iter().map(|s| s * c.attention_scale).collect();
    assert_close(shown.get(AttnScores), &scores, "scores");
    let out = clean.get(AttnOut);
    let swapped = Shown::faulty(PATH, &plain(), "HEAD_SWAP:1:3");
    let order = [0, 3, 2, 1];
    let expected: Vec<f64> = order.iter().flat_map(|h| out[h * width..(h + 1) * width].to_vec()).collect();
    assert_eq!(swapped.get(AttnOut), expected);
    let laid = Shown::faulty(PATH, &plain(), "HEAD_LAYOUT");
    let expected: Vec<f64> = (0..heads * width).map(|i| out[i % heads * width + i / heads]).collect();
    assert_eq!(laid.get(AttnOut), expected);
}
