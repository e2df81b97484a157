//! Hugging Face folders that lie: configs of wrong types and gigantic sizes, safetensors broken off and spoilt.

use crate::support::folder::Folder;
use crate::support::{read, refused};
use proptest::prelude::*;
use serde_json::{Value, json};

const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gemma2"];

fn bad_values() -> Vec<Value> {
    let numbers = ["-1", "1e18", "1000000000000000000", "18446744073709551615", "1e300", "0.5", "0"];
    let numbers = numbers.map(|n| serde_json::from_str(n).unwrap());
    let others = [json!("text"), json!([]), json!({}), json!([1]), json!(true), json!({"rope_type": 7})];
    numbers.into_iter().chain(others).collect()
}

#[test]
fn any_key_with_any_wrong_value_is_refused_or_let_be_but_never_believed() {
    for family in FAMILIES {
        let folder = Folder::copy(family);
        let config: Value = serde_json::from_slice(&read(&format!("hf/{family}/config.json"))).unwrap();
        for key in config.as_object().unwrap().keys() {
            for value in bad_values() {
                let mut config = config.clone();
                config[key] = value.clone();
                folder.write("config.json", config.to_string());
                if let Err(e) = folder.open() {
                    assert!(e.hint().is_some(), "{family}: {key} = {value}: {e}");
                }
            }
        }
    }
}

#[test]
fn wrong_types_are_refused_by_file_and_key() {
    let sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"];
    for key in sizes.into_iter().chain(["num_key_value_heads", "head_dim", "max_position_embeddings"]) {
        for value in [json!("32"), json!(-32), json!(32.5), json!(1e18), json!([32]), json!(true)] {
            let folder = Folder::copy("llama");
            refused(key, folder.config(json!({key: value})).open(), &["config.json", key]);
        }
    }
    let cases = [
        ("rms_norm_eps", json!("small")),
        ("rope_theta", json!([1])),
        ("rope_scaling", json!("yarn")),
        ("model_type", json!(5)),
        ("hidden_act", json!({})),
        ("attention_bias", json!(1)),
        ("mlp_bias", json!("yes")),
        ("tie_word_embeddings", json!("no")),
        ("layer_types", json!(7)),
        ("layer_types", json!(vec!["full_attention"; 99])),
        ("layer_types", json!(["chunked_attention", "full_attention"])),
        ("sliding_window", json!("wide")),
    ];
    for (key, value) in cases {
        refused(key, Folder::copy("llama").config(json!({key: value})).open(), &["config.json", key]);
    }
    for key in sizes.into_iter().chain(["model_type"]) {
        let missing = Folder::copy("llama").config(json!({key: null})).open();
        refused(key, missing, &["config.json", key, "found nothing"]);
    }
}

#[test]
fn gigantic_sizes_are_refused_at_once() {
    for key in ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "num_attention_heads"] {
        for size in [u64::MAX, 1 << 63, 1_000_000_000_000_000_000, 1 << 40, (1 << 24) + 1] {
            let folder = Folder::copy("llama");
            refused(key, folder.config(json!({key: size})).open(), &["config.json", key]);
        }
    }
    let deep = Folder::copy("llama");
    refused("layers", deep.config(json!({"num_hidden_layers": 4097})).open(), &["config.json", "num_hidden_layers"]);
}

#[test]
fn a_config_that_is_no_object_is_refused() {
    let folder = Folder::copy("llama");
    let nested = "[".repeat(100_000);
    for text in ["", "{", "[]", "null", "7", "\u{feff}{}", "{\"a\": 1e999}", nested.as_str()] {
        folder.write("config.json", text);
        refused(&text.chars().take(20).collect::<String>(), folder.open(), &["config.json"]);
    }
    folder.write("config.json", [0xff, 0xfe, 0x00]);
    refused("not UTF-8", folder.open(), &["config.json"]);
}

#[test]
fn safetensors_broken_off_anywhere_are_refused() {
    let folder = Folder::copy("llama");
    let bytes = read("hf/llama/model.safetensors");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let lengths = (0..header + 9).chain((header + 9..bytes.len()).step_by(4999)).chain([bytes.len() - 1]);
    let shortened = std::fs::OpenOptions::new().write(true).open(folder.file("model.safetensors")).unwrap();
    for len in lengths.collect::<Vec<_>>().into_iter().rev() {
        shortened.set_len(len as u64).unwrap();
        refused(&format!("broken off at {len}"), folder.open(), &["model.safetensors"]);
    }
    folder.write("model.safetensors", [&bytes[..], &[0]].concat());
    refused("a byte too many", folder.open(), &["model.safetensors"]);
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let folder = Folder::copy("llama");
    for claim in [u64::MAX, 1 << 63, 1 << 40, 100_000_001, 0] {
        let mut bytes = read("hf/llama/model.safetensors");
        bytes[..8].copy_from_slice(&claim.to_le_bytes());
        folder.write("model.safetensors", bytes);
        refused("length of the header", folder.open(), &["model.safetensors"]);
    }
    let headers = [
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999]}}"#,
        r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"NEW","shape":[1],"data_offsets":[0,4]}}"#,
        "[]",
    ];
    for header in headers {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
        folder.write("model.safetensors", bytes);
        refused(header, folder.open(), &["model.safetensors"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_never_brings_the_reader_down(
        in_config in prop::collection::vec((0usize..600, any::<u8>()), 0..4),
        in_weights in prop::collection::vec((0usize..2000, any::<u8>()), 0..4),
    ) {
        let folder = Folder::copy("llama-f16");
        for (name, changes) in [("config.json", in_config), ("model.safetensors", in_weights)] {
            let mut bytes = std::fs::read(folder.file(name)).unwrap();
            changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
            folder.write(name, bytes);
        }
        match folder.open() {
            Ok(model) => model.weights.names().for_each(|n| assert!(!model.weights.get(n).unwrap().to_f32().is_empty())),
            Err(e) => prop_assert!(e.hint().is_some(), "{e}"),
        }
    }
}
