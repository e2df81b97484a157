//! Reachability: the embedded engine's kernels are named, and nothing that is not so.

use crate::oracle_support::fixture;
use crate::oracle_support::replaced::{Replaced, values};
use crate::reach_support::{Tally, kernels, of, recorded, search, search_while};
use driftprobe::reach::{Outcome, Reach};
use driftprobe::report::reach::{to_json, to_markdown, to_terminal};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::{DecodeAttention, EmbeddedEngine, PrefillAttention, Settings, Storage};
use driftprobe_model::reference::AttentionShape;
use driftprobe_model::{Model, WeightId};
use driftprobe_trace::{Event, Phase, Point, Row, Rows, Run, TraceError};
use std::ops::Range;

#[test]
fn blocks_and_splits_are_named_and_no_wrong_ones() {
    let model = fixture("hf/llama");
    let kinds = [
        (PrefillAttention::Naive, DecodeAttention::SplitK { parts: 2 }),
        (PrefillAttention::Blocked { keys: 1 }, DecodeAttention::SplitK { parts: 7 }),
        (PrefillAttention::Blocked { keys: 4 }, DecodeAttention::Naive),
        (PrefillAttention::Blocked { keys: 7 }, DecodeAttention::SplitK { parts: 3 }),
        (PrefillAttention::Blocked { keys: 16 }, DecodeAttention::SplitK { parts: 1 }),
        (PrefillAttention::Blocked { keys: 64 }, DecodeAttention::SplitK { parts: 4 }),
    ];
    let mut tally = Tally::default();
    for (prefill, decode) in kinds {
        for lengths in [&[37, 22][..], &[9, 6]] {
            tally.add(&model, &kernels(prefill, decode), lengths, &[]);
        }
    }
    assert_eq!(tally.wrong, Vec::<String>::new());
    assert!(tally.searched >= 24 && tally.claimed * 10 >= tally.searched * 9, "not named: {:?}", tally.open);
}

#[test]
fn without_recorded_scores_the_ranges_are_named_too() {
    let model = fixture("hf/llama");
    let points = [Point::QPostRope, Point::KCache, Point::VCache, Point::AttnOut];
    let mut tally = Tally::default();
    let kernels = kernels(PrefillAttention::Blocked { keys: 8 }, DecodeAttention::SplitK { parts: 3 });
    tally.add(&model, &kernels, &[29, 22], &points);
    assert_eq!((tally.searched, tally.claimed, tally.wrong), (2, 2, vec![]));
}

#[test]
fn coarse_storage_leads_to_no_wrong_claim() {
    let model = fixture("hf/llama");
    let kernels = kernels(PrefillAttention::Blocked { keys: 8 }, DecodeAttention::SplitK { parts: 3 });
    let mut tally = Tally::default();
    for storage in [Storage::F16, Storage::Bf16] {
        tally.add(&model, &Settings { storage, kv_cache: storage, ..kernels.clone() }, &[29, 22], &[]);
    }
    // In bf16 most rows are equal: there is little to search.
    assert!(tally.searched > 0);
    assert_eq!(tally.wrong, Vec::<String>::new());
}

/// A run of the plain engine with some points.
fn plain(model: &Model, lengths: &[usize], points: &[Point]) -> (tempfile::TempDir, Run) {
    recorded(&EmbeddedEngine::new(model, Settings::default()).unwrap(), lengths, points)
}

/// The id of the first order that is left.
fn first_order(found: &Reach, phase: Phase, point: Point) -> String {
    let outcome = &of(found, phase, point).outcome;
    outcome.claim().map_or_else(|| outcome.id().to_owned(), |claim| claim.orders[0].id())
}

