//! GGUF files that cannot be computed are refused by name, before any work, with a hint.

use crate::support::gguf::{F32, Gguf, U32};
use crate::support::{refused, unsupported};

fn llama() -> Gguf {
    Gguf::fixture("llama-f16.gguf")
}

#[test]
fn the_untouched_file_opens() {
    assert!(llama().open().is_ok());
    assert!(Gguf::fixture("gemma2-f16.gguf").open().is_ok());
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let half = 4u32;
    let cases: &[(&str, Gguf, &[&str])] = &[
        ("architecture", llama().set_text("general.architecture", "phi3"), &["architecture phi3"]),
        ("experts", llama().set_u32("llama.expert_count", 8), &["8 experts"]),
        ("partial rotary", llama().set_u32("llama.rope.dimension_count", half), &["rotary", "4 of 8"]),
        ("rope", llama().set_text("llama.rope.scaling.type", "longrope"), &["longrope"]),
        ("version 1", Gguf { version: 1, ..llama() }, &["version 1"]),
        ("version 4", Gguf { version: 4, ..llama() }, &["version 4"]),
        ("big-endian", Gguf { version: 3u32.swap_bytes(), ..llama() }, &["version"]),
    ];
    for (case, gguf, pieces) in cases {
        unsupported(case, gguf.open(), &[&["model.gguf"], *pieces].concat());
    }
}

#[test]
fn types_of_tensors_that_are_not_supported_are_refused_by_name() {
    let types = [(9, "Q8_1"), (15, "Q8_K"), (16, "IQ2_XXS"), (20, "IQ4_NL"), (23, "IQ4_XS"), (26, "I32"), (28, "F64")];
    for (kind, name) in types.into_iter().chain([(34, "TQ1_0"), (39, "MXFP4"), (4, "type 4"), (255, "type 255")]) {
        let mut gguf = llama();
        gguf.tensor("blk.0.ffn_up.weight").kind = kind;
        unsupported(name, gguf.open(), &["model.gguf", "blk.0.ffn_up.weight", name]);
    }
}

#[test]
fn tensors_that_do_not_fit_the_config_are_refused_by_name_and_shape() {
    let mut gguf = llama();
    gguf.tensors.retain(|t| t.name != "blk.0.ffn_up.weight");
    refused("missing", gguf.open(), &["model.layers.0.mlp.up_proj.weight", "missing"]);
    let mut gguf = llama();
    gguf.tensor("blk.0.attn_k.weight").dims = vec![16, 32];
    refused("misshapen", gguf.open(), &["self_attn.k_proj.weight", "[32, 16]", "[16, 32]"]);
    let mut gguf = llama();
    gguf.tensor("output_norm.weight").dims = vec![32, 1];
    refused("one dimension too many", gguf.open(), &["model.norm.weight", "[1, 32]"]);
    let mut gguf = llama();
    gguf.tensor("output.weight").name = "blk.0.attn_sinks.weight".to_owned();
    unsupported("unknown", gguf.open(), &["blk.0.attn_sinks.weight", "llama"]);
    let mut gguf = llama();
    gguf.tensor("blk.0.attn_norm.weight").name = "blk.7.attn_norm.weight".to_owned();
    refused("another layer's", gguf.open(), &["model.layers.0.input_layernorm.weight", "missing"]);
    let mut gguf = Gguf::fixture("llama-rope-llama3-f16.gguf");
    gguf.tensor("rope_freqs.weight").dims = vec![4];
    refused("factors", gguf.open(), &["rope_freqs.weight", "[4]", "[8]"]);
}

#[test]
fn metadata_that_makes_no_model_is_refused_by_key() {
    let float = |x: f32| x.to_le_bytes();
    let cases: &[(&str, Gguf, &[&str])] = &[
        ("no architecture", llama().without("general.architecture"), &["general.architecture"]),
        ("architecture 7", llama().set("general.architecture", U32, [7, 0, 0, 0]), &["general.architecture"]),
        ("no width", llama().without("llama.embedding_length"), &["llama.embedding_length", "nothing"]),
        ("width as text", llama().set_text("llama.embedding_length", "32"), &["llama.embedding_length", "32"]),
        ("width as float", llama().set("llama.embedding_length", F32, float(32.0)), &["llama.embedding_length"]),
        ("negative width", llama().set("llama.embedding_length", 5, [255; 4]), &["llama.embedding_length", "-1"]),
        ("no layers", llama().set_u32("llama.block_count", 0), &["num_hidden_layers is 0"]),
        ("no heads", llama().set_u32("llama.attention.head_count", 0), &["num_attention_heads is 0"]),
        ("no key heads", llama().set_u32("llama.attention.head_count_kv", 0), &["num_key_value_heads is 0"]),
        ("uneven groups", llama().set_u32("llama.attention.head_count_kv", 3), &["num_key_value_heads (3)"]),
        ("two widths of heads", llama().set_u32("llama.attention.value_length", 16), &["attention.value_length"]),
        ("no epsilon", llama().without("llama.attention.layer_norm_rms_epsilon"), &["layer_norm_rms_epsilon"]),
        (
            "NaN epsilon",
            llama().set("llama.attention.layer_norm_rms_epsilon", F32, float(f32::NAN)),
            &["rms_norm_eps is NaN"],
        ),
        ("infinite theta", llama().set("llama.rope.freq_base", F32, float(f32::INFINITY)), &["rope_theta is inf"]),
        ("theta as text", llama().set_text("llama.rope.freq_base", "1e4"), &["llama.rope.freq_base"]),
        ("linear, no factor", llama().set_text("llama.rope.scaling.type", "linear"), &["llama.rope.scaling.factor"]),
        ("alignment 3", llama().set_u32("general.alignment", 3), &["general.alignment"]),
        ("alignment 0", llama().set_u32("general.alignment", 0), &["general.alignment"]),
        ("alignment 2^30", llama().set_u32("general.alignment", 1 << 30), &["general.alignment"]),
        ("alignment as text", llama().set_text("general.alignment", "32"), &["general.alignment"]),
    ];
    for (case, gguf, pieces) in cases {
        refused(case, gguf.open(), &[&["model.gguf"], *pieces].concat());
    }
    let odd = ["llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"];
    let odd = odd.into_iter().fold(llama(), |gguf, key| gguf.set_u32(key, 7));
    refused("odd head_dim", odd.open(), &["head_dim is 7", "even"]);
}

#[test]
fn a_rope_scaling_that_is_no_text_is_not_taken_for_none() {
    refused("a number", llama().set_u32("llama.rope.scaling.type", 2).open(), &["llama.rope.scaling.type"]);
}
