//! Hugging Face folders that cannot be computed are refused by name, before any work, with a hint.

use crate::support::folder::Folder;
use crate::support::{refused, unsupported};
use driftprobe_model::Model;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::path::Path;

fn with(name: &str, keys: Value) -> Folder {
    let folder = Folder::copy(name);
    folder.config(keys);
    folder
}

#[test]
fn configs_that_ask_for_something_else_are_unsupported_by_name() {
    let quantisation = json!({"quant_method": "gptq", "bits": 4});
    let cases: &[(&str, Value, &[&str])] = &[
        ("architecture", json!({"model_type": "mixtral"}), &["config.json", "architecture mixtral"]),
        ("case matters", json!({"model_type": "Llama"}), &["config.json", "architecture Llama"]),
        ("quantised", json!({"quantization_config": quantisation}), &["config.json", "quantization_config", "gptq"]),
        ("rope", json!({"rope_scaling": {"rope_type": "longrope"}}), &["config.json", "longrope"]),
        ("dynamic rope", json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), &["config.json", "dynamic"]),
        ("partial rotary", json!({"partial_rotary_factor": 0.5}), &["config.json", "partial_rotary_factor"]),
        ("activation", json!({"hidden_act": "relu"}), &["config.json", "activation relu"]),
    ];
    for (case, keys, pieces) in cases {
        unsupported(case, with("llama", keys.clone()).open(), pieces);
    }
    let exact_gelu = with("gemma2", json!({"hidden_activation": "gelu"}));
    unsupported("another gelu", exact_gelu.open(), &["activation gelu "]);
}

#[test]
fn impossible_sizes_are_refused_by_key() {
    let cases: &[(&str, Value, &[&str])] = &[
        ("odd head_dim", json!({"head_dim": 15}), &["head_dim is 15", "even"]),
        ("no heads", json!({"num_attention_heads": 0}), &["num_attention_heads is 0"]),
        ("no heads, no head_dim", json!({"num_attention_heads": 0, "head_dim": null}), &["num_attention_heads"]),
        ("no key heads", json!({"num_key_value_heads": 0}), &["num_key_value_heads is 0"]),
        ("uneven groups", json!({"num_key_value_heads": 3}), &["num_attention_heads", "num_key_value_heads (3)"]),
        ("heads do not divide", json!({"num_attention_heads": 5, "head_dim": null}), &["num_attention_heads", "5"]),
        ("no layers", json!({"num_hidden_layers": 0}), &["num_hidden_layers is 0"]),
        ("no vocabulary", json!({"vocab_size": 0}), &["vocab_size is 0"]),
        ("no epsilon", json!({"rms_norm_eps": 0.0}), &["rms_norm_eps is 0"]),
        ("theta of one", json!({"rope_theta": 1.0}), &["theta 1"]),
        ("factor of zero", json!({"rope_scaling": {"rope_type": "linear", "factor": 0.0}}), &["factor"]),
        ("no factor", json!({"rope_scaling": {"rope_type": "linear"}}), &["factor", "found nothing"]),
        (
            "no blend",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}),
            &["low_freq_factor"],
        ),
    ];
    for (case, keys, pieces) in cases {
        let folder = with("llama", keys.clone());
        refused(case, folder.open(), &[&["config.json"], *pieces].concat());
    }
    refused("softcap", with("gemma2", json!({"attn_logit_softcapping": -1.0})).open(), &["attn_logit_softcapping"]);
    refused("window", with("mistral", json!({"sliding_window": 0})).open(), &["config.json", "sliding_window"]);
}

#[test]
fn tensors_that_do_not_fit_the_config_are_refused_by_name_and_shape() {
    let folder = Folder::copy("llama");
    folder.edit_tensors("model.safetensors", |t| drop(t.remove("model.layers.0.mlp.up_proj.weight")));
    refused("missing", folder.open(), &["model.layers.0.mlp.up_proj.weight", "missing"]);

    let folder = Folder::copy("llama");
    folder.edit_tensors("model.safetensors", |t| {
        let (_, shape, _) = t.get_mut("model.layers.0.self_attn.o_proj.weight").unwrap();
        *shape = vec![shape[0] * 2, shape[1] / 2];
    });
    refused("misshapen", folder.open(), &["model.layers.0.self_attn.o_proj.weight", "shape", "expected"]);

    let folder = Folder::copy("llama");
    folder.edit_tensors("model.safetensors", |t| {
        let (_, shape, _) = t.get_mut("model.norm.weight").unwrap();
        shape.insert(0, 1);
    });
    refused("one dimension too many", folder.open(), &["model.norm.weight", "[1, "]);

    let folder = Folder::copy("llama");
    folder.edit_tensors("model.safetensors", |t| {
        let bias = t["model.norm.weight"].clone();
        t.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), bias);
    });
    unsupported("an unexpected bias", folder.open(), &["model.layers.0.self_attn.q_proj.bias", "llama"]);
    refused("an expected bias", with("llama", json!({"attention_bias": true})).open(), &["q_proj.bias", "missing"]);

    let folder = Folder::copy("llama");
    folder.edit_tensors("model.safetensors", |t| {
        let buffer = t["model.norm.weight"].clone();
        t.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), buffer);
    });
    assert!(folder.open().is_ok(), "old checkpoints carry this buffer");
}