#[test]
fn kernels_of_matrices_norms_and_rotations_are_named() {
    // 176 products: eleven times sixteen, which no kernel of other widths adds alike.
    let model = Model::demo().unwrap();
    let (_dir, run) = plain(&model, &[21], &[]);
    let points = [Point::MlpOut, Point::QPostRope, Point::AttnScores, Point::AttnProbs, Point::AttnOut];
    let found = search(&model, &run, &run, &points);
    let id = |phase, point| first_order(&found, phase, point);
    assert_eq!(id(Phase::Prefill, Point::MlpOut), "dot(fma)");
    assert_eq!(id(Phase::Decode, Point::MlpOut), "dot(plain:1x16:in-order/neighbours:on-top)");
    assert_eq!(id(Phase::Prefill, Point::QPostRope), "rope(separate)");
    assert_eq!(id(Phase::Decode, Point::AttnOut), "dot(plain)");
    assert_eq!(id(Phase::Decode, Point::AttnProbs), "softmax(plain,quotient)");
    let same = found.mechanisms.iter().find(|one| one.point == Point::QPostRope).unwrap();
    assert!(same.same && same.to_string().ends_with("the inputs part them"));
    let differ = found.mechanisms.iter().find(|one| one.point == Point::MlpOut).unwrap();
    assert!(!differ.same);
}

#[test]
fn a_mechanism_has_its_onset() {
    let model = fixture("hf/llama");
    let engine =
        EmbeddedEngine::new(&model, kernels(PrefillAttention::Blocked { keys: 16 }, DecodeAttention::Naive)).unwrap();
    let (_dir, run) = recorded(&engine, &[40, 30], &[]);
    let found = search(&model, &run, &run, &[Point::AttnOut]);
    let mechanism = found.mechanisms.iter().find(|one| one.point == Point::AttnOut).unwrap();
    assert_eq!(mechanism.onset, Some(17));
    assert!(mechanism.prefill.starts_with("blocks of 16 keys") && mechanism.decode.starts_with("one pass"));
    let text = to_terminal(&found).plain();
    assert!(text.contains("onset at kv_len 17") && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(to_markdown(&found).contains("onset at kv\\_len 17") || to_markdown(&found).contains("onset at kv_len 17"));
    let json: serde_json::Value = serde_json::from_str(&to_json(&found)).unwrap();
    assert_eq!((json["schema"].as_u64(), json["mechanisms"][0]["onset_kv_len"].as_u64()), (Some(1), Some(17)));
}

fn replaced<'a>(run: &'a Run, point: Point, row: impl Fn(&Event) -> Vec<f32>) -> Replaced<'a> {
    let own = run.events.iter().filter(|e| e.phase == Phase::Decode && e.point == point);
    let rows = own.map(|e| ((e.phase, point, e.layer, e.pos_id.unwrap_or_default()), Row::from_f32(&row(e))));
    Replaced { run, rows: rows.collect() }
}

/// Products added in an order that no kernel has: those at even places backwards, those at odd places onto them.
fn odd_sum(products: impl Iterator<Item = f32>) -> f32 {
    let products: Vec<f32> = products.collect();
    let even = products.iter().step_by(2).rev().fold(0f32, |sum, p| sum + p);
    products.iter().skip(1).step_by(2).fold(even, |sum, p| sum + p)
}

#[test]
fn rows_of_another_kernel_are_not_explained() {
    let model = fixture("hf/llama");
    let (_dir, run) = plain(&model, &[24], &[]);
    let matrix = replaced(&run, Point::MlpOut, |event| {
        let x = values(&run, event, Point::MlpAct);
        let weight = model.weights.get(&WeightId::Down(event.layer as usize).name()).unwrap();
        weight.to_f32().chunks(x.len()).map(|w| odd_sum(w.iter().zip(&x).map(|(w, x)| w * x))).collect()
    });
    let found = search(&model, &run, &matrix, &[Point::MlpOut]);
    let outcome = &of(&found, Phase::Decode, Point::MlpOut).outcome;
    assert_eq!(outcome, &Outcome::NotReproduced { some_alone: false });
    assert_eq!(first_order(&found, Phase::Prefill, Point::MlpOut), "dot(fma)", "the other phase is as it was");

    let (shape, odd) = (AttentionShape::of(&model.config, 0), |all: Vec<f32>| odd_sum(all.into_iter()));
    let attention = replaced(&run, Point::AttnOut, |event| attended(&run, event, &shape, &odd));
    let found = search(&model, &run, &attention, &[Point::AttnOut]);
    let outcome = &of(&found, Phase::Decode, Point::AttnOut).outcome;
    assert_eq!(outcome, &Outcome::NotReproduced { some_alone: false });
    assert!(found.mechanisms.is_empty());
}

