//! Weights stay in their files: where they lie, what rows they give, and whose bytes the fingerprint is of.

use crate::support::folder::{Folder, stored};
use crate::support::gguf::Gguf;
use crate::support::{fixture, read};
use driftprobe_model::{Format, Model, WeightDtype, expected_weights};
use half::{bf16, f16};
use serde_json::{Value, json};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_128;

const SHARDED: &str = "llama-gqa-sharded";

fn open(path: &str) -> Model {
    Model::open(&fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The file that is mapped at this address, by the system's own account.
#[cfg(target_os = "linux")]
fn file_at(address: usize) -> Option<std::path::PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().find_map(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let number = |s: &str| usize::from_str_radix(s, 16).ok();
        let path = line.split_whitespace().nth(5)?;
        (number(start)?..number(end)?).contains(&address).then(|| Path::new(path).to_owned())
    })
}

#[test]
#[cfg(target_os = "linux")]
fn every_weight_is_a_view_into_the_file_that_holds_it() {
    let folder = fixture("hf").join(SHARDED).canonicalize().unwrap();
    let index: Value = serde_json::from_slice(&read(&format!("hf/{SHARDED}/model.safetensors.index.json"))).unwrap();
    let model = open(&format!("hf/{SHARDED}"));
    let mut seen = 0;
    for (tensor, shard) in index["weight_map"].as_object().unwrap() {
        let address = model.weights.get(tensor).unwrap().bytes().as_ptr() as usize;
        assert_eq!(file_at(address), Some(folder.join(shard.as_str().unwrap())), "{tensor}");
        seen += 1;
    }
    assert_eq!(seen, model.weights.names().count());
    let path = fixture("gguf/llama-q8_0.gguf").canonicalize().unwrap();
    let model = Model::open(&path).unwrap();
    for name in model.weights.names() {
        let address = model.weights.get(name).unwrap().bytes().as_ptr() as usize;
        assert_eq!(file_at(address).as_deref(), Some(path.as_path()), "{name}");
    }
}

#[test]
fn a_weight_taken_twice_is_the_same_place_and_outlives_its_model() {
    let model = open("hf/llama");
    let (one, two) = (model.weights.get("lm_head.weight").unwrap(), model.weights.get("lm_head.weight").unwrap());
    assert_eq!(one.bytes().as_ptr(), two.bytes().as_ptr());
    let before = two.to_f32();
    drop((model, two));
    assert_eq!(one.to_f32(), before);
}

#[test]
fn sixteen_bit_rows_are_widened_exactly() {
    for (name, dtype) in [("llama-f16", WeightDtype::F16), ("llama-bf16", WeightDtype::Bf16)] {
        let model = open(&format!("hf/{name}"));
        for (tensor, (_, shape, bytes)) in stored(&read(&format!("hf/{name}/model.safetensors"))) {
            let weight = model.weights.get(&tensor).unwrap();
            assert_eq!((weight.dtype(), weight.shape()), (dtype, &shape[..]), "{tensor}");
            let widen = |b: &[u8; 2]| match dtype {
                WeightDtype::F16 => f16::from_le_bytes(*b).to_f32(),
                _ => bf16::from_le_bytes(*b).to_f32(),
            };
            let expected: Vec<f32> = bytes.as_chunks::<2>().0.iter().map(widen).collect();
            assert!(weight.to_f32() == expected, "{tensor}");
            let mut last = vec![0.0; weight.cols()];
            weight.dequantise_rows(weight.rows() - 1..weight.rows(), &mut last);
            assert!(last == expected[expected.len() - weight.cols()..], "{tensor}");
        }
    }
}

