//! Memory never grows by what a file claims: every length, count, size and offset of a small good file is replaced by
//! gigantic ones, and each reader is held to what its input's length can justify (the targets count what they hold).
//!
//! GGUF headers and configs have the same in driftprobe-model's `allocation.rs`.

use driftprobe_hostile::{Watched, built, target};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

const CLAIMS: [u64; 6] = [u64::MAX, i64::MAX as u64, 1 << 62, 1 << 40, u32::MAX as u64, 1 << 25];

/// Puts each claim at every offset, in 8, 4 and 2 bytes, of either order.
fn lie_in_binary(name: &str, good: &[u8]) {
    lie_with(name, good, &CLAIMS, &[8, 4, 2]);
}

fn lie_with(name: &str, good: &[u8], claims: &[u64], widths: &[usize]) {
    let feed = target(name).unwrap();
    feed(good);
    for at in 0..good.len() {
        for claim in claims {
            for width in widths {
                let mut bad = good.to_vec();
                let end = (at + width).min(bad.len());
                bad[at..end].copy_from_slice(&claim.to_le_bytes()[..end - at]);
                feed(&bad);
                bad[at..end].reverse();
                feed(&bad);
            }
        }
    }
}

/// Puts each claim where a number stands.
fn lie_in_text(name: &str, good: &str) {
    let feed = target(name).unwrap();
    feed(good.as_bytes());
    let is_start = |at: &usize| {
        let bytes = good.as_bytes();
        bytes[*at].is_ascii_digit() && !bytes[at - 1].is_ascii_alphanumeric()
    };
    let starts: Vec<usize> = (1..good.len()).filter(is_start).collect();
    assert!(!starts.is_empty(), "{name}: no number to lie with");
    for at in starts {
        let end = at + good[at..].bytes().take_while(u8::is_ascii_digit).count();
        for claim in CLAIMS.map(|claim| claim.to_string()).iter().chain([&"1e308".to_owned(), &"-1".to_owned()]) {
            feed(format!("{}{claim}{}", &good[..at], &good[end..]).as_bytes());
        }
    }
}

fn npy() -> Vec<u8> {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[0; 24]].concat()
}

fn safetensors() -> Vec<u8> {
    let header = r#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat()
}

#[test]
fn arrays_and_payloads() {
    lie_in_binary("npy", &npy());
    lie_in_binary("payload", &safetensors());
    #[cfg(feature = "models")]
    lie_in_binary("safetensors", &safetensors());
    let shape = String::from_utf8(npy()[10..].iter().copied().filter(|byte| *byte != 0).collect()).unwrap();
    for claim in CLAIMS {
        let header = shape.replace("(2, 3)", &format!("({claim}, 0)"));
        let bytes = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
        target("npy").unwrap()(&bytes);
    }
}

/// Files that other programs wrote: dictionaries, lists, lengths before texts, each page compressed or as it is.
#[test]
fn tables_and_compressed_payloads() {
    let seed = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    for name in ["dictionary", "lengths", "zstd"] {
        // Numbers there have seven bits a byte. Each file is read twice, a debug build's second for a thousand of them.
        lie_with("parquet", &seed(&format!("parquet/{name}")), &[u64::MAX >> 1, u64::from(u32::MAX) >> 1], &[5]);
    }
    lie_with("payload_zst", &seed("payload_zst/level-19-no-check"), &CLAIMS, &[4]);
    lie_in_binary("payload_zst", &seed("payload_zst/built"));
}

#[test]
fn archives_and_pickles() {
    // A tensor `a` of two values in a dict.
    let torch = built::torch(&[32, 5, 26, 31, 34, 12, 0, 14, 1, 0, 13, 1, 35, 8]);
    let opened = driftprobe_import::TorchFile::of_bytes(std::path::Path::new("a.pt"), torch.clone());
    assert_eq!(opened.unwrap().tensors().collect::<Vec<_>>(), [("a", &[2][..])]);
    lie_in_binary("torch", &torch);
    let at = torch.windows(2).position(|two| two == b"\x80\x02").unwrap();
    let end = at + torch[at..].iter().position(|byte| *byte == b'.').unwrap() + 1;
    lie_in_binary("pickle", &torch[at..end]);
    lie_in_binary("archive", &[1, 1, 0, 1, 0, 0, 0, 1, b'x']);
}

