//! Runs whose rows are equal and that still deserve no PASS: what the events say is wrong of their rows, of their keys or of
//! each other, or the rows compared test nothing. Each stands beside the clean run, which passes.

use crate::support::{Memory, clean, event, shaped};
use crate::verdicts::{inconclusive, judge};
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::{Analysis, Verdict};
use driftprobe_trace::{Dtype, EngineInfo, Event, HashAlgo, LogitsTop, Phase, Point, PointSet, Row, RowHash, Sample};

#[track_caller]
fn passes(memory: &Memory) -> Analysis {
    let got = judge(memory);
    assert_eq!(got.verdict.verdict, Verdict::Pass, "{:?}", got.verdict.reasons);
    got
}

/// The clean run, both events of one point of layer 0 (or none) at position 3 of `p1` changed alike.
fn with(point: Point, payloads: bool, change: impl Fn(&mut Event)) -> Memory {
    with_phases(point, payloads, |event| change(event))
}

fn with_phases(point: Point, payloads: bool, mut change: impl FnMut(&mut Event)) -> Memory {
    let mut memory = clean();
    for event in &mut memory.run.events {
        if !payloads {
            event.payload = None;
        }
        if (event.point, event.layer.max(0), event.logical_tok_idx, &*event.prompt_id) == (point, 0, Some(3), "p1") {
            change(event);
        }
    }
    memory
}

fn top(event: &mut Event) -> &mut LogitsTop {
    event.logits.as_mut().unwrap()
}

#[test]
fn logits_that_contradict_an_equal_hash() {
    passes(&with(Point::Logits, false, |_| {}));
    let in_decode = |change: fn(&mut LogitsTop)| {
        with_phases(Point::Logits, false, |event| {
            if event.phase == Phase::Decode {
                change(top(event));
            }
        })
    };
    inconclusive(&in_decode(|top| top.top1_id = Some(77)), ReasonCode::Contradiction);
    inconclusive(&in_decode(|top| top.top1_logit = Some(9.0)), ReasonCode::Contradiction);
    inconclusive(&in_decode(|top| top.gap = Some(9.0)), ReasonCode::Contradiction);
}

#[test]
fn not_a_number_beside_finite_statistics() {
    type Change = fn(&mut Event);
    let changes: [Change; 4] = [
        |event| top(event).top1_logit = Some(f64::NAN),
        |event| top(event).top2_logit = Some(f64::NAN),
        |event| top(event).gap = Some(f64::NAN),
        |event| event.stats.abs_sum = Some(f64::NAN),
    ];
    for change in changes {
        let got = judge(&with(Point::Logits, false, change));
        assert_eq!((got.verdict.verdict, got.verdict.root_cause), (Verdict::Fail, Some("LOGITS_DRIFT")));
    }
}

#[test]
fn two_infinite_logits_are_no_nan() {
    let mut memory = clean();
    for index in 0..memory.run.events.len() {
        if memory.run.events[index].point == Point::Logits {
            memory.change(index, Row::from_f32(&[f32::INFINITY, f32::INFINITY, 1.0]));
            memory.run.events[index].payload = None;
        }
    }
    let got = judge(&memory);
    assert_ne!(got.verdict.verdict, Verdict::Fail, "{:?}", got.verdict.reasons);
}

#[test]
fn an_event_that_contradicts_its_own_payload() {
    passes(&with(Point::MlpOut, true, |_| {}));
    type Change = fn(&mut Event);
    let changes: [Change; 8] = [
        |event| event.stats.inf = Some(3),
        |event| event.stats.nz_count = Some(7),
        |event| event.stats.min = Some(99.0),
        |event| event.stats.max = event.stats.max.map(|max| max * 1.001),
        |event| event.stats.mean = Some(1.0),
        |event| event.stats.abs_sum = event.stats.abs_sum.map(|sum| sum * 1.001),
        |event| event.sample = Some(Sample { values: vec![99.0], idx: None }),
        |event| event.sample = Some(Sample { values: vec![1.0], idx: Some(vec![8]) }),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let got = inconclusive(&with(Point::MlpOut, true, change), ReasonCode::PayloadDamaged);
        assert_eq!(got.counts.undecided, 1, "change {number}");
    }
    inconclusive(&with(Point::Logits, true, |event| top(event).top1_id = Some(77)), ReasonCode::PayloadDamaged);
    inconclusive(&with(Point::MlpOut, true, |event| event.shape = Some(vec![3])), ReasonCode::PayloadDamaged);
    let nan = judge(&with(Point::MlpOut, true, |event| event.stats.nan = Some(3)));
    assert_ne!(nan.verdict.verdict, Verdict::Pass);
}