#[test]
fn dtypes_that_are_no_weights_are_unsupported_by_tensor() {
    for (dtype, name) in [(Dtype::F64, "F64"), (Dtype::I64, "I64"), (Dtype::U64, "U64")] {
        let folder = Folder::copy("llama");
        folder.edit_tensors("model.safetensors", |t| {
            let (kind, _, bytes) = t.get_mut("model.norm.weight").unwrap();
            *kind = dtype;
            bytes.extend(bytes.clone());
        });
        unsupported(name, folder.open(), &["model.safetensors", "model.norm.weight", name]);
    }
}

#[test]
fn an_index_that_does_not_tell_the_truth_is_refused() {
    const INDEX: &str = "model.safetensors.index.json";
    let with_map = |tensor: &str, file: Value| {
        let folder = Folder::copy("llama-gqa-sharded");
        folder.edit_json(INDEX, |index| {
            index["weight_map"].as_object_mut().unwrap().insert(tensor.to_owned(), file);
        });
        folder
    };
    let (first, third) = ("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors");
    refused("in no shard", with_map("model.extra", json!(first)).open(), &[INDEX, "model.extra", first]);
    refused("in another shard", with_map("lm_head.weight", json!(first)).open(), &[INDEX, "lm_head.weight", first]);
    assert!(with_map("lm_head.weight", json!(third)).open().is_ok());
    let names = ["../secret.safetensors", "..", "a/b.safetensors", "/etc/passwd", "..\\x.safetensors", ""];
    for name in names {
        refused(name, with_map("lm_head.weight", json!(name)).open(), &[INDEX, "weight_map.lm_head.weight"]);
    }
    for name in [json!(7), json!(null), json!([third])] {
        refused("no text", with_map("lm_head.weight", name).open(), &[INDEX, "weight_map.lm_head.weight"]);
    }
    refused("no file", with_map("lm_head.weight", json!("absent.safetensors")).open(), &["absent.safetensors"]);
    let folder = Folder::copy("llama-gqa-sharded");
    folder.edit_json(INDEX, |index| drop(index.remove("weight_map")));
    refused("no map", folder.open(), &[INDEX, "weight_map"]);
    folder.write(INDEX, "{");
    refused("no JSON", folder.open(), &[INDEX]);
}

#[test]
fn a_tensor_in_two_files_is_refused_by_name() {
    let folder = Folder::copy("llama-gqa-sharded");
    std::fs::remove_file(folder.file("model.safetensors.index.json")).unwrap();
    std::fs::copy(folder.file("model-00003-of-00003.safetensors"), folder.file("again.safetensors")).unwrap();
    refused("twice", folder.open(), &["model-00003-of-00003.safetensors", "two files"]);
}

#[test]
fn places_that_hold_no_model_are_refused_with_a_hint() {
    refused("nothing there", Model::open(Path::new("/no/such/model")), &["/no/such/model"]);
    let folder = tempfile::tempdir().unwrap();
    unsupported("an empty folder", Model::open(folder.path()), &["config.json"]);
    std::fs::write(folder.path().join("a.gguf"), "").unwrap();
    std::fs::write(folder.path().join("b.gguf"), "").unwrap();
    unsupported("two of them", Model::open(folder.path()), &["2 .gguf"]);
    let folder = Folder::copy("llama");
    std::fs::remove_file(folder.file("model.safetensors")).unwrap();
    unsupported("no weights", folder.open(), &["safetensors"]);
    let folder = Folder::copy("llama");
    let model = folder.open().unwrap();
    unsupported("no tokenizer", model.tokenizer, &["tokenizer.json"]);
}
