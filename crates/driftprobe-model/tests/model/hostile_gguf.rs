//! GGUF files that lie: broken off at every byte, spoilt at random, and with every length and offset claimed falsely.
//! All must be refused (or, where random damage leaves a good file, read), and none may bring the reader down.

use crate::support::gguf::{Gguf, LIST, TEXT, U32, file, open, text};
use crate::support::{read, refused};
use driftprobe_model::{Model, Tokenizer, Weights};
use proptest::prelude::*;

fn llama() -> Gguf {
    Gguf::fixture("llama-f16.gguf")
}

/// Reads everything that a file that opened offers.
fn use_up(model: &Model) {
    for name in model.weights.names() {
        let weight = model.weights.get(name).unwrap();
        assert_eq!(weight.to_f32().len(), weight.rows() * weight.cols());
    }
    if let Ok(tokenizer) = &model.tokenizer {
        let _ = tokenizer.encode("The same token, the same logits.");
    }
}

#[test]
fn a_file_broken_off_anywhere_is_refused() {
    let bytes = read("gguf/llama-f16.gguf");
    let header = llama().header().len();
    assert!(header > 2000);
    let (_folder, path) = file(&bytes);
    // Every byte of the header, then a few places in the data, the last byte among them.
    let lengths = (0..header).chain((header..bytes.len()).step_by(997)).chain([bytes.len() - 1]);
    let shortened = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for len in lengths.collect::<Vec<_>>().into_iter().rev() {
        shortened.set_len(len as u64).unwrap();
        refused(&format!("broken off at {len}"), Model::open(&path), &["model.gguf"]);
    }
    std::fs::write(&path, &bytes).unwrap();
    assert!(Model::open(&path).is_ok());
}

#[test]
fn what_is_cut_off_is_said_with_its_offset() {
    let bytes = read("gguf/llama-f16.gguf");
    refused("in the magic", open(&bytes[..3]), &["offset 0", "4 bytes expected, 3 left"]);
    refused("in the version", open(&bytes[..6]), &["offset 4", "4 bytes expected, 2 left"]);
    refused("another magic", open(b"GGML0000000000000000000000000000"), &["does not begin with GGUF"]);
    refused("in the data", open(&bytes[..bytes.len() - 1]), &["output.weight", "F16", "[48, 32]"]);
}

const CLAIMS: [u64; 7] = [u64::MAX, u64::MAX - 7, 1 << 63, i64::MAX as u64, 1 << 40, 1 << 32, 100_000];

#[test]
fn lengths_that_the_file_cannot_hold_are_refused() {
    for claim in CLAIMS {
        let le = claim.to_le_bytes();
        refused("tensors", Gguf { tensor_count: Some(claim), ..llama() }.open(), &["model.gguf"]);
        refused("pairs", Gguf { pair_count: Some(claim), ..llama() }.open(), &["model.gguf"]);
        refused("characters", llama().set("general.name", TEXT, le).open(), &["characters", "offset"]);
        let list = |kind: u32| [&kind.to_le_bytes()[..], &le].concat();
        refused("bytes", llama().set("general.name", LIST, list(0)).open(), &["model.gguf", "offset"]);
        refused("lists", llama().set("general.name", LIST, list(LIST)).open(), &["model.gguf", "offset"]);
        let mut gguf = llama();
        gguf.pairs[0].key = "x".to_owned();
        let mut bytes = gguf.bytes();
        bytes[24..32].copy_from_slice(&le);
        refused("a key", open(&bytes), &["characters", "offset 32"]);
    }
}

#[test]
fn tensors_of_impossible_size_or_place_are_refused_by_name() {
    const NAME: &str = "blk.0.ffn_up.weight";
    let with = |change: &dyn Fn(&mut crate::support::gguf::Tensor)| {
        let mut gguf = llama();
        change(gguf.tensor(NAME));
        gguf.open()
    };
    for claim in CLAIMS {
        refused("one long row", with(&|t| t.dims = vec![claim & !31]), &[NAME]);
        refused("many rows", with(&|t| t.dims = vec![32, claim]), &[NAME]);
        refused("many of all", with(&|t| t.dims = vec![claim & !31, claim, claim, claim]), &[NAME]);
        refused("far away", with(&|t| t.offset = Some(claim & !31)), &[NAME]);
    }
    refused("not aligned", with(&|t| t.offset = Some(33)), &[NAME, "aligned"]);
    refused("no dimension", with(&|t| t.dims = vec![]), &[NAME, "0 dimensions"]);
    refused("five dimensions", with(&|t| t.dims = vec![32, 32, 1, 1, 1]), &[NAME, "5 dimensions"]);
    refused("no columns", with(&|t| t.dims = vec![0, 32]), &["up_proj", "[32, 0]"]);
    let long = "n".repeat(5000);
    refused("a long name", with(&|t| t.name.clone_from(&long)), &["name is too long"]);
    let mut gguf = Gguf::fixture("llama-q8_0.gguf");
    gguf.tensor(NAME).dims = vec![16, 64];
    refused("half a block", gguf.open(), &[NAME, "Q8_0", "multiple of 32"]);
}