#[test]
fn printed_decimals_contradict_nothing() {
    let printed = |value: f64| format!("{value:.5e}").parse::<f64>().unwrap();
    let memory = with(Point::MlpOut, true, |event| {
        for value in [&mut event.stats.min, &mut event.stats.max, &mut event.stats.mean, &mut event.stats.abs_sum] {
            *value = value.map(printed);
        }
    });
    passes(&memory);
}

#[test]
fn statistics_that_no_row_has() {
    let memory = with(Point::MlpOut, false, |event| (event.stats.min, event.stats.max) = (Some(5.0), Some(-5.0)));
    inconclusive(&memory, ReasonCode::Contradiction);
    inconclusive(&with(Point::MlpOut, false, |event| event.stats.nz_count = Some(9)), ReasonCode::Contradiction);
}

#[test]
fn infinities_among_probabilities() {
    let with_probs = |inf: [u64; 2]| {
        let mut memory = clean();
        memory.run.manifest.as_mut().unwrap().points =
            Some(PointSet::Both([crate::support::POINTS.as_slice(), &[Point::AttnProbs]].concat()));
        for (prompt, tokens) in [("p0", vec![3, 1, 4]), ("p1", vec![1, 5, 9, 2])] {
            for (position, &token) in tokens.iter().enumerate().skip(tokens.len() - 2) {
                for layer in 0..2 {
                    for (phase, inf) in Phase::ALL.into_iter().zip(inf) {
                        let values: Vec<f32> = (0..=position).map(|i| 0.1 + (i + position) as f32 * 0.01).collect();
                        let row = shaped(&[1, values.len() as u64], &values);
                        let event = event(prompt, phase, Point::AttnProbs, layer, position as u64, token);
                        memory.describe_only(event, &row);
                        memory.run.events.last_mut().unwrap().stats.inf = Some(inf);
                    }
                }
            }
        }
        judge(&memory)
    };
    assert_eq!(with_probs([0, 0]).verdict.reasons, []);
    let got = with_probs([0, 3]);
    assert_eq!((got.verdict.verdict, got.verdict.root_cause), (Verdict::Fail, Some("ATTN_PROBS_DRIFT")));
    assert!(with_probs([2, 2]).verdict.notes.iter().any(|note| note.code == ReasonCode::InfiniteBoth));
}

/// The clean run, with these hashes instead of its own, and without payloads.
fn hashed(hash: impl Fn(&Event) -> Option<RowHash>) -> Memory {
    let mut memory = clean();
    for event in &mut memory.run.events {
        event.payload = None;
        if let Some(hash) = hash(event) {
            event.hash = Some(hash);
        }
    }
    memory
}

fn xxh3(value: u64) -> Option<RowHash> {
    Some(RowHash { algo: HashAlgo::Xxh3_64, value })
}

#[test]
fn hashes_of_nothing() {
    passes(&hashed(|_| None));
    let of = |point: Point, hash: Option<RowHash>| hashed(move |event| hash.filter(|_| event.point == point));
    inconclusive(&of(Point::AttnOut, xxh3(0)), ReasonCode::VacuousHash);
    let basis = RowHash { algo: HashAlgo::GretaFnv1a256, value: 1_469_598_103_934_665_603 };
    inconclusive(&of(Point::AttnOut, Some(basis)), ReasonCode::VacuousHash);
    // Eight zeros, by either algorithm, beside statistics that do not say so.
    for algo in [HashAlgo::Xxh3_64, HashAlgo::GretaFnv1a256] {
        inconclusive(&of(Point::AttnOut, Some(Row::from_f32(&[0.0; 8]).hash(algo))), ReasonCode::Vacuous);
    }
}

