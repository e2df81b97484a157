//! Properties over generated input: what is written is read again bit for bit, and no input makes the reader panic.

use driftprobe_trace::{Dtype, HashAlgo, HashCheck, Manifest, Phase, Point, Row, RowRecord, Rows, Run, RunWriter};
use proptest::prelude::*;

/// Any f64 by its bits, the odd ones often.
fn any_bits() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        Just(-0.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(f64::MIN_POSITIVE / 2.0),
        Just(f64::MAX),
        -1e3..1e3,
    ]
}

fn any_dtype() -> impl Strategy<Value = Dtype> {
    prop_oneof![Just(Dtype::F64), Just(Dtype::F32), Just(Dtype::F16), Just(Dtype::Bf16)]
}

/// Equal bits, or both NaN (JSON has no NaN payload).
fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

fn open_lines(lines: &[String]) -> Run {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join("t.jsonl"), lines.join("\n")).expect("file");
    Run::open(dir.path()).unwrap_or_else(|e| panic!("{e}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_row_of_any_bytes_comes_back_as_it_was(
        dtype in any_dtype(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        payload in any::<bool>(),
        id in any::<String>(),
        row in any::<u64>(),
        layer in 0..i32::MAX,
    ) {
        let len = bytes.len() / dtype.size_bytes();
        let bytes = bytes[..len * dtype.size_bytes()].to_vec();
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut writer = RunWriter::create(dir.path(), Manifest::default()).expect("a new run");
        writer.begin(&id, Phase::Decode).expect("begin");
        writer.record(RowRecord {
            point: Point::MlpOut, layer, step: row, pos_id: row, logical_tok_idx: row, token_id: u32::MAX, seq_len: 1,
            kv_len: Some(row), dtype, stored_dtype: Some(Dtype::F16), shape: vec![len as u64], bytes: bytes.clone(),
            logits_top: None, payload,
        }).expect("a row");
        writer.finish(true).expect("finished");
        let run = Run::open(dir.path()).expect("a run");
        prop_assert!(run.notes.is_empty());
        let event = &run.events[0];
        let expected = Row::new(dtype, vec![len as u64], bytes).expect("a row");
        prop_assert_eq!((&*event.prompt_id, event.layer, event.pos_id), (&*id, layer, Some(row)));
        prop_assert_eq!(event.hash, Some(expected.hash(HashAlgo::Xxh3_64)));
        prop_assert_eq!(event.stats, expected.stats());
        let sample = event.sample.as_ref().map(|s| s.values.clone()).unwrap_or_default();
        prop_assert_eq!(sample.len(), len.min(8));
        prop_assert!(sample.iter().zip(expected.values()).all(|(a, b)| same(*a, b)));
        if payload {
            prop_assert_eq!(run.row(event).expect("readable"), Some(expected));
            prop_assert_eq!(run.verify(event).expect("intact"), HashCheck::Matches);
        }
    }

    #[test]
    fn an_event_is_written_and_read_bit_for_bit(
        values in prop::collection::vec(any_bits(), 1..20),
        hash in any::<u64>(),
        prompt in any::<String>(),
    ) {
        let head = serde_json::json!({"event": "stage_trace", "prompt_id": prompt, "phase": "decode7", "point": "x_in",
            "layer": 3, "hash": hash, "hash_algo": "xxh3-64"});
        let first = open_lines(&[head.to_string()]).events.remove(0);
        prop_assert_eq!(first.hash.map(|h| h.value), Some(hash));
        let mut event = first.clone();
        event.stats.min = values.first().copied();
        event.stats.mean = values.last().copied();
        event.sample = Some(driftprobe_trace::Sample { values: values.clone(), idx: Some((0..values.len() as u64).collect()) });
        let line = serde_json::to_string(&event).expect("JSON");
        let again = open_lines(&[line]).events.remove(0);
        prop_assert_eq!(&again.prompt_id, &event.prompt_id);
        prop_assert_eq!(again.hash, event.hash);
        prop_assert!(same(again.stats.min.unwrap_or(0.5), values[0]));
        prop_assert!(same(again.stats.mean.unwrap_or(0.5), values[values.len() - 1]));
        let sample = again.sample.expect("a sample");
        prop_assert_eq!(sample.idx.map(|i| i.len()), Some(values.len()));
        prop_assert!(sample.values.iter().zip(&values).all(|(a, b)| same(*a, *b)));
    }

    #[test]
    fn numbers_print_and_read_as_other_languages_do(value in any_bits()) {
        let word = if value.is_nan() { "nan".to_owned() } else { format!("{value:?}") };
        let head = r#"{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"x_in","layer":0"#;
        let run = open_lines(&[format!("{head},\"sample\":[{word},{word}],\"max\":{word}}}")]);
        let event = &run.events[0];
        prop_assert!(same(event.stats.max.unwrap_or(0.5), value));
        prop_assert!(event.sample.as_ref().is_some_and(|s| s.values.iter().all(|v| same(*v, value))));
    }

    #[test]
    fn statistics_are_those_of_a_plain_loop(some in prop::collection::vec(any_bits(), 1..40), len in 0..2500usize) {
        let values: Vec<f32> = some.iter().cycle().take(len).map(|v| *v as f32).collect();
        let stats = Row::from_f32(&values).stats();
        let finite: Vec<f64> = values.iter().filter(|v| v.is_finite()).map(|v| f64::from(*v)).collect();
        let bound = |exact: f64| 1e-12 * finite.iter().map(|v| v.abs()).sum::<f64>() + 1e-300 * exact.abs();
        let sum: f64 = finite.iter().sum();
        let abs_sum: f64 = finite.iter().map(|v| v.abs()).sum();
        prop_assert_eq!(stats.nan, Some(values.iter().filter(|v| v.is_nan()).count() as u64));
        prop_assert_eq!(stats.inf, Some(values.iter().filter(|v| v.is_infinite()).count() as u64));
        prop_assert_eq!(stats.nz_count, Some(values.iter().filter(|v| **v != 0.0).count() as u64));
        prop_assert_eq!(stats.min, finite.iter().copied().reduce(f64::min));
        prop_assert_eq!(stats.max, finite.iter().copied().reduce(f64::max));
        prop_assert!((stats.abs_sum.unwrap_or(f64::NAN) - abs_sum).abs() <= bound(abs_sum));
        prop_assert_eq!(stats.mean.is_some(), !finite.is_empty());
        if let Some(mean) = stats.mean {
            prop_assert!((mean * finite.len() as f64 - sum).abs() <= bound(sum));
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\PC\n\"{}\\[\\]:,0-9a-zA-Z\\\\+-]{0,300}") {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::write(dir.path().join("t.jsonl"), &text).expect("file");
        let _ = Run::open(dir.path());
        std::fs::write(dir.path().join("manifest.json"), &text).expect("file");
        let _ = Run::open(dir.path());
    }

    #[test]
    fn no_damage_to_a_run_makes_the_reader_panic(at in any::<prop::sample::Index>(), bits in 1..=255u8, cut in any::<bool>()) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut writer = RunWriter::create(dir.path(), Manifest::default()).expect("a new run");
        writer.begin("p", Phase::Prefill).expect("begin");
        writer.record(RowRecord {
            point: Point::Logits, layer: -1, step: 0, pos_id: 0, logical_tok_idx: 0, token_id: 0, seq_len: 1, kv_len: None,
            dtype: Dtype::F32, stored_dtype: None, shape: vec![2], bytes: vec![0, 0, 128, 63, 0, 0, 0, 64],
            logits_top: None, payload: true,
        }).expect("a row");
        writer.finish(true).expect("finished");
        let file = ["manifest.json", "traces/p_trace.jsonl", "tensors/p.prefill.safetensors"][at.index(3)];
        let path = dir.path().join(file);
        let mut bytes = std::fs::read(&path).expect("file");
        let i = at.index(bytes.len());
        if cut { bytes.truncate(i) } else { bytes[i] ^= bits }
        std::fs::write(&path, &bytes).expect("file");
        if let Ok(run) = Run::open(dir.path()) {
            for event in &run.events {
                let read = run.row(event);
                // Damage to the row's own bytes never goes unseen.
                if file.ends_with("safetensors") && read.is_ok() {
                    let same = run.row(event).ok().flatten().map(|r| r.bytes() == [0, 0, 128, 63, 0, 0, 0, 64]);
                    prop_assert_eq!(run.verify(event).is_ok(), same == Some(true));
                }
            }
        }
    }
}

#[test]
fn xxh3_is_what_another_implementation_computes() {
    // By the PyPI package xxhash: xxh3_64_intdigest of no bytes, and of 0.0, 0.5 … 499.5 as f32.
    let half: Vec<f32> = (0..1000).map(|i| i as f32 * 0.5).collect();
    for (values, expected) in [(&[][..], 3_244_421_341_483_603_138), (&half, 322_842_665_114_868_270)] {
        assert_eq!(Row::from_f32(values).hash(HashAlgo::Xxh3_64).value, expected);
    }
}