#[cfg(feature = "models")]
#[test]
fn gguf_files_with_a_tokenizer() {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let list = |kind: u32, count: u64| [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes()].concat();
    let mut good = b"GGUF\x03\0\0\0".to_vec();
    good.extend([1u64, 3].map(u64::to_le_bytes).concat());
    good.extend([text("tokenizer.ggml.model"), 8u32.to_le_bytes().to_vec(), text("llama")].concat());
    good.extend([text("tokenizer.ggml.tokens"), list(8, 3), text("a"), text("b"), text("ab")].concat());
    good.extend([text("tokenizer.ggml.scores"), list(6, 3), vec![0; 12]].concat());
    good.extend([text("t"), 1u32.to_le_bytes().to_vec(), 8u64.to_le_bytes().to_vec(), vec![0; 12]].concat());
    good.resize(good.len().next_multiple_of(32) + 32, 0);
    lie_in_binary("gguf", &good);
}

#[test]
fn lines_and_settings() {
    let event = "{\"event\":\"stage_trace\",\"prompt_id\":\"p\",\"phase\":\"decode\",\"point\":\"q_proj_out\",\"layer\":3,\
                 \"step\":1,\"pos_id\":7,\"shape\":[4,2],\"hash\":5,\"nan\":0,\"sample\":[1,2],\"sample_idx\":[0,3]}\n";
    lie_in_text("events", event);
    lie_in_text("logits", "{\"token_idx\": 5, \"token_id\": 42, \"logits\": [0.5, 2]}\n");
    lie_in_text("logprobs", "{\"sequence\": \"s\", \"index\": 17, \"token_id\": 42, \"logprob\": -1.25}\n");
    lie_in_text(
        "manifest",
        "{\"schema\":1,\"steps\":1,\"layers\":[0,1],\"points\":[\"x_in\"],\"prompts\":[{\"id\":\"p\",\"tokens\":[1,2]}],\
         \"shard\":{\"index\":1,\"of\":2,\"prompts\":[\"p\"]},\"seed\":3,\"repeat\":0}",
    );
    #[cfg(feature = "models")]
    lie_in_text(
        "config",
        "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":8,\"num_hidden_layers\":2,\
         \"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,\"vocab_size\":9,\"rms_norm_eps\":0.1,\
         \"max_position_embeddings\":64,\"rope_theta\":10000}",
    );
    lie_in_text("map", "[[tensor]]\nname = \"a\"\nsplit = [{point = \"q_proj_out\", size = 4}]\nlayer = 3\n");
    #[cfg(feature = "program")]
    {
        lie_in_text("contract", "{\"key_parts\":\"2@512/256\",\"few_rows\":{\"below\":8,\"accumulate\":\"f32\"}}");
        lie_in_text("matrix", "seeds = [0, 1]\nkv_aligned = [0, 1]\ncontext = 7\n");
        lie_in_text("prompts", "[{\"id\":\"p\",\"tokens\":[1,2]}]");
        lie_in_text(
            "layers",
            "{\"schema\":1,\"generator\":\"driftprobe 0.1.0\",\"modes\":[[{\"phase\":\"prefill\",\"point\":\"logits\",\"layer\":1,\
             \"tests\":[[\"gain\",[1,2,3],4]],\"rows\":[{\"pos\":3,\"values\":8,\"assumed\":[],\"inputs\":[],\
             \"outcome\":{\"exact\":{\"compared\":8}}}]}]]}",
        );
        lie_in_text(
            "plan",
            "{\"schema\":1,\"generator\":\"x\",\"shard\":{\"index\":1,\"of\":2},\"promise\":{\"r\":[\"p\"]}}",
        );
    }
}