#[test]
fn one_hash_for_rows_that_are_no_copies() {
    inconclusive(&hashed(|_| xxh3(5)), ReasonCode::VacuousHash);
    // Two points of one position.
    let two = hashed(|event| xxh3(5 + event.logical_tok_idx? * 9).filter(|_| event.point >= Point::AttnOut));
    inconclusive(&two, ReasonCode::VacuousHash);
    // One point, other tokens.
    let one = hashed(|event| xxh3(5 + event.layer.max(0) as u64).filter(|_| event.point == Point::MlpOut));
    inconclusive(&one, ReasonCode::VacuousHash);
    // Behind an attention sink two tokens may get the same value; all of them do not.
    let sink = |prompts: &'static [&str]| {
        hashed(move |event| {
            let attended = event.point == Point::AttnOut && prompts.contains(&&*event.prompt_id);
            xxh3(77 + event.layer.max(0) as u64).filter(|_| attended)
        })
    };
    passes(&sink(&["p0"]));
    inconclusive(&sink(&["p0", "p1"]), ReasonCode::VacuousHash);
    // What enters layer 0 is the embedding.
    let copy = hashed(|event| {
        let copied = event.point == Point::EmbedOut || (event.point, event.layer) == (Point::ResidualPreAttn, 0);
        xxh3(1000 + event.token_id.map(u64::from)?).filter(|_| copied)
    });
    passes(&copy);
}

#[test]
fn a_prefill_longer_than_its_prompt() {
    let seq_len = |seq_len: u64| {
        let mut memory = clean();
        for event in memory.run.events.iter_mut().filter(|event| event.phase == Phase::Prefill) {
            event.seq_len = Some(seq_len);
        }
        memory
    };
    passes(&seq_len(3));
    inconclusive(&seq_len(99), ReasonCode::SeqLenWrong);
}

#[test]
fn a_cache_of_another_length_or_type() {
    let kv_len = |by_phase: fn(u64) -> [u64; 2]| {
        let mut memory = clean();
        for event in &mut memory.run.events {
            let [prefill, decode] = by_phase(event.logical_tok_idx.unwrap() + 1);
            event.kv_len = Some(if event.phase == Phase::Prefill { prefill } else { decode });
        }
        memory
    };
    passes(&kv_len(|all| [all, all]));
    inconclusive(&kv_len(|all| [all, 1]), ReasonCode::CacheInDoubt);
    inconclusive(&kv_len(|_| [1, 1]), ReasonCode::CacheInDoubt);
    inconclusive(&kv_len(|all| [all + 1, all + 1]), ReasonCode::CacheInDoubt);
    // Smaller where a window says so, and only as small.
    let mut windowed = kv_len(|_| [2, 2]);
    inconclusive(&windowed, ReasonCode::CacheInDoubt);
    let config = serde_json::json!({ "sliding_windows": [2, 2] });
    windowed.run.manifest.as_mut().unwrap().config = config.as_object().cloned();
    passes(&windowed);
    let stored = with_phases(Point::MlpOut, true, |event| {
        event.stored_dtype = Some(if event.phase == Phase::Prefill { Dtype::F16 } else { Dtype::F32 });
    });
    inconclusive(&stored, ReasonCode::CacheInDoubt);
    passes(&with(Point::MlpOut, true, |event| event.stored_dtype = Some(Dtype::F16)));
}

#[test]
fn one_token_by_either_index() {
    let mut memory = clean();
    for event in &mut memory.run.events {
        (event.seq_len, event.pos_id) = (Some(1), Some(0));
    }
    inconclusive(&memory, ReasonCode::PrefillOneToken);
}

/// The clean run, of these rows alone.
fn only(points: &[Point], layers: &[i32], keep: impl Fn(&Event) -> bool) -> Memory {
    let mut memory = clean();
    let manifest = memory.run.manifest.as_mut().unwrap();
    (manifest.points, manifest.layers) = (Some(PointSet::Both(points.to_vec())), Some(layers.to_vec()));
    memory
        .run
        .events
        .retain(|event| points.contains(&event.point) && (event.layer < 0 || layers.contains(&event.layer)));
    memory.run.events.retain(keep);
    memory
}

#[test]
fn nothing_but_copies() {
    inconclusive(&only(&[Point::EmbedOut], &[0, 1], |_| true), ReasonCode::OnlyCopies);
    inconclusive(&only(&[Point::EmbedOut, Point::ResidualPreAttn], &[0], |_| true), ReasonCode::OnlyCopies);
    passes(&only(&[Point::EmbedOut, Point::ResidualPreAttn], &[0, 1], |_| true));
    passes(&only(&[Point::AttnOut], &[0], |_| true));
}

