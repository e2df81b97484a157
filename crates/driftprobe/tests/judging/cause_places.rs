//! Mistakes that the faulty engine cannot make: recorded rows are what they would have given, and each is named; a mistake
//! of the same kind that no bug of the catalogue makes is not.

use crate::oracle_support::{Recording, fixture, recording};
use driftprobe::cause::find;
use driftprobe::oracle::{Float, Replay};
use driftprobe_engine::{Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{Dtype, Event, Phase, Point, Row, Rows, Run, TraceError};

/// What a row becomes: its values, and those of any other point of the same token and layer.
type Alter<'a> = &'a (dyn Fn(&[f64], &dyn Fn(Point) -> Vec<f64>) -> Vec<f64> + Sync);

struct Altered<'a> {
    run: &'a Run,
    is_altered: &'a (dyn Fn(&Event) -> bool + Sync),
    alter: Alter<'a>,
}

impl Rows for Altered<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let row = self.run.row(event)?;
        if !(self.is_altered)(event) {
            return Ok(row);
        }
        let beside = |point: Point| {
            let key = |e: &Event| (e.phase, e.prompt_id.clone(), e.layer, e.logical_tok_idx);
            let other = self.run.events.iter().find(|e| e.point == point && key(e) == key(event)).unwrap();
            self.run.row(other).unwrap().unwrap().to_f64()
        };
        Ok(row.map(|row| {
            let values = (self.alter)(&row.to_f64(), &beside);
            let values = values.into_iter().map(|x| Float::of(row.dtype).round(x));
            let bytes = values.flat_map(|x| match row.dtype {
                Dtype::Bf16 => half::bf16::from_f64(x).to_le_bytes().to_vec(),
                _ => (x as f32).to_le_bytes().to_vec(),
            });
            Row::new(row.dtype, row.shape.clone(), bytes.collect()).unwrap()
        }))
    }
}

struct Bench {
    model: Model,
    recorded: Recording,
}

impl Bench {
    fn new(name: &str) -> Bench {
        Bench::stored(name, Storage::F32)
    }

    fn stored(name: &str, storage: Storage) -> Bench {
        let model = fixture(name);
        let settings = Settings { storage, kv_cache: storage, ..Settings::default() };
        let recorded = recording(&model, settings, &[20], 2);
        Bench { model, recorded }
    }

