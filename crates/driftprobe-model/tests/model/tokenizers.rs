//! Tokenizers against encodings by Hugging Face's `tokenizers` (BPE) and by `sentencepiece` itself (SPM).

use crate::support::gguf::{F32, Gguf, LIST, TEXT, file, texts};
use crate::support::{fixture, read, refused, unsupported};
use driftprobe_model::{ModelError, Tokenizer};
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Every text's ids and what they decode to; gives the number of texts.
fn check(tokenizer: &Tokenizer, expected: &Value, name: &str) -> usize {
    let entries = expected[name].as_array().unwrap();
    for entry in entries {
        let text = entry["text"].as_str().unwrap();
        let (plain, whole) = (ids(&entry["ids"]), ids(&entry["ids_with_special"]));
        assert_eq!(tokenizer.encode(text).unwrap(), whole, "{name}: {text:?}");
        let decoded = entry["decoded"].as_str().unwrap_or(text);
        assert_eq!(tokenizer.decode(&plain).unwrap(), decoded, "{name}: {plain:?}");
    }
    entries.len()
}

fn gguf_tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_file(&fixture(&format!("gguf/{name}"))).unwrap()
}

fn of(gguf: &Gguf) -> Result<Tokenizer, ModelError> {
    let (_folder, path) = file(&gguf.bytes());
    Tokenizer::from_file(&path)
}

#[test]
fn a_tokenizer_json_encodes_as_tokenizers_does() {
    let expected: Value = serde_json::from_slice(&read("tokenizer/expected.json")).unwrap();
    let tokenizer = Tokenizer::from_file(&fixture("tokenizer/tokenizer.json")).unwrap();
    assert!(check(&tokenizer, &expected, "tokenizer.json") >= 30);
}

#[test]
fn tokenizers_from_gguf_encode_as_tokenizers_and_sentencepiece_do() {
    let expected: Value = serde_json::from_slice(&read("gguf/tokenizers-expected.json")).unwrap();
    let names = ["tokenizer-bpe.gguf", "tokenizer-bpe-qwen2.gguf", "tokenizer-bpe-gpt2.gguf", "tokenizer-spm.gguf"];
    assert_eq!(expected.as_object().unwrap().len(), names.len());
    for name in names {
        assert!(check(&gguf_tokenizer(name), &expected, name) >= 29);
    }
}

#[test]
fn the_start_and_end_tokens_are_put_where_the_file_says() {
    let plain = gguf_tokenizer("tokenizer-bpe-gpt2.gguf").encode("hi").unwrap();
    let flags = |bos: u8, eos: u8| {
        let gguf = Gguf::fixture("tokenizer-bpe-gpt2.gguf");
        let gguf = gguf.set("tokenizer.ggml.add_bos_token", 7, [bos]).set("tokenizer.ggml.add_eos_token", 7, [eos]);
        of(&gguf).unwrap().encode("hi").unwrap()
    };
    let (bos, eos) = (400, 401);
    assert_eq!(flags(0, 0), plain);
    assert_eq!(flags(1, 0), [&[bos], &plain[..]].concat());
    assert_eq!(flags(0, 1), [&plain[..], &[eos]].concat());
    assert_eq!(flags(1, 1), [&[bos], &plain[..], &[eos]].concat());
}

#[test]
fn the_space_before_an_spm_text_is_a_switch() {
    let with = gguf_tokenizer("tokenizer-spm.gguf");
    let without = of(&Gguf::fixture("tokenizer-spm.gguf").set("tokenizer.ggml.add_space_prefix", 7, [0])).unwrap();
    assert_eq!(without.encode(" the same").unwrap(), with.encode("the same").unwrap());
    assert_ne!(without.encode("the same").unwrap(), with.encode("the same").unwrap());
}

