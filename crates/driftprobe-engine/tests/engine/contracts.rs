//! What the engine says of its arithmetic is what it does: storage types, the cache's type, and their names in the
//! contract.

use crate::support::blocks::Format;
use crate::support::twin::round_to;
use crate::support::{FAMILIES, bits, engine, everything, logits, plain, stored, tapped, tokens, values};
use driftprobe_engine::{EmbeddedEngine, Engine, QuantisedMatmul, Settings, Storage};
use driftprobe_trace::{Dtype, Phase, Point};

const SIXTEEN: [Storage; 2] = [Storage::F16, Storage::Bf16];

#[test]
fn what_is_stored_in_sixteen_bits_is_so_before_it_is_used() {
    // What is shown as f16 is representable by its encoding. That the engine's own value is no finer shows in what it
    // makes of it: the sum of two stored rows is, to the bit, the rounded sum of what was shown of them.
    for path in FAMILIES {
        for storage in SIXTEEN {
            let (engine, tokens) = (engine(path, &stored(storage, Storage::F32)), tokens(path));
            for phase in Phase::ALL {
                let (_, rows) = tapped(&engine, phase, &tokens, (&everything(&engine), 0..tokens.len()));
                let of = |point, layer, pos| {
                    rows.iter().find(|r| (r.point, r.layer, r.pos) == (point, layer, pos)).map(values)
                };
                let sums = [
                    (Point::ResidualPreAttn, Point::AttnPostNormOut, Point::AttnProjOut, Point::ResidualPostAttn),
                    (Point::ResidualPostAttn, Point::MlpPostNormOut, Point::MlpOut, Point::ResidualPostMlp),
                ];
                for (pos, (before, normed, added, after)) in (0..tokens.len()).flat_map(|p| sums.map(|s| (p, s))) {
                    let added = of(normed, 0, pos).or(of(added, 0, pos)).unwrap();
                    let before = of(before, 0, pos).unwrap();
                    let sum = before.iter().zip(added).map(|(a, b)| round_to(f64::from((a + b) as f32), storage));
                    assert!(of(after, 0, pos).unwrap().into_iter().eq(sum), "{path}, {storage}: {after} at {pos}");
                }
            }
        }
    }
}

#[test]
fn rows_have_the_storage_type_and_only_logits_scores_and_probabilities_are_finer() {
    for storage in SIXTEEN {
        let (engine, tokens) = (engine("hf/qwen3", &stored(storage, storage)), tokens("hf/qwen3"));
        let (_, rows) = tapped(&engine, Phase::Prefill, &tokens, (&everything(&engine), 0..tokens.len()));
        for row in rows {
            let finer = [Point::Logits, Point::AttnScores, Point::AttnProbs].contains(&row.point);
            assert_eq!(row.dtype, if finer { Dtype::F32 } else { storage.dtype() }, "{}", row.point);
        }
    }
}

#[test]
fn a_coarser_cache_holds_the_correctly_rounded_rows() {
    for (cache, dtype) in [(Storage::F16, Dtype::F16), (Storage::Bf16, Dtype::Bf16)] {
        let (engine, tokens) = (engine("hf/llama", &stored(Storage::F32, cache)), tokens("hf/llama"));
        let (kv_heads, head_dim) = (2, 8);
        for phase in Phase::ALL {
            let (_, rows) = tapped(&engine, phase, &tokens, (&everything(&engine), 0..tokens.len()));
            for (held, source) in [(Point::KCache, Point::KPostRope), (Point::VCache, Point::VProj)] {
                let last = rows.iter().rfind(|r| r.point == held && r.layer == 1).unwrap();
                assert_eq!((last.pos, last.dtype), (tokens.len() - 1, dtype));
                let (cached, mut inexact) = (values(last), 0);
                for row in rows.iter().filter(|r| r.point == source && r.layer == 1) {
                    assert_eq!(row.dtype, Dtype::F32);
                    for (i, exact) in values(row).into_iter().enumerate() {
                        let (head, column) = (i / head_dim, i % head_dim);
                        let found = cached[(head * tokens.len() + row.pos) * head_dim + column];
                        assert_eq!(found, round_to(exact, cache), "{held} of head {head} at {}", row.pos);
                        inexact += usize::from(found != exact);
                    }
                }
                assert!(inexact > kv_heads * head_dim, "{held}: nothing was rounded");
            }
        }
    }
}

#[test]
fn every_storage_type_gives_other_logits() {
    for phase in Phase::ALL {
        let of =
            |storage, cache| bits(&logits(&engine("hf/llama", &stored(storage, cache)), phase, &tokens("hf/llama")));
        let all = [
            of(Storage::F32, Storage::F32),
            of(Storage::F32, Storage::F16),
            of(Storage::F32, Storage::Bf16),
            of(Storage::F16, Storage::F16),
            of(Storage::Bf16, Storage::Bf16),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other != one), "{phase}: setting {i}");
        }
    }
}