#[test]
fn prompts_of_one_token_read_no_cache() {
    let shortened = |short: &[&str]| {
        let mut memory = clean();
        let manifest = memory.run.manifest.as_mut().unwrap();
        manifest.steps = Some(1);
        for prompt in manifest.prompts.as_mut().unwrap() {
            let kept = if short.contains(&prompt.id.as_str()) { 1 } else { prompt.tokens.len() };
            let (id, last) = (prompt.id.clone(), prompt.tokens.len() as u64 - 1);
            prompt.tokens.drain(..prompt.tokens.len() - kept);
            memory.run.events.retain(|event| *event.prompt_id != *id || event.logical_tok_idx == Some(last));
            for event in memory.run.events.iter_mut().filter(|event| kept == 1 && *event.prompt_id == *id) {
                (event.logical_tok_idx, event.pos_id, event.seq_len) = (Some(0), Some(0), Some(1));
            }
        }
        memory
    };
    assert_eq!(passes(&shortened(&[])).verdict.notes, []);
    assert_eq!(passes(&shortened(&["p1"])).verdict.notes[0].code, ReasonCode::SomeNoCacheRead);
    inconclusive(&shortened(&["p0", "p1"]), ReasonCode::NoCacheRead);
}

#[test]
fn a_manifest_without_layers_beside_points_of_layers() {
    let mut memory = only(&[Point::EmbedOut, Point::Logits], &[], |_| true);
    passes(&memory);
    memory.run.manifest.as_mut().unwrap().points = Some(PointSet::Both(crate::support::POINTS.to_vec()));
    let got = inconclusive(&memory, ReasonCode::ExpectedUnknown);
    assert_eq!(got.coverage.expected, None);
}

#[test]
fn integer_kernels_that_both_phases_share_are_noted() {
    let mut memory = clean();
    let manifest = memory.run.manifest.as_mut().unwrap();
    manifest.contract = Some(Default::default());
    let engine = EngineInfo { name: Some("driftprobe-embedded".to_owned()), ..EngineInfo::default() };
    manifest.engine = Some(engine);
    assert_eq!(passes(&memory).verdict.notes, []);
    memory.run.manifest.as_mut().unwrap().contract.as_mut().unwrap().flat.activation_quant = Some("q8_0".to_owned());
    assert_eq!(passes(&memory).verdict.notes[0].code, ReasonCode::SharedKernels);
}

/// The clean run with a second event, of another spelling, beside each logits event.
fn spelled_twice(change: impl Fn(&mut Event)) -> Memory {
    let mut memory = clean();
    let again: Vec<Event> = memory.run.events.clone();
    for mut event in again.into_iter().filter(|event| event.point == Point::Logits) {
        event.point_spelling = "logits_top1".into();
        event.source.line += 1000;
        change(&mut event);
        memory.run.events.push(event);
    }
    memory
}

#[test]
fn one_row_under_two_spellings() {
    let got = passes(&spelled_twice(|_| {}));
    assert_eq!((got.counts.identical, got.coverage.duplicates, got.unpaired.len()), (32, 0, 0));
    assert_eq!((got.verdict.notes[0].code, got.verdict.notes[0].count), (ReasonCode::TwoSpellings, 8));
    // One has the row, the other the largest logits.
    let mut memory = spelled_twice(|event| {
        (event.hash, event.payload, event.stats) = (None, None, Default::default());
        (event.dtype, event.shape) = (None, None);
    });
    for event in memory.run.events.iter_mut().filter(|event| &*event.point_spelling == "logits") {
        event.logits = None;
    }
    let got = passes(&memory);
    assert_eq!((got.counts.identical, got.verdict.notes[0].code), (32, ReasonCode::TwoSpellings));
    assert!(got.pairs.iter().filter_map(|pair| pair.logits.as_ref()).all(|logits| logits.top1[0].is_some()));
}

#[test]
fn two_spellings_that_contradict_each_other_or_none_but_one() {
    let other_hash = spelled_twice(|event| event.hash.as_mut().unwrap().value ^= 1);
    assert_eq!(inconclusive(&other_hash, ReasonCode::DuplicateKeys).coverage.duplicates, 8);
    inconclusive(&spelled_twice(|event| top(event).top1_id = Some(77)), ReasonCode::DuplicateKeys);
    inconclusive(&spelled_twice(|event| event.point_spelling = "logits".into()), ReasonCode::DuplicateKeys);
}