    /// The names of what is wrong in decode when a point of layer 1 is altered; `hidden` points are not recorded.
    fn names(&self, point: Point, hidden: &[Point], alter: Alter<'_>) -> Vec<&'static str> {
        self.names_from(0, point, hidden, alter)
    }

    /// When it is altered from this position on.
    fn names_from(&self, first: u64, point: Point, hidden: &[Point], alter: Alter<'_>) -> Vec<&'static str> {
        let run = &self.recorded.run;
        let is_altered = |e: &Event| {
            (e.phase, e.point) == (Phase::Decode, point)
                && (e.layer == 1 || !point.layered())
                && e.logical_tok_idx >= Some(first)
        };
        let rows = Altered { run, is_altered: &is_altered, alter };
        let events: Vec<Event> = run.events.iter().filter(|e| !hidden.contains(&e.point)).cloned().collect();
        let replay = Replay::new(&self.model, run.manifest.as_ref());
        let judged = [Phase::Prefill, Phase::Decode].map(|p| replay.phase(&events, &rows, p).unwrap());
        let causes = find(&replay, &events, &rows, &judged).unwrap();
        let [cause] = causes.as_slice() else { panic!("{point}: {causes:?}") };
        assert_eq!((cause.phase, cause.point), (Phase::Decode, point));
        println!("{point}: {:?} {}", cause.candidates, cause.evidence);
        cause.candidates.iter().map(|candidate| candidate.id).collect()
    }
}

/// Heads in this order.
fn ordered(row: &[f64], order: &[usize]) -> Vec<f64> {
    let width = row.len() / order.len();
    order.iter().flat_map(|h| row[h * width..(h + 1) * width].to_vec()).collect()
}

/// `[columns, rows]` for `[rows, columns]`.
fn transposed(row: &[f64], rows: usize) -> Vec<f64> {
    let columns = row.len() / rows;
    (0..row.len()).map(|i| row[i % rows * columns + i / rows]).collect()
}

#[test]
fn heads_and_rows_in_other_places() {
    let bench = Bench::new("hf/llama");
    let (heads, kv) = (bench.model.config.num_attention_heads, bench.model.config.num_key_value_heads);
    let mut swapped: Vec<usize> = (0..heads).collect();
    swapped.swap(0, heads - 1);
    let swap = |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| ordered(row, &swapped);
    assert_eq!(bench.names(Point::QPreRope, &[], &swap), ["HEAD_SWAP"]);
    assert_eq!(bench.names(Point::AttnScores, &[], &swap), ["HEAD_SWAP"]);
    assert_eq!(bench.names(Point::AttnProbs, &[], &swap), ["HEAD_SWAP"]);
    assert_eq!(bench.names(Point::VProj, &[], &|row, _| transposed(row, kv)), ["HEAD_LAYOUT"]);
    let rolled = |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| {
        let mut row = row.to_vec();
        row.rotate_right(3);
        row
    };
    assert_eq!(bench.names(Point::Logits, &[], &rolled), ["LM_HEAD_ROW"]);
    // Backwards is no order of a catalogue's bug.
    let backwards = |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| row.iter().rev().copied().collect();
    for point in [Point::QPreRope, Point::VProj, Point::Logits, Point::AttnProbs] {
        assert!(bench.names(point, &[], &backwards).is_empty(), "{point}");
    }
}

#[test]
fn softmaxes_of_another_sum() {
    let bench = Bench::new("hf/llama");
    let heads = bench.model.config.num_attention_heads;
    let by_head = |row: &[f64], one: &dyn Fn(&[f64]) -> Vec<f64>| -> Vec<f64> {
        row.chunks(row.len() / heads).flat_map(one).collect()
    };
    let exp = |scores: &[f64]| -> Vec<f64> { scores.iter().map(|s| s.exp()).collect() };
    let sum = |all: &[f64]| all.iter().sum::<f64>();
    let raw = |_: &[f64], beside: &dyn Fn(Point) -> Vec<f64>| by_head(&beside(Point::AttnScores), &exp);
    assert_eq!(bench.names(Point::AttnProbs, &[], &raw), ["SOFTMAX_UNNORMALISED"]);
    let one_more = |_: &[f64], beside: &dyn Fn(Point) -> Vec<f64>| {
        by_head(&beside(Point::AttnScores), &|s| exp(s).iter().map(|e| e / (1.0 + sum(&exp(s)))).collect())
    };
    assert_eq!(bench.names(Point::AttnProbs, &[], &one_more), ["SOFTMAX_UNNORMALISED"]);
    // Two halves, each divided by its own sum.
    let halves = |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| {
        by_head(row, &|p| {
            let (a, b) = p.split_at(p.len() / 2);
            [a, b].iter().flat_map(|part| part.iter().map(|p| p / sum(part) / 2.0)).collect()
        })
    };
    assert_eq!(bench.names(Point::AttnProbs, &[], &halves), ["SOFTMAX_MERGE"]);
    assert_eq!(bench.names(Point::AttnProbs, &[Point::AttnScores], &halves), ["SOFTMAX_MERGE"]);
    // Small ones left out are no merge.
    let clipped =
        |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| row.iter().map(|p| if *p < 0.02 { 0.0 } else { *p }).collect();
    assert!(bench.names(Point::AttnProbs, &[], &clipped).is_empty());
}

#[test]
fn rotations_the_other_way_and_embeddings_of_another_size() {
    let bench = Bench::new("hf/llama");
    let half = bench.model.config.head_dim / 2;
    // x·cos − rot(x)·sin, from y = x·cos + rot(x)·sin: both give x·cos by their mean, which y and x determine pairwise.
    let backwards = |row: &[f64], beside: &dyn Fn(Point) -> Vec<f64>| -> Vec<f64> {
        let x = beside(Point::QPreRope);
        let mut out = row.to_vec();
        for head in (0..row.len()).step_by(2 * half) {
            for i in head..head + half {
                let (a, b, u, v) = (x[i], x[i + half], row[i], row[i + half]);
                let norm = a * a + b * b;
                let (cos, sin) = ((u * a + v * b) / norm, (v * a - u * b) / norm);
                (out[i], out[i + half]) = (a * cos + b * sin, b * cos - a * sin);
            }
        }
        out
    };
    assert_eq!(bench.names(Point::QPostRope, &[], &backwards), ["ROPE_LAYOUT"]);
    assert_eq!(bench.names(Point::EmbedOut, &[], &|row, _| row.iter().map(|x| 3.0 * x).collect()), ["EMBED_SCALE"]);
    let uneven = |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| {
        row.iter().enumerate().map(|(i, x)| x * (1.0 + (i % 2) as f64)).collect()
    };
    assert!(bench.names(Point::EmbedOut, &[], &uneven).is_empty());
    assert!(bench.names(Point::QPostRope, &[], &uneven).is_empty());
}

#[test]
fn weights_of_another_norm() {
    let bench = Bench::new("hf/llama");
    let weight = |layer: usize| {
        let name = format!("model.layers.{layer}.input_layernorm.weight");
        bench.model.weights.get(&name).unwrap().to_f32()
    };
    let (own, other) = (weight(1), weight(0));
    let exchanged = |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| {
        row.iter()
            .zip(own.iter().zip(&other))
            .map(|(y, (own, other))| y / f64::from(*own) * f64::from(*other))
            .collect()
    };
    assert_eq!(bench.names(Point::AttnNormOut, &[], &exchanged), ["WEIGHT_OTHER_LAYER"]);
    let bare = |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| -> Vec<f64> {
        row.iter().zip(&own).map(|(y, own)| y / f64::from(*own)).collect()
    };
    assert_eq!(bench.names(Point::AttnNormOut, &[], &bare), ["NORM_SKIPPED"]);
    let squared =
        |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| row.iter().zip(&own).map(|(y, own)| y * f64::from(*own)).collect();
    assert!(bench.names(Point::AttnNormOut, &[], &squared).is_empty());
}

#[test]
fn biases_added_more_than_once() {
    for storage in [Storage::F32, Storage::Bf16] {
        let bench = Bench::stored("transformers-traces/models/qwen2", storage);
        let bias = bench.model.weights.get("model.layers.1.self_attn.v_proj.bias").unwrap().to_f32();
        let round = |x: f64| if storage == Storage::Bf16 { half::bf16::from_f64(x).to_f64() } else { x };
        // By a kernel, and again to what it stored; by each rank of a sum that is stored once.
        let behind = |row: &[f64], times: usize| -> Vec<f64> {
            let one = |(y, b): (&f64, &f32)| (1..times).fold(*y, |y, _| round(y + f64::from(*b)));
            row.iter().zip(&bias).map(one).collect()
        };
        let ranks = |row: &[f64], times: f64| -> Vec<f64> {
            row.iter().zip(&bias).map(|(y, b)| y + (times - 1.0) * f64::from(*b)).collect()
        };
        for times in [2, 3] {
            let named = bench.names(Point::VProj, &[], &|row, _| behind(row, times));
            assert_eq!(named, ["BIAS_REPEATED"], "{storage}, {times} times");
        }
        for times in [2.0, 4.0, 8.0] {
            let named = bench.names(Point::VProj, &[], &|row, _| ranks(row, times));
            assert_eq!(named, ["BIAS_REPEATED"], "{storage}, {times} ranks");
        }
        // In the last row alone, the one before it being sound.
        let last = bench.recorded.run.events.iter().filter_map(|e| e.logical_tok_idx).max().unwrap();
        let named = bench.names_from(last, Point::VProj, &[], &|row, _| behind(row, 2));
        assert_eq!(named, ["BIAS_REPEATED"], "{storage}, in one row");
        // What is no whole number of biases, and no bias at all, is something else.
        let part = |of: f64| {
            let added = move |row: &[f64], bias: &[f32]| -> Vec<f64> {
                row.iter().zip(bias).map(|(y, b)| y + of * f64::from(*b)).collect()
            };
            bench.names(Point::VProj, &[], &|row, _| added(row, &bias))
        };
        assert!(part(0.5).is_empty() && part(-2.0).is_empty(), "{storage}");
        // What is stored already has been rounded with it, which a row without it has not.
        if storage == Storage::F32 {
            assert_eq!(part(-1.0), ["BIAS_MISSING"]);
        }
        // So is another bias, as large.
        let backwards = |row: &[f64], _: &dyn Fn(Point) -> Vec<f64>| -> Vec<f64> {
            row.iter().zip(bias.iter().rev()).map(|(y, b)| y + f64::from(*b)).collect()
        };
        assert!(bench.names(Point::VProj, &[], &backwards).is_empty(), "{storage}");
    }
}

#[test]
fn an_activation_of_the_product_is_named_and_one_of_the_sum_is_not() {
    for storage in [Storage::F32, Storage::Bf16] {
        let bench = Bench::stored("transformers-traces/models/qwen2", storage);
        let round =
            |x: f64| if storage == Storage::Bf16 { half::bf16::from_f64(x).to_f64() } else { f64::from(x as f32) };
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let with = |join: &(dyn Fn(f64, f64) -> f64 + Sync)| {
            let alter = |_: &[f64], beside: &dyn Fn(Point) -> Vec<f64>| -> Vec<f64> {
                let (gate, up) = (beside(Point::MlpGate), beside(Point::MlpUp));
                gate.iter().zip(&up).map(|(gate, up)| silu(round(join(*gate, *up)))).collect()
            };
            bench.names(Point::MlpAct, &[], &alter)
        };
        assert_eq!(with(&|gate, up| gate * up), ["ACTIVATION_OF_PRODUCT"], "{storage}");
        assert!(with(&|gate, up| gate + up).is_empty(), "{storage}");
    }
}