#[test]
fn tensors_that_overlap_or_stand_twice_are_refused_by_name() {
    let mut gguf = llama();
    gguf.tensor("blk.0.ffn_up.weight").offset = Some(0);
    refused("overlap", gguf.open(), &["token_embd.weight", "blk.0.ffn_up.weight", "overlap"]);
    let mut gguf = llama();
    let again = gguf.tensor("blk.0.attn_norm.weight").clone();
    gguf.tensors.push(again);
    refused("twice", gguf.open(), &["blk.0.attn_norm.weight", "twice"]);
    // In Gemma 2's names two spellings could mean one tensor; in Llama's, ffn_norm and post_attention_norm do.
    let mut gguf = llama();
    let mut again = gguf.tensor("blk.0.ffn_norm.weight").clone();
    again.name = "blk.0.post_attention_norm.weight".to_owned();
    gguf.tensors.push(again);
    refused("one meaning twice", gguf.open(), &["blk.0.post_attention_norm.weight", "twice"]);
}

#[test]
fn metadata_that_no_writer_writes_is_refused() {
    let mut gguf = llama();
    gguf.pairs.push(gguf.pairs[1].clone());
    refused("a key twice", gguf.open(), &["general.name", "twice"]);
    refused("a boolean of 2", llama().set("x", 7, [2]).open(), &["boolean"]);
    refused("type 13", llama().set("x", 13, [0; 8]).open(), &["value type 13"]);
    refused("not UTF-8", llama().set("x", TEXT, [1, 0, 0, 0, 0, 0, 0, 0, 0xff]).open(), &["UTF-8", "offset"]);
    // A list of lists is allowed; a tower of them is not.
    let list = |inner: &[u8]| [&LIST.to_le_bytes()[..], &1u64.to_le_bytes(), inner].concat();
    let flat = [&U32.to_le_bytes()[..], &1u64.to_le_bytes(), &7u32.to_le_bytes()].concat();
    assert!(llama().set("x", LIST, list(&flat)).open().is_ok());
    let tower = (0..100_000).fold(flat, |inner, i| if i < 50 { list(&inner) } else { inner });
    refused("a tower of lists", llama().set("x", LIST, tower).open(), &["nested"]);
}

#[test]
fn metadata_that_is_not_known_is_let_be() {
    let gguf = llama().set("any.thing", TEXT, text("at all")).set("😀", 12, 1.5f64.to_le_bytes());
    assert!(gguf.open().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_never_brings_the_reader_down(
        changes in prop::collection::vec((0usize..3000, any::<u8>()), 1..6),
        name in prop::sample::select(vec!["llama-f16.gguf", "llama-q4_k.gguf", "gemma2-f16.gguf"]),
    ) {
        let mut bytes = read(&format!("gguf/{name}"));
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        let (_folder, path) = file(&bytes);
        match Model::open(&path) {
            Ok(model) => use_up(&model),
            Err(e) => prop_assert!(e.to_string().contains("model.gguf") && e.hint().is_some()),
        }
        let _ = Weights::open_gguf(&path);
    }

    #[test]
    fn random_damage_never_brings_a_tokenizer_down(
        changes in prop::collection::vec((0usize..8000, any::<u8>()), 1..6),
        name in prop::sample::select(vec!["tokenizer-bpe.gguf", "tokenizer-spm.gguf"]),
    ) {
        let mut bytes = read(&format!("gguf/{name}"));
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        let (_folder, path) = file(&bytes);
        if let Ok(tokenizer) = Tokenizer::from_file(&path) {
            let _ = tokenizer.encode("The same token, the same logits. Größe 日本");
        }
    }
}