#[test]
fn tied_embeddings_need_no_output_matrix_and_leave_one_alone() {
    for path in ["hf/llama-tied", "hf/gemma2", "gguf/gemma2-f32.gguf", "gguf/llama-rope-linear-f16.gguf"] {
        let model = open(path);
        assert!(model.config.tie_word_embeddings, "{path}");
        assert!(model.weights.describe("lm_head.weight").is_none(), "{path}");
        assert!(expected_weights(&model.config).iter().all(|(id, _)| id.name() != "lm_head.weight"), "{path}");
    }
    for path in ["hf/llama", "gguf/llama-f32.gguf"] {
        assert!(!open(path).config.tie_word_embeddings, "{path}");
    }
    let folder = Folder::copy("llama");
    let model = folder.config(json!({"tie_word_embeddings": true})).open().unwrap();
    assert!(model.config.tie_word_embeddings, "an unused lm_head.weight beside it is harmless");
}

#[test]
fn the_fingerprint_is_that_of_all_shards_in_file_name_order() {
    let shard = |i: usize| read(&format!("hf/{SHARDED}/model-0000{i}-of-00003.safetensors"));
    let concatenated = [shard(1), shard(2), shard(3)].concat();
    let expected = format!("xxh3-128:{:032x}", xxh3_128(&concatenated));
    let model = open(&format!("hf/{SHARDED}"));
    assert_eq!(model.weights.fingerprint(), expected);
    assert_eq!(model.weights.size_bytes(), concatenated.len() as u64);
    // Without the index, the same files come in the same order.
    let folder = Folder::copy(SHARDED);
    std::fs::remove_file(folder.file("model.safetensors.index.json")).unwrap();
    assert_eq!(folder.open().unwrap().weights.fingerprint(), expected);
    // Renamed, they come in another.
    let folder = Folder::copy(SHARDED);
    std::fs::remove_file(folder.file("model.safetensors.index.json")).unwrap();
    std::fs::rename(folder.file("model-00001-of-00003.safetensors"), folder.file("z.safetensors")).unwrap();
    let reordered = [shard(2), shard(3), shard(1)].concat();
    assert_eq!(folder.open().unwrap().weights.fingerprint(), format!("xxh3-128:{:032x}", xxh3_128(&reordered)));
}

#[test]
fn the_fingerprint_of_one_file_changes_with_any_of_its_bytes() {
    let bytes = Gguf::fixture("llama-f16.gguf").bytes();
    assert_eq!(bytes, read("gguf/llama-f16.gguf"), "the tests' own writer gives the same bytes");
    let expected = format!("xxh3-128:{:032x}", xxh3_128(&bytes));
    assert_eq!(open("gguf/llama-f16.gguf").weights.fingerprint(), expected);
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    assert_ne!(crate::support::gguf::open(&other).unwrap().weights.fingerprint(), expected);
}

#[test]
fn a_folder_with_one_gguf_file_is_that_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("gguf/llama-q8_0.gguf"), folder.path().join("any name.GGUF")).unwrap();
    let model = Model::open(folder.path()).unwrap();
    assert_eq!((model.format, model.config.num_attention_heads), (Format::Gguf, 4));
    assert!(model.path.ends_with("any name.GGUF"));
}

#[test]
fn both_formats_give_the_same_config() {
    // Which fixtures are of the same sizes is read off them; what a family brings of its own must not depend on the format.
    for family in ["llama", "mistral", "qwen2", "qwen3", "gemma2"] {
        let hf = open(&format!("hf/{family}")).config;
        let gguf = ["f32", "f16", "bf16"].map(|t| fixture(&format!("gguf/{family}-{t}.gguf")));
        let gguf = Model::open(gguf.iter().find(|p| p.exists()).unwrap()).unwrap().config;
        let of = |c: &driftprobe_model::Config| {
            (c.activation, c.qkv_bias, c.o_bias, c.mlp_bias, c.qk_norm, c.post_norms, c.attn_softcap, c.final_softcap)
        };
        assert_eq!(of(&hf), of(&gguf), "{family}");
        let has_window = |c: &driftprobe_model::Config| c.sliding_windows.iter().any(Option::is_some);
        assert_eq!(has_window(&hf), has_window(&gguf), "{family}");
        assert_eq!(has_window(&hf), ["mistral", "gemma2"].contains(&family), "{family}");
    }
}