#[test]
fn the_contract_names_what_the_settings_say() {
    for (storage, cache) in [(Storage::F32, Storage::F16), (Storage::F16, Storage::Bf16), (Storage::Bf16, Storage::F32)]
    {
        let contract = engine("hf/llama-f16", &stored(storage, cache)).contract();
        let name = |s: Storage| Some(s.dtype().id().to_owned());
        let flat = &contract.flat;
        assert_eq!(flat.activations, name(storage));
        assert_eq!(flat.residual, name(storage));
        assert_eq!(flat.kv_cache, name(cache));
        let f32 = name(Storage::F32);
        assert_eq!([&flat.accumulate, &flat.softmax, &flat.scores, &flat.probs, &flat.rope_table], [&f32; 5]);
        assert_eq!(contract.by_point["logits"].activations, f32);
        assert_eq!((flat.weights.as_deref(), &flat.activation_quant), (Some("f16"), &None));
    }
}

#[test]
fn the_contract_names_how_activations_meet_quantised_weights() {
    let with = |path: &str, quantised_matmul| {
        let flat = engine(path, &Settings { quantised_matmul, ..plain() }).contract().flat;
        (flat.weights.unwrap(), flat.activation_quant)
    };
    let quant = |path| with(path, QuantisedMatmul::Integer).1;
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(with("gguf/llama-q8_0.gguf", QuantisedMatmul::Integer), ("q8_0".to_owned(), some("q8_0")));
    assert_eq!(with("gguf/llama-q8_0.gguf", QuantisedMatmul::Dequantise), ("q8_0".to_owned(), None));
    assert_eq!(quant("gguf/llama-f16.gguf"), None);
    // Rows too short for Q4_K's blocks are Q5_0 there; one block of Q5_0 or Q4_1 is dequantised.
    assert_eq!(with("gguf/llama-q4_k.gguf", QuantisedMatmul::Integer), ("q5_0,q4_k".to_owned(), some("q8_k")));
    assert_eq!(quant("gguf/llama-q4_1.gguf"), None);
    for (format, activations) in [(Format::Q4_0, "q8_0"), (Format::Q5_0, "q8_0"), (Format::Q4_1, "q8_1")] {
        let engine = EmbeddedEngine::new(&format.model(), plain()).unwrap();
        assert_eq!(engine.contract().flat.activation_quant, some(activations), "{format:?}");
    }
}

#[test]
fn the_engine_says_what_it_is() {
    let settings = Settings { decode_attention: crate::support::split_k(3).decode_attention, ..plain() };
    let engine = engine("hf/llama", &settings);
    let info = engine.info();
    assert_eq!(info.name.as_deref(), Some("driftprobe-embedded"));
    assert_eq!(info.device.as_deref(), Some("cpu"));
    assert!(info.threads.is_some_and(|n| n >= 1) && info.version.is_some());
    let attention = info.attention.unwrap();
    assert_eq!(attention.prefill.as_deref(), Some("naive"));
    assert_eq!(attention.decode.as_deref(), Some("split-k:3"));
}

#[test]
fn a_finer_residual_stream_is_not_rounded_and_everything_else_is() {
    use Point::*;
    let stream = [EmbedOut, ResidualPreAttn, ResidualPostAttn, ResidualPostMlp, FinalNormIn];
    for path in FAMILIES {
        let settings = Settings { residual: Some(Storage::F32), ..stored(Storage::Bf16, Storage::Bf16) };
        let (engine, tokens) = (engine(path, &settings), tokens(path));
        assert_eq!(engine.contract().flat.residual.as_deref(), Some("f32"));
        assert_eq!(engine.contract().flat.activations.as_deref(), Some("bf16"));
        for phase in Phase::ALL {
            let (_, rows) = tapped(&engine, phase, &tokens, (&everything(&engine), 0..tokens.len()));
            let of = |point, pos| rows.iter().find(|r| (r.point, r.layer, r.pos) == (point, 0, pos)).map(values);
            for pos in 0..tokens.len() {
                let added = of(AttnPostNormOut, pos).or(of(AttnProjOut, pos)).unwrap();
                let before = of(ResidualPreAttn, pos).unwrap();
                let sum = before.iter().zip(added).map(|(a, b)| f64::from((a + b) as f32));
                assert!(of(ResidualPostAttn, pos).unwrap().into_iter().eq(sum), "{path}: {phase} at {pos}");
            }
            for row in &rows {
                let finer = stream.contains(&row.point) || [Logits, AttnScores, AttnProbs].contains(&row.point);
                assert_eq!(row.dtype, if finer { Dtype::F32 } else { Dtype::Bf16 }, "{path}: {}", row.point);
            }
        }
        let same = Settings { residual: Some(Storage::Bf16), ..settings.clone() };
        let default = Settings { residual: None, ..settings };
        let of = |settings: &Settings| bits(&logits(&crate::support::engine(path, settings), Phase::Decode, &tokens));
        assert_eq!(of(&same), of(&default), "{path}: as the storage, said or not");
    }
}