/// Scores and values of a head, `[keys]` and `[keys][width]`; products added by `sum`.
type HeadRows = (Vec<f32>, Vec<Vec<f32>>);

/// The heads of a row of attention.
fn heads(run: &Run, event: &Event, shape: &AttentionShape, sum: &dyn Fn(Vec<f32>) -> f32) -> Vec<HeadRows> {
    let [q, k, v] = [Point::QPostRope, Point::KCache, Point::VCache].map(|point| values(run, event, point));
    let width = shape.head_dim;
    let keys = k.len() / (shape.kv_heads * width);
    let one = |head: usize| {
        let rows = |all: &[f32]| -> Vec<Vec<f32>> {
            all.chunks(keys * width).nth(shape.kv_head(head)).unwrap().chunks(width).map(<[f32]>::to_vec).collect()
        };
        let q = &q[head * width..(head + 1) * width];
        let score = |k: &Vec<f32>| sum(q.iter().zip(k).map(|(q, k)| q * k).collect()) * shape.scale as f32;
        (rows(&k).iter().map(score).collect(), rows(&v))
    };
    (0..shape.heads).map(one).collect()
}

/// One row of attention in one pass, its sums being those of `sum`.
fn attended(run: &Run, event: &Event, shape: &AttentionShape, sum: &dyn Fn(Vec<f32>) -> f32) -> Vec<f32> {
    let mut out = Vec::new();
    for (scores, v) in heads(run, event, shape, sum) {
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
        let total = sum(exps.clone());
        out.extend((0..shape.head_dim).map(|c| sum(exps.iter().zip(&v).map(|(e, v)| e * v[c]).collect()) / total));
    }
    out
}

/// One row of attention over these ranges of keys, each by itself and merged in the order given, as the engine merges.
fn merged(run: &Run, event: &Event, shape: &AttentionShape, ranges: &dyn Fn(usize) -> Vec<Range<usize>>) -> Vec<f32> {
    let running = |all: Vec<f32>| all.into_iter().fold(0f32, |sum, x| sum + x);
    let mut out = Vec::new();
    for (scores, v) in heads(run, event, shape, &running) {
        let (mut top, mut total, mut row) = (f32::NEG_INFINITY, 0f32, vec![0f32; shape.head_dim]);
        for range in ranges(scores.len()) {
            let max = scores[range.clone()].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exps: Vec<f32> = scores[range.clone()].iter().map(|s| (s - max).exp()).collect();
            let merged = top.max(max);
            let (old, new) = ((top - merged).exp(), (max - merged).exp());
            for (c, row) in row.iter_mut().enumerate() {
                let own = exps.iter().zip(&v[range.clone()]).fold(0f32, |sum, (e, v)| e.mul_add(v[c], sum));
                *row = *row * old + own * new;
            }
            (top, total) = (merged, total * old + running(exps) * new);
        }
        out.extend(row.iter().map(|row| row / total));
    }
    out
}