#[test]
fn pre_tokenizers_and_models_that_are_not_known_are_refused_by_name() {
    let bpe = || Gguf::fixture("tokenizer-bpe.gguf");
    let spm = || Gguf::fixture("tokenizer-spm.gguf");
    unsupported("rule", of(&bpe().set_text("tokenizer.ggml.pre", "deepseek-r1")), &["pre-tokenizer", "deepseek-r1"]);
    unsupported("no rule", of(&bpe().without("tokenizer.ggml.pre")), &["pre-tokenizer"]);
    unsupported("model", of(&bpe().set_text("tokenizer.ggml.model", "rwkv")), &["tokenizer rwkv"]);
    unsupported("unigram", of(&bpe().set_text("tokenizer.ggml.model", "t5")), &["tokenizer t5"]);
    unsupported("none", of(&bpe().without("tokenizer.ggml.model")), &["tokenizer.ggml.model"]);
    unsupported(
        "squeezed spaces",
        of(&spm().set("tokenizer.ggml.remove_extra_whitespaces", 7, [1])),
        &["remove_extra_whitespaces"],
    );
    unsupported(
        "a map of characters",
        of(&spm().set("tokenizer.ggml.precompiled_charsmap", LIST, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7])),
        &["precompiled_charsmap"],
    );
}

#[test]
fn tokenizers_with_false_tables_are_refused_by_key() {
    let bpe = || Gguf::fixture("tokenizer-bpe.gguf");
    let spm = || Gguf::fixture("tokenizer-spm.gguf");
    let merges = |m: &[&str]| of(&bpe().set("tokenizer.ggml.merges", LIST, texts(m)));
    refused("a merge of one token", merges(&["the"]), &["tokenizer.ggml.merges"]);
    refused("a merge of unknown tokens", merges(&["qqq zzz"]), &["tokenizer.ggml.merges", "qqq"]);
    refused("no merges", of(&bpe().without("tokenizer.ggml.merges")), &["tokenizer.ggml.merges"]);
    refused("no tokens", of(&bpe().without("tokenizer.ggml.tokens")), &["tokenizer.ggml.tokens"]);
    refused("tokens as text", of(&bpe().set("tokenizer.ggml.tokens", TEXT, [0; 8])), &["tokenizer.ggml.tokens"]);
    let twice = bpe().without("tokenizer.ggml.token_type").set("tokenizer.ggml.tokens", LIST, texts(&["a", "b", "a"]));
    refused("a token twice", of(&twice), &["tokenizer.ggml.tokens", "\"a\" twice"]);
    refused("bos past the end", of(&bpe().set_u32("tokenizer.ggml.bos_token_id", 70_000)), &["bos_token_id"]);
    refused("unk past the end", of(&spm().set_u32("tokenizer.ggml.unknown_token_id", 70_000)), &["unknown_token_id"]);
    refused("no scores", of(&spm().without("tokenizer.ggml.scores")), &["tokenizer.ggml.scores"]);
    let one_score = [&F32.to_le_bytes()[..], &1u64.to_le_bytes(), &0f32.to_le_bytes()].concat();
    refused("one score", of(&spm().set("tokenizer.ggml.scores", LIST, one_score)), &["tokenizer.ggml.scores"]);
    let one_kind = [&5u32.to_le_bytes()[..], &1u64.to_le_bytes(), &1u32.to_le_bytes()].concat();
    refused("one kind", of(&spm().set("tokenizer.ggml.token_type", LIST, one_kind)), &["tokenizer.ggml.token_type"]);
}

#[test]
fn a_damaged_tokenizer_json_is_refused_by_file() {
    let bytes = read("tokenizer/tokenizer.json");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    for spoilt in [&bytes[..bytes.len() / 2], b"", b"[]", b"{\"model\": 7}"] {
        std::fs::write(&path, spoilt).unwrap();
        refused("spoilt", Tokenizer::from_file(&path), &["tokenizer.json", "tokenizer"]);
    }
    refused("absent", Tokenizer::from_file(&folder.path().join("nothing.json")), &["nothing.json"]);
}