#[test]
fn ranges_that_are_not_in_the_catalogue_get_no_name_of_it() {
    let model = fixture("hf/llama");
    // 24 tokens and 3 steps: 25, 26 and 27 keys.
    let (_dir, run) = plain(&model, &[24], &[]);
    let shape = AttentionShape::of(&model.config, 0);
    let cut = |sizes: Vec<usize>| -> Vec<Range<usize>> {
        let ends = sizes.iter().scan(0, |end, size| {
            *end += size;
            Some(*end)
        });
        ends.zip(&sizes).map(|(end, size)| end - size..end).collect()
    };
    type Ranges<'a> = &'a dyn Fn(usize) -> Vec<Range<usize>>;
    let blocks = |keys: usize| cut((0..keys).step_by(8).map(|first| 8.min(keys - first)).collect());
    let cases: [(&str, Ranges<'_>, bool); 4] = [
        ("blocks of 8", &blocks, true),
        ("… from the last to the first", &|keys| blocks(keys).into_iter().rev().collect(), false),
        ("a short block first", &|keys| cut(vec![keys % 7 + 1, 7, 7, keys - keys % 7 - 15]), false),
        (
            "four parts as even as can be",
            &|keys| cut((0..4).map(|i| keys / 4 + usize::from(i < keys % 4)).collect()),
            false,
        ),
    ];
    for (name, ranges, is_named) in cases {
        let rows = replaced(&run, Point::AttnOut, |event| merged(&run, event, &shape, ranges));
        let found = search(&model, &run, &rows, &[Point::AttnOut]);
        let claim = of(&found, Phase::Decode, Point::AttnOut).outcome.claim();
        let says = claim.map_or("", |claim| claim.says.as_str());
        assert_eq!(says.starts_with("blocks of 8 keys"), is_named, "{name}: {says}");
        assert_eq!(claim.is_some(), is_named, "{name}: {says}");
    }
}

#[test]
fn rows_that_float64_gave_are_named_so() {
    let model = fixture("hf/llama");
    let (_dir, run) = plain(&model, &[24], &[]);
    let exact = replaced(&run, Point::MlpOut, |event| {
        let x = values(&run, event, Point::MlpAct);
        let weight = model.weights.get(&WeightId::Down(event.layer as usize).name()).unwrap();
        let dot = |w: &[f32]| w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32;
        weight.to_f32().chunks(x.len()).map(dot).collect()
    });
    let found = search(&model, &run, &exact, &[Point::MlpOut]);
    assert_eq!(first_order(&found, Phase::Decode, Point::MlpOut), "f64");
}

#[test]
fn a_fault_is_not_explained_by_an_order() {
    let model = fixture("hf/llama");
    let settings = Settings::default();
    let subject = Subject { model: &model, settings: &settings, tokens: 24 };
    let fault: Fault = "MASK_MISSES_NEWEST@decode".parse().unwrap();
    let engine = FaultyEngine::new(&subject, fault).unwrap();
    let (_dir, run) = recorded(&engine, &[24], &[]);
    let found = search(&model, &run, &run, &[]);
    assert!(found.pairs.faulty > 0);
    // Softmax of the scores that there are is what it should be, and is searched.
    assert!(found.findings.iter().all(|finding| finding.point != Point::AttnScores));
    let told = |s: &driftprobe::reach::Skipped| s.point == Point::AttnScores && s.why.starts_with("at fault");
    assert!(found.skipped.iter().any(told), "{:?}", found.skipped);
}

#[test]
fn rows_that_carry_nothing_are_not_searched() {
    let model = fixture("hf/llama");
    let (_dir, run) = plain(&model, &[24], &[]);
    // Without payloads of what the stage is computed from nothing is computed.
    struct Without<'a>(&'a Run);
    impl Rows for Without<'_> {
        fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
            if event.point == Point::MlpAct { Ok(None) } else { self.0.row(event) }
        }
    }
    let found = search(&model, &run, &Without(&run), &[Point::MlpOut]);
    assert!(found.findings.is_empty() && found.mechanisms.is_empty(), "{:?}", found.findings);
    assert!(found.skipped.iter().all(|s| s.rows > 0) && !found.skipped.is_empty());
    // Rows of another number of values are no rows of the stage.
    let short = replaced(&run, Point::MlpOut, |event| values(&run, event, Point::MlpOut)[..7].to_vec());
    let found = search(&model, &run, &short, &[Point::MlpOut]);
    assert!(found.findings.is_empty(), "{:?}", found.findings);
    let zero = replaced(&run, Point::MlpOut, |event| vec![0.0; values(&run, event, Point::MlpOut).len()]);
    assert!(search(&model, &run, &zero, &[Point::MlpOut]).findings.is_empty());
}

#[test]
fn where_the_time_is_up_nothing_is_claimed() {
    let model = fixture("hf/llama");
    let (_dir, run) = plain(&model, &[24], &[]);
    let found = search_while(&model, &run, &run, &[], &mut || false);
    assert!(found.ended_early && found.findings.is_empty() && !found.skipped.is_empty());
    let mut asked = 0;
    let mut twice = || {
        asked += 1;
        asked < 3
    };
    let found = search_while(&model, &run, &run, &[Point::AttnOut, Point::AttnScores], &mut twice);
    assert!(found.ended_early && found.findings.iter().all(|finding| finding.outcome.claim().is_none()));
}
